"""What a server draws itself when it is asked for tokens instead of rows: with the order and rules of the engine whose words it speaks."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from seedbed.llm.base import ModelInfo, as_row
from seedbed.sampling.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable

    from seedbed.llm.base import LLM
    from seedbed.protocols.exchange import Sample
    from seedbed.sampling.presets import Order

__all__ = ["Address", "Samples", "addressed_draws", "own_draws", "sampler_of"]

Address: TypeAlias = "Callable[[int, int, int], tuple[int, int, int]]"
"""Which seed, index and step the randomness of a draw has, given those that are right."""


@runtime_checkable
class Samples(Protocol):
    """A model that draws tokens itself."""

    async def sample(self, question: Sample) -> tuple[tuple[int, ...], ...]:
        """The tokens drawn, of each of ``question.n`` samples."""


def sampler_of(question: Sample, order: Order | None) -> Sampler:
    """The chain that draws what is asked for, in an engine's order.

    Raises:
        InvalidSampler: a parameter that engine does not take.
    """
    return _sampler(question.temperature, question.top_k, question.top_p, question.min_p, order)


@lru_cache(64, typed=True)  # a client asks again and again with the same parameters, and to check them takes longer than to draw
def _sampler(temperature: float, top_k: int, top_p: float, min_p: float, order: Order | None) -> Sampler:
    return Sampler(temperature, top_k, top_p, min_p, order=order)


async def own_draws(llm: LLM, question: Sample, order: Order | None) -> tuple[tuple[int, ...], ...]:
    """The model's own draws, or addressed ones from its rows: sample i is sequence i of the seed.

    Raises:
        InvalidSampler, RowError: as ``Sampler``.

    Concurrency:
        As the model's ``next_token_logits``, one row after another.
    """
    if isinstance(llm, Samples):
        return await llm.sample(question)
    return await addressed_draws(llm, question, order)


async def addressed_draws(llm: LLM, question: Sample, order: Order | None, address: Address | None = None) -> tuple[tuple[int, ...], ...]:
    """Draws from a model's rows by the chain that is asked for, until a token ends a sequence, or the context is full.

    Args:
        order: the engine whose order and rules the chain follows.
        address: for a server that draws with the wrong randomness.

    Raises, Concurrency:
        As ``own_draws``.
    """
    sampler = sampler_of(question, order)
    info = llm.info or ModelInfo()
    room = question.tokens if info.context_length is None else min(question.tokens, info.context_length - len(question.token_ids))
    samples = []
    for number in range(question.n):
        drawn: list[int] = []
        while len(drawn) < room and not (drawn and drawn[-1] in llm.eos_token_ids):
            row = as_row(await llm.next_token_logits([*question.token_ids, *drawn]), info.vocab_size)
            right = question.seed, number, len(drawn)
            seed, index, step = right if address is None else address(*right)
            drawn.append(sampler.draw(row, seed=seed, index=index, step=step))
        samples.append(tuple(drawn))
    return tuple(samples)
