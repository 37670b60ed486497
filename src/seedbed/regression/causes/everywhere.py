"""Causes without a place: drift that grows with the prefix, or is at every one of them, and what it is called by its size."""

from __future__ import annotations

import numpy as np

from seedbed.regression.causes.case import Case, Cause, Finding
from seedbed.regression.figures import significant
from seedbed.regression.profiles import growth, is_noisy

__all__ = ["AnotherModel", "Growing", "Spread"]


class Growing(Cause):
    """Drift grows with the position: the logarithm of one regressed on that of the other."""

    name = "grows with position"

    def examine(self, case: Case) -> Finding | None:
        slope = growth(case)
        if slope is None:
            return None
        return Finding(self.name, _all_that_is_left(case), f"drift grows as the {slope} power of the position", slope)


class AnotherModel(Cause):
    """Rows differ everywhere, and have little in common."""

    name = "another model"

    def examine(self, case: Case) -> Finding | None:
        mean, flipped = float(case.drift.mean()), sum(row.flipped for row in case.rows)
        if not _is_everywhere(case) or not (mean > 0.5 or flipped > 0.7 * len(case.rows)):
            return None
        detail = f"rows have little in common: {significant(mean)} nats apart, {flipped} of {len(case.rows)} have another best token"
        return Finding(self.name, _all_that_is_left(case), detail)


class Spread(Cause):
    """What nothing else explains: rows differ everywhere, without a pattern."""

    name = "quantisation-like noise"

    def examine(self, case: Case) -> Finding | None:
        if not _is_everywhere(case):
            return None
        detail = "rows differ at every prefix, without a pattern: other weights, kernels or precision"
        return Finding(self.name, _all_that_is_left(case), detail)


def _is_everywhere(case: Case) -> bool:
    # Where noise hides single drifts it must be enough that most are positive.
    hides = is_noisy(case.noise)
    off = np.array([row.d > 0 for row in case.rows]) if hides else case.drift > case.noise
    return case.left >= 0.3 and bool(off.mean() >= (0.6 if hides else 0.8))


def _all_that_is_left(case: Case) -> float:
    """Take all of it out of the case, and say how much it was."""
    share, case.drift = case.left, case.drift * 0.0
    return share
