"""A server's own draws off the wire, from either side: what a request asks to be drawn, and which tokens an answer holds."""

from __future__ import annotations

from typing import Any

from seedbed.errors import BadRequest, BrokenAnswer, DishonestAnswer
from seedbed.protocols.exchange import Sample
from seedbed.protocols.fields import model_of
from seedbed.wording import counted

__all__ = ["UNTOUCHED", "sample_of", "sampled_ids"]

MOST = 64  # tokens, and samples, that a server in the box draws at once
UNTOUCHED = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""What else a server's defaults may hold, said to be off; in the words that vLLM and SGLang share."""


def sample_of(token_ids: tuple[int, ...], data: dict[str, Any], *, tokens: str, seed: str = "seed", model: object = None) -> Sample:
    """What a request for the server's own draws asks for; what it does not say is off.

    Args:
        data: the request's JSON, or the part of it with the sampling parameters.
        tokens, seed: the protocol's names for the most tokens to generate and for the seed.

    Raises:
        BadRequest: a parameter of the wrong kind or outside its range.
    """
    if data.get("stream"):
        raise BadRequest('this server answers whole: no "stream"', status=400)
    numbers = {name: data.get(name, default) for name, default in (("temperature", 1.0), ("top_p", 1.0), ("min_p", 0.0))}
    counts = {"top_k": data.get("top_k", 0), "n": data.get("n", 1), tokens: data.get(tokens, 16), seed: data.get(seed, 0)}
    for name, value in numbers.items():
        if type(value) not in (int, float) or not 0 <= value <= (100 if name == "temperature" else 1):
            raise BadRequest(f"{name} is outside its range: {value!r:.40}", status=400)
    for name, value in counts.items():
        least, most = {"top_k": (-1, 2**31), seed: (0, 2**63)}.get(name, (1, MOST))
        if type(value) is not int or not least <= value <= most:
            raise BadRequest(f"{name} must be an int from {least} to {most}, not {value!r:.40}", status=400)
    return Sample(
        token_ids, **numbers, top_k=max(0, counts["top_k"]), seed=counts[seed], tokens=counts[tokens], n=counts["n"], model=model_of(model)
    )


def sampled_ids(samples: object, sample: Sample) -> tuple[tuple[int, ...], ...]:
    """Token ids drawn, out of an answer's JSON: as many samples as were asked for, each of at most as many tokens.

    Raises:
        BrokenAnswer: no lists of ids.
        DishonestAnswer: of other numbers.
    """
    if not isinstance(samples, list) or not all(
        isinstance(ids, list) and all(type(token_id) is int and token_id >= 0 for token_id in ids) for ids in samples
    ):
        raise BrokenAnswer("the answer has no lists of the token ids drawn")
    if len(samples) != sample.n or not all(1 <= len(ids) <= sample.tokens for ids in samples):
        wanted = f"{counted(sample.n, 'sample')} of up to {counted(sample.tokens, 'token')}"
        raise DishonestAnswer(f"asked for {wanted}, got {len(samples)}, of {[len(ids) for ids in samples]} tokens")
    return tuple(tuple(ids) for ids in samples)
