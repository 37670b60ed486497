"""What changed, by name: each cause is a small class with its own test on the compared prefixes.

Causes are examined in order. One that is found takes out of the rows, or of the drift, what it explains, and the next sees the rest; so a
temperature is not also called noise, and two faults at once are both named, by the share of the drift each explains.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from seedbed.regression.estimates import Estimate
from seedbed.regression.metrics import FLOOR, noise_free_drift
from seedbed.regression.profiles import FEWEST, FLOAT32, PROFILES, Split, growth, single_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from seedbed.regression.compared import Compared

__all__ = ["CAUSES", "Case", "Cause", "Finding", "find_causes"]


TAIL_SEEN, TAIL_GONE = 2e-5, 2e-6
"""Probability of an unlisted tail that is one for certain, and one that is none, by float32 log-probabilities."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause that was found.

    Attributes:
        name: of the cause; one of the class's ``name`` values below.
        share: of the drift it explains, in [0, 1].
        detail: what was seen, as a sentence.
        estimate: the size of the fault with its error, such as a temperature; None when it has none.
    """

    name: str
    share: float
    detail: str
    estimate: Estimate | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        estimate = None if self.estimate is None else [self.estimate.value, _finite(self.estimate.standard_error)]
        return {"name": self.name, "share": self.share, "detail": self.detail, "estimate": estimate}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What ``to_dict`` wrote."""
        found = values["estimate"]
        estimate = None if found is None else Estimate(found[0], math.inf if found[1] is None else found[1], 0, 0)
        return cls(values["name"], values["share"], values["detail"], estimate)


@dataclass(slots=True)
class Case:
    """The evidence, less what causes found so far explain.

    Attributes:
        rows: the compared prefixes.
        noise: of each prefix, the KL between two answers of one server that is seldom exceeded, shape (prefixes,); all but 0 on a server
            that repeats itself bit by bit.
        asked_instead: {name of a counterfactual: [(place of the prefix, KL(recorded || live answer to another prefix))]}.
        after: the live log-probabilities of each prefix, corrected for what was found.
        drift: what is left of each prefix's drift, nats, shape (prefixes,).
        total: the sum of it at the beginning.
    """

    rows: Sequence[Compared]
    noise: NDArray[np.float64]
    asked_instead: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    after: list[NDArray[np.float64]] = field(init=False)
    drift: NDArray[np.float64] = field(init=False)
    total: float = field(init=False)

    def __post_init__(self) -> None:
        self.after = [row.after for row in self.rows]
        self.drift = np.array([max(row.d, 0.0) for row in self.rows])
        self.total = float(self.drift.sum())

    @property
    def left(self) -> float:
        """Which share of the drift is not explained yet."""
        return float(self.drift.sum()) / self.total if self.total else 0.0

    def drift_to(self, after: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """The drift there would be if the live rows were these, among the tokens listed."""
        return np.array(
            [row.listed * float(noise_free_drift(row.before, row.before, b, b).d) for row, b in zip(self.rows, after, strict=True)]
        )

    def is_better(self, rest: NDArray[np.float64], share: float) -> bool:
        """Whether a correction leaves no more than ``share`` of the drift among the tokens listed, and that is most of the drift."""
        listed = float(self.drift_to(self.after).sum())
        return float(rest.sum()) <= share * listed and listed >= 0.5 * float(self.drift.sum())

    def is_exact(self, rest: NDArray[np.float64]) -> bool:
        """Whether a correction leaves next to nothing among the tokens listed, though most of the drift may be in the tail."""
        listed = float(self.drift_to(self.after).sum())
        return float(rest.sum()) <= 0.05 * listed and listed >= 1e-3 * float(self.drift.sum())

    def accept(self, after: list[NDArray[np.float64]], drift: NDArray[np.float64]) -> float:
        """Go on with corrected rows; returns the share of the whole drift that this explains."""
        before = self.left
        self.after, self.drift = after, np.minimum(self.drift, drift)
        return before - self.left


class Cause(ABC):
    """One way a server can go wrong."""

    name: ClassVar[str]

    @abstractmethod
    def examine(self, case: Case) -> Finding | None:
        """The finding, after taking what it explains out of the case; None when this is not it."""


class _Misread(Cause):
    """The server answers for another prefix: asked so that its mistake undoes ours, it gives the recorded rows."""

    key: ClassVar[str]
    detail: ClassVar[str]

    def examine(self, case: Case) -> Finding | None:
        tried = case.asked_instead.get(self.key, ())
        before = sum(case.rows[place].kl[0] for place, _ in tried)
        after = sum(max(0.0, kl - float(case.noise[place])) for place, kl in tried)
        # A mistake about the prompt shows nearly everywhere; where few rows are wrong, any other question may miss what is wrong.
        if not tried or before <= 0 or after > 0.1 * before or (case.drift > case.noise).mean() < 0.5:
            return None
        case.drift = case.drift * (after / before)
        case.after = [row.before for row in case.rows]
        return Finding(self.name, 1 - after / before, f"{self.detail}: so asked, {len(tried)} prefixes get the recorded rows")


class ShiftedByOne(_Misread):
    """The row answered is that of the place before."""

    name, key, detail = "shift by one", "one token more", "the rows are those of the prefix without its last token"


class ExtraBos(_Misread):
    """The server puts a begin-of-sequence token in front."""

    name, key, detail = "BOS extra", "without the first token", "a token is put in front of the prompt"


class MissingBos(_Misread):
    """The server takes the first token away."""

    name, key, detail = "BOS missing", "the first token twice", "the first token of the prompt is lost"


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
        what = f"top_k = {counts.pop()}" if len(counts) == 1 else f"top_p of {least:.2f} or less"
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
        undone = [_normalised(b * temperature) for b in case.after]
        rest = case.drift_to(undone)
        if not (case.is_better(rest, 0.5) or case.is_exact(rest)) or abs(temperature - 1) < 3 * (error if math.isfinite(error) else 0.0):
            return None
        if case.is_exact(rest):
            rest = case.drift * float(rest.sum()) / float(case.drift_to(case.after).sum())
        share = case.accept(undone, rest)
        estimate = Estimate(temperature, error, len(sequences), len(set(sequences)))
        return Finding(self.name, share, f"log-probabilities are the recorded ones divided by {temperature:.4f} ± {error:.4f}", estimate)


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
        best: tuple[float, int, int, list[NDArray[np.float64]], NDArray[np.float64]] | None = None
        for at, one in enumerate(suspects):
            for other in suspects[at + 1 :]:
                undone = [_exchanged(row.ids, b, one, other) for row, b in zip(case.rows, case.after, strict=True)]
                rest = case.drift_to(undone)
                if best is None or rest.sum() < best[0]:
                    best = (float(rest.sum()), one, other, undone, rest)
        if best is None or not case.is_better(best[4], 0.2):
            return None
        _, one, other, undone, rest = best
        return Finding(
            self.name, case.accept(undone, rest), f"tokens {min(one, other)} and {max(one, other)} have each other's probabilities"
        )


class Localised(Cause):
    """The rows are right in some places or under some conditions, and wrong in the others."""

    name = "localised"

    def examine(self, case: Case) -> Finding | None:
        splits = [split for profile in PROFILES if (split := profile(case.rows, case.drift, case.noise)) is not None]
        if not splits:
            return None
        best: Split = max(splits, key=lambda split: split.contrast)
        before = case.left
        case.drift = np.where(best.rows, 0.0, case.drift)
        return Finding(best.name, before - case.left, best.detail)


class SingleRows(Cause):
    """A few rows are far off, with nothing in common."""

    name = "single rows corrupted"

    def examine(self, case: Case) -> Finding | None:
        split = single_rows(case.rows, case.drift, case.noise)
        if split is None:
            return None
        before = case.left
        case.drift = np.where(split.rows, 0.0, case.drift)
        return Finding(self.name, before - case.left, split.detail)


class Growing(Cause):
    """Drift grows with the position."""

    name = "grows with position"

    def examine(self, case: Case) -> Finding | None:
        slope = growth(case.rows, case.drift, case.noise)
        if slope is None:
            return None
        share, case.drift = case.left, case.drift * 0.0
        return Finding(self.name, share, f"drift grows as the {slope.value:.2f} ± {slope.standard_error:.2f} power of the position", slope)


class Spread(Cause):
    """What nothing else explains: rows differ everywhere, without a pattern."""

    name = "quantisation-like noise"

    def examine(self, case: Case) -> Finding | None:
        is_noisy = bool(case.noise.max(initial=0.0) > FLOAT32)
        # Where noise hides single drifts it must be enough that most are positive.
        off = np.array([row.d > 0 for row in case.rows]) if is_noisy else case.drift > case.noise
        if case.left < 0.3 or off.mean() < (0.6 if is_noisy else 0.8):
            return None
        mean, share = float(case.drift.mean()), case.left
        case.drift = case.drift * 0.0
        flipped = sum(row.flipped for row in case.rows)
        if mean > 0.5 or flipped > 0.7 * len(case.rows):
            detail = f"rows have little in common: {mean:.2f} nats apart, {flipped} of {len(case.rows)} have another best token"
            return Finding("another model", share, detail)
        return Finding(self.name, share, "rows differ at every prefix, without a pattern: other weights, kernels or precision")


CAUSES: tuple[Cause, ...] = (
    Localised(),
    CutApplied(),
    ShiftedByOne(),
    ExtraBos(),
    MissingBos(),
    TemperatureApplied(),
    SwappedIds(),
    SingleRows(),
    SixteenBits(),
    Localised(),
    Growing(),
    Spread(),
)


def find_causes(case: Case, *, enough: float = 0.01) -> tuple[Finding, ...]:
    """All causes found, the one that explains most first.

    Args:
        case: the evidence; used up.
        enough: stop when less than this share of the drift is left.
    """
    found = []
    for cause in CAUSES:
        if case.left <= enough:
            break
        finding = cause.examine(case)
        if finding is not None and finding.share > enough:
            found.append(finding)
    return tuple(sorted(found, key=lambda finding: -finding.share))


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
    return _normalised(np.where(excluded, before, after + math.log(kept) if kept > 0 else after))


def _exchanged(ids: NDArray[np.int64], values: NDArray[np.float64], one: int, other: int) -> NDArray[np.float64]:
    i, j = np.flatnonzero(ids == one), np.flatnonzero(ids == other)
    if not (i.size and j.size):
        return values
    changed = values.copy()
    changed[i], changed[j] = values[j], values[i]
    return changed


def _normalised(logprobs: NDArray[np.float64]) -> NDArray[np.float64]:
    top = logprobs.max()
    return np.asarray(np.maximum(logprobs - top - np.log(np.exp(logprobs - top).sum()), FLOOR))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
