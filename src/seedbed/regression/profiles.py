"""Where a drift is: places and conditions inside which rows are wrong and outside which they are right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from seedbed.regression.estimates import Estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from seedbed.regression.causes.case import Case
    from seedbed.regression.compared import Compared

__all__ = [
    "FEWEST",
    "FLOAT32",
    "Answers",
    "Split",
    "answers_by",
    "best_split",
    "best_split_of_answers",
    "growth",
    "is_noisy",
    "noise_levels",
    "single_rows",
]

FEWEST = 3
"""Rows on either side of a split, at the least: with fewer any split fits."""
FLOAT32 = 1e-11
"""A drift in nats that rounding to float32 alone makes: differences of 1e-6 in logits of 16, squared, with room."""


@dataclass(frozen=True, slots=True)
class Split:
    """A split of the prefixes that separates right from wrong rows.

    Attributes:
        detail: for people.
        contrast: share of wrong rows inside less that outside, in [-1, 1].
        rows: which prefixes are explained, shape (prefixes,).
    """

    detail: str
    contrast: float
    rows: NDArray[np.bool_]


def noise_levels(rows: Sequence[Compared]) -> NDArray[np.float64]:
    """Of each prefix, the KL between two answers of one server that one in twenty exceeds.

    Noise of one size in every logit is proportional to 1 - sum p^2; the 95 % quantile of the ratio is taken over all prefixes, and each
    prefix gets its part of it. At least what rounding to float32 makes.
    """
    noises = [(kl, _spread(row)) for row in rows for kl in row.noise] or [(kl, _spread(row)) for row in rows for kl in row.live_noise]
    if not any(kl > 0 for kl, _ in noises):
        return np.full(len(rows), FLOAT32)
    ratio = float(np.quantile([kl / spread for kl, spread in noises], 0.95))
    return np.array([max(FLOAT32, ratio * _spread(row)) for row in rows])


def _spread(row: Compared) -> float:
    return max(1e-6, 1.0 - float(np.exp(2 * row.before).sum()))


def is_noisy(noise: NDArray[np.float64]) -> bool:
    """Whether two answers of one server to one question differ, by these levels."""
    return bool(noise.max(initial=0.0) > FLOAT32)


def best_split(case: Case, candidates: Iterable[tuple[NDArray[np.bool_], str]]) -> Split | None:
    """Of several splits of the prefixes, each with its words, the one that tells right from wrong rows best; None when none does."""
    wrong, noisy = case.drift > case.noise, is_noisy(case.noise)
    return _best(
        Split(detail, contrast, inside) for inside, detail in candidates if (contrast := _contrast(wrong, inside, noisy)) is not None
    )


def best_split_of_answers(case: Case, answers: Answers, candidates: Iterable[tuple[NDArray[np.bool_], str]]) -> Split | None:
    """The same of splits of single answers."""
    noisy = is_noisy(case.noise)
    return _best(
        Split(detail, contrast, _among(len(case.rows), answers.place[inside]))
        for inside, detail in candidates
        if (contrast := _contrast(answers.wrong, inside, noisy)) is not None
    )


def _best(splits: Iterable[Split]) -> Split | None:
    return max(splits, key=lambda split: split.contrast, default=None)


def _contrast(wrong: NDArray[np.bool_], inside: NDArray[np.bool_], noisy: bool) -> float | None:
    """How well a split separates, None when it does not: most inside must be wrong, next to none outside."""
    if inside.sum() < FEWEST or (~inside).sum() < FEWEST:
        return None
    within, without = float(wrong[inside].mean()), float(wrong[~inside].mean())
    # Where noise hides small drifts, fewer are seen inside, and some noise is taken for drift outside.
    if within < (0.6 if noisy else 0.8) or without > (0.15 if noisy else 0.02):
        return None
    return within - without


def single_rows(case: Case) -> Split | None:
    """A few rows far off, with nothing in common."""
    wrong = case.drift > np.maximum(case.noise, 0.01 * float(case.drift.max(initial=0.0)))
    if not wrong.any() or wrong.mean() > 0.1:
        return None
    shown = ", ".join(f"{row.position} tokens" for row, off in zip(case.rows, wrong, strict=True) if off)
    detail = f"{wrong.sum()} of {wrong.size} prefixes are far off (of {shown[:80]}), the others are not"
    return Split(detail, 1.0, wrong)


def growth(case: Case) -> Estimate | None:
    """The power of the position that drift grows with, if it does for certain: more than 1/2, at more than 5 standard errors.

    The regression of log(D / (1 - sum p^2)) on log(position): D is divided by what noise of one size in every logit would make of it, since
    rows of one certain token hardly move. The error is clustered by sequence, about the regression line.
    """
    rows, drift = case.rows, case.drift
    weights = np.array([_spread(row) for row in rows])
    usable = (drift > case.noise) & (weights > 0.01)
    positions = np.array([row.position for row in rows], dtype=np.float64)
    if usable.sum() < 20 or usable.mean() < 0.5 or positions[usable].max() < 4 * positions[usable].min():
        return None
    x, y = np.log(positions[usable]), np.log(drift[usable] / weights[usable])
    x -= x.mean()
    slope = float((x * y).sum() / (x * x).sum())
    residuals = x * (y - y.mean() - slope * x)
    _, members = np.unique([row.sequence for row, use in zip(rows, usable, strict=True) if use], return_inverse=True)
    totals = np.bincount(members, weights=residuals)
    if totals.size > 2:
        error = math.sqrt(totals.size / (totals.size - 1) * float((totals**2).sum())) / float((x * x).sum())
    else:
        error = math.sqrt(float((residuals**2).sum())) / float((x * x).sum())
    if slope < 0.5 or slope < 5 * error:
        return None
    return Estimate(slope, error, int(usable.sum()), int(totals.size))


@dataclass(frozen=True, slots=True)
class Answers:
    """Single answers by a covariate, shape (answers,) each.

    Attributes:
        wrong: whether it is off by more than noise.
        covariate: its value.
        place: of its prefix, among the rows.
    """

    wrong: NDArray[np.bool_]
    covariate: NDArray[Any]
    place: NDArray[np.int64]


def answers_by(case: Case, covariate: Callable[[tuple[str, ...], int | None], object]) -> Answers:
    """Every answer that has this covariate of its tags and its concurrency, less those of prefixes explained already."""
    found = [
        (kl > case.noise[place], value, place)
        for place, row in enumerate(case.rows)
        if not case.drift[place] <= 0 < row.d
        for (tags, concurrency), kl in zip(row.pairs, row.kl, strict=True)
        if (value := covariate(tags, concurrency)) is not None
    ]
    wrong, values, places = zip(*found, strict=True) if found else ((), (), ())
    return Answers(np.array(wrong, dtype=bool), np.array(values), np.array(places, dtype=np.int64))


def _among(count: int, places: NDArray[np.int64]) -> NDArray[np.bool_]:
    among = np.zeros(count, dtype=bool)
    among[places] = True
    return among
