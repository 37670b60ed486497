"""What goes wrong: with the row a model answers, or with the prefix it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from seedbed.protocols import bfloat16
from seedbed.sampling import portable
from seedbed.server.planted.circumstances import Circumstances, NumericFault
from seedbed.server.planted.noise import digest, noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CutTopK",
    "CutTopP",
    "DropBest",
    "ExtraToken",
    "Growing",
    "Lattice",
    "MissingToken",
    "Noise",
    "RoundTo",
    "Scaled",
    "ShiftByOne",
    "SwappedIds",
]

# Faults of the row.


@dataclass(frozen=True, slots=True)
class RoundTo(NumericFault):
    """Logits rounded to a 16-bit float, nearest, ties to even."""

    dtype: Literal["bfloat16", "float16"]

    def distort(self, row: NDArray[np.float32], circumstances: Circumstances) -> NDArray[np.float32]:
        if self.dtype == "float16":
            return row.astype(np.float16).astype(np.float32)
        return bfloat16.widened(bfloat16.narrowed(row))


@dataclass(frozen=True, slots=True)
class Lattice(NumericFault):
    """Logits on 2**16 evenly spaced values between the row's least and greatest, as a file of 16-bit integers with a scale keeps them."""

    def distort(self, row: NDArray[np.float32], circumstances: Circumstances) -> NDArray[np.float32]:
        low, high = float(row[np.isfinite(row)].min()), float(row.max())
        step = (high - low) / 65535 or 1.0
        # float64 until the end, or the lattice itself is rounded.
        return np.asarray(low + np.rint((row.astype(np.float64) - low) / step) * step, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Noise(NumericFault):
    """A number of mean 0 added to each logit, evenly distributed.

    Args:
        sigma: its standard deviation, in nats.
        by: what it depends on beside the prefix: "prefix" nothing (as other weights do), "shape" the batch shape, "cache" cold or warm,
            "repeat" each answer anew,
            "history" the question before.
        seed: another seed is another noise.
    """

    sigma: float
    by: Literal["prefix", "shape", "cache", "repeat", "history"] = "prefix"
    seed: int = 0

    def distort(self, row: NDArray[np.float32], circumstances: Circumstances) -> NDArray[np.float32]:
        condition = {
            "prefix": 0,
            "shape": circumstances.shape,
            "cache": int(circumstances.is_warm),
            "repeat": circumstances.repeat,
            "history": int.from_bytes(digest(circumstances.previous, 0, 0)[:7], "little"),
        }[self.by]
        return (row + noise(circumstances.prefix, condition, self.seed, row.size) * self.sigma).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Growing(NumericFault):
    """Noise as of other weights, whose standard deviation grows in proportion to the prefix's length, as a wrong position scale's does.

    Args:
        sigma: for each token of the prefix, in nats.
        seed: another seed is another noise.
    """

    sigma: float
    seed: int = 0

    def distort(self, row: NDArray[np.float32], circumstances: Circumstances) -> NDArray[np.float32]:
        return Noise(self.sigma * len(circumstances.prefix), seed=self.seed).distort(row, circumstances)


@dataclass(frozen=True, slots=True)
class Scaled(NumericFault):
    """A temperature applied by the server: logits divided by ``temperature``."""

    temperature: float

    def distort(self, row: NDArray[np.float32], circumstances: Circumstances) -> NDArray[np.float32]:
        return (row.astype(np.float64) / self.temperature).astype(np.float32)


@dataclass(frozen=True, slots=True)
class CutTopK(NumericFault):
    """All but the ``k`` most probable tokens excluded; of equal ones the lowest ids are kept."""

    k: int

    def distort(self, row: NDArray[np.float32], circumstances: Circumstances) -> NDArray[np.float32]:
        kept = np.argsort(-row, kind="stable")[: self.k]
        cut = np.full_like(row, -np.inf)
        cut[kept] = row[kept]
        return cut


@dataclass(frozen=True, slots=True)
class CutTopP(NumericFault):
    """All but the smallest set of most probable tokens with a mass of at least ``p`` excluded."""

    p: float

    def distort(self, row: NDArray[np.float32], circumstances: Circumstances) -> NDArray[np.float32]:
        order = np.argsort(-row, kind="stable")
        mass = np.exp(portable.log_softmax(row.astype(np.float64)))[order].cumsum()
        return CutTopK(int(np.searchsorted(mass, self.p)) + 1).distort(row, circumstances)


@dataclass(frozen=True, slots=True)
class SwappedIds(NumericFault):
    """Two token ids exchanged, as by a wrong vocabulary file."""

    one: int
    other: int

    def distort(self, row: NDArray[np.float32], circumstances: Circumstances) -> NDArray[np.float32]:
        swapped = row.copy()
        swapped[[self.one, self.other]] = row[[self.other, self.one]]
        return swapped


@dataclass(frozen=True, slots=True)
class DropBest(NumericFault):
    """The most probable token excluded: an answer corrupted."""

    def distort(self, row: NDArray[np.float32], circumstances: Circumstances) -> NDArray[np.float32]:
        dropped = row.copy()
        dropped[int(row.argmax())] = -np.inf
        return dropped


# Faults of the prefix.


@dataclass(frozen=True, slots=True)
class ShiftByOne(NumericFault):
    """The row one place too early: the answer for the prefix without its last token."""

    def misread(self, prefix: tuple[int, ...]) -> tuple[int, ...]:
        return prefix[:-1] if len(prefix) > 1 else prefix


@dataclass(frozen=True, slots=True)
class ExtraToken(NumericFault):
    """A token put in front, as a tokenizer puts a second begin-of-sequence."""

    token_id: int

    def misread(self, prefix: tuple[int, ...]) -> tuple[int, ...]:
        return (self.token_id, *prefix)


@dataclass(frozen=True, slots=True)
class MissingToken(NumericFault):
    """A first token with this id taken away."""

    token_id: int

    def misread(self, prefix: tuple[int, ...]) -> tuple[int, ...]:
        return prefix[1:] if len(prefix) > 1 and prefix[0] == self.token_id else prefix
