"""Does the live server still give the tokens that were sampled, when it is asked freely, each sequence along its own tokens?

Up to the first token that differs a sequence asks what was recorded; what comes after is another text and says nothing. So a sequence is
followed to where it parts, and there the question is whether noise explains it: how far the recorded draw led the next one.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from seedbed.llm.base import as_row
from seedbed.llm.prefix_cache import PrefixCache
from seedbed.llm.running import together
from seedbed.regression.estimates import NEAR, expected_flips
from seedbed.regression.schema import finite
from seedbed.sampling import Temperature
from seedbed.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from seedbed.llm.base import LLM
    from seedbed.regression.ways import Way

__all__ = ["FreeRun", "Parting", "run_freely"]


@dataclass(frozen=True, slots=True)
class Parting:
    """Where a sequence goes another way than recorded.

    Attributes:
        run: the name of its run.
        sequence: its place in the run.
        step: the token, from 0.
        recorded, live: the token ids.
        margin: how far the recorded draw led the next one, in nats of the logits drawn from.
        is_near_tie: whether noise as large as the recorded one explains it.
    """

    run: str
    sequence: int
    step: int
    recorded: int
    live: int
    margin: float
    is_near_tie: bool


@dataclass(frozen=True, slots=True)
class FreeRun:
    """What came of sampling the recorded sequences again.

    Attributes:
        sequences: how many were.
        partings: where those part that do.
        expected: how many would by the recorded noise alone.
        skipped: how many sequences could not be sampled again from the recording itself, so not from a live server either.
    """

    sequences: int
    partings: tuple[Parting, ...]
    expected: float
    skipped: int

    @property
    def same(self) -> int:
        """How many sequences came out as recorded."""
        return self.sequences - len(self.partings)

    @property
    def unexplained(self) -> int:
        """How many part where no noise explains it."""
        return sum(not parting.is_near_tie for parting in self.partings)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        found = asdict(self)
        for parting in found["partings"]:
            parting["margin"] = finite(parting["margin"])
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What ``to_dict`` wrote."""
        partings = [
            Parting(**(parting | {"margin": math.inf if parting["margin"] is None else parting["margin"]}))
            for parting in values["partings"]
        ]
        return cls(values["sequences"], tuple(partings), values["expected"], values["skipped"])

    def __str__(self) -> str:
        skipped = f"; {self.skipped} cannot be sampled again from the recording alone" if self.skipped else ""
        if not self.partings:
            all_of = "the one sequence comes" if self.sequences == 1 else f"all {self.sequences} sequences come"
            return f"{all_of} out as recorded{skipped}"
        first = min(self.partings, key=lambda parting: (parting.step, parting.sequence))
        beyond = f"{self.unexplained or 'none'} beyond what noise explains"
        expected = f", {self.expected:.1f} were expected to part of it" if self.expected >= 0.05 else ""
        come = "comes" if self.sequences == 1 else "come"
        same = f"{self.same} of {counted(self.sequences, 'sequence')} {come} out as recorded"
        return f"{same}; the first parts at token {first.step}; {beyond}{expected}{skipped}"


async def run_freely(
    model: LLM, ways: Sequence[Way], skipped: int, *, sigma: float, answered: Callable[[int], None] = lambda _: None
) -> FreeRun:
    """Sample every sequence again, all at once, each until it parts from what was recorded.

    Args:
        model: the live model.
        ways, skipped: of ``ways_of``.
        sigma: standard deviation of the difference of two logits between two answers, in nats; 0 where the server repeats itself.
        answered: called with how many tokens are done with.

    Raises:
        ServerError, RowError: what the model raises.

    Concurrency:
        As ``generate``: one task a sequence, equal prefixes asked once.
    """
    partings: list[Parting] = []
    async with PrefixCache(model) as cached:
        await together([partial(_follow, cached, way, sigma, partings.append, answered) for way in ways])
    order = {(way.run, way.sequence): place for place, way in enumerate(ways)}
    partings.sort(key=lambda parting: order[parting.run, parting.sequence])
    return FreeRun(len(ways), tuple(partings), sum(_chance_to_part(way, sigma) for way in ways), skipped)


async def _follow(model: LLM, way: Way, sigma: float, part: Callable[[Parting], None], answered: Callable[[int], None]) -> None:
    state: float | None = None
    for step, token_id in enumerate(way.token_ids):
        row = as_row(await model.next_token_logits([*way.prompt, *way.token_ids[:step]]))
        draw = way.draw(row, step, state)
        if draw.token_id != token_id:
            margin = _in_nats(way, way.draws[step].margin)
            part(Parting(way.run, way.sequence, step, token_id, draw.token_id, margin, margin <= NEAR * sigma))
            answered(len(way.token_ids) - step)
            return
        state = draw.state
        answered(1)


def _in_nats(way: Way, margin: float) -> float:
    """A lead among what is drawn from, as a difference of the model's own logits: a temperature divides both."""
    temperature = next((step.t for step in way.sampler.chain if isinstance(step, Temperature)), 1.0)
    return margin * temperature if temperature > 0 else margin


def _chance_to_part(way: Way, sigma: float) -> float:
    margins = np.array([_in_nats(way, draw.margin) for draw in way.draws])
    return 1.0 - float(np.prod(1.0 - expected_flips(margins, sigma))) if margins.size else 0.0
