"""Which tokens are made less or more likely: by hand, or because they were seen before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seedbed.errors import InvalidSampler
from seedbed.llm.token_ids import shown
from seedbed.sampling import portable
from seedbed.sampling.processors.base import (
    History,
    Processor,
    Scope,
    check_scope,
    require_in,
    require_int,
    require_sequences,
    require_token_ids,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from seedbed.sampling.candidates import Candidates

__all__ = ["Dry", "FrequencyPenalty", "LogitBias", "PresencePenalty", "RepetitionPenalty"]


@dataclass(frozen=True, slots=True)
class LogitBias(Processor):
    """Add a number to the logits of some tokens.

    Args:
        bias: {token id: bias} or pairs of them. -inf excludes a token; -100 does not, it only makes it 1e43 times less probable.

    On a row of top logprobs, biasing a token that is not listed leaves it in the unseen tail, whose bounds widen accordingly.

    Raises:
        InvalidSampler: NaN or +inf, an id given twice or negative, when constructed; an id at or above vocab_size, when applied.

    Example:
        >>> LogitBias({2: 0.5})([1.0, 3.0, 2.0]).tolist()
        [1.0, 3.0, 2.5]
    """

    bias: Mapping[int, float] | Iterable[tuple[int, float]]

    def _check(self) -> None:
        try:
            pairs = [(token_id, value) for token_id, value in (self.bias.items() if isinstance(self.bias, Mapping) else self.bias)]
        except (TypeError, ValueError) as error:
            raise InvalidSampler(f"logit_bias must map token ids to numbers, not {shown(self.bias)}") from error
        ids = require_token_ids("logit_bias", [token_id for token_id, _ in pairs])
        if len(set(ids)) != len(ids):
            raise InvalidSampler("logit_bias gives a token id twice")
        for _, value in pairs:
            require_in("a logit bias", value, -math.inf, math.inf, "[)")
        object.__setattr__(self, "bias", tuple(sorted((token_id, float(value)) for token_id, (_, value) in zip(ids, pairs, strict=True))))

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        assert isinstance(self.bias, tuple)
        if not self.bias:
            return candidates
        ids = np.array([token_id for token_id, _ in self.bias], dtype=np.int64)
        if ids[-1] >= candidates.vocab_size:
            raise InvalidSampler(f"logit_bias for token {ids[-1]}, outside the vocabulary of {candidates.vocab_size}")
        bias = np.array([value for _, value in self.bias])
        banned = bias == -np.inf
        if banned.any():
            candidates = candidates.ban(ids[banned])
            ids, bias = ids[~banned], bias[~banned]
        return candidates.move(ids, lambda logits, which: logits + bias[which])


@dataclass(frozen=True, slots=True)
class RepetitionPenalty(Processor):
    """Push every token that was seen away from probable: divide a logit above 0 by ``penalty``, multiply one at or below 0.

    Once per distinct token, however often it was seen. Unlike every other processor it depends on the additive constant of the row: on
    logprobs, which are all at or below 0, it multiplies, so it is not what an engine does that has the raw logits.

    Args:
        penalty: in (0, inf); 1 changes nothing, below 1 encourages repetition.
        scope: whose tokens count: "all" (Hugging Face, vLLM), "output" (SGLang), or the last so many (llama.cpp: 64).

    Raises:
        InvalidSampler: ``penalty`` not a positive number, when constructed.

    Example:
        >>> RepetitionPenalty(2.0)([1.0, -1.0, 4.0], History([0, 1, 0])).tolist()
        [0.5, -2.0, 4.0]

    Source: Keskar et al. 2019, arXiv:1909.05858; the split by sign is Hugging Face transformers'.
    """

    penalty: float
    scope: Scope = "all"

    def _check(self) -> None:
        require_in("repetition_penalty", self.penalty, 0, math.inf, "()")
        check_scope("the scope of repetition_penalty", self.scope)

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        seen = np.unique(history.within(self.scope))
        penalty = float(self.penalty)
        return candidates.move(seen, lambda logits, _: np.where(logits > 0.0, logits / penalty, logits * penalty))


@dataclass(frozen=True, slots=True)
class FrequencyPenalty(Processor):
    """Subtract ``penalty`` from a token's logit for each time it was seen.

    Args:
        penalty: any number; servers accept [-2, 2]. 0 changes nothing, below 0 encourages repetition.
        scope: whose tokens count: "output" (OpenAI, vLLM, SGLang), "all", or the last so many, prompt included (llama.cpp: 64).

    Raises:
        InvalidSampler: ``penalty`` not a finite number, when constructed.

    Example:
        >>> FrequencyPenalty(0.5)([1.0, 1.0, 1.0], History(token_ids=[0, 2, 0])).tolist()
        [0.0, 1.0, 0.5]

    Source: the OpenAI API reference.
    """

    penalty: float
    scope: Scope = "output"

    def _check(self) -> None:
        require_in("frequency_penalty", self.penalty, -math.inf, math.inf, "()")
        check_scope("the scope of frequency_penalty", self.scope)

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        seen, counts = np.unique(history.within(self.scope), return_counts=True)
        return candidates.move(seen, lambda logits, which: logits - float(self.penalty) * counts[which])


@dataclass(frozen=True, slots=True)
class PresencePenalty(Processor):
    """Subtract ``penalty`` from a token's logit once, if it was seen at all.

    Args:
        penalty: any number; servers accept [-2, 2]. 0 changes nothing, below 0 encourages repetition.
        scope: as for ``FrequencyPenalty``.

    Raises:
        InvalidSampler: ``penalty`` not a finite number, when constructed.

    Example:
        >>> PresencePenalty(0.5)([1.0, 1.0, 1.0], History(token_ids=[0, 2, 0])).tolist()
        [0.5, 1.0, 0.5]

    Source: the OpenAI API reference.
    """

    penalty: float
    scope: Scope = "output"

    def _check(self) -> None:
        require_in("presence_penalty", self.penalty, -math.inf, math.inf, "()")
        check_scope("the scope of presence_penalty", self.scope)

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        seen = np.unique(history.within(self.scope))
        return candidates.move(seen, lambda logits, _: logits - float(self.penalty))


@dataclass(frozen=True, slots=True)
class Dry(Processor):
    """Don't repeat yourself: the longer the repeat a token would extend, the more is subtracted from its logit.

    When the last m tokens have occurred before and token v followed them there, v's logit falls by ``multiplier * base**(m -
    allowed_length)``, for the largest such m, if m >= ``allowed_length``. A repeat does not reach back across a sequence breaker, and a
    breaker of one token is never penalised itself.

    Args:
        multiplier: in nats, >= 0; 0 is off.
        base: > 0; powers are capped where float32 would overflow.
        allowed_length: the longest repeat that is free, >= 0.
        last_n: how many tokens of prompt and output are looked at; None: all.
        breakers: token id sequences (newlines, quotes, turn markers) that end a repeat.

    Raises:
        InvalidSampler: a parameter outside its range, when constructed.

    Example:
        >>> Dry(2.0, base=2.0, allowed_length=1)([5.0, 5.0, 5.0], History([0, 1, 2, 0, 1])).tolist()
        [5.0, 5.0, 1.0]

    Source: p-e-w 2024, the "DRY" sampler; rules as llama.cpp.
    """

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    last_n: int | None = None
    breakers: Sequence[Sequence[int]] = ()

    def _check(self) -> None:
        require_in("dry_multiplier", self.multiplier, 0, math.inf, "[)")
        require_in("dry_base", self.base, 0, math.inf, "()")
        require_int("dry_allowed_length", self.allowed_length, 0)
        if self.last_n is not None:
            require_int("dry_last_n", self.last_n, 0)
        object.__setattr__(self, "breakers", require_sequences("dry_breakers", self.breakers))

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        window = history.within("all" if self.last_n is None else self.last_n)
        if window.size <= self.allowed_length or self.multiplier == 0.0:
            return candidates
        longest = self._longest_repeats(window[::-1].tolist())
        ids = np.array(sorted(longest), dtype=np.int64)
        penalties = np.array([self._penalty(longest[int(token_id)]) for token_id in ids])
        return candidates.move(ids, lambda logits, which: logits - penalties[which])

    def _penalty(self, length: int) -> float:
        exponent = length - self.allowed_length
        if self.base > 1.000001:
            exponent = min(exponent, int(88.7228391 / portable.ln(float(self.base))))
        return float(self.multiplier) * portable.power(float(self.base), float(exponent))

    def _longest_repeats(self, backwards: list[int]) -> dict[int, int]:
        """{token: length of the longest repeat it would extend}, for repeats of at least ``allowed_length``."""
        limit = self._distance_to_breaker(backwards)
        if limit < self.allowed_length:
            return {}
        free = {breaker[0] for breaker in self.breakers if len(breaker) == 1}
        longest: dict[int, int] = {}
        for start, length in enumerate(_common_prefixes(backwards)[1:], 1):
            follower, repeat = backwards[start - 1], min(length, limit)
            if repeat >= self.allowed_length and follower not in free:
                longest[follower] = max(repeat, longest.get(follower, 0))
        return longest

    def _distance_to_breaker(self, backwards: list[int]) -> int:
        """How many of the latest tokens lie after the last breaker."""
        for start, token_id in enumerate(backwards):
            lengths = [
                len(breaker) - 1
                for breaker in self.breakers
                if breaker[0] == token_id
                and len(breaker) - 1 <= start
                and all(backwards[start - offset] == breaker[offset] for offset in range(1, len(breaker)))
            ]
            if lengths:
                return start - max(lengths)
        return len(backwards)


def _common_prefixes(tokens: list[int]) -> list[int]:
    """Element i: how many tokens from i on equal those from the start on (the Z function; Gusfield 1997). Linear time."""
    lengths = [0] * len(tokens)
    left = right = 0  # tokens[left:right] is the match found so far that reaches furthest
    for i in range(1, len(tokens)):
        length = min(right - i, lengths[i - left]) if i < right else 0
        while i + length < len(tokens) and tokens[length] == tokens[i + length]:
            length += 1
        if i + length > right:
            left, right = i, i + length
        lengths[i] = length
    return lengths
