"""What a probe found, as a value: to print, to keep."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

from seedbed.regression.figures import significant

__all__ = ["CONDITIONS", "Break", "Condition", "ProbeProgress", "ProbeReport", "place_of"]

Condition: TypeAlias = Literal["repeats", "history", "prompt cache", "concurrency"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
"""In the order of the ladder."""


@dataclass(frozen=True, slots=True)
class Break:
    """A condition under which answers are not the same bits.

    Attributes:
        condition: one of ``CONDITIONS``.
        place: at which lengths, in words.
        length: of the shortest prompt that showed it, in tokens.
        concurrency: the fewest questions under way that showed it; 1 unless the condition is "concurrency".
        wrong, of: how many answers differed, of how many had under the condition.
        kl: KL(before || after) of the answer furthest off, nats.
        difference: the largest difference of one log-probability that both answers list, nats.
        flips: answers whose most probable token is another one.
    """

    condition: Condition
    place: str
    length: int
    concurrency: int
    wrong: int
    of: int
    kl: float
    difference: float
    flips: int

    def __str__(self) -> str:
        company = f"with {self.concurrency} questions under way or more, " if self.concurrency > 1 else ""
        flips = f", {self.flips} with another best token" if self.flips else ""
        return (
            f"{company}{self.place}: {self.wrong} of {self.of} answers differ, by up to {significant(self.kl, 2)} nats (KL), "
            f"{significant(self.difference, 2)} in one log-probability{flips}"
        )


@dataclass(frozen=True, slots=True)
class ProbeProgress:
    """How far a probe is.

    Attributes:
        doing: which rung it is on.
        questions: asked so far.
    """

    doing: str
    questions: int


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What a probe found.

    Attributes:
        breaks: the conditions that change answers, in the order of the ladder.
        untold: conditions that could not be looked at, since the answers to one question differ without them.
        lengths: of the prompts asked, in tokens.
        concurrency: the most questions asked at once.
        can_force_cold: whether the server can be told not to use its prompt cache; else a first answer is taken for a cold one.
        questions: how many were asked.
        seed: of the prompts.
    """

    breaks: tuple[Break, ...]
    untold: tuple[Condition, ...]
    lengths: tuple[int, ...]
    concurrency: int
    can_force_cold: bool
    questions: int
    seed: int

    @property
    def first(self) -> Break | None:
        """The first condition of the ladder that breaks, or None: the same bits throughout."""
        return self.breaks[0] if self.breaks else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"is_repeatable": not self.breaks and not self.untold}

    def lines(self) -> list[str]:
        """A line a condition, the verdict first."""
        found: dict[str, str] = {} if self.concurrency > 1 else {"concurrency": "not tried"}
        found |= {one.condition: str(one) for one in self.breaks}
        same = "the same bits every time"
        untold = "not told: the answers to one question differ without it"
        first = f"NOT REPEATABLE: {self.breaks[0].condition}" if self.breaks else "REPEATABLE: the same bits under every condition tried"
        cache = "outside 'prompt cache' the server's cache was forbidden" if self.can_force_cold else "its cache cannot be forbidden"
        asked = f"{self.questions} questions after {self.lengths[0]} to {self.lengths[-1]} random tokens"
        return [
            f"{'verdict':<14} {first}",
            *(f"{name:<14} {found.get(name, untold if name in self.untold else same)}" for name in CONDITIONS),
            f"{'asked':<14} {asked}, up to {self.concurrency} at once; {cache}; seed {self.seed}",
        ]


def place_of(wrong: list[int], right: list[int]) -> str:
    """What lengths that break have in common, if they have."""
    if not right:
        return "at every length"
    if max(right) < min(wrong):
        return f"from {min(wrong)} tokens on"
    every = [*wrong, *right]
    for block in range(2, max(wrong) + 1):
        for rest in (0, 1):
            fits = {length for length in every if length % block == rest and length >= block}
            if fits == set(wrong) and len(fits) > 1:
                return f"where the length is a multiple of {block}{', plus 1' if rest else ''}"
    return f"at {len(wrong)} of {len(every)} lengths, the shortest of {min(wrong)} tokens"
