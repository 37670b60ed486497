"""What can follow a recorded prefix under a sampler, with bounds of each probability: the part of a recording that sampling can reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seedbed.errors import TruncatedRow, UsageError
from seedbed.generation.plan import stop_rules
from seedbed.recording.format import Recording, open_recording
from seedbed.recording.replay import missed
from seedbed.sampling import portable
from seedbed.sampling.candidates import Candidates
from seedbed.sampling.mass import Mass
from seedbed.sampling.processors.base import History, StatefulProcessor
from seedbed.sampling.sampler import Sampler

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from seedbed.generation.sequence import StopRules
    from seedbed.recording.steps import Step

__all__ = ["Choice", "Interval", "Node", "Tree"]


class Interval(NamedTuple):
    """Bounds of a number that the recording does not determine alone.

    Attributes:
        low, high: the number is at least and at most that.
    """

    low: float
    high: float

    @property
    def width(self) -> float:
        """How much is left open; 0 when the recording holds all that matters."""
        return self.high - self.low


@dataclass(frozen=True, slots=True)
class Choice:
    """The distribution of one step.

    Attributes:
        ids: the tokens whose probability is known, shape (k,).
        low, high: bounds of each, shape (k,); equal when the row was whole.
        rest: the most that all other tokens together can have.
        ceiling: the most that one of them can have.
    """

    ids: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    rest: float
    ceiling: float

    def of(self, which: NDArray[np.bool_], *, likeliest_first: bool = False) -> Iterator[tuple[int, float, float]]:
        """(token, least, most) of those that are possible at all."""
        places = np.flatnonzero(which & (self.high > 0.0))
        if likeliest_first:
            places = places[np.argsort(-self.high[places], kind="stable")]
        yield from zip(self.ids[places].tolist(), self.low[places].tolist(), self.high[places].tolist(), strict=True)


UNKNOWN = Choice(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0), 1.0, 1.0)


class Node(NamedTuple):
    """A recorded prefix that a sampler can reach.

    Attributes:
        step: of the recording.
        token_ids: what was generated on the way there.
    """

    step: Step
    token_ids: tuple[int, ...]


class Tree:
    """The part of a recording that a sampler can reach from a prompt, until its stop rules end it.

    Raises:
        RecordingMiss, UsageError, RowError: as ``probability``.
    """

    def __init__(
        self,
        recording: Recording | str | os.PathLike[str],
        prompt: Sequence[int],
        sampler: Sampler | None,
        max_new_tokens: int,
        stop_token_ids: Sequence[int],
        stop_sequences: Sequence[Sequence[int]],
    ) -> None:
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 0:
            raise UsageError(f"max_new_tokens must be an int of 0 or more, not {max_new_tokens!r}")
        self._recording = recording if isinstance(recording, Recording) else open_recording(recording)
        self._sampler, self.max_new_tokens = sampler or Sampler(), max_new_tokens
        if any(isinstance(processor, StatefulProcessor) for processor in self._sampler.chain):
            raise UsageError("mirostat's rows depend on what was drawn before: there is nothing to sum over")
        self._stop: StopRules = stop_rules(stop_token_ids, stop_sequences, self._recording.info.eos_token_ids)
        root = self._recording.get(prompt)
        if root is None:
            raise missed(self._recording, prompt)
        self._prompt, self.root = tuple(prompt), Node(root, ())

    def choice(self, node: Node) -> Choice:
        """The distribution that the next token is drawn from."""
        history = History(self._prompt, node.token_ids)
        try:
            candidates = Candidates.of(node.step.row)
            for processor in self._sampler.chain:
                candidates = processor.apply(candidates, history)
                candidates.refuse_unusable(repr(processor))
        except TruncatedRow:
            return UNKNOWN  # what the filter keeps depends on tokens that were not kept
        ids = np.arange(candidates.vocab_size) if candidates.ids is None else candidates.ids
        if candidates.tail is None:
            exact = portable.exp(np.minimum(portable.log_softmax(candidates.logits), 0.0))
            return Choice(ids, exact, exact, 0.0, 0.0)
        mass = Mass.of(candidates)
        low, high = mass.weights / mass.high, np.minimum(mass.weights / mass.low, 1.0)
        rest = 1.0 - mass.listed / mass.high  # high may be inf
        return Choice(ids, low, high, rest, min(rest, mass.ceiling / mass.low))

    def is_finished(self, token_ids: tuple[int, ...]) -> bool:
        """Whether a sequence ends there."""
        return len(token_ids) >= self.max_new_tokens or self._stop.match(token_ids) is not None

    def recorded_after(self, node: Node) -> dict[int, Step]:
        """Recorded continuations by one token."""
        length = node.step.length + 1
        return {child.tokens[-1]: child for child in self._recording.children.get(node.step.number, ()) if child.length == length}

    def ending_after(self, node: Node) -> set[int] | None:
        """Tokens that can end the sequence there; None when every one does."""
        if len(node.token_ids) + 1 >= self.max_new_tokens:
            return None
        return set(self._stop.token_ids).union(sequence[-1] for sequence in self._stop.sequences)
