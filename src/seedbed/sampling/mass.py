"""How probability mass is added up, for the filters whose cut depends on a sum.

Everything here gives the same bits on every CPU: portable exponentials, sums from left to right, ties by lowest id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from seedbed.sampling import portable

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from seedbed.sampling.candidates import Candidates

__all__ = ["FAST_ERROR", "Mass", "best_few", "fast_total", "kth_largest", "lightest_first"]

BINS = 1024

# Of a sum of numpy's exponentials, relative to the whole: each is right to 4 ulp, and adding up a million adds at most 2**-33.
FAST_ERROR = 1e-9


@dataclass(frozen=True, slots=True)
class Mass:
    """The weights of a row.

    Attributes:
        depth: how far each logit is below the best one, >= 0, inf for excluded tokens; float64, shape (k,).
        weights: e**-depth; float64, shape (k,).
        listed: their sum.
        low, high: bounds of the sum over listed and unseen tokens; both are ``listed`` when there are no unseen ones.
        ceiling: the most that one unseen token can weigh; 0 when there are none.
    """

    depth: NDArray[np.float64]
    weights: NDArray[np.float64]
    listed: float
    low: float
    high: float
    ceiling: float

    @classmethod
    def of(cls, candidates: Candidates) -> Self:
        """Weigh the tokens still in the race."""
        top = float(candidates.values.max())
        depth = np.subtract(top, candidates.values, dtype=np.float64)
        weights = portable.exp(-depth)
        listed = portable.total(weights)
        if candidates.tail is None:
            return cls(depth, weights, listed, listed, listed, 0.0)
        low, high = candidates.tail.weight_bounds(top)
        return cls(depth, weights, listed, listed + low, listed + high, portable.exp_scalar(candidates.tail.ceiling - top))

    def entropy(self) -> float:
        """Of the listed tokens, renormalised; in nats."""
        return max(0.0, portable.ln_scalar(self.listed) + portable.total(self.surprise_terms()) / self.listed)

    def surprise_terms(self) -> NDArray[np.float64]:
        """weight x depth, 0 for excluded tokens."""
        terms: NDArray[np.float64] = self.weights * np.where(self.weights > 0.0, self.depth, 0.0)
        return terms

    def at_least(self, candidates: Candidates, probability: float, what: str) -> NDArray[np.bool_]:
        """Which listed ``candidates`` have at least this ``probability`` among all tokens still in the race.

        Raises:
            TruncatedRow: it depends on what the unseen tokens weigh, or one of them might be among them; ``what`` names the filter.
        """
        kept: NDArray[np.bool_] = self.weights >= probability * self.high
        if candidates.tail is not None:
            if self.ceiling >= probability * self.low:
                raise candidates.truncated(f"{what} may reach a token that is not listed")
            if not np.array_equal(kept, self.weights >= probability * self.low):
                raise candidates.truncated(f"{what} cuts where the mass of the tokens that are not listed decides")
        return kept

    def at_least_or_best(self, candidates: Candidates, probability: float, what: str, *, ties: bool = False) -> NDArray[np.bool_]:
        """As ``at_least``, and where that is none, the most probable of all: with its ``ties``, or the one of the lowest id.

        Raises:
            TruncatedRow: as ``at_least``, or the most probable may not be listed.
        """
        kept = self.at_least(candidates, probability, what)
        if kept.any():
            return kept
        best: NDArray[np.bool_] = self.depth == 0.0
        unsure = self.ceiling >= 1.0
        if not ties:
            best[int(best.argmax()) + 1 :] = False
            unsure = candidates.outranked(best)
        if unsure:
            raise candidates.truncated(f"{what} may keep the best token alone, which may be one that is not listed")
        return best


def fast_total(values: NDArray[np.float32] | NDArray[np.float64], top: float) -> float:
    """The sum of e**(value - top), right to ``FAST_ERROR``, without an array as long as the row."""
    total = 0.0
    for at in range(0, values.size, portable.CHUNK):
        depth = np.subtract(values[at : at + portable.CHUNK], top, dtype=np.float64)
        total += float(np.exp(depth, out=depth).sum())
    return total


def lightest_first(
    keys: NDArray[np.float64], weights: Callable[[Any], NDArray[np.float64]], limit: float, *, inclusive: bool = False, at_least: int = 1
) -> tuple[NDArray[np.bool_], float]:
    """Which tokens come, in ascending order of (key, id), before ``limit`` of weight has been passed, and how near a thing it was.

    A token is in when the weight strictly before it is below ``limit`` (``inclusive``: at most ``limit``), and the first ``at_least``
    are in anyway. Costs one pass and the sorting of one bin, not of the vocabulary.

    Args:
        keys: >= 0, inf allowed.
        weights: those of the tokens at some places, >= 0: asked for once for all of a long row, and again for a few.
        limit: as a weight.

    Returns:
        A mask, and the distance of ``limit`` from the nearest weight at which the answer would have been another.
    """
    side: Literal["left", "right"] = "right" if inclusive else "left"
    kept, before = np.zeros(keys.shape, dtype=bool), 0.0
    if keys.size <= 2048:
        undecided = np.arange(keys.size)
    else:
        # In chunks, so that nothing as long as the vocabulary is allocated, which costs more than the arithmetic.
        masses = np.zeros(BINS)
        for at in range(0, keys.size, portable.CHUNK):
            some = slice(at, at + portable.CHUNK)
            masses += np.bincount(_bins(keys[some]), weights=weights(some), minlength=BINS)
        upto = masses.cumsum()
        cut = int(np.searchsorted(upto, limit, side=side))
        before = float(upto[cut - 1]) if cut else 0.0
        found = []
        for at in range(0, keys.size, portable.CHUNK):
            bins = _bins(keys[at : at + portable.CHUNK])
            np.less(bins, cut, out=kept[at : at + bins.size])
            found.append(np.flatnonzero(bins == cut) + at)
        undecided = np.concatenate(found)
    order = undecided[np.argsort(keys[undecided], kind="stable")]
    boundaries = before + np.concatenate(([0.0], weights(order).cumsum()))
    count = int(np.searchsorted(boundaries[: order.size], limit, side=side))
    kept[order[:count]] = True
    if np.count_nonzero(kept) < at_least:
        kept[np.argsort(keys, kind="stable")[:at_least]] = True
    return kept, float(np.abs(boundaries[max(0, count - 1) : count + 1] - limit).min())


def _bins(keys: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.minimum(keys * 8.0, BINS - 1.0).astype(np.intp)


def best_few(values: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.intp]:
    """Where the largest values are, all ties included: some hundreds of a long row, all of a short one."""
    if values.size < 4096:
        return np.arange(values.size)
    return np.flatnonzero(values >= kth_largest(values, 256))


def kth_largest(values: NDArray[np.float32] | NDArray[np.float64], k: int) -> float:
    """The k-th largest value, 1 <= k <= size."""
    columns = 1024
    if values.size >= 8 * columns and k <= columns // 4:
        # At least k values reach the k-th largest of the column maxima; few others do.
        maxima = values[: values.size // columns * columns].reshape(-1, columns).max(axis=0)
        values = values[values >= np.partition(maxima, -k)[-k]]
    return float(np.partition(values, -k)[-k])
