"""The recorded sequences with all that their tokens depend on, as far as the recording itself gives them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seedbed.errors import InvalidSampler, RowError
from seedbed.sampling import Address
from seedbed.sampling.configuration import sampler_from

if TYPE_CHECKING:
    from collections.abc import Iterator

    from seedbed.llm.base import Row
    from seedbed.recording import Recording, Run
    from seedbed.sampling import Draw, Sampler

__all__ = ["Way", "ways_of"]


@dataclass(frozen=True, slots=True)
class Way:
    """One recorded sequence with all that its tokens depend on.

    Attributes:
        run, sequence: whose it is.
        prompt, token_ids: what was given, what was drawn.
        seed, prompt_index, index: the address of its draws.
        sampler: the chain.
        draws: what the recorded rows give at each step, with the lead.
    """

    run: str
    sequence: int
    prompt: tuple[int, ...]
    token_ids: tuple[int, ...]
    seed: int
    prompt_index: int
    index: int
    sampler: Sampler
    draws: tuple[Draw, ...] = ()

    def draw(self, row: Row, step: int, state: float | None) -> Draw:
        """The draw at one step, given the row after the recorded tokens before it."""
        address = Address(self.seed, self.prompt_index, self.index, step)
        return self.sampler.sample(row, address, self.prompt, self.token_ids[:step], state=state)


def ways_of(recording: Recording) -> tuple[list[Way], int]:
    """The recorded sequences that the recording itself gives again, and how many it does not.

    A run whose sampler holds the user's own functions, or that was noted without seed, is among the latter, and so is a sequence of which
    a row is missing.
    """
    ways, skipped = [], 0
    for run in recording.runs.values():
        for way in _numbered(run):
            drawn = None if way is None else _replayed(way, recording)
            if way is None or drawn is None:
                skipped += 1
            else:
                ways.append(drawn)
    return ways, skipped


def _numbered(run: Run) -> Iterator[Way | None]:
    """Each sequence with its address; None where there is none, or no sampler that can be made again."""
    try:
        sampler = sampler_from(run.sampler) if run.seed is not None else None
    except InvalidSampler:
        sampler = None
    if sampler is None or run.seed is None:
        yield from [None] * len(run.token_ids)
        return
    for place, (token_ids, prompt, prompt_index, index) in enumerate(
        zip(run.token_ids, run.prompts, run.prompt_indices, run.indices, strict=True)
    ):
        yield Way(run.name, place, prompt, token_ids, run.seed, prompt_index, index, sampler)


def _replayed(way: Way, recording: Recording) -> Way | None:
    draws: list[Draw] = []
    for step, token_id in enumerate(way.token_ids):
        known = recording.get((*way.prompt, *way.token_ids[:step]))
        if known is None:
            return None
        try:
            draw = way.draw(known.row, step, draws[-1].state if draws else None)
        except RowError:
            return None
        if draw.token_id != token_id:
            return None
        draws.append(draw)
    return Way(way.run, way.sequence, way.prompt, way.token_ids, way.seed, way.prompt_index, way.index, way.sampler, tuple(draws))
