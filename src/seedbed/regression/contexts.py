"""What a server should draw after a prefix, and what it might draw instead."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from seedbed.errors import InvalidSampler
from seedbed.server.draws import sampler_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seedbed.llm.base import Row
    from seedbed.protocols.exchange import Sample
    from seedbed.sampling.presets import Order
    from seedbed.sampling.sampler import Sampler

__all__ = ["Alternative", "Context", "Kind", "alternatives_of", "moments"]

ORDERS: tuple[Order, ...] = ("hf", "vllm", "sglang", "llama.cpp")
FACTORS = (0.5, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 2.0)
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
DEFAULTS = (("top_k", 40), ("top_k", 50), ("top_k", 20), ("top_p", 0.95), ("top_p", 0.8), ("min_p", 0.05))
"""Filters that servers add by themselves: llama.cpp's, Hugging Face's, and those of much used generation configurations."""
DOUBT = 0.01
"""How much of every bet is not staked, so that one token an alternative excludes does not end it."""
OUTSIDE = 1e-4
"""The probability that a token is given which the parameters exclude: noise may move one over the edge of a filter."""

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


def moments(logprobs: NDArray[np.float64], tilt: float = 0.0) -> tuple[float, float]:
    """Mean and variance of the log-probability under ``p ** (1 + tilt)``, normalised."""
    z = logprobs[logprobs > -np.inf]
    weights = np.exp((1 + tilt) * (z - z.max()))
    weights /= weights.sum()
    mean = float(weights @ z)
    return mean, float(weights @ (z - mean) ** 2)
