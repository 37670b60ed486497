"""bfloat16, the upper half of a float32, which numpy does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["narrowed", "widened"]


def narrowed(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16 of each, ties to even; NaN stays NaN.

    Example:
        >>> widened(narrowed(np.float32([1.0, 1.00390625, -np.inf]))).tolist()
        [1.0, 1.0, -inf]
    """
    bits = np.ascontiguousarray(values).view(np.uint32)
    # Adding 0x7fff, and one more when the last kept bit is odd, carries into the kept half exactly when that must go up.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), 0x7FC0, rounded).astype("<u2")


def widened(bits: NDArray[Any]) -> NDArray[np.float32]:
    """The float32 that each bfloat16 is."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
