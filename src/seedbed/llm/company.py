"""How many questions to a model are under way together: the condition that answers are had under."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Company", "UnderWay"]


class UnderWay:
    """One question.

    Attributes:
        most: the most that were under way at any moment since it was asked, itself included.
    """

    __slots__ = ("most",)

    def __init__(self) -> None:
        self.most = 0


class Company:
    """Counts the questions of everybody who asks through it; one that is cancelled no longer counts.

    Example:
        >>> company = Company()
        >>> with company.counted() as one:
        ...     with company.counted() as other:
        ...         pass
        ...     with company.counted() as third:
        ...         pass
        >>> one.most, other.most, third.most
        (2, 2, 2)
    """

    def __init__(self) -> None:
        self._under_way: set[UnderWay] = set()

    @contextmanager
    def counted(self) -> Iterator[UnderWay]:
        """Count a question as long as the block runs."""
        question = UnderWay()
        self._under_way.add(question)
        for other in self._under_way:
            other.most = max(other.most, len(self._under_way))
        try:
            yield question
        finally:
            self._under_way.discard(question)
