"""What a generation leaves behind: values, complete in themselves, that survive a round trip through JSON."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from seedbed.errors import UsageError
from seedbed.llm.arguments import check_token_ids, shown, whole_number
from seedbed.sampling.randomness import check_seed
from seedbed.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FinishReason", "GenerationResult", "ResumePoint", "SampledSequence", "Stats"]

FinishReason = Literal["stop", "length", "deadline", "error", "cancelled"]
"""Why a sequence ended: a stop token or stop sequence; max_new_tokens; a deadline of the caller's; its own error; cancelled by a sibling's
error, by leaving early, or from outside. All but "stop" are censored: the model had not said it was done."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """With the tokens so far, all that the rest of a sequence depends on.

    Attributes:
        seed: the run's seed.
        sampler_state: what the chain's stateful processor (mirostat) knows after the last token; None without one, or before the first.
        sampler: the configuration of the sampler it was begun with (``configuration_of``); "" when unknown, which fits any.
    """

    seed: int
    sampler_state: float | None = None
    sampler: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class SampledSequence:
    """One sampled continuation.

    Attributes:
        prompt_index: which prompt it continues.
        index: which of that prompt's sequences it is; with the seed, this names its randomness.
        prompt_token_ids: the prompt.
        token_ids: what was generated; ends with the stop token when that ended it.
        logprobs: a value a token: log-probability under the model itself, in nats; None where the row's normaliser is unknown.
        processed_logprobs: the same under what was drawn from, after the sampler chain; None where that is unknown.
        margins: a value a token: how far it led the runner-up; inf where it was the only candidate. No change of the processed logits
            by less than half a margin changes that token.
        tail_masses: a value a token: probability of the unlisted tokens that should have taken part in the draw and could not; 0 where
            the draw was exact.
        finish_reason: "stop", "length", "deadline", "error" or "cancelled".
        stop_match: the token ids that ended it, when ``finish_reason`` is "stop": one stop token, or a stop sequence.
        error: what went wrong, as "Type: message", when ``finish_reason`` is "error".
        started, finished: seconds on trio's clock since the generation began; not compared by ``==``, and None if it never started.
        resume: with the tokens, what exactly the same continuation can be had from.

    Token ids are the same on every CPU; the floats beside them are the same to about 1e-6.
    """

    prompt_index: int
    index: int
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    processed_logprobs: tuple[float | None, ...]
    margins: tuple[float, ...]
    tail_masses: tuple[float, ...]
    finish_reason: FinishReason
    resume: ResumePoint
    stop_match: tuple[int, ...] | None = None
    error: str | None = None
    started: float | None = field(default=None, compare=False)
    finished: float | None = field(default=None, compare=False)

    @property
    def logprob(self) -> float | None:
        """Log-probability of the whole continuation under the model itself, in nats; None when that of any token is unknown."""
        known = [value for value in self.logprobs if value is not None]
        return math.fsum(known) if len(known) == len(self.logprobs) else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; ``from_dict`` gives an equal sequence back. Seeds are decimal strings, infinite numbers "inf" and "-inf"."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {name: [_json_number(value) for value in values[name]] for name in _PER_TOKEN}
        values["resume"] = {
            "seed": str(self.resume.seed),
            "sampler_state": _json_number(self.resume.sampler_state),
            "sampler": self.resume.sampler,
        }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The sequence that ``to_dict`` wrote.

        Raises:
            UsageError: not such a dict; names what is missing or wrong.
        """
        try:
            token_ids = _ids(values, "token_ids")
            stop_match = values["stop_match"]
            point = values["resume"]
            return cls(
                prompt_index=_place(values, "prompt_index"),
                index=_place(values, "index"),
                prompt_token_ids=_ids(values, "prompt_token_ids"),
                token_ids=token_ids,
                **{name: _per_token(values, name, len(token_ids)) for name in _PER_TOKEN},
                finish_reason=_one_of(values, "finish_reason", get_args(FinishReason)),
                resume=ResumePoint(_seed(point), _number(point, "sampler_state"), _text(point, "sampler")),
                stop_match=None if stop_match is None else _ids(values, "stop_match"),
                error=None if values["error"] is None else _text(values, "error"),
                started=_number(values, "started"),
                finished=_number(values, "finished"),
            )
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"this is not a sampled sequence as to_dict() writes it: {error!r:.200}") from error

    def __repr__(self) -> str:
        head = ", ".join(map(str, self.token_ids[:5]))
        tokens = f"{counted(len(self.token_ids), 'token')} [{head}{', ...' if len(self.token_ids) > 5 else ''}]"
        ended = self.finish_reason if self.error is None else f"{self.finish_reason}: {self.error:.80}"
        return f"<SampledSequence {self.index} of prompt {self.prompt_index}: {tokens}, {ended}>"


@dataclass(frozen=True, slots=True)
class Stats:
    """What a generation cost.

    Attributes:
        tokens: tokens of all sequences together.
        rows: how often a sequence asked for its next row; above ``tokens`` by what was cut off while waiting, below it by what lookahead
            saved.
        waited: seconds all sequences together waited for rows, on trio's clock.
        round_trips: questions that went to the model.
        cache_hits: questions that took no request of their own: the row was known, or somebody else's question was under way.
        cache_rows, cache_bytes: how many rows the prefix cache took in, and their size.
        cache_evictions: how many of them went again for want of room.
        requests, retries, bytes_received: what the model counted in that time, by everyone who used it; 0 if it counts none.
    """

    tokens: int = 0
    rows: int = 0
    waited: float = 0.0
    round_trips: int = 0
    cache_hits: int = 0
    cache_rows: int = 0
    cache_bytes: int = 0
    cache_evictions: int = 0
    requests: int = 0
    retries: int = 0
    bytes_received: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Of a result's ``to_dict``; what is missing is 0.

        Raises:
            UsageError: not such a dict; names what is wrong.
        """
        try:
            waited = _number(values, "waited") if "waited" in values else 0.0
            if waited is None:
                raise TypeError("waited is None")
            return cls(waited=waited, **{name: _place(values, name) for name in values if name != "waited"})
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"these are not the stats of a generation as to_dict() writes them: {error!r:.200}") from error

    @classmethod
    def of(cls, counted: Mapping[str, int], before: Mapping[str, int], *, tokens: int, rows: int, waited: float) -> Self:
        """With what a model's ``counters()`` say now and said at the beginning; counters of other names are left out."""
        since = {f.name: counted[f.name] - before.get(f.name, 0) for f in fields(cls) if f.name in counted}
        return cls(tokens=tokens, rows=rows, waited=waited, **since)


@dataclass(frozen=True, slots=True, repr=False)
class GenerationResult:
    """All sequences of a generation, in order: by prompt, then by index, whatever order they finished in.

    Finishing order is length-biased, so "the first k to finish" is not an independent sample of the model; sequences whose
    ``finish_reason`` is not "stop" are censored.

    Attributes:
        sequences: every sequence asked for, finished or not.
        seed: the seed used, fresh if none was given; with it the run can be repeated.
        sampler: the sampler's configuration: its repr, without memory addresses.
        stats: what it cost; not compared by ``==``.
    """

    sequences: tuple[SampledSequence, ...]
    seed: int
    sampler: str
    stats: Stats = field(default=Stats(), compare=False)

    @property
    def token_ids(self) -> list[list[int]]:
        """The generated ids alone, in order."""
        return [list(sequence.token_ids) for sequence in self.sequences]

    @property
    def sha256(self) -> str:
        """SHA-256 over all tokens with their places: equal when, and only when, every sequence has the same tokens.

        One line a sequence, ASCII: prompt index, index, then the token ids, separated by blanks.
        """
        digest = hashlib.sha256()
        for sequence in self.sequences:
            digest.update(" ".join(map(str, (sequence.prompt_index, sequence.index, *sequence.token_ids))).encode() + b"\n")
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; ``from_dict`` gives an equal result back."""
        return {
            "seed": str(self.seed),
            "sampler": self.sampler,
            "sha256": self.sha256,
            "stats": {f.name: getattr(self.stats, f.name) for f in fields(self.stats)},
            "sequences": [sequence.to_dict() for sequence in self.sequences],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The result that ``to_dict`` wrote.

        Raises:
            UsageError: not such a dict.
        """
        try:
            sequences, stats = list(values["sequences"]), values["stats"]
            seed, sampler = _seed(values), _text(values, "sampler")
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"this is not a generation result as to_dict() writes it: {error!r:.200}") from error
        return cls(tuple(map(SampledSequence.from_dict, sequences)), seed, sampler, Stats.from_dict(stats))

    def __repr__(self) -> str:
        ended = Counter(sequence.finish_reason for sequence in self.sequences)
        reasons = "".join(f", {ended[reason]} {reason}" for reason in get_args(FinishReason) if ended[reason])
        tokens = sum(len(sequence.token_ids) for sequence in self.sequences)
        return f"<GenerationResult of seed {self.seed}: {counted(len(self.sequences), 'sequence')}, {counted(tokens, 'token')}{reasons}>"


_PER_TOKEN = ("logprobs", "processed_logprobs", "margins", "tail_masses")


def _json_number(value: float | None) -> float | str | None:
    return str(value) if value is not None and math.isinf(value) else value


def _place(values: Mapping[str, Any], name: str) -> int:
    place = whole_number(values[name])
    if place is None or place < 0:
        raise ValueError(f"{name} is no int of 0 or more: {shown(values[name])}")
    return place


def _seed(values: Mapping[str, Any]) -> int:
    """A decimal string, since JSON's readers stop at 64 bits; an int is understood, too."""
    seed = values["seed"]
    return check_seed(int(seed) if isinstance(seed, str) else seed)


def _text(values: Mapping[str, Any], name: str) -> str:
    if not isinstance(values[name], str):
        raise TypeError(f"{name} is no text: {shown(values[name])}")
    return values[name]  # type: ignore[no-any-return]


def _ids(values: Mapping[str, Any], name: str) -> tuple[int, ...]:
    return check_token_ids(values[name], name, may_be_empty=True)


def _number(values: Mapping[str, Any], name: str) -> float | None:
    return _real(name, values[name])


def _per_token(values: Mapping[str, Any], name: str, tokens: int) -> tuple[Any, ...]:
    numbers = values[name]
    if not isinstance(numbers, (list, tuple)) or len(numbers) != tokens:
        raise ValueError(f"{name} holds no value for each of {counted(tokens, 'token')}: {shown(numbers)}")
    return tuple(_real(name, number) for number in numbers)


def _real(name: str, number: object) -> float | None:
    """As ``_json_number`` wrote it. There is no NaN among what a generation leaves behind."""
    if number is None or (isinstance(number, float) and number == number):
        return number
    if number in ("inf", "-inf") or whole_number(number) is not None:
        return float(number)  # type: ignore[arg-type]  # asked here
    raise ValueError(f"{name} holds {shown(number)}, which is no number")


def _one_of(values: Mapping[str, Any], name: str, allowed: tuple[Any, ...]) -> Any:
    if values[name] not in allowed:
        raise ValueError(f"{name} {shown(values[name])} is none of {', '.join(allowed)}")
    return values[name]
