"""The filters every engine has: which tokens stay in the race, by rank, by mass, by ratio to the best."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from seedbed.sampling import portable
from seedbed.sampling.mass import FAST_ERROR, Mass, best_few, fast_total, kth_largest, lightest_first
from seedbed.sampling.processors.base import History, Processor, require_in, require_int, require_one_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from seedbed.sampling.candidates import Candidates

__all__ = ["MinP", "TopK", "TopP"]


@dataclass(frozen=True, slots=True)
class TopK(Processor):
    """Keep the ``k`` most probable tokens.

    Args:
        k: at least 1; at or above vocab_size keeps every token.
        ties: at the k-th value: "exact" keeps exactly k, lowest ids first; "keep" keeps them all.

    On a row of top logprobs the cut is exact when k tokens are listed, of equal ones those with the lowest ids. Ties "keep" mostly takes
    one more: as long as the last one listed equals the k-th best, some that are not listed may too.

    Raises:
        InvalidSampler: k < 1, when constructed.
        TruncatedRow: fewer than k tokens are listed, or a bias or penalty has moved one of the k below tokens that are not listed; with
            ties "keep", or to the same height.

    Example:
        >>> TopK(2)([1.0, 3.0, 2.0, 2.0]).tolist()
        [-inf, 3.0, 2.0, -inf]
        >>> TopK(2, ties="keep")([1.0, 3.0, 2.0, 2.0]).tolist()
        [-inf, 3.0, 2.0, 2.0]

    Source: Fan et al. 2018, arXiv:1805.04833. Ties "exact": vLLM's default kernel, llama.cpp, SGLang (their choice among equals is
    unspecified but for vLLM's); "keep": Hugging Face transformers, vLLM's V1 sampler.
    """

    k: int
    ties: Literal["exact", "keep"] = "exact"

    def _check(self) -> None:
        require_int("top_k", self.k, 1)
        require_one_of("ties", self.ties, "exact", "keep")

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        values, k = candidates.values, self.k
        if k >= candidates.vocab_size:
            return candidates
        keep_ties = self.ties == "keep"
        if candidates.tail is not None and k > values.size:
            raise candidates.truncated(f"top_k={k} needs {k} tokens", more=k - values.size + keep_ties)
        if k > values.size:
            return candidates if keep_ties else replace(candidates, unlisted=min(candidates.unlisted, k - values.size))
        threshold = kth_largest(values, k)
        if keep_ties:
            if candidates.tail is not None and candidates.tail.ceiling >= threshold:
                raise candidates.truncated(f"a token that is not listed may be as probable as the last of the top_k={k}, and ties are kept")
            return candidates.keep(values >= threshold) if threshold > -np.inf else candidates
        kept = values > threshold
        missing = k - np.count_nonzero(kept)
        kept[np.flatnonzero(values == threshold)[:missing]] = True
        if candidates.outranked(kept):
            raise candidates.truncated(f"after the biases and penalties, a token that is not listed may be among the top_k={k}")
        return candidates.keep(kept)


@dataclass(frozen=True, slots=True)
class TopP(Processor):
    """Keep the smallest set of most probable tokens whose mass reaches ``p`` (nucleus sampling).

    In descending order, ties by lowest id, a token stays when the mass strictly before it is below ``p`` times the mass of all tokens
    still in the race; so the one that crosses ``p`` stays, and the best always does.

    Args:
        p: in [0, 1]; 1 keeps every token, 0 the best alone.
        rule: "<" as said; "<=" keeps a token also when the mass before it is exactly ``p`` of the whole.
        min_keep: keep at least so many.

    On a row of top logprobs the mass of the unseen tail counts. It is known at temperature 1 (as well as the listed logprobs are) and
    bounded otherwise; if the cut falls on the same listed token at both bounds it is exact.

    Raises:
        InvalidSampler: p outside [0, 1], when constructed.
        TruncatedRow: the cut may lie among the tokens that are not listed.

    Example:
        >>> TopP(0.5)([0.0, 0.0, 0.0, 0.0]).tolist()
        [0.0, 0.0, -inf, -inf]
        >>> TopP(0.5, rule="<=")([0.0, 0.0, 0.0, 0.0]).tolist()
        [0.0, 0.0, 0.0, -inf]

    Source: Holtzman et al. 2020, arXiv:1904.09751. Rule "<": Hugging Face transformers, vLLM, llama.cpp; "<=": SGLang.
    """

    p: float
    rule: Literal["<", "<="] = "<"
    min_keep: int = 1

    def _check(self) -> None:
        require_in("top_p", self.p, 0, 1)
        require_one_of("the rule of top_p", self.rule, "<", "<=")
        require_int("min_keep", self.min_keep, 0)

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        if self.p == 1.0:
            return candidates
        if candidates.tail is None and candidates.values.size > 1024 and (places := self._surely_kept(candidates)) is not None:
            return candidates.keep_at(places)
        mass = Mass.of(candidates)
        kept = self._kept(mass, mass.high)
        if candidates.tail is not None:
            self._refuse_unsure(candidates, mass, kept)
        return candidates.keep(kept)

    def _kept(self, mass: Mass, whole: float) -> NDArray[np.bool_]:
        return self._first(mass.depth, mass.weights.__getitem__, self.p * whole)[0]

    def _first(
        self, depth: NDArray[np.float64], weights: Callable[[Any], NDArray[np.float64]], limit: float
    ) -> tuple[NDArray[np.bool_], float]:
        return lightest_first(depth, weights, limit, inclusive=self.rule == "<=", at_least=max(1, self.min_keep))

    def _surely_kept(self, candidates: Candidates) -> NDArray[np.intp] | None:
        """Where the kept ones are, by numpy's exponentials; None when the cut is so near a boundary that only portable ones may decide.

        Almost always the cut is far from any, and mostly it is among the few best, so that nothing else need be ordered.
        """
        values = candidates.values
        top = float(values.max())
        whole = fast_total(values, top)
        limit, slack = self.p * whole, FAST_ERROR * whole
        few = best_few(values)
        depth = np.subtract(top, values[few], dtype=np.float64)
        if few.size < self.min_keep or np.exp(-depth).sum() < limit + slack:
            depth = np.subtract(top, values, dtype=np.float64)
        kept, distance = self._first(depth, lambda where: np.exp(-depth[where]), limit)
        if distance <= slack:
            return None
        return np.flatnonzero(kept) if kept.size == values.size else few[kept]

    def _refuse_unsure(self, candidates: Candidates, mass: Mass, kept: NDArray[np.bool_]) -> None:
        """The kept set is certain when it is the same at both bounds, reaches p, and lies above all that is unseen."""
        assert candidates.tail is not None
        target = self.p * mass.high
        lacking = self.min_keep - np.count_nonzero(kept)
        if lacking > 0:
            raise candidates.truncated(f"top_p={self.p} is to keep {self.min_keep} tokens (min_keep)", more=int(lacking))
        weight = portable.total(mass.weights[kept])
        reached = weight > target if self.rule == "<=" else weight >= target
        outranked = candidates.outranked(kept)
        same = np.array_equal(kept, self._kept(mass, mass.low))
        if reached and same and not outranked:
            return
        if reached and not same and mass.high - mass.low < 1e-4 * mass.high:
            raise candidates.truncated(f"top_p={self.p} cuts so near a token that the rounding of the listed logprobs decides", more=None)
        missing = max(0.0, target - mass.listed)
        more = 1 if outranked or not missing else math.ceil(min(missing / max(mass.ceiling, 1e-300), candidates.vocab_size))
        held = f"(they hold at least {mass.listed / mass.high:.4f} of the mass)"
        raise candidates.truncated(f"top_p={self.p} reaches beyond the tokens that are listed {held}", more=more)


@dataclass(frozen=True, slots=True)
class MinP(Processor):
    """Keep the tokens at least ``p`` times as probable as the most probable one.

    In logits: a token stays when ``logit >= max(logits) + ln(p)``; no softmax needed, an additive constant changes nothing.

    Args:
        p: ratio in [0, 1]. 0 keeps every token, 1 only the ties for the top.
        min_keep: keep at least so many.

    Raises:
        InvalidSampler: ``p`` outside [0, 1], when constructed.
        TruncatedRow: a token that is not listed might be probable enough.

    Example:
        >>> MinP(0.25)(np.array([2.0, 1.0, 0.0], dtype=np.float32)).tolist()
        [2.0, 1.0, -inf]

    Source: Nguyen et al. 2024, arXiv:2407.01082.
    """

    p: float
    min_keep: int = 1

    def _check(self) -> None:
        require_in("min_p", self.p, 0, 1)
        require_int("min_keep", self.min_keep, 0)

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        if self.p == 0.0:
            return candidates
        values = candidates.values
        top = float(values.max())
        depth = np.subtract(top, values, dtype=np.float64)
        most = -portable.ln(float(self.p))
        kept = depth <= most
        if candidates.tail is not None and top - candidates.tail.ceiling <= most:
            raise candidates.truncated(f"min_p={self.p} may keep a token that is not listed")
        if self.min_keep > 1 and np.count_nonzero(kept) < self.min_keep:
            return TopK(self.min_keep).apply(candidates, history)
        return candidates.keep(kept)
