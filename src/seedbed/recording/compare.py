"""Two recordings side by side: which prefixes only one of them has, and which answers differ, by how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seedbed.errors import UsageError
from seedbed.llm.base import Row, TopLogprobs
from seedbed.protocols.rows import logprob_of
from seedbed.sampling import portable
from seedbed.sampling.candidates import Candidates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seedbed.recording.format import Recording
    from seedbed.recording.steps import Step

__all__ = ["Changed", "Comparison", "compare", "furthest", "same_row"]


class Changed(NamedTuple):
    """A prefix whose first answers differ.

    Attributes:
        one, other: its step in either recording.
        token_id: the token whose log-probability differs most.
        want, have: that log-probability in either, -inf where it is not listed.
    """

    one: Step
    other: Step
    token_id: int
    want: float
    have: float

    @property
    def difference(self) -> float:
        """In nats; inf when only one lists the token."""
        return abs(self.want - self.have)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs.

    Attributes:
        same: how many prefixes have the same first answer in both.
        changed: those that do not, the largest difference first.
        only_in_one, only_in_other: steps of prefixes that the other recording does not have.
        runs: names of runs whose tokens differ or that only one has.
    """

    same: int
    changed: tuple[Changed, ...]
    only_in_one: tuple[Step, ...]
    only_in_other: tuple[Step, ...]
    runs: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether both say the same of every prefix and run."""
        return not (self.changed or self.only_in_one or self.only_in_other or self.runs)


def compare(one: Recording, other: Recording) -> Comparison:
    """Compare two recordings prefix by prefix; the hash of a row tells whether it must be read.

    Raises:
        UsageError: they are of different vocabularies, so that no token of one is one of the other.
        RecordingBroken: a row that must be read is damaged.
        RowError: no token can be drawn from one of two rows that differ.
    """
    _refuse_other_vocabulary(one, other)
    same, changed, only = 0, [], []
    for step in one.steps:
        partner = other.index.by_key(step.key)
        if partner is None:
            only.append(step)
        elif partner.sha256 == step.sha256:
            same += 1
        else:
            changed.append(Changed(step, partner, *furthest(step.row, partner.row)))
    changed.sort(key=lambda change: (-change.difference, change.one.number))
    only_in_other = tuple(step for step in other.steps if one.index.by_key(step.key) is None)
    names = [*one.runs, *(name for name in other.runs if name not in one.runs)]
    runs = tuple(name for name in names if one.runs.get(name) != other.runs.get(name))
    return Comparison(same, tuple(changed), tuple(only), only_in_other, runs)


def _refuse_other_vocabulary(one: Recording, other: Recording) -> None:
    sizes = (one.info.vocab_size, other.info.vocab_size)
    if sizes[0] != sizes[1]:
        raise UsageError(
            f"{one.path} is of a model with a vocabulary of {sizes[0]} tokens, {other.path} of one with {sizes[1]}: "
            "their rows cannot be held against each other"
        )


def same_row(want: Row, have: Row) -> bool:
    """Whether two rows are equal in every bit: 0 and -0 are two values, and a list is never the same as a whole row.

    Example:
        >>> same_row(np.float32([0.0, 1.0]), np.float32([0.0, 1.0])), same_row(np.float32([0.0, 1.0]), np.float32([-0.0, 1.0]))
        (True, False)
    """
    if isinstance(want, TopLogprobs) and isinstance(have, TopLogprobs):
        return want == have and _same_bits(want.logprobs, have.logprobs)
    if isinstance(want, TopLogprobs) or isinstance(have, TopLogprobs):
        return False
    return _same_bits(want, have)


def _same_bits(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return np.array_equal(one.view(np.uint32), other.view(np.uint32))


def furthest(want: Row, have: Row) -> tuple[int, float, float]:
    """The token whose log-probabilities differ most, and both; one that only one row lists differs most of all.

    Args:
        want, have: rows of one vocabulary.

    Raises:
        RowError: no token can be drawn from one of them.
    """
    ids = [row.token_ids if isinstance(row, TopLogprobs) else np.arange(row.size) for row in (want, have)]
    if isinstance(want, TopLogprobs) == isinstance(have, TopLogprobs):
        alone = np.setxor1d(ids[0], ids[1])
        if alone.size:
            best = max(alone.tolist(), key=lambda token_id: max(logprob_of(want, token_id), logprob_of(have, token_id)))
            return best, logprob_of(want, best), logprob_of(have, best)
    both = np.intersect1d(ids[0], ids[1])
    values = [_logprobs_at(row, both) for row in (want, have)]
    with np.errstate(invalid="ignore"):
        differences = np.nan_to_num(np.abs(values[0] - values[1]), nan=0.0)
    place = int(differences.argmax())
    return int(both[place]), float(values[0][place]), float(values[1][place])


def _logprobs_at(row: Row, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    if isinstance(row, TopLogprobs):
        known = dict(zip(row.token_ids.tolist(), row.logprobs.tolist(), strict=True))
        return np.array([known[token_id] for token_id in ids.tolist()])
    # Not rounded to float32, as on the wire: of a small difference that would leave nothing.
    return portable.log_softmax(Candidates.of(row).logits)[ids]
