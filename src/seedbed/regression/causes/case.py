"""What a cause is given, and what it says: the case, less what was explained before, and the finding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from seedbed.regression.estimates import Estimate
from seedbed.regression.metrics import noise_free_drift

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from seedbed.regression.compared import Compared

__all__ = ["Case", "Cause", "Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause that was found.

    Attributes:
        name: of the cause: the ``name`` of one of ``CAUSES`` or ``PLACES``, or "other vocabulary".
        share: of the drift it explains, in [0, 1].
        detail: what was seen, as a sentence.
        estimate: the size of the fault with its error, such as a temperature; None when it has none.
    """

    name: str
    share: float
    detail: str
    estimate: Estimate | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; ``from_dict`` gives an equal finding back."""
        estimate = None if self.estimate is None else self.estimate.to_dict()
        return {"name": self.name, "share": self.share, "detail": self.detail, "estimate": estimate}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What ``to_dict`` wrote."""
        estimate = None if values["estimate"] is None else Estimate.from_dict(values["estimate"])
        return cls(values["name"], values["share"], values["detail"], estimate)


@dataclass(slots=True)
class Case:
    """The evidence, less what causes found so far explain.

    Attributes:
        rows: the compared prefixes.
        noise: of each prefix, the KL between two answers of one server that is seldom exceeded, shape (prefixes,); all but 0 on a server
            that repeats itself bit by bit.
        asked_instead: {name of a counterfactual: [(place of the prefix, KL(recorded || live answer to another prefix))]}.
        after: the live log-probabilities of each prefix, corrected for what was found.
        drift: what is left of each prefix's drift, nats, shape (prefixes,).
        total: the sum of it at the beginning.
    """

    rows: Sequence[Compared]
    noise: NDArray[np.float64]
    asked_instead: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    after: list[NDArray[np.float64]] = field(init=False)
    drift: NDArray[np.float64] = field(init=False)
    total: float = field(init=False)
    _before: NDArray[np.float64] = field(init=False)
    _listed: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.after = [row.after for row in self.rows]
        self.drift = np.array([max(row.d, 0.0) for row in self.rows])
        self.total = float(self.drift.sum())
        self._before = _stacked([row.before for row in self.rows])
        self._listed = np.array([row.listed for row in self.rows])

    @property
    def left(self) -> float:
        """Which share of the drift is not explained yet."""
        return float(self.drift.sum()) / self.total if self.total else 0.0

    def drift_to(self, after: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """The drift there would be if the live rows were these, among the tokens listed."""
        then = _stacked(after)
        return self._listed * noise_free_drift(self._before, self._before, then, then).d

    def is_better(self, rest: NDArray[np.float64], share: float) -> bool:
        """Whether a correction leaves no more than ``share`` of the drift among the tokens listed, and that is most of the drift."""
        listed = float(self.drift_to(self.after).sum())
        return float(rest.sum()) <= share * listed and listed >= 0.5 * float(self.drift.sum())

    def is_exact(self, rest: NDArray[np.float64]) -> bool:
        """Whether a correction leaves next to nothing among the tokens listed, though most of the drift may be in the tail."""
        listed = float(self.drift_to(self.after).sum())
        return float(rest.sum()) <= 0.05 * listed and listed >= 1e-3 * float(self.drift.sum())

    def accept(self, after: list[NDArray[np.float64]], drift: NDArray[np.float64]) -> float:
        """Go on with corrected rows; returns the share of the whole drift that this explains."""
        before = self.left
        self.after, self.drift = after, np.minimum(self.drift, drift)
        return before - self.left


def _stacked(rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Rows of any lengths as one array; what fills the short ones up is the same in every such array, so no difference is added."""
    stacked = np.zeros((len(rows), max(row.size for row in rows)))
    for place, row in enumerate(rows):
        stacked[place, : row.size] = row
    return stacked


class Cause(ABC):
    """One way a server can go wrong."""

    name: ClassVar[str]

    @abstractmethod
    def examine(self, case: Case) -> Finding | None:
        """The finding, after taking what it explains out of the case; None when this is not it."""
