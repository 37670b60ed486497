"""How flat the distribution is: one divisor, or one that follows the entropy of the row."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from seedbed.sampling import portable
from seedbed.sampling.mass import Mass
from seedbed.sampling.processors.base import History, Processor, require_in

if TYPE_CHECKING:
    from seedbed.sampling.candidates import Candidates

__all__ = ["DynamicTemperature", "Temperature"]


@dataclass(frozen=True, slots=True)
class Temperature(Processor):
    """Divide every logit by ``t``: below 1 sharper, above 1 flatter, 0 greedy.

    ``t`` = 0 keeps the most probable token (lowest id among equals) and consumes no randomness.

    Args:
        t: in [0, inf).

    Raises:
        InvalidSampler: negative, NaN or infinite, when constructed.
        TruncatedRow: ``t`` = 0 and a token that is not listed might be the most probable (after biases or penalties only).

    Example:
        >>> Temperature(0.5)([2.0, 1.0, 0.0]).tolist()
        [4.0, 2.0, 0.0]

    Source: Ackley, Hinton and Sejnowski 1985, "A learning algorithm for Boltzmann machines".
    """

    t: float

    def _check(self) -> None:
        require_in("temperature", self.t, 0, math.inf, "[)")

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        return _heat(candidates, float(self.t))


@dataclass(frozen=True, slots=True)
class DynamicTemperature(Processor):
    """A temperature between ``t`` - ``range`` and ``t`` + ``range``: low where the model is sure, high where it is not.

    With n candidates of entropy H, lo = max(0, t - range) and hi = t + range, the temperature is lo + (hi - lo) (H / ln n)**exponent.

    Args:
        t: the middle, in [0, inf).
        range: how far it may go from the middle, in [0, inf); 0 is plain temperature.
        exponent: of the normalised entropy, in [0, inf).

    Raises:
        InvalidSampler: a parameter outside its range, when constructed.
        TruncatedRow: tokens are not listed, so the entropy is unknown.

    Example:
        >>> DynamicTemperature(1.0, 1.0)([3.0, 3.0]).tolist()
        [1.5, 1.5]

    Source: llama.cpp ("dynatemp"), where n counts every candidate still in the array.
    """

    t: float
    range: float
    exponent: float = 1.0

    def _check(self) -> None:
        for name in ("t", "range", "exponent"):
            require_in(f"dynatemp {name}", getattr(self, name), 0, math.inf, "[)")

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        count = candidates.count
        if self.range == 0.0 or count == 1:
            return _heat(candidates, float(self.t))
        candidates.refuse_tail("a dynamic temperature needs the entropy of the whole row")
        low, high = max(0.0, self.t - self.range), self.t + self.range
        share = min(1.0, Mass.of(candidates).entropy() / portable.ln(float(count)))
        return _heat(candidates, low + (high - low) * portable.power(share, float(self.exponent)))


def _heat(candidates: Candidates, t: float) -> Candidates:
    """Divide by ``t``, or choose greedily when it is 0."""
    if t == 0.0:
        return _greedy(candidates)
    if t == 1.0:
        return candidates
    shift = 0.0
    with np.errstate(over="ignore"):  # a tiny t sends what is below the best to -inf, which is right; the best itself must not go
        logits = np.divide(candidates.values, t, dtype=np.float64)
        if not np.isfinite(logits.max()):
            shift = float(candidates.values.max())
            logits = (candidates.logits - shift) / t
    tail = candidates.tail
    if tail is not None:
        tail = tail.heated(t, shift)
    return replace(candidates, values=logits, tail=tail)


def _greedy(candidates: Candidates) -> Candidates:
    values = candidates.values
    best = int(values.argmax())
    kept = np.zeros(values.shape, dtype=bool)
    kept[best] = True
    top = float(values[best])
    others = [float(values[part].max()) for part in (slice(best), slice(best + 1, None)) if values[part].size]
    if candidates.tail is not None:
        if candidates.outranked(kept):
            raise candidates.truncated("after the biases and penalties, the most probable token may be one that is not listed")
        others.append(candidates.tail.ceiling)
    return replace(candidates.keep(kept), gap=top - max(others, default=-math.inf))
