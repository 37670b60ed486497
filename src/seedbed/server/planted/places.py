"""Where a fault strikes: at which prefixes, and under which conditions."""

from __future__ import annotations

from dataclasses import dataclass

from seedbed.server.planted.circumstances import Circumstances, Place
from seedbed.server.planted.noise import digest

__all__ = [
    "AboveConcurrency",
    "AfterAnswers",
    "AllOf",
    "AtMultiples",
    "Everywhere",
    "FromPosition",
    "OneIn",
    "OnePrompt",
    "SlotWarm",
    "WarmOnly",
]


@dataclass(frozen=True, slots=True)
class Everywhere(Place):
    """At every prefix, under every condition."""

    def holds(self, circumstances: Circumstances) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class FromPosition(Place):
    """At prefixes of ``position`` tokens or more."""

    position: int

    def holds(self, circumstances: Circumstances) -> bool:
        return len(circumstances.prefix) >= self.position


@dataclass(frozen=True, slots=True)
class AtMultiples(Place):
    """At prefixes whose length is a multiple of ``block``."""

    block: int

    def holds(self, circumstances: Circumstances) -> bool:
        return len(circumstances.prefix) % self.block == 0


@dataclass(frozen=True, slots=True)
class OnePrompt(Place):
    """At prefixes that begin with these token ids."""

    beginning: tuple[int, ...]

    def holds(self, circumstances: Circumstances) -> bool:
        return circumstances.prefix[: len(self.beginning)] == self.beginning


@dataclass(frozen=True, slots=True)
class AboveConcurrency(Place):
    """While more than ``limit`` questions are under way."""

    limit: int

    def holds(self, circumstances: Circumstances) -> bool:
        return circumstances.concurrency > self.limit


@dataclass(frozen=True, slots=True)
class WarmOnly(Place):
    """Where the prefix, or any beginning of it, had been answered before."""

    def holds(self, circumstances: Circumstances) -> bool:
        return circumstances.is_warm


@dataclass(frozen=True, slots=True)
class OneIn(Place):
    """At about one prefix in ``count``, chosen by a hash; ``each_answer`` chooses among answers instead, so that it seldom comes twice."""

    count: int
    each_answer: bool = False
    seed: int = 0

    def holds(self, circumstances: Circumstances) -> bool:
        return (
            int.from_bytes(digest(circumstances.prefix, circumstances.repeat if self.each_answer else 0, self.seed)[:8], "little")
            % self.count
            == 0
        )


@dataclass(frozen=True, slots=True)
class SlotWarm(Place):
    """Where the question before began with the same token, as for a server that keeps the last prompt only."""

    def holds(self, circumstances: Circumstances) -> bool:
        return circumstances.previous[:1] == circumstances.prefix[:1]


@dataclass(frozen=True, slots=True)
class AfterAnswers(Place):
    """Once ``count`` questions have been answered, whatever they were."""

    count: int

    def holds(self, circumstances: Circumstances) -> bool:
        return circumstances.answered >= self.count


class AllOf(Place):
    """Where all of several places are.

    Args:
        places: at least one.
    """

    def __init__(self, *places: Place) -> None:
        self._places = places

    def holds(self, circumstances: Circumstances) -> bool:
        return all(place.holds(circumstances) for place in self._places)

    def __repr__(self) -> str:
        return f"AllOf({', '.join(map(repr, self._places))})"
