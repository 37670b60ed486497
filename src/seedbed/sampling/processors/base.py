"""What a logits processor is: one small step that takes the row at its point of the chain and hands on a new one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from seedbed.errors import InvalidSampler, UsageError
from seedbed.llm.arguments import is_iterable, shown, whole_number
from seedbed.llm.base import as_row
from seedbed.sampling.candidates import Candidates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from seedbed.llm.base import TopLogprobs
    from seedbed.sampling.randomness import Address

__all__ = [
    "History",
    "Processor",
    "Scope",
    "StatefulProcessor",
    "check_scope",
    "check_state",
    "number",
    "require_in",
    "require_int",
    "require_one_of",
    "require_sequences",
    "require_token_ids",
]

Scope: TypeAlias = Literal["all", "output"] | int
"""Which tokens a processor looks back on: prompt and output, the output alone, or the last so many of both."""


@dataclass(frozen=True, slots=True)
class History:
    """What a processor may look at besides the row.

    Attributes:
        prompt_token_ids: the prompt.
        token_ids: what was generated so far.
        address: where this step's randomness lives; None when the row is only processed, not drawn from.
        state: what the chain's stateful processor knew after the step before; None at the first step.

    Raises:
        UsageError: ``state`` is neither None nor a finite number.
    """

    prompt_token_ids: Sequence[int] = ()
    token_ids: Sequence[int] = ()
    address: Address | None = None
    state: float | None = None

    def __post_init__(self) -> None:
        if self.state is not None:
            check_state(self.state)

    def within(self, scope: Scope) -> NDArray[np.int64]:
        """The token ids in ``scope``, oldest first."""
        output = np.asarray(self.token_ids, dtype=np.int64)
        if scope == "output":
            return output
        everything = np.concatenate((np.asarray(self.prompt_token_ids, dtype=np.int64), output))
        return everything if scope == "all" else everything[max(0, everything.size - scope) :]


NO_HISTORY = History()
LARGEST_INT = 2**63 - 1


class Processor(ABC):
    """One step of the chain. Filters keep at least the best token (lowest id among equals) and leave what they keep bit-identical.

    Subclasses are frozen dataclasses, so that their repr is their configuration, and pure: equal arguments, equal answers.

    Example:
        >>> from dataclasses import dataclass, replace
        >>> @dataclass(frozen=True)
        ... class Half(Processor):
        ...     def apply(self, candidates, history):
        ...         return replace(candidates, values=candidates.values / 2)
        >>> Half()([1.0, 3.0]).tolist()
        [0.5, 1.5]
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        self._check()
        self._make_plain()

    def _check(self) -> None:  # noqa: B027  many have no parameter that could be wrong
        """Raise ``InvalidSampler`` for a parameter outside its range."""

    def _make_plain(self) -> None:
        """Numbers become Python's own, and ints floats where floats are meant: what is equal must read alike wherever its repr is kept."""
        for field in fields(self):  # type: ignore[arg-type]  # called by dataclasses only
            value = getattr(self, field.name)
            if (whole := whole_number(value)) is not None:
                value = whole
            elif isinstance(value, np.generic):
                value = value.item()
            if field.type in ("float", float) and isinstance(value, (int, np.floating)):
                value = _as_float(field.name, value)
            object.__setattr__(self, field.name, value)

    def __call__(self, logits: ArrayLike | TopLogprobs, history: History = NO_HISTORY) -> NDArray[np.float64]:
        """The row after this step alone: float64, shape (vocab_size,), -inf = excluded or not listed; ``logits`` is not modified.

        Raises:
            RowError: the row cannot be drawn from, or the step cannot be taken on what is listed of it.
            InvalidSampler: the step does not fit the row, as ids beyond its vocabulary do not, or needs an address, as xtc does.
        """
        return self.apply(Candidates.of(as_row(logits)), history).full_row()

    @abstractmethod
    def apply(self, candidates: Candidates, history: History) -> Candidates:
        """The row at the next point of the chain."""


class StatefulProcessor(Processor):
    """A step that learns from each token drawn. What it knows is one number, kept with the sequence, so a sequence resumes exactly.

    Example:
        >>> from seedbed.sampling import MirostatV2
        >>> isinstance(MirostatV2(), StatefulProcessor)
        True
    """

    __slots__ = ()

    @abstractmethod
    def after(self, state: float | None, probability: float) -> float:
        """What it knows after a token of ``probability`` under the final distribution was drawn; ``state``: what it knew before."""


def number(value: object) -> float | None:
    """``value`` as a float, if it is a number of Python's or numpy's that a float can hold, and no bool; else None.

    Example:
        >>> number(np.float32(0.5)), number(True), number(10**400)
        (0.5, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def require_in(name: str, value: object, low: float, high: float, ends: Literal["[]", "[)", "(]", "()"] = "[]") -> None:
    """Raise ``InvalidSampler`` unless ``value`` is a number from ``low`` to ``high``; ``ends``: a square one belongs to the interval."""
    found = number(value)
    above = found is not None and (low <= found if ends[0] == "[" else low < found)
    below = found is not None and (found <= high if ends[1] == "]" else found < high)
    if not (above and below):
        raise InvalidSampler(f"{name} must be in {ends[0]}{low:g}, {high:g}{ends[1]}, not {shown(value)}")


def require_int(name: str, value: object, least: int) -> int:
    """``value`` as a plain int.

    Raises:
        InvalidSampler: it is no int (a bool is none), below ``least``, or more than an int64 holds.
    """
    whole = whole_number(value)
    if whole is None or whole < least:
        raise InvalidSampler(f"{name} must be an int of at least {least}, not {shown(value)}")
    if whole > LARGEST_INT:
        raise InvalidSampler(f"{name} must be an int of at most {LARGEST_INT}, not {shown(value)}")
    return whole


def require_one_of(name: str, value: object, *choices: str) -> None:
    """Raise ``InvalidSampler`` unless ``value`` is one of these words."""
    if not (isinstance(value, str) and value in choices):
        raise InvalidSampler(f"{name} must be {' or '.join(map(repr, choices))}, not {shown(value)}")


def require_token_ids(name: str, token_ids: object) -> tuple[int, ...]:
    """``token_ids`` as a tuple of plain ints.

    Raises:
        InvalidSampler: not an iterable of ints, or one that is negative.
    """
    if isinstance(token_ids, (str, bytes)) or not is_iterable(token_ids):
        raise InvalidSampler(f"{name} must be token ids, not {shown(token_ids)}")
    return tuple(require_int(f"a token id in {name}", token_id, 0) for token_id in token_ids)


def require_sequences(name: str, sequences: object) -> tuple[tuple[int, ...], ...]:
    """``sequences`` of token ids, each of at least one, as tuples of plain ints.

    Raises:
        InvalidSampler: not an iterable of such, or one without a token.
    """
    if isinstance(sequences, (str, bytes)) or not is_iterable(sequences):
        raise InvalidSampler(f"{name} must be sequences of token ids, not {shown(sequences)}")
    found = tuple(require_token_ids(f"each of {name}", sequence) for sequence in sequences)
    if not all(found):
        raise InvalidSampler(f"each of {name} must have at least one token")
    return found


def check_scope(name: str, scope: object) -> None:
    """Raise ``InvalidSampler`` unless ``scope`` is a ``Scope``."""
    if not isinstance(scope, str):
        require_int(name, scope, 0)
    elif scope not in ("all", "output"):
        raise InvalidSampler(f"{name} must be 'all', 'output' or a number of tokens, not {shown(scope)}")


def check_state(state: object) -> float | None:
    """``state`` of a sequence as a float, or None.

    Raises:
        UsageError: it is neither.
    """
    known = number(state)
    if state is not None and (known is None or not math.isfinite(known)):
        raise UsageError(f"state must be None or the number that Draw.state was, not {shown(state)}")
    return known


def _as_float(name: str, value: int | np.floating) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidSampler(f"{name} is larger than any float") from error
