"""Causes in a place: rows are wrong somewhere, under some condition, the more the longer the prefix, or everywhere without a pattern."""

from __future__ import annotations

import numpy as np

from seedbed.regression.causes.case import Case, Cause, Finding
from seedbed.regression.figures import significant
from seedbed.regression.profiles import FLOAT32, PROFILES, Split, growth, single_rows

__all__ = ["Growing", "Localised", "SingleRows", "Spread"]


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
        return Finding(self.name, share, f"drift grows as the {slope} power of the position", slope)


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
            detail = f"rows have little in common: {significant(mean)} nats apart, {flipped} of {len(case.rows)} have another best token"
            return Finding("another model", share, detail)
        return Finding(self.name, share, "rows differ at every prefix, without a pattern: other weights, kernels or precision")
