"""How many requests may be under way at once: whoever comes when all turns are taken waits, first come, first served.

How many turns there are is found by trying, as TCP finds its window. At the beginning there are few, and each answer adds one (slow
start); the first refusal ends that. From then on a refusal takes three tenths away (multiplicative decrease), and as many answers as there
are turns add one (additive increase): a server is kept as busy as it can be, and is not stormed. Requests that were sent before the last
cut say nothing new when they are refused too.

``trio.CapacityLimiter`` cannot do that, and remembers who borrowed what; not remembering costs half.
"""

from __future__ import annotations

import math

import trio

from seedbed.http.arguments import check_count

__all__ = ["Turns"]

AT_FIRST = 16
KEPT = 0.7  # of the turns, after a refusal; TCP's CUBIC keeps as much


class Turns:
    """So many turns.

    Args:
        most: an int of 1 or more; ``math.inf`` for no limit.

    Raises:
        UsageError: anything else.

    Attributes:
        most: how many there are at most.
        allowed: how many there are now; of a fraction only the whole part counts.
        taken: how many are taken now.

    Concurrency:
        Any number of tasks. A task that is cancelled while it waits has no turn; one that was handed its turn before has it.

    Example:
        >>> turns = Turns(2)
        >>> turns.take_nowait(), turns.take_nowait(), turns.take_nowait(), turns
        (True, True, False, <Turns: 2 of 2 taken, 0 waiting>)
    """

    __slots__ = ("_is_refused", "_latest_at_cut", "_lot", "_parked", "_turned_away", "allowed", "most", "taken")

    def __init__(self, most: float) -> None:
        self.taken = 0
        self.most = most if isinstance(most, float) and most == math.inf else check_count("max_connections", most)
        self._latest_at_cut = 0
        self._lot = trio.lowlevel.ParkingLot()
        self._parked = 0  # tasks in the lot or just woken: with none there is nobody to look for, which would cost every request
        self._turned_away: set[trio.lowlevel.Task] = set()
        self.start_over()

    def start_over(self) -> None:
        """As at the beginning: refusals while a server was loading say nothing about what it can do."""
        self.allowed = float(min(self.most, AT_FIRST))
        self._is_refused = False

    @property
    def waiting(self) -> int:
        """How many tasks wait for one."""
        return len(self._lot)

    def take_nowait(self) -> bool:
        """Take a turn, if one is free. Turns given back go to those who wait, so nobody is overtaken."""
        if self.taken + 1 > self.allowed:
            return False
        self.taken += 1
        return True

    async def take(self) -> bool:
        """Take a turn, waiting for it if need be; False when it was turned away instead. A checkpoint only if it waits."""
        if self.take_nowait():
            return True
        self._parked += 1
        try:
            await self._lot.park()
        finally:
            self._parked -= 1
        task = trio.lowlevel.current_task()
        if task not in self._turned_away:
            return True  # who woke us has taken a turn for us
        self._turned_away.discard(task)
        return False

    def turn_away(self) -> None:
        """Wake all who wait now, without a turn."""
        self._turned_away.update(self._lot.unpark_all())

    def give_back(self) -> None:
        """Give a turn back, to whoever has waited longest."""
        self.taken -= 1
        if self._parked:
            self._hand_over()

    def grow(self) -> None:
        """A request has been answered well, before its turn is given back: if all turns are taken there may be more."""
        if self.allowed < self.most and self.taken + 1 > self.allowed:
            self.allowed = min(self.most, self.allowed + (1 / self.allowed if self._is_refused else 1))

    def shrink(self, number: int, latest: int) -> None:
        """A request has been refused for there being too many.

        Args:
            number: which one, counted in the order they were sent.
            latest: the latest that has been sent.
        """
        self._is_refused = True
        if number > self._latest_at_cut:
            self._latest_at_cut = latest
            self.allowed = max(1.0, self.allowed * KEPT)

    def _hand_over(self) -> None:
        while self.taken + 1 <= self.allowed and self._lot.unpark():
            self.taken += 1

    def __repr__(self) -> str:
        return f"<Turns: {self.taken} of {math.floor(self.allowed) if self.allowed < math.inf else 'any'} taken, {self.waiting} waiting>"
