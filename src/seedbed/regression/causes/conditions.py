"""Causes in a condition: answers are wrong under some conditions and right under others; the covariate is how an answer was had."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from seedbed.regression.causes.places import Place
from seedbed.regression.profiles import Split, answers_by, best_split_of_answers

if TYPE_CHECKING:
    from seedbed.regression.causes.case import Case

__all__ = ["AboveConcurrency", "WarmOnly"]


class WarmOnly(Place):
    """Answers from the prefix cache are wrong, others right; the covariate is whether the prefix was asked for before."""

    name = "warm cache only"

    def split(self, case: Case) -> Split | None:
        answers = answers_by(case, lambda tags, _: None if not {"warm", "cold"} & set(tags) else "warm" in tags)
        warm = answers.covariate.astype(bool)
        detail = f"{warm.sum()} answers to prefixes asked before differ, {(~warm).sum()} to new ones do not"
        return best_split_of_answers(case, answers, [(warm, detail)])


class AboveConcurrency(Place):
    """Answers are wrong while more than so many questions are under way; the covariate is how many there were."""

    name = "above concurrency c"

    def split(self, case: Case) -> Split | None:
        answers = answers_by(case, lambda _, concurrency: concurrency)
        loads = np.unique(answers.covariate).tolist()
        return best_split_of_answers(
            case,
            answers,
            ((answers.covariate > limit, _detail(limit, following)) for limit, following in itertools.pairwise(loads)),
        )


def _detail(limit: int, following: int) -> str:
    c = f"{limit}" if following == limit + 1 else f"{limit} to {following - 1}"
    return f"answers differ with more than {c} requests under way"
