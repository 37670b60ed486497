"""How many requests may be under way at once: whoever comes when all turns are taken waits, first come, first served.

``trio.CapacityLimiter`` does this too, and remembers who borrowed what; not remembering costs half.
"""

from __future__ import annotations

import math

import trio

from seedbed.errors import UsageError

__all__ = ["Turns"]


class Turns:
    """So many turns.

    Args:
        total: at least 1; ``math.inf`` for no limit.

    Raises:
        UsageError: any other number.

    Attributes:
        taken: how many are taken now.

    Concurrency:
        Any number of tasks. A task that is cancelled while it waits has no turn; one that was handed its turn before has it.

    Example:
        >>> turns = Turns(2)
        >>> turns.take_nowait(), turns.take_nowait(), turns.take_nowait(), turns
        (True, True, False, <Turns: 2 of 2 taken, 0 waiting>)
    """

    __slots__ = ("_lot", "_total", "taken")

    def __init__(self, total: float) -> None:
        if isinstance(total, bool) or not total >= 1 or (total != math.inf and total != int(total)):
            raise UsageError(f"max_connections must be an int of 1 or more, not {total!r}")
        self.taken = 0
        self._total, self._lot = total, trio.lowlevel.ParkingLot()

    @property
    def waiting(self) -> int:
        """How many tasks wait for one."""
        return len(self._lot)

    def take_nowait(self) -> bool:
        """Take a turn, if one is free. Turns given back go to those who wait, so nobody is overtaken."""
        if self.taken >= self._total:
            return False
        self.taken += 1
        return True

    async def take(self) -> None:
        """Take a turn, waiting for it if need be. A checkpoint only if it waits."""
        if not self.take_nowait():
            await self._lot.park()  # who wakes us has left its turn taken, for us

    def give_back(self) -> None:
        """Give a turn back, to whoever has waited longest."""
        if not self._lot.unpark():
            self.taken -= 1

    def __repr__(self) -> str:
        return f"<Turns: {self.taken} of {self._total} taken, {self.waiting} waiting>"
