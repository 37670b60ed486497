"""How much a server's draws speak for the parameters asked for, for others, and for two draws being one.

Every number here is a likelihood ratio or a bet at fair odds against "it draws from what it reports, with the parameters asked for", so
its mean is 1 or less as long as that is true, whenever one looks; but for the temperature, which is estimated, with its error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from seedbed.regression.contexts import moments
from seedbed.regression.estimates import Estimate
from seedbed.regression.evidence import log_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seedbed.regression.contexts import Context

__all__ = ["Bets", "same_draws", "temperature_of"]

COSINES, STAKES = (1, 2, 3, 4), (-0.5, -0.2, 0.2, 0.5)


@dataclass(slots=True)
class Bets:
    """Bets on all alternatives at once, and on the transform of the draws not being uniform; valid whenever it is looked at.

    Attributes:
        alternatives: how many there are.
        log_wealths: natural log of the likelihood ratio of each; ``log_bets``: of each bet on the transform.
        log_peak: natural log of the highest mean of all so far.
    """

    alternatives: int
    log_wealths: NDArray[np.float64] = field(init=False)
    log_bets: NDArray[np.float64] = field(init=False)
    log_peak: float = 0.0

    def __post_init__(self) -> None:
        self.log_wealths = np.zeros(self.alternatives)
        self.log_bets = np.zeros(len(COSINES) * len(STAKES))

    def add(self, odds: NDArray[np.float64], place: float) -> None:
        """Take in one draw."""
        self.log_wealths = self.log_wealths + np.log(odds)
        waves = np.cos(np.pi * place * np.array(COSINES))
        self.log_bets = self.log_bets + np.log1p(np.outer(waves, STAKES).ravel())
        self.log_peak = max(self.log_peak, self.log_e_value)

    @property
    def log_e_value(self) -> float:
        """Natural log of the evidence now: half of the stake is on the alternatives, half on the transform."""
        return float(np.logaddexp(log_mean(self.log_wealths.tolist()), log_mean(self.log_bets.tolist())) - math.log(2))


def temperature_of(drawn: Sequence[tuple[Context, int]], temperature: float) -> tuple[Estimate, float]:
    """The temperature under which these draws are most probable, and the z-score of the one asked for.

    The score of the family p ** (1 + b) at b = 0 is ``sum (z_y - E z)``, with variance ``sum Var z``: of all tests that look at one
    parameter the most powerful one near it. Newton's method goes on from there to the maximum.

    Args:
        drawn: contexts and the tokens drawn there; those that are excluded are left out.
        temperature: the one asked for.

    Source: Rao 1948 for the score test; exponential families, Lehmann and Romano, Testing Statistical Hypotheses, section 12.
    """
    usable = [(context, float(context.logprobs[token_id])) for context, token_id in drawn if context.logprobs[token_id] > -np.inf]
    counts: dict[int, tuple[Context, int, float]] = {}
    for context, z in usable:
        _, count, total = counts.get(id(context), (context, 0, 0.0))
        counts[id(context)] = (context, count + 1, total + z)
    tilt, score, z_score, information = 0.0, 0.0, 0.0, 0.0
    for step in range(20):
        found = [(count, total, *moments(context.logprobs, tilt)) for context, count, total in counts.values()]
        score = sum(total - count * mean for count, total, mean, _ in found)
        information = sum(count * variance for count, _, _, variance in found)
        if information <= 0:
            break
        if step == 0:
            z_score = score / math.sqrt(information)
        tilt = min(max(tilt + score / information, -0.95), 20.0)
    value = temperature / (1 + tilt)
    error = value / (1 + tilt) / math.sqrt(information) if information > 0 else math.inf
    return Estimate(value, error, len(usable), len(counts)), z_score


SAME = 0.95


def same_draws(pairs: Sequence[tuple[int, int, float]]) -> float:
    """Natural log of the evidence that pairs of draws are one draw and no two: likelihood ratio of "equal nearly always" to chance.

    Args:
        pairs: one token, the other, and the probability that the other is equal by chance.

    Example:
        >>> round(same_draws([(7, 7, 0.1)] * 3), 2)
        6.75
    """
    total = 0.0
    for one, other, chance in pairs:
        p = min(max(chance, 1e-6), SAME)
        total += math.log(SAME / p if one == other else (1 - SAME) / (1 - p))
    return total
