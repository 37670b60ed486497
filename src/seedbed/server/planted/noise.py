"""What looks like noise and is a hash: the same question under the same condition gets the same one on every CPU."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["digest", "noise"]


def digest(prefix: tuple[int, ...], condition: int, seed: int) -> bytes:
    """16 octets that stand for a prefix under a condition."""
    return hashlib.blake2b(np.array([*prefix, condition, seed], dtype="<i8").tobytes(), digest_size=16).digest()


def noise(prefix: tuple[int, ...], condition: int, seed: int, count: int) -> NDArray[np.float64]:
    """``count`` numbers of mean 0 and variance 1, evenly distributed in [-sqrt(3), sqrt(3))."""
    key = np.frombuffer(digest(prefix, condition, seed), dtype="<u8")
    words = np.random.Philox(key=key).random_raw(count)
    return np.asarray(((words >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5) * 12**0.5)
