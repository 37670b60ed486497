"""The logits processors: small callables, each with its rule; the chain of them is the sampler's configuration.

Every one takes the row at its point of the chain and hands on a new one. Filters mask with -inf, keep at least the best token (lowest id
among equals), and leave what they keep bit-identical.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from seedbed.errors import InvalidSampler, TruncatedRow
from seedbed.llm.base import as_row
from seedbed.sampling import portable
from seedbed.sampling.candidates import Candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from seedbed.llm.base import TopLogprobs
    from seedbed.sampling.randomness import Address

__all__ = ["Custom", "History", "MinP", "Processor", "Temperature", "TopK", "TopP"]


@dataclass(frozen=True, slots=True)
class History:
    """What a processor may look at besides the row.

    Attributes:
        prompt_token_ids: the prompt.
        token_ids: what was generated so far.
        address: where this step's randomness lives; None when the row is only processed, not drawn from.
    """

    prompt_token_ids: Sequence[int] = ()
    token_ids: Sequence[int] = ()
    address: Address | None = None


NO_HISTORY = History()


class Processor(ABC):
    """One step of the chain."""

    __slots__ = ()

    def __call__(self, logits: ArrayLike | TopLogprobs, history: History = NO_HISTORY) -> NDArray[np.float64]:
        """The row after this step alone: float64, shape (vocab_size,), -inf = excluded or not listed; ``logits`` is not modified.

        Raises:
            RowError: the row cannot be drawn from, or the step cannot be taken on what is listed of it.
        """
        done = self.apply(Candidates.of(as_row(logits)), history)
        if done.ids is None:
            return done.logits
        row = np.full(done.vocab_size, -np.inf)
        row[done.ids] = done.logits
        return row

    @abstractmethod
    def apply(self, candidates: Candidates, history: History) -> Candidates:
        """The row at the next point of the chain."""


@dataclass(frozen=True, slots=True)
class Temperature(Processor):
    """Divide every logit by ``t``: below 1 sharper, above 1 flatter, 0 greedy.

    ``t`` = 0 keeps the most probable token (lowest id among equals) and consumes no randomness.

    Args:
        t: in [0, inf).

    Raises:
        InvalidSampler: negative, NaN or infinite, when constructed.

    Example:
        >>> Temperature(0.5)([2.0, 1.0, 0.0]).tolist()
        [4.0, 2.0, 0.0]
    """

    t: float

    def __post_init__(self) -> None:
        _require(0.0 <= self.t < math.inf, "temperature", self.t, "in [0, inf)")

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        if self.t == 0.0:
            return _greedy(candidates)
        with np.errstate(over="ignore"):  # a tiny t sends what is below the best to -inf, which is right; the best itself must not go
            logits = candidates.logits / self.t
        if not np.isfinite(logits.max()):
            logits = (candidates.logits - candidates.logits.max()) / self.t
        tail = candidates.tail
        if tail is not None:
            tail = replace(tail, temperature=tail.temperature * self.t)
        return replace(candidates, logits=logits, tail=tail)


def _greedy(candidates: Candidates) -> Candidates:
    logits = candidates.logits
    best = int(logits.argmax())
    others = np.delete(logits, best)
    gap = float(logits[best] - others.max()) if others.size else math.inf
    kept = np.zeros(logits.shape, dtype=bool)
    kept[best] = True
    return replace(candidates.keep(kept, tail=False), gap=gap)


@dataclass(frozen=True, slots=True)
class TopK(Processor):
    """Keep the ``k`` most probable tokens: exactly k, ties at the k-th value by lowest id.

    Args:
        k: at least 1; at or above vocab_size keeps every token.

    On a row of top logprobs the cut is exact when k tokens are listed.

    Raises:
        InvalidSampler: k < 1, when constructed.
        TruncatedRow: fewer than k tokens are listed.

    Example:
        >>> TopK(2)([1.0, 3.0, 2.0, 2.0]).tolist()
        [-inf, 3.0, 2.0, -inf]

    Source: Fan et al. 2018, arXiv:1805.04833; ties as vLLM's default kernel.
    """

    k: int

    def __post_init__(self) -> None:
        _require(self.k >= 1, "top_k", self.k, "at least 1")

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        logits, k = candidates.logits, self.k
        if candidates.tail is not None and min(k, candidates.vocab_size) > logits.size:
            raise TruncatedRow(f"top_k={k} needs {k} tokens, the server listed {logits.size}: ask it for top_k={k} or more", needed=k)
        if k >= logits.size:
            return candidates.keep(np.ones(logits.shape, dtype=bool), tail=False) if candidates.tail is not None else candidates
        threshold = np.partition(logits, -k)[-k]
        kept = logits > threshold
        ties = np.flatnonzero(logits == threshold)
        kept[ties[: k - np.count_nonzero(kept)]] = True
        return candidates.keep(kept, tail=False)


@dataclass(frozen=True, slots=True)
class TopP(Processor):
    """Keep the smallest set of most probable tokens whose mass reaches ``p`` (nucleus sampling).

    In descending order, ties by lowest id, a token stays when the mass strictly before it is below ``p`` times the mass of all tokens
    still in the race; so the one that crosses ``p`` stays, and the best always does.

    Args:
        p: in (0, 1]; 1 keeps every token.

    On a row of top logprobs the mass of the unseen tail counts. It is known at temperature 1 and bounded otherwise; if the cut falls on
    the same listed token at both bounds it is exact.

    Raises:
        InvalidSampler: p outside (0, 1], when constructed.
        TruncatedRow: the cut may lie among the tokens that are not listed.

    Example:
        >>> TopP(0.6)(np.log([0.5, 0.25, 0.125, 0.125])).tolist()[2:]
        [-inf, -inf]

    Source: Holtzman et al. 2020, arXiv:1904.09751; boundary as Hugging Face transformers and vLLM.
    """

    p: float

    def __post_init__(self) -> None:
        _require(0.0 < self.p <= 1.0, "top_p", self.p, "in (0, 1]")

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        if self.p == 1.0:
            return candidates
        weights = candidates.weights()
        order, before = _descending_until(candidates.logits, weights, self.p)
        listed = portable.total(weights)
        cut = _count_before(before, self.p * listed) if candidates.tail is None else self._cut_with_tail(candidates, before, listed)
        kept = np.zeros(weights.shape, dtype=bool)
        kept[order[:cut]] = True
        return candidates.keep(kept, tail=False)

    def _cut_with_tail(self, candidates: Candidates, before: NDArray[np.float64], listed: float) -> int:
        assert candidates.tail is not None
        scale = float(portable.exp(np.array([-abs(candidates.logits.max())]))[0])  # logprobs: the best is at or below 0
        low, high = (bound / scale for bound in candidates.tail.weight_bounds())
        cuts = {_count_before(before, self.p * (listed + unseen)) for unseen in (low, high)}
        reached = before[-1] + (listed - before[-1])
        if len(cuts) > 1 or reached < self.p * (listed + high):
            missing = self.p * (listed + high) - listed
            smallest = float(portable.exp(np.array([candidates.tail.logit_ceiling - candidates.logits.max()]))[0])
            needed = candidates.logits.size + max(1, math.ceil(missing / max(smallest, 1e-300)) if missing > 0 else 1)
            needed = min(needed, candidates.vocab_size)
            raise TruncatedRow(
                f"top_p={self.p} reaches beyond the {candidates.logits.size} tokens the server listed "
                f"(they hold {1 - candidates.tail.mass:.4f} of the mass): ask it for top_k={needed} or more, or put a top_k before top_p",
                needed=needed,
            )
        return cuts.pop()


def _descending_until(logits: NDArray[np.float64], weights: NDArray[np.float64], p: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Positions by (-logit, id), as many as can matter, and the mass strictly before each."""
    total = portable.total(weights)
    for count in (256, 4096, logits.size):
        if count < logits.size:
            threshold = np.partition(logits, -count)[-count]
            some = np.flatnonzero(logits >= threshold)
        else:
            some = np.flatnonzero(logits > -np.inf)
        order = some[np.argsort(-logits[some], kind="stable")]
        upto = weights[order].cumsum()
        # A margin far above any rounding: more positions than needed change nothing.
        if upto[-1] > p * total * (1 + 1e-9) or count >= logits.size:
            break
    return order, np.concatenate(([0.0], upto[:-1]))


def _count_before(before: NDArray[np.float64], mass: float) -> int:
    """How many tokens have less than ``mass`` strictly before them; at least one."""
    return max(1, int(np.searchsorted(before, mass, side="left")))


@dataclass(frozen=True, slots=True)
class MinP(Processor):
    """Keep the tokens at least ``p`` times as probable as the most probable one.

    In logits: a token stays when ``logit >= max(logits) + ln(p)``; no softmax needed, an additive constant changes nothing.

    Args:
        p: ratio in [0, 1]. 0 keeps every token, 1 only the ties for the top.

    Raises:
        InvalidSampler: ``p`` outside [0, 1], when constructed.
        TruncatedRow: a token that is not listed might be probable enough.

    Example:
        >>> MinP(0.25)(np.array([2.0, 1.0, 0.0], dtype=np.float32)).tolist()
        [2.0, 1.0, -inf]

    Source: Nguyen et al. 2024, arXiv:2407.01082.
    """

    p: float

    def __post_init__(self) -> None:
        _require(0.0 <= self.p <= 1.0, "min_p", self.p, "in [0, 1]")

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        if self.p == 0.0:
            return candidates
        logits = candidates.logits
        z = logits - logits.max()
        threshold = portable.ln(self.p)
        if candidates.tail is not None and candidates.tail.logit_ceiling - logits.max() >= threshold:
            raise TruncatedRow(
                f"min_p={self.p} may keep tokens beyond the {logits.size} the server listed: ask it for more than top_k={logits.size}",
                needed=min(logits.size + 1, candidates.vocab_size),
            )
        return candidates.keep(z >= threshold, tail=False)


@dataclass(frozen=True, slots=True)
class Custom(Processor):
    """A processor of the user's: ``function(prefix, logits) -> logits``, pure, called once a step.

    Args:
        function: gets prompt and continuation as one list of ids and the logits at this point of the chain (float64, shape
            (vocab_size,), a copy it may modify), and returns logits of that shape; -inf excludes. A mask for a grammar is one.

    Raises:
        TruncatedRow: the row is not listed in full, so what it does to the rest cannot be known.

    Example:
        >>> Custom(lambda prefix, logits: np.where(np.arange(3) == prefix[-1], -np.inf, logits))([1.0, 1.0, 1.0], History([2])).tolist()
        [1.0, 1.0, -inf]
    """

    function: Callable[[list[int], NDArray[np.float64]], ArrayLike]

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        if candidates.ids is not None:
            raise TruncatedRow(
                f"a function of your own needs the whole row; the server listed {candidates.logits.size} of {candidates.vocab_size}",
                needed=candidates.vocab_size,
            )
        prefix = [*history.prompt_token_ids, *history.token_ids]
        logits = np.asarray(self.function(prefix, candidates.logits.copy()), dtype=np.float64)
        if logits.shape != candidates.logits.shape:
            raise InvalidSampler(f"{self.function!r} returned shape {logits.shape} for logits of shape {candidates.logits.shape}")
        return candidates.with_logits(logits)


def _require(holds: object, name: str, value: object, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not holds:
        raise InvalidSampler(f"{name} must be {where}, not {value!r}")
