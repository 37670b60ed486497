"""Exact answers over a recorded tree: what sampling would estimate, summed up instead, with no draw and no server.

Every recorded prefix has a distribution, so the probability of a continuation is a product and an expectation a sum over the tree. What
the tree does not hold (a token nobody drew, the tail of a row that was cut to its k best) is not guessed: it goes into the width of the
interval that is returned. The truth under the model and the sampler lies inside it, up to rounding of float64.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seedbed.errors import TruncatedRow, UsageError
from seedbed.generation.sequence import StopRules
from seedbed.recording.format import Recording, open_recording
from seedbed.recording.replay import missed
from seedbed.sampling import portable
from seedbed.sampling.candidates import Candidates
from seedbed.sampling.mass import Mass
from seedbed.sampling.processors.base import History, StatefulProcessor
from seedbed.sampling.sampler import Sampler

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from seedbed.recording.steps import Step

__all__ = ["Interval", "LikelySequence", "MostLikely", "expectation", "expected_length", "most_likely", "probability"]


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


class LikelySequence(NamedTuple):
    """One continuation and its probability.

    Attributes:
        token_ids: the generated ids, the stop token last when one ended it.
        probability: of exactly this continuation.
    """

    token_ids: tuple[int, ...]
    probability: Interval


class MostLikely(NamedTuple):
    """The most probable continuations that are known.

    Attributes:
        sequences: most probable first.
        unlisted: no continuation besides these has a larger probability than this; when it is below that of the last one listed, the list
            is complete.
    """

    sequences: tuple[LikelySequence, ...]
    unlisted: float


def probability(
    recording: Recording | str | os.PathLike[str],
    prompt: Sequence[int],
    predicate: Callable[[tuple[int, ...]], bool],
    *,
    max_new_tokens: int,
    sampler: Sampler | None = None,
    stop_token_ids: Sequence[int] = (),
    stop_sequences: Sequence[Sequence[int]] = (),
    early: Callable[[tuple[int, ...]], bool | None] | None = None,
) -> Interval:
    """The probability that a sampled continuation satisfies a predicate.

    Args:
        recording: where the rows are.
        prompt: a recorded prompt.
        predicate: called with the generated ids of a finished sequence.
        max_new_tokens: as in ``generate``.
        sampler: as in ``generate``; mirostat and xtc, whose rows depend on earlier draws, are refused.
        stop_token_ids, stop_sequences: as in ``generate``.
        early: called with the generated ids of an unfinished sequence; True or False when that is the predicate's value whatever follows,
            None when it is open. Without it, what was never recorded stays undecided even if its first token decides.

    Raises:
        RecordingMiss: the prompt was not recorded.
        UsageError: a wrong argument.
        RowError: a recorded row that the sampler cannot process.

    Example:
        >>> from seedbed.testing import ScriptedLLM
        >>> import tempfile, trio
        >>> from seedbed import ModelInfo, RecordingLLM
        >>> coin = ScriptedLLM({}, default=[0.0, 0.0], info=ModelInfo(vocab_size=2, eos_token_ids=(0,)))
        >>> async def record(path):
        ...     async with RecordingLLM(coin, path, tier="full") as model:
        ...         for prefix in [[1], [1, 1]]:
        ...             row = await model.next_token_logits(prefix)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     trio.run(record, directory + "/coin")
        ...     probability(directory + "/coin", [1], lambda ids: len(ids) == 2, max_new_tokens=9)
        Interval(low=0.25, high=0.5)
    """

    def value(token_ids: tuple[int, ...]) -> float:
        return float(bool(predicate(token_ids)))

    def early_value(token_ids: tuple[int, ...]) -> float | None:
        assert early is not None
        decided = early(token_ids)
        return None if decided is None else float(bool(decided))

    walk = _Walk.of(recording, prompt, sampler, max_new_tokens, stop_token_ids, stop_sequences)
    return walk.expectation(value, lambda _: Interval(0.0, 1.0), None if early is None else early_value)


def expected_length(
    recording: Recording | str | os.PathLike[str],
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    sampler: Sampler | None = None,
    stop_token_ids: Sequence[int] = (),
    stop_sequences: Sequence[Sequence[int]] = (),
) -> Interval:
    """How many tokens a sampled continuation has on average, the stop token included.

    Arguments and errors are those of ``probability``.
    """
    walk = _Walk.of(recording, prompt, sampler, max_new_tokens, stop_token_ids, stop_sequences)
    return walk.expectation(lambda token_ids: float(len(token_ids)), lambda length: Interval(length, max_new_tokens))


def expectation(
    recording: Recording | str | os.PathLike[str],
    prompt: Sequence[int],
    value: Callable[[tuple[int, ...]], float],
    *,
    bounds: tuple[float, float],
    max_new_tokens: int,
    sampler: Sampler | None = None,
    stop_token_ids: Sequence[int] = (),
    stop_sequences: Sequence[Sequence[int]] = (),
) -> Interval:
    """The mean of any value of a sampled continuation.

    Args:
        value: called with the generated ids of a finished sequence.
        bounds: the least and the most that ``value`` can be, for the sequences that were never recorded.

    The other arguments and the errors are those of ``probability``.
    """
    walk = _Walk.of(recording, prompt, sampler, max_new_tokens, stop_token_ids, stop_sequences)
    return walk.expectation(value, lambda _: Interval(*bounds))


def most_likely(
    recording: Recording | str | os.PathLike[str],
    prompt: Sequence[int],
    count: int = 10,
    *,
    max_new_tokens: int,
    sampler: Sampler | None = None,
    stop_token_ids: Sequence[int] = (),
    stop_sequences: Sequence[Sequence[int]] = (),
) -> MostLikely:
    """The ``count`` most probable finished continuations among those recorded, and how probable any other can be at most.

    The other arguments and the errors are those of ``probability``.
    """
    walk = _Walk.of(recording, prompt, sampler, max_new_tokens, stop_token_ids, stop_sequences)
    return walk.most_likely(count)


@dataclass(frozen=True, slots=True)
class _Choice:
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


_UNKNOWN = _Choice(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0), 1.0, 1.0)


class _Group(NamedTuple):
    """Continuations that share bounds of their mean: their mass lies in [low, high]."""

    low: float
    high: float
    mean: Interval


class _Walk:
    """The part of a recording's tree that a sampler can reach from a prompt."""

    def __init__(self, recording: Recording, prompt: tuple[int, ...], sampler: Sampler, max_new_tokens: int, stop: StopRules) -> None:
        self._recording, self._prompt, self._sampler = recording, prompt, sampler
        self._max_new_tokens, self._stop = max_new_tokens, stop

    @classmethod
    def of(
        cls,
        recording: Recording | str | os.PathLike[str],
        prompt: Sequence[int],
        sampler: Sampler | None,
        max_new_tokens: int,
        stop_token_ids: Sequence[int],
        stop_sequences: Sequence[Sequence[int]],
    ) -> _Walk:
        opened = recording if isinstance(recording, Recording) else open_recording(recording)
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 0:
            raise UsageError(f"max_new_tokens must be an int of 0 or more, not {max_new_tokens!r}")
        sampler = sampler or Sampler()
        if any(isinstance(processor, StatefulProcessor) for processor in sampler.chain):
            raise UsageError("mirostat's rows depend on what was drawn before: there is nothing to sum over")
        if opened.get(prompt) is None:
            raise missed(opened, prompt)
        stop = StopRules(frozenset(opened.info.eos_token_ids) | frozenset(stop_token_ids), tuple(map(tuple, stop_sequences)))
        return cls(opened, tuple(prompt), sampler, max_new_tokens, stop)

    def _choice(self, step: Step, token_ids: tuple[int, ...]) -> _Choice:
        history = History(self._prompt, token_ids)
        try:
            candidates = Candidates.of(step.row)
            for processor in self._sampler.chain:
                candidates = processor.apply(candidates, history)
                candidates.refuse_unusable(repr(processor))
        except TruncatedRow:
            return _UNKNOWN  # what the filter keeps depends on tokens that were not kept
        ids = np.arange(candidates.vocab_size) if candidates.ids is None else candidates.ids
        if candidates.tail is None:
            exact = portable.exp(np.minimum(portable.log_softmax(candidates.logits), 0.0))
            return _Choice(ids, exact, exact, 0.0, 0.0)
        mass = Mass.of(candidates)
        low, high = mass.weights / mass.high, np.minimum(mass.weights / mass.low, 1.0)
        rest = (mass.high - mass.listed) / mass.high
        return _Choice(ids, low, high, rest, min(rest, mass.ceiling / mass.low))

    def _is_finished(self, token_ids: tuple[int, ...]) -> bool:
        return len(token_ids) >= self._max_new_tokens or self._stop.match(token_ids) is not None

    def _next(self, step: Step) -> dict[int, Step]:
        """Recorded continuations by one token."""
        length = step.length + 1
        return {child.tokens[-1]: child for child in self._recording.children.get(step.number, ()) if child.length == length}

    def _may_finish(self, token_ids: tuple[int, ...]) -> set[int] | None:
        """Tokens that can end the sequence here; None when every one does."""
        if len(token_ids) + 1 >= self._max_new_tokens:
            return None
        return set(self._stop.token_ids).union(sequence[-1] for sequence in self._stop.sequences)

    def expectation(
        self,
        value: Callable[[tuple[int, ...]], float],
        unknown: Callable[[int], Interval],
        early: Callable[[tuple[int, ...]], float | None] | None = None,
    ) -> Interval:
        """Bounds of the mean of ``value``; ``unknown(length)`` bounds it for a sequence of at least that many tokens."""
        if self._max_new_tokens == 0:
            return Interval(value(()), value(()))
        first = self._recording.get(self._prompt)
        assert first is not None
        order: list[tuple[Step, tuple[int, ...]]] = [(first, ())]
        groups: list[list[_Group]] = []
        children: list[list[tuple[float, float, int]]] = []  # of each: bounds of its mass, its place in ``order``
        for step, token_ids in order:  # grows while it is walked: shorter before longer
            explored: list[tuple[float, float, int]] = []
            groups.append(list(self._leaves(step, token_ids, value, unknown, early, order, explored)))
            children.append(explored)
        means: dict[int, Interval] = {}
        for place in range(len(order) - 1, -1, -1):
            below = [_Group(low, high, means.pop(child)) for low, high, child in children[place]]
            means[place] = _mean(groups[place] + below)
        return means[0]

    def _leaves(
        self,
        step: Step,
        token_ids: tuple[int, ...],
        value: Callable[[tuple[int, ...]], float],
        unknown: Callable[[int], Interval],
        early: Callable[[tuple[int, ...]], float | None] | None,
        order: list[tuple[Step, tuple[int, ...]]],
        explored: list[tuple[float, float, int]],
    ) -> Iterator[_Group]:
        """What follows a step and needs no further look; what does is appended to ``order`` and ``explored``."""
        choice, recorded, ending = self._choice(step, token_ids), self._next(step), self._may_finish(token_ids)
        looked_at = np.ones(choice.ids.size, dtype=bool)
        if ending is not None and early is None:
            looked_at = np.isin(choice.ids, [*recorded, *ending])
        lost_low, lost_high = float(choice.low[~looked_at].sum()), choice.rest + float(choice.high[~looked_at].sum())
        for token_id, low, high in zip(
            choice.ids[looked_at].tolist(), choice.low[looked_at].tolist(), choice.high[looked_at].tolist(), strict=True
        ):
            if high == 0.0:
                continue
            longer = (*token_ids, token_id)
            known = value(longer) if self._is_finished(longer) else early(longer) if early is not None else None
            if known is not None:
                yield _Group(low, high, Interval(known, known))
            elif token_id in recorded:
                explored.append((low, high, len(order)))
                order.append((recorded[token_id], longer))
            else:
                lost_low, lost_high = lost_low + low, lost_high + high
        yield _Group(lost_low, lost_high, unknown(len(token_ids) + 1))

    def _further(
        self, step: Step, token_ids: tuple[int, ...], mass: Interval, count: int
    ) -> tuple[float, list[tuple[Interval, tuple[int, ...], Step | None]]]:
        """One token more: the most that any continuation not followed can have; bounds, tokens and step of those that are."""
        choice, recorded, ending = self._choice(step, token_ids), self._next(step), self._may_finish(token_ids)
        followed = np.ones(choice.ids.size, dtype=bool) if ending is None else np.isin(choice.ids, [*recorded, *ending])
        lost = max(choice.ceiling, float(choice.high[~followed].max(initial=0.0)))
        further: list[tuple[Interval, tuple[int, ...], Step | None]] = []
        finished = 0
        places = np.flatnonzero(followed)
        for place in places[np.argsort(-choice.high[places], kind="stable")].tolist():
            longer = (*token_ids, int(choice.ids[place]))
            low, high = float(choice.low[place]), float(choice.high[place])
            is_finished = self._is_finished(longer)
            finished += is_finished
            if high == 0.0 or (ending is None and finished > count):
                lost = max(lost, high)
                break  # what follows is less probable still, and of finished ones there are enough
            if not is_finished and longer[-1] not in recorded:
                lost = max(lost, high)
                continue
            further.append((Interval(mass.low * low, mass.high * high), longer, None if is_finished else recorded[longer[-1]]))
        return mass.high * lost, further

    def most_likely(self, count: int) -> MostLikely:
        """See the function of that name."""
        first = self._recording.get(self._prompt)
        found: list[LikelySequence] = []
        unlisted = 0.0
        # (-upper bound, tie by order of finding, bounds, tokens, step to look further from; None when finished)
        heap: list[tuple[float, int, Interval, tuple[int, ...], Step | None]] = [
            (-1.0, 0, Interval(1.0, 1.0), (), first if self._max_new_tokens else None)
        ]
        pushed = 1
        while heap and len(found) < count:
            _, _, mass, token_ids, step = heapq.heappop(heap)
            if step is None:
                found.append(LikelySequence(token_ids, mass))
                continue
            lost, further = self._further(step, token_ids, mass, count)
            unlisted = max(unlisted, lost)
            for bounds, longer, below in further:
                heapq.heappush(heap, (-bounds.high, pushed, bounds, longer, below))
                pushed += 1
        return MostLikely(tuple(found), max(unlisted, -heap[0][0] if heap else 0.0))


def _mean(groups: list[_Group]) -> Interval:
    """Bounds of the mean over groups whose masses lie within theirs and sum to 1."""
    certain = math.fsum(group.low for group in groups)
    left = max(0.0, 1.0 - certain)
    low = [group.low * group.mean.low for group in groups]
    high = [group.low * group.mean.high for group in groups]
    low += _spread(left, sorted((group.mean.low, group.high - group.low) for group in groups))
    high += _spread(left, sorted(((group.mean.high, group.high - group.low) for group in groups), reverse=True))
    return Interval(math.fsum(low), math.fsum(high))


def _spread(left: float, rooms: list[tuple[float, float]]) -> Iterator[float]:
    """Put the mass that is left where it counts first, as far as there is room."""
    for mean, room in rooms:
        taken = min(left, room)
        left -= taken
        yield taken * mean
        if left <= 0.0:
            return
