"""The three words of this room: the circumstances of a question, what goes wrong with its answer, and where it does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Circumstances", "NumericFault", "Place"]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known of one question when it is answered.

    Attributes:
        prefix: the token ids asked for.
        concurrency: the most questions that were under way at any moment until the answer was there; 1 is alone.
        is_warm: whether the prefix, or any beginning of it, had been answered before.
        repeat: how many times this prefix had been asked for before.
        shape: the shape of the batch it was computed in: the test's own, or else ``concurrency`` rounded up to a power of 2.
        previous: the prefix that was answered before this one was asked; () at first.
        answered: how many questions had been answered when this one was asked.
    """

    prefix: tuple[int, ...]
    concurrency: int = 1
    is_warm: bool = False
    repeat: int = 0
    shape: int = 1
    previous: tuple[int, ...] = ()
    answered: int = 0


class NumericFault(ABC):  # noqa: B024 - each fault overrides one of the two
    """What goes wrong: with the prefix before the model sees it, or with the row it answers. The default is nothing."""

    def misread(self, prefix: tuple[int, ...]) -> tuple[int, ...]:
        """The prefix the model gets instead."""
        return prefix

    def distort(self, row: NDArray[np.float32], circumstances: Circumstances) -> NDArray[np.float32]:
        """The row that is answered instead; ``row`` is not modified."""
        return row


class Place(ABC):
    """Where a fault strikes."""

    @abstractmethod
    def holds(self, circumstances: Circumstances) -> bool:
        """Whether it does so for this question."""
