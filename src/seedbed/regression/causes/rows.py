"""Causes in the row: something was done to the logits, everywhere alike, and can be undone."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from seedbed.regression.causes.case import Case, Cause, Finding
from seedbed.regression.estimates import Estimate
from seedbed.regression.figures import significant
from seedbed.regression.metrics import FLOOR, normalised
from seedbed.regression.profiles import FEWEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["CutApplied", "SixteenBits", "SwappedIds", "TemperatureApplied"]

TAIL_SEEN, TAIL_GONE = 2e-5, 2e-6
"""Probability of an unlisted tail that is one for certain, and one that is none, by float32 log-probabilities."""

FLOAT32_STEP = 2.0**-23
"""Relative distance of neighbouring float32 numbers: no temperature can be told more exactly from rows in them."""


class CutApplied(Cause):
    """The server's sampler filters the rows it reports."""

    name = "top-p or top-k applied"

    def examine(self, case: Case) -> Finding | None:
        cut = [row.support[1] < row.support[0] or (row.tail[0] > TAIL_SEEN and row.tail[1] < TAIL_GONE) for row in case.rows]
        telling = [row.support[1] < row.support[0] or row.tail[0] > TAIL_SEEN or row.tail[0] == 0 for row in case.rows]
        if sum(cut) < FEWEST or sum(cut) < 0.8 * sum(telling):
            return None
        excluded = [b <= FLOOR + 1 for b in case.after]
        masses = [
            1.0 - float(np.exp(row.before[out]).sum()) * row.listed - row.tail[0] for row, out in zip(case.rows, excluded, strict=True)
        ]
        counts = {row.support[1] for row, is_cut in zip(case.rows, cut, strict=True) if is_cut}
        restored = [_restored(row.before, b, out) for row, b, out in zip(case.rows, case.after, excluded, strict=True)]
        # Where the row is a list, what was cut is the tail, which nothing restores.
        rest = np.where([row.tail[0] > TAIL_SEEN for row in case.rows], 0.0, case.drift_to(restored))
        share = case.accept(restored, rest)
        least = min(mass for mass, is_cut in zip(masses, cut, strict=True) if is_cut)
        what = f"top_k = {counts.pop()}" if len(counts) == 1 else f"top_p of {significant(least)} or less"
        return Finding(self.name, share, f"{sum(cut)} of {len(cut)} rows exclude tokens that had probability: {what}")


class SixteenBits(Cause):
    """Logits are computed or kept in 16 bits."""

    name = "16-bit logits"

    def examine(self, case: Case) -> Finding | None:
        found = [row.precision for row in case.rows]
        seen = [precision for precision in found if precision is not None]
        if len(seen) < max(3, 0.5 * len(found)) or not case.total:
            return None
        cost = np.array([0.0 if p is None or math.isnan(p.kl) else p.kl for p in found])
        before = case.left
        # What rounding costs is known for the recorded row; twice that covers that the live one differs.
        case.drift = np.maximum(0.0, case.drift - 2 * cost) if cost.any() else case.drift * 0.0
        dtypes = sorted({precision.dtype for precision in seen})
        return Finding(
            self.name, before - case.left, f"{len(seen)} of {len(found)} live rows hold {' or '.join(dtypes)} values, none recorded does"
        )


class TemperatureApplied(Cause):
    """Logits are divided by a temperature."""

    name = "temperature applied"

    def examine(self, case: Case) -> Finding | None:
        numerator, denominator, size = np.array([_slope(row.before, b) for row, b in zip(case.rows, case.after, strict=True)]).T
        if denominator.sum() <= 0:
            return None
        # Least trimmed squares: the quarter that fits best decides, so a second fault somewhere else does not bend the estimate.
        fits, slope = np.ones(numerator.size, dtype=bool), 0.0
        for _ in range(5):
            slope = float(numerator[fits].sum() / denominator[fits].sum())
            residuals = size - 2 * slope * numerator + slope**2 * denominator
            relative = residuals / np.maximum(size, 1e-30)
            fits = (relative <= np.quantile(relative, 0.25)) & (denominator > 0)
        if slope <= -0.99 or not fits.any():
            return None
        temperature = 1 / (1 + slope)
        sequences = [row.sequence for row, fit in zip(case.rows, fits, strict=True) if fit]
        error = temperature**2 * _sum_error((numerator - slope * denominator)[fits], sequences) / float(denominator[fits].sum())
        error = max(error, FLOAT32_STEP * temperature)
        undone = [normalised(b * temperature) for b in case.after]
        rest = case.drift_to(undone)
        if not (case.is_better(rest, 0.5) or case.is_exact(rest)) or abs(temperature - 1) < 3 * (error if math.isfinite(error) else 0.0):
            return None
        if case.is_exact(rest):
            rest = case.drift * float(rest.sum()) / float(case.drift_to(case.after).sum())
        share = case.accept(undone, rest)
        estimate = Estimate(temperature, error, len(sequences), len(set(sequences)))
        return Finding(self.name, share, f"log-probabilities are the recorded ones divided by {estimate}", estimate)


class SwappedIds(Cause):
    """Two token ids have each other's probabilities."""

    name = "swapped ids"

    def examine(self, case: Case) -> Finding | None:
        weights: dict[int, float] = {}
        for row, b in zip(case.rows, case.after, strict=True):
            p = (np.exp(row.before) + np.exp(b)) / 2
            each = p * (b - row.before) ** 2
            for place in np.argsort(-each)[:4]:
                weights[int(row.ids[place])] = weights.get(int(row.ids[place]), 0.0) + float(each[place])
        suspects = sorted(weights, key=lambda token_id: -weights[token_id])[:6]
        places = [_places(case, token_id) for token_id in suspects]
        tried = [(case.drift_to(_exchanged(case.after, places[i], places[j])), i, j) for i, j in combinations(range(len(suspects)), 2)]
        if not tried:
            return None
        rest, i, j = min(tried, key=lambda one: float(one[0].sum()))
        if not case.is_better(rest, 0.2):
            return None
        one, other, undone = suspects[i], suspects[j], _exchanged(case.after, places[i], places[j])
        return Finding(
            self.name, case.accept(undone, rest), f"tokens {min(one, other)} and {max(one, other)} have each other's probabilities"
        )


def _slope(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float, float, float]:
    """Numerator and denominator of the regression of the shift on the log-probability, each token weighted by its probability, and the
    variance of the shift."""
    p = (np.exp(before) + np.exp(after)) / 2
    p /= p.sum()
    x, level = after - before, before - (p * before).sum()
    x -= (p * x).sum()
    return float((p * level * x).sum()), float((p * level * level).sum()), float((p * x * x).sum())


def _sum_error(residuals: NDArray[np.float64], sequences: Sequence[int]) -> float:
    """Standard error of a sum, clustered by sequence."""
    _, members = np.unique(np.array(sequences), return_inverse=True)
    totals = np.bincount(members, weights=residuals)
    return math.sqrt(totals.size / (totals.size - 1) * float((totals**2).sum())) if totals.size > 1 else math.inf


def _restored(before: NDArray[np.float64], after: NDArray[np.float64], excluded: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The live row with what it excludes put back, at the probability it had."""
    kept = float(np.exp(before[~excluded]).sum())
    return normalised(np.where(excluded, before, after + math.log(kept) if kept > 0 else after))


def _places(case: Case, token_id: int) -> list[int | None]:
    """Where each row has a token; None where it does not list it."""
    found = [np.flatnonzero(row.ids == token_id) for row in case.rows]
    return [int(place[0]) if place.size else None for place in found]


def _exchanged(rows: Sequence[NDArray[np.float64]], one: Sequence[int | None], other: Sequence[int | None]) -> list[NDArray[np.float64]]:
    """The rows with two tokens, by their places, having each other's values; those that do not list both as they are."""
    exchanged = []
    for values, i, j in zip(rows, one, other, strict=True):
        if i is not None and j is not None:
            values = values.copy()
            values[i], values[j] = values[j], values[i]
        exchanged.append(values)
    return exchanged
