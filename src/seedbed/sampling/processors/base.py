"""What a logits processor is: one small step that takes the row at its point of the chain and hands on a new one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from seedbed.errors import InvalidSampler
from seedbed.llm.arguments import is_iterable
from seedbed.llm.base import as_row
from seedbed.sampling.candidates import Candidates

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from seedbed.llm.base import TopLogprobs
    from seedbed.sampling.randomness import Address

__all__ = ["History", "Processor", "Scope", "StatefulProcessor", "check_scope", "require", "require_token_ids"]

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
    """

    prompt_token_ids: Sequence[int] = ()
    token_ids: Sequence[int] = ()
    address: Address | None = None
    state: float | None = None

    def within(self, scope: Scope) -> NDArray[np.int64]:
        """The token ids in ``scope``, oldest first."""
        output = np.asarray(self.token_ids, dtype=np.int64)
        if scope == "output":
            return output
        everything = np.concatenate((np.asarray(self.prompt_token_ids, dtype=np.int64), output))
        return everything if scope == "all" else everything[max(0, everything.size - scope) :]


NO_HISTORY = History()


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
            if isinstance(value, np.generic):
                value = value.item()
            if field.type in ("float", float) and isinstance(value, int):
                value = _as_float(field.name, value)
            object.__setattr__(self, field.name, value)

    def __call__(self, logits: ArrayLike | TopLogprobs, history: History = NO_HISTORY) -> NDArray[np.float64]:
        """The row after this step alone: float64, shape (vocab_size,), -inf = excluded or not listed; ``logits`` is not modified.

        Raises:
            RowError: the row cannot be drawn from, or the step cannot be taken on what is listed of it.
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


def require(holds: object, name: str, value: object, where: str) -> None:
    """Raise ``InvalidSampler`` unless ``value`` is a number for which the condition ``holds``."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not holds:
        raise InvalidSampler(f"{name} must be {where}, not {value!r}")


def require_int(name: str, value: object, least: int, most: float = math.inf) -> None:
    """Raise ``InvalidSampler`` unless ``value`` is an int (a bool is none) of at least ``least``, and at most ``most``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InvalidSampler(f"{name} must be an int of at least {least}, not {value!r}")
    if value > most:
        raise InvalidSampler(f"{name} must be an int of at most {most}, not {value!r:.80}")


def require_token_ids(name: str, token_ids: Iterable[object]) -> tuple[int, ...]:
    """``token_ids`` as a tuple of plain ints.

    Raises:
        InvalidSampler: not an iterable of ints, or one that is negative.
    """
    if isinstance(token_ids, (str, bytes)) or not is_iterable(token_ids):
        raise InvalidSampler(f"{name} must be token ids, not {token_ids!r}")
    ids = []
    for token_id in token_ids:
        require_int(f"a token id in {name}", token_id, 0, 2**63 - 1)
        ids.append(int(token_id))
    return tuple(ids)


def check_scope(name: str, scope: object) -> None:
    """Raise ``InvalidSampler`` unless ``scope`` is a ``Scope``."""
    if isinstance(scope, str):
        if scope not in ("all", "output"):
            raise InvalidSampler(f"{name} must be 'all', 'output' or a number of tokens, not {scope!r}")
    else:
        require_int(name, scope, 0)


def finite(value: float) -> bool:
    """Whether ``value`` is a number that is neither NaN nor infinite; False for what is no number, so that ``require`` reports it."""
    return isinstance(value, (int, float, np.number)) and -math.inf < value < math.inf


def _as_float(name: str, value: int) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidSampler(f"{name} is larger than any float") from error
