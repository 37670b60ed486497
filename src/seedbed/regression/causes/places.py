"""Causes in a place: rows are wrong for some prefixes and right for the others; the covariate is what the prefix is."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from seedbed.regression.causes.case import Case, Cause, Finding
from seedbed.regression.profiles import Split, best_split, single_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["BestPlace", "BlockMultiples", "FromPosition", "OnePrompt", "Place", "SingleRows"]

BLOCKS = (512, 256, 128, 64, 32, 16, 8, 4)


class Place(Cause):
    """Rows are right where a covariate says so and wrong where it does not: a step, found by trying each place for it."""

    @abstractmethod
    def split(self, case: Case) -> Split | None:
        """The step that tells right rows from wrong ones best; None when none does."""

    def examine(self, case: Case) -> Finding | None:
        split = self.split(case)
        return None if split is None else self.explain(case, split)

    def explain(self, case: Case, split: Split) -> Finding:
        """The finding, after taking the drift of the wrong rows out of the case."""
        before = case.left
        case.drift = np.where(split.rows, 0.0, case.drift)
        return Finding(self.name, before - case.left, split.detail)


class BestPlace(Cause):
    """The one of several places that tells right rows from wrong ones best.

    Their covariates hang together: a prompt has its lengths, a long prefix is a warm one. To name every place that fits would be to name
    one fault several times.
    """

    name = "a place"

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places

    def examine(self, case: Case) -> Finding | None:
        found = [(place, split) for place in self._places if (split := place.split(case)) is not None]
        if not found:
            return None
        place, split = max(found, key=lambda one: one[1].contrast)
        return place.explain(case, split)


class OnePrompt(Place):
    """Only the prefixes that begin with one prompt are wrong; the covariate is the prompt."""

    name = "one prompt only"

    def split(self, case: Case) -> Split | None:
        prompts = np.array([row.prompt for row in case.rows])
        return best_split(case, ((prompts == prompt, self._detail(case, prompts == prompt)) for prompt in np.unique(prompts)))

    @staticmethod
    def _detail(case: Case, inside: NDArray[np.bool_]) -> str:
        shortest = min((row.prefix for row, is_inside in zip(case.rows, inside, strict=True) if is_inside), key=len)
        return f"only the {inside.sum()} prefixes of the prompt [{', '.join(map(str, shortest[:8]))}, ...] differ"


class FromPosition(Place):
    """All prefixes from some length on are wrong; the covariate is the length."""

    name = "from position N"

    def split(self, case: Case) -> Split | None:
        positions = np.array([row.position for row in case.rows])
        steps = np.unique(positions)[1:].tolist()
        detail = "prefixes of {} tokens and more differ, shorter ones do not"
        return best_split(case, ((positions >= position, detail.format(position)) for position in steps))


class BlockMultiples(Place):
    """Prefixes whose length is a multiple of a block's are wrong; the covariate is the length modulo the block."""

    name = "block multiples"

    def split(self, case: Case) -> Split | None:
        positions = np.array([row.position for row in case.rows])
        detail = "prefixes whose length is a multiple of {} differ, others do not"
        return best_split(case, ((positions % block == 0, detail.format(block)) for block in BLOCKS))


class SingleRows(Place):
    """A few rows are far off, with nothing in common; there is no covariate."""

    name = "single rows corrupted"

    def split(self, case: Case) -> Split | None:
        return single_rows(case)
