"""The recorded prefixes that a live server is asked for again, each in the sequence it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from seedbed.regression.compared import Answer

if TYPE_CHECKING:
    from seedbed.recording import Recording, Step

__all__ = ["Target", "targets_of"]


@dataclass(slots=True, eq=False)
class Target:
    """A recorded prefix to ask for.

    Attributes:
        step: the recorded step.
        prefix: its token ids.
        sequence, prompt: which sequence and prompt it belongs to, as numbers.
        next_token: the token that followed first; None at an end.
        depth: how many recorded beginnings it has.
        live: the answers had so far.
    """

    step: Step
    prefix: tuple[int, ...]
    sequence: int
    prompt: int
    next_token: int | None
    depth: int
    live: list[Answer] = field(default_factory=list)

    def recorded(self) -> list[Answer]:
        """The recorded answers, read from disk."""
        return [Answer(one.row, one.asked.tags, one.asked.concurrency) for one in self.step.observations]

    def is_solo(self, place: int) -> bool:
        """Whether the recorded answer at ``place``, or the last there is, was had alone; unknown is taken for alone."""
        asked = [observation.asked for observation in self.step.observations if observation.asked.phase != "scored"]
        return "concurrent" not in asked[min(place, len(asked) - 1)].tags

    @property
    def is_scored(self) -> bool:
        """Whether any recorded answer came with those to all beginnings of a longer prefix."""
        return self.step.scored > 0


def targets_of(recording: Recording) -> list[Target]:
    """Every recorded prefix with the sequence it belongs to, sequence by sequence.

    A prefix whose last step adds several tokens is a prompt. From each step the continuation by the lowest token id goes on with its
    sequence, every other one begins a sequence: so each prefix belongs to one sequence, those of one sequence follow each other, and
    nothing depends on the order in which they were asked for.
    """
    children = {number: sorted(steps, key=lambda step: step.tokens) for number, steps in recording.children.items()}
    targets: list[Target] = []
    sequences = 0
    # (step, its depth, its prompt, its sequence or None for a new one); the next to visit is last.
    pending: list[tuple[Step, int, int | None, int | None]] = [(root, 0, None, None) for root in reversed(children[None])]
    while pending:
        step, depth, prompt, sequence = pending.pop()
        if len(step.tokens) > 1 or prompt is None:
            prompt, sequence = step.number, None
        if sequence is None:
            sequence, sequences = sequences, sequences + 1
        below = children.get(step.number, [])
        continued = next((child for child in below if len(child.tokens) == 1), None)
        targets.append(Target(step, step.prefix, sequence, prompt, continued.tokens[0] if continued else None, depth))
        pending.extend((child, depth + 1, prompt, None) for child in reversed(below) if child is not continued)
        if continued is not None:
            pending.append((continued, depth + 1, prompt, sequence))
    return targets
