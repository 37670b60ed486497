"""What a server should draw after a prefix, what it might draw instead, and how much a draw speaks for either.

Every number here is a likelihood ratio or a bet at fair odds against "it draws from what it reports, with the parameters asked for", so
its mean is 1 or less as long as that is true, whenever one looks.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from seedbed.errors import InvalidSampler
from seedbed.regression.estimates import Estimate
from seedbed.regression.evidence import log_mean
from seedbed.server.draws import sampler_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seedbed.llm.base import Row
    from seedbed.protocols.exchange import Sample
    from seedbed.sampling.presets import Order
    from seedbed.sampling.sampler import Sampler

__all__ = ["Alternative", "Bets", "Context", "alternatives_of", "same_draws", "temperature_of"]

ORDERS: tuple[Order, ...] = ("hf", "vllm", "sglang", "llama.cpp")
FACTORS = (0.5, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 2.0)
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
DEFAULTS = (("top_k", 40), ("top_k", 50), ("top_k", 20), ("top_p", 0.95), ("top_p", 0.8), ("min_p", 0.05))
"""Filters that servers add by themselves: llama.cpp's, Hugging Face's, and those of much used generation configurations."""
DOUBT = 0.01
"""How much of every bet is not staked, so that one token an alternative excludes does not end it."""
OUTSIDE = 1e-4
"""The probability that a token is given which the parameters exclude: noise may move one over the edge of a filter."""
COSINES, STAKES = (1, 2, 3, 4), (-0.5, -0.2, 0.2, 0.5)

Kind: TypeAlias = Literal["temperature", "greedy", "filter", "order"]


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another way to draw than the one asked for.

    Attributes:
        kind: what is other.
        detail: as the end of "the server draws as if ...".
        sampler: its chain.
    """

    kind: Kind
    detail: str
    sampler: Sampler


def alternatives_of(asked: Sample, order: Order | None) -> list[Alternative]:
    """What a server may do instead of what it is asked; those its order does not take are left out."""
    wanted: list[tuple[Kind, str, dict[str, float], Order | None]] = [
        *(
            ("temperature", f"the temperature were {asked.temperature * factor:.3g}", {"temperature": asked.temperature * factor}, order)
            for factor in FACTORS
        ),
        ("greedy", "it were greedy", {"temperature": 0.0}, order),
        *(("filter", f"{name} were ignored", {name: off}, order) for name, off in OFF.items() if getattr(asked, name) != off),
        *(("filter", f"{name} = {value} were on", {name: value}, order) for name, value in DEFAULTS if getattr(asked, name) == OFF[name]),
        *(("order", f"its order were that of {which}", {}, which) for which in ORDERS if which != order),
    ]
    if asked.temperature != 1.0:
        wanted += [
            ("temperature", "no temperature were applied", {"temperature": 1.0}, order),
            ("temperature", "the temperature were applied twice", {"temperature": asked.temperature**2}, order),
        ]
    found = []
    for kind, detail, changes, which in wanted:
        with suppress(InvalidSampler):
            found.append(Alternative(kind, detail, sampler_of(replace(asked, **changes), which)))  # type: ignore[arg-type]
    return found


class Context:
    """One prefix: the distribution its draws should come from, and those of the alternatives.

    Args:
        prefix: token ids.
        row: what the server reports after it.
        sampler: the chain asked for.
        alternatives: other chains.

    Raises:
        RowError: the row is cut off where the chain needs it whole.

    Attributes:
        logprobs: of the draws, float64, shape (vocab_size,), -inf = excluded.
    """

    def __init__(self, prefix: Sequence[int], row: Row, sampler: Sampler, alternatives: Sequence[Alternative]) -> None:
        self.prefix = tuple(prefix)
        self.logprobs = sampler.process(row)
        self._p = np.exp(self.logprobs)
        # Fixed before any draw: the most probable first, equal ones by id.
        order = np.argsort(-self.logprobs, kind="stable")
        self._below = np.empty_like(self._p)
        self._below[order] = np.cumsum(self._p[order]) - self._p[order]
        self._others = np.array([np.exp(other.sampler.process(row)) for other in alternatives])

    @property
    def variance(self) -> float:
        """Variance of the log-probability of a draw, nats squared: how much one draw says about the temperature."""
        return moments(self.logprobs)[1]

    @property
    def telling(self) -> NDArray[np.float64]:
        """KL(alternative || asked for) of each alternative, nats, at most 1: how much one draw of its would say for it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(self._others > 0, self._others * (np.log(self._others) - self.logprobs), 0.0)
        return np.asarray(np.minimum(terms.sum(axis=1), 1.0))

    def probability(self, token_id: int) -> float:
        """That this token is drawn."""
        return float(self._p[token_id])

    def odds(self, token_id: int) -> NDArray[np.float64]:
        """Of each alternative, how much more probable it makes the token, with the doubt."""
        p = max(float(self._p[token_id]), OUTSIDE * (self._p[token_id] == 0))
        return np.asarray((1 - DOUBT) * self._others[:, token_id] / p + DOUBT)

    def place(self, token_id: int, v: float) -> float:
        """The randomised probability integral transform: uniform in (0, 1) when the token is drawn as it should be and v is uniform."""
        return min(1.0, float(self._below[token_id] + v * self._p[token_id]))


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


def moments(logprobs: NDArray[np.float64], tilt: float = 0.0) -> tuple[float, float]:
    """Mean and variance of the log-probability under ``p ** (1 + tilt)``, normalised."""
    z = logprobs[logprobs > -np.inf]
    weights = np.exp((1 + tilt) * (z - z.max()))
    weights /= weights.sum()
    mean = float(weights @ z)
    return mean, float(weights @ (z - mean) ** 2)


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
