"""How many rows to ask for at once: a matter of cost, which reaches no result."""

from __future__ import annotations

from typing import Literal, TypeAlias

from seedbed.errors import UsageError
from seedbed.llm.arguments import shown, whole_number

__all__ = ["Lookahead", "Reach", "check_lookahead"]

Lookahead: TypeAlias = Literal["auto"] | int

# A row is worth asking for when the walk reaches it this often: it costs the server one step, and saves a round trip when it is reached.
WORTHWHILE = 0.1
MOST = 16  # rows an answer: at V = 151,936 that is 9.7 MB
# How fast the estimate follows what is seen: by an eighth a proposal. Where nothing is seen it drifts towards the middle, so that after
# rejections enough to stop asking ahead, about every eighth step tries once more.
FOLLOW, DRIFT = 1 / 8, 1 / 256


def check_lookahead(lookahead: object) -> Lookahead:
    """``lookahead`` as "auto" or a plain int.

    Raises:
        UsageError: neither "auto" nor an int of 1 or more.
    """
    if isinstance(lookahead, str) and lookahead == "auto":
        return "auto"
    count = whole_number(lookahead)
    if count is None or count < 1:
        raise UsageError(f"lookahead must be an int of 1 or more, or 'auto', not {shown(lookahead)}")
    return count


class Reach:
    """How far ahead one sequence asks.

    Args:
        lookahead: always so many rows; or "auto": as many as are worthwhile at the rate at which proposals were accepted so far.

    Example:
        >>> reach = Reach("auto")
        >>> reach.count(room=100), reach.count(room=2)
        (4, 2)
        >>> for _ in range(9):
        ...     reach.learn(rows=reach.count(100), drawn=reach.count(100), is_finished=False)
        >>> reach.count(room=100)
        16
    """

    def __init__(self, lookahead: Lookahead) -> None:
        self._fixed = None if lookahead == "auto" else lookahead
        self._accepted = 0.5  # estimated probability that a draw is what was proposed

    def count(self, room: int) -> int:
        """How many rows to ask for, when ``room`` tokens at most are still wanted."""
        if self._fixed is not None:
            return min(self._fixed, room)
        count, reached = 1, self._accepted
        while count < min(MOST, room) and reached >= WORTHWHILE:
            count += 1
            reached *= self._accepted
        return count

    def learn(self, rows: int, drawn: int, *, is_finished: bool) -> None:
        """An answer of so many rows came, and so many tokens were drawn from it."""
        for _ in range(drawn - 1):
            self._accepted += (1 - self._accepted) * FOLLOW
        if drawn < rows and not is_finished:
            self._accepted -= self._accepted * FOLLOW
        if rows == 1:
            self._accepted += (0.5 - self._accepted) * DRIFT
