"""Where a drift is: places and conditions inside which rows are wrong and outside which they are right."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from seedbed.regression.estimates import Estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from seedbed.regression.compared import Compared

__all__ = ["FEWEST", "FLOAT32", "PROFILES", "Split", "growth", "noise_levels", "single_rows"]

FEWEST = 3
"""Rows on either side of a split, at the least: with fewer any split fits."""
FLOAT32 = 1e-11
"""A drift in nats that rounding to float32 alone makes: differences of 1e-6 in logits of 16, squared, with room."""
BLOCKS = (512, 256, 128, 64, 32, 16, 8, 4)


@dataclass(frozen=True, slots=True)
class Split:
    """A split of the prefixes that separates right from wrong rows.

    Attributes:
        name, detail: for people.
        contrast: share of wrong rows inside less that outside, in [-1, 1].
        rows: which prefixes are explained, shape (prefixes,).
    """

    name: str
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


def _is_noisy(noise: NDArray[np.float64]) -> bool:
    return bool(noise.max(initial=0.0) > FLOAT32)


def _contrast(wrong: NDArray[np.bool_], inside: NDArray[np.bool_], *, is_noisy: bool) -> float | None:
    """How well a split separates, None when it does not: most inside must be wrong, next to none outside."""
    if inside.sum() < FEWEST or (~inside).sum() < FEWEST:
        return None
    within, without = float(wrong[inside].mean()), float(wrong[~inside].mean())
    # Where noise hides small drifts, fewer are seen inside, and some noise is taken for drift outside.
    if within < (0.6 if is_noisy else 0.8) or without > (0.15 if is_noisy else 0.02):
        return None
    return within - without


def _by_prefix(rows: Sequence[Compared], drift: NDArray[np.float64], noise: NDArray[np.float64], inside: NDArray[np.bool_]) -> float | None:
    return _contrast(drift > noise, inside, is_noisy=_is_noisy(noise))


def one_prompt(rows: Sequence[Compared], drift: NDArray[np.float64], noise: NDArray[np.float64]) -> Split | None:
    """Only the prefixes that begin with one prompt are wrong."""
    prompts = np.array([row.prompt for row in rows])
    best: Split | None = None
    for prompt in np.unique(prompts).tolist():
        inside = prompts == prompt
        contrast = _by_prefix(rows, drift, noise, inside)
        if contrast is not None and (best is None or contrast > best.contrast):
            beginning = ", ".join(map(str, min((row.prefix for row in np.array(rows, dtype=object)[inside]), key=len)[:8]))
            best = Split("one prompt only", f"only the {inside.sum()} prefixes of the prompt [{beginning}, ...] differ", contrast, inside)
    return best


def from_position(rows: Sequence[Compared], drift: NDArray[np.float64], noise: NDArray[np.float64]) -> Split | None:
    """All prefixes from some length on are wrong."""
    positions = np.array([row.position for row in rows])
    best: Split | None = None
    for position in np.unique(positions)[1:].tolist():
        inside = positions >= position
        contrast = _by_prefix(rows, drift, noise, inside)
        if contrast is not None and (best is None or contrast > best.contrast):
            best = Split("from position N", f"prefixes of {position} tokens and more differ, shorter ones do not", contrast, inside)
    return best


def block_multiples(rows: Sequence[Compared], drift: NDArray[np.float64], noise: NDArray[np.float64]) -> Split | None:
    """Prefixes whose length is a multiple of a block's are wrong."""
    positions = np.array([row.position for row in rows])
    best: Split | None = None
    for block in BLOCKS:
        inside = positions % block == 0
        contrast = _by_prefix(rows, drift, noise, inside)
        if contrast is not None and (best is None or contrast > best.contrast):
            best = Split("block multiples", f"prefixes whose length is a multiple of {block} differ, others do not", contrast, inside)
    return best


def warm_only(rows: Sequence[Compared], drift: NDArray[np.float64], noise: NDArray[np.float64]) -> Split | None:
    """Answers from the prefix cache are wrong, others right."""
    wrong, warm, of = _answers(rows, drift, noise, lambda tags, _: None if not {"warm", "cold"} & set(tags) else "warm" in tags)
    warm = warm.astype(bool)
    contrast = _contrast(wrong, warm, is_noisy=_is_noisy(noise))
    if contrast is None:
        return None
    detail = f"{int(warm.sum())} answers to prefixes asked before differ, {int((~warm).sum())} to new ones do not"
    return Split("warm cache only", detail, contrast, _among(rows, of[warm]))


def above_concurrency(rows: Sequence[Compared], drift: NDArray[np.float64], noise: NDArray[np.float64]) -> Split | None:
    """Answers are wrong while more than so many questions are under way."""
    wrong, load, of = _answers(rows, drift, noise, lambda _, concurrency: concurrency)
    best: Split | None = None
    for limit in np.unique(load)[:-1].tolist():
        inside = load > limit
        contrast = _contrast(wrong, inside, is_noisy=_is_noisy(noise))
        if contrast is not None and (best is None or contrast > best.contrast):
            upper = int(load[load > limit].min())
            c = f"{limit}" if upper == limit + 1 else f"{limit} to {upper - 1}"
            best = Split("above concurrency c", f"answers differ with more than {c} requests under way", contrast, _among(rows, of[inside]))
    return best


def single_rows(rows: Sequence[Compared], drift: NDArray[np.float64], noise: NDArray[np.float64]) -> Split | None:
    """A few rows are far off, with nothing in common."""
    wrong = drift > np.maximum(noise, 0.01 * float(drift.max(initial=0.0)))
    if not wrong.any() or wrong.mean() > 0.1:
        return None
    shown = ", ".join(f"{row.position} tokens" for row, off in zip(rows, wrong, strict=True) if off)
    detail = f"{wrong.sum()} of {wrong.size} prefixes are far off (of {shown[:80]}), the others are not"
    return Split("single rows corrupted", detail, 1.0, wrong)


PROFILES: tuple[Callable[[Sequence[Compared], NDArray[np.float64], NDArray[np.float64]], Split | None], ...] = (
    one_prompt,
    from_position,
    block_multiples,
    warm_only,
    above_concurrency,
)


def growth(rows: Sequence[Compared], drift: NDArray[np.float64], noise: NDArray[np.float64]) -> Estimate | None:
    """The power of the position that drift grows with, if it does for certain: more than 1/2, at more than 5 standard errors.

    The regression of log(D / (1 - sum p^2)) on log(position): D is divided by what noise of one size in every logit would make of it, since
    rows of one certain token hardly move. The error is clustered by sequence, about the regression line.
    """
    weights = np.array([_spread(row) for row in rows])
    usable = (drift > noise) & (weights > 0.01)
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


def _answers(
    rows: Sequence[Compared],
    drift: NDArray[np.float64],
    noise: NDArray[np.float64],
    covariate: Callable[[tuple[str, ...], int | None], object],
) -> tuple[NDArray[np.bool_], NDArray[Any], NDArray[np.int64]]:
    """Of each single answer: whether it is wrong, its covariate, and the place of its prefix; those without a covariate left out."""
    collected: defaultdict[str, list[object]] = defaultdict(list)
    for place, row in enumerate(rows):
        if drift[place] <= 0 < row.d:
            continue  # explained already
        for (tags, concurrency), kl in zip(row.pairs, row.kl, strict=True):
            value = covariate(tags, concurrency)
            if value is not None:
                collected["wrong"].append(kl > noise[place])
                collected["value"].append(value)
                collected["place"].append(place)
    values = np.array(collected["value"])
    return np.array(collected["wrong"], dtype=bool), values, np.array(collected["place"], dtype=np.int64)


def _among(rows: Sequence[Compared], places: NDArray[np.int64]) -> NDArray[np.bool_]:
    among = np.zeros(len(rows), dtype=bool)
    among[places] = True
    return among
