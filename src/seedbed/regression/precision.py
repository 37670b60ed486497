"""What the numbers of a row show of the type they were computed or kept in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seedbed.llm.base import Row, TopLogprobs
from seedbed.protocols import bfloat16
from seedbed.regression.metrics import common_logprobs, kl_of_logprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Precision", "dtype_of", "precision_of"]

LEVELS = 65535
GRID = 2.0**-10
"""The ulp of float16 in [1, 2): values of float16 from 1 to 64, and of bfloat16 from 1/8, are multiples of it."""
FEWEST = 8
"""Distinct values, with fewer of which a row shows nothing."""


@dataclass(frozen=True, slots=True)
class Precision:
    """Live rows are on a 16-bit grid and the recorded ones are not.

    Attributes:
        dtype: "bfloat16", "float16", "16-bit lattice" or, seen in a list of the best only, "16-bit".
        kl: what rounding the recorded row so costs, in nats; nan when that cannot be computed.
    """

    dtype: str
    kl: float


def precision_of(recorded: Sequence[Row], live: Sequence[Row]) -> Precision | None:
    """The grid all live rows are on and no recorded one is, or None."""
    dtype = dtype_of(live[0])
    if dtype is None or any(dtype_of(row) != dtype for row in live[1:]) or dtype in map(dtype_of, recorded):
        return None
    row = recorded[0]
    if isinstance(row, TopLogprobs):
        return Precision(dtype, float("nan"))
    _, (one, other) = common_logprobs([row, _rounded(row, dtype)])
    return Precision(dtype, float(kl_of_logprobs(one, other)))


def dtype_of(row: Row) -> str | None:
    """The 16-bit type whose values a row's are, None when they need more; rows of a few distinct values show nothing.

    Example:
        >>> dtype_of(np.linspace(1, 2, 129, dtype=np.float32)), dtype_of(np.linspace(1, 2, 100, dtype=np.float32))
        ('bfloat16', None)
    """
    if isinstance(row, TopLogprobs):
        return _dtype_of_list(row)
    finite = row[np.isfinite(row)]
    dtype = _grid_of(finite)
    return dtype if dtype is not None and np.unique(finite).size >= FEWEST else None


def _grid_of(finite: NDArray[np.float32]) -> str | None:
    if not (np.ascontiguousarray(finite).view(np.uint32) & np.uint32(0xFFFF)).any():
        return "bfloat16"
    with np.errstate(over="ignore"):
        if np.array_equal(finite.astype(np.float16).astype(np.float32), finite):
            return "float16"
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        return None
    places = (finite.astype(np.float64) - low) * (LEVELS / (high - low))
    # float32 itself rounds by up to 2**-24 of a value; finer lattices than eight times that are not told from it.
    if max(abs(low), abs(high)) * 2.0**-21 > (high - low) / LEVELS:
        return None
    return "16-bit lattice" if np.abs(places - np.rint(places)).max() < 0.1 else None


def _dtype_of_list(row: TopLogprobs) -> str | None:
    """Differences of logits on a power of two: to the rounding of the normaliser, those of their log-probabilities are too."""
    values = row.logprobs[np.isfinite(row.logprobs)].astype(np.float64)
    steps = values[0] - values
    off = np.abs(steps / GRID - np.rint(steps / GRID)).max() * GRID
    return "16-bit" if off < 2e-5 and np.unique(steps).size >= FEWEST else None


def _rounded(row: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return row.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        return bfloat16.widened(bfloat16.narrowed(row))
    finite = row[np.isfinite(row)]
    low, step = float(finite.min()), (float(finite.max()) - float(finite.min())) / LEVELS
    return np.asarray(low + np.rint((row.astype(np.float64) - low) / step) * step, dtype=np.float32)
