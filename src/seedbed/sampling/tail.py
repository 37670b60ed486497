"""What can be said for certain of the tokens a server did not list: how many, how probable at most, how heavy together.

A server that lists the k best tokens leaves the others unseen, each at or below the last one listed and together as heavy as what is
missing from 1. Every processor changes what is known of them; the bounds here stay true through all of them, and a filter whose cut is
the same at both ends of the bounds is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from seedbed.sampling import portable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seedbed.llm.base import TopLogprobs

__all__ = ["Tail"]

_LEAST = 5e-324
UNSEEN_ROUNDING = 2.0**-18  # half a float32 step of a logprob of -64, relative to the mass


@dataclass(frozen=True, slots=True)
class Tail:
    """The unseen tokens at one point of the chain.

    Attributes:
        listed: how many tokens the server listed.
        count: how many it did not and are still in the race.
        ceiling: none of them has a logit above this one.
        after: those that reach the ceiling have higher ids than this one, since of equals a list holds the lowest; -1: any ids.
        reference: the logit that counts as weight 1 in ``low`` and ``high``: the best listed one as the server gave it, heated along.
        low, high: bounds of the sum of e**(logit - reference) over them.
        out: ids not listed that were excluded, and listed ones that a filter dropped without excluding the tail.
        only: where all but some ids were excluded, those.
    """

    listed: int
    count: int
    ceiling: float
    reference: float
    low: float
    high: float
    out: frozenset[int] = frozenset()
    only: frozenset[int] | None = None
    after: int = -1

    @classmethod
    def of(cls, row: TopLogprobs) -> Tail | None:
        """What the list leaves unseen, or None when it is the whole vocabulary.

        The missing mass is known as well as the server's logprobs are: each to half a float32 step, listed or not, and, when the listed
        ones sum to more than 1, no better than by that excess.
        """
        count = row.vocab_size - len(row)
        if not count:
            return None
        finite = row.logprobs[row.logprobs > -np.inf]
        if not finite.size:
            return cls(len(row), count, -math.inf, 0.0, 0.0, 0.0)
        reference = float(finite[0])
        weights = portable.exp(finite.astype(np.float64) - reference)
        whole, listed = portable.exp_scalar(-reference), portable.total(weights)
        rounding = portable.total(weights * np.abs(np.spacing(finite)).astype(np.float64)) / 2
        missing = max(0.0, whole - listed)
        slack = max(rounding + missing * UNSEEN_ROUNDING, listed - whole)
        ceiling = float(row.logprobs[-1])
        most = count * portable.exp_scalar(ceiling - reference)
        low, high = min(max(0.0, missing - slack), most), min(missing + slack, most)
        return cls(len(row), count, ceiling, reference, low, high, after=int(row.token_ids[-1]))

    def weight_bounds(self, top: float) -> tuple[float, float]:
        """Least and most that the sum of e**(logit - top) over the unseen tokens can be."""
        scale = portable.exp_scalar(self.reference - top)
        most = self.count * portable.exp_scalar(self.ceiling - top)
        # What has underflowed is not nothing once the listed tokens have been pushed down that far; what has overflowed is unknown.
        high = min(max(self.high, _LEAST) * scale, most) if self.high < math.inf else most
        return min(self.low * scale if self.low else 0.0, high), high

    def heated(self, temperature: float, shift: float) -> Tail:
        """After every logit l became (l - shift) / temperature.

        With exponent a = 1/temperature and weights q_j <= c that sum to M over n tokens, the sum of q_j**a is extreme when the weight is
        spread evenly, n (M/n)**a, and when it is packed into as few tokens as the ceiling allows; which is which depends on a < 1.
        """
        exponent = 1.0 / temperature
        ceiling = portable.exp_scalar(self.ceiling - self.reference)
        if exponent > 1:
            low, high = self._even(self.low, exponent), self._packed(self.high, ceiling, exponent)
        else:
            low, high = self._packed(self.low, ceiling, exponent), self._even(self.high, exponent)
        return replace(
            self,
            ceiling=(self.ceiling - shift) / temperature,
            reference=(self.reference - shift) / temperature,
            low=low,
            high=high,
        )

    def _even(self, weight: float, exponent: float) -> float:
        return self.count * _power(weight / self.count, exponent)

    def _packed(self, weight: float, ceiling: float, exponent: float) -> float:
        if ceiling == 0.0 or weight == math.inf:
            return min(ceiling, weight)
        full = min(self.count, math.floor(weight / ceiling))
        rest = 0.0 if full == self.count else max(0.0, weight - full * ceiling)
        return (full * _power(ceiling, exponent) if full else 0.0) + _power(rest, exponent)

    def holds(self, token_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of ``token_ids``, none of them listed, are still in the race."""
        inside = np.array([token_id not in self.out for token_id in token_ids.tolist()], dtype=np.bool_)
        if self.only is not None:
            inside &= np.array([token_id in self.only for token_id in token_ids.tolist()], dtype=np.bool_)
        return inside

    def moved(self, ceilings: NDArray[np.float64]) -> Tail:
        """After some that it holds were moved, one by one; ``ceilings``: where each is now at most."""
        if not ceilings.size:
            return self
        raised, lowered = ceilings[ceilings >= self.ceiling], np.count_nonzero(ceilings <= self.ceiling)
        low = max(0.0, self.low - lowered * portable.exp_scalar(self.ceiling - self.reference))
        added = sum(portable.exp_scalar(float(ceiling) - self.reference) for ceiling in raised)
        # The others, if there are any, stay below the old ceiling.
        ceiling = float(ceilings.max()) if ceilings.size == self.count else max(self.ceiling, float(ceilings.max()))
        after = -1 if ceiling > self.ceiling or ceilings.size == self.count else self.after
        return replace(self, ceiling=ceiling, low=low, high=self.high + added, after=after)

    def without(self, token_ids: NDArray[np.int64]) -> Tail | None:
        """After ``token_ids``, none of them listed, were excluded."""
        return self._left(replace(self, out=self.out | set(token_ids.tolist())), self.count - int(np.count_nonzero(self.holds(token_ids))))

    def restricted(self, token_ids: NDArray[np.int64]) -> Tail | None:
        """After all but ``token_ids``, none of them listed, were excluded."""
        left = token_ids[self.holds(token_ids)]
        return self._left(replace(self, only=frozenset(left.tolist())), left.size)

    def _left(self, tail: Tail, count: int) -> Tail | None:
        if count == self.count:
            return tail
        if count == 0:
            return None
        each = portable.exp_scalar(self.ceiling - self.reference)
        return replace(tail, count=count, low=max(0.0, self.low - (self.count - count) * each), high=min(self.high, count * each))


def _power(x: float, exponent: float) -> float:
    """x**exponent to a few ulp for each unit of ``exponent ln x``: far less than the rounding of the listed logprobs, which bounds hold."""
    return portable.exp_scalar(exponent * portable.ln_scalar(x))
