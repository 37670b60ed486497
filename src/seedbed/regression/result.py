"""What a check found, as a value: to print, to keep, to go on from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from seedbed.errors import UsageError
from seedbed.regression.causes import Finding
from seedbed.regression.estimates import Estimate, rows_needed
from seedbed.regression.evidence import EProcess, Sparse
from seedbed.regression.free_run import FreeRun
from seedbed.regression.statistics import Statistics
from seedbed.regression.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seedbed.llm.base import LLM
    from seedbed.recording import Recording

__all__ = ["CheckReport", "Prefix"]


@dataclass(frozen=True, slots=True)
class Prefix:
    """One compared prefix, for plots.

    Attributes:
        position: its length in tokens.
        sequence: which sequence it belongs to.
        d: its drift free of noise, nats.
        kl: the largest KL of its answers, nats.
        gap: how far the best token led the next when recorded, nats.
        flipped: whether another token is best now.
    """

    position: int
    sequence: int
    d: float
    kl: float
    gap: float
    flipped: bool


@dataclass(slots=True)
class CheckReport:
    """What a check found.

    Attributes:
        verdict: see ``Verdict``.
        statistics: all numbers, each with its standard error.
        margin: the drift that matters, nats.
        alpha: the false-alarm rate asked for.
        is_exact: no answer to one question differed on either server, so D has no error on these prefixes.
        process: the evidence against "nothing changed".
        sparse: what the test for single corrupted rows found.
        causes: what changed, the cause that explains most first.
        prefixes: every compared prefix.
        conditions: {condition: how many pairs of answers were compared under it}.
        free_run: what came of sampling the recorded sequences again; None when that was not asked for, or none are recorded.
        subject: who was compared with what: names and fingerprints, how many prefixes, and how many could not be compared since no live
            answer was had under a recorded one's condition.
    """

    verdict: Verdict
    statistics: Statistics
    margin: float
    alpha: float
    is_exact: bool
    process: EProcess
    sparse: Sparse
    causes: tuple[Finding, ...]
    prefixes: tuple[Prefix, ...]
    conditions: dict[str, int]
    subject: dict[str, Any] = field(default_factory=dict)
    free_run: FreeRun | None = None

    @property
    def drift(self) -> Estimate:
        """Mean D, the drift free of noise, in nats."""
        return self.statistics.drift

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the drift; a point where both servers repeat themselves bit by bit and only one sequence is known."""
        low, high = self.drift.interval()
        return (self.drift.value, self.drift.value) if self.is_exact and math.isinf(low) else (low, high)

    @property
    def evidence(self) -> dict[str, Any]:
        """The state of the evidence, to hand to the next check of the same server."""
        return self.process.to_dict()

    @property
    def needed(self) -> int | None:
        """For INCONCLUSIVE: about how many prefixes would settle it; None otherwise, or when no number would."""
        return rows_needed(self.drift, self.margin, alpha=self.alpha) if self.verdict is Verdict.INCONCLUSIVE else None

    def describe(self, recording: Recording, llm: LLM, *, refused: int, of: int) -> None:
        """Note who was compared with what."""
        live = llm.info
        self.subject = {
            "recording": recording.path.name,
            "recorded": {"model": recording.info.model, "server": recording.info.server, "fingerprint": recording.info.fingerprint},
            "live": {"model": live.model, "server": live.server, "fingerprint": live.fingerprint} if live else {},
            "prefixes": of,
            "not compared": refused,
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; ``from_dict`` gives an equal report back."""
        low, high = self.interval
        return {
            "verdict": self.verdict.value,
            "drift": _finite(self.drift.value),
            "interval": [_finite(low), _finite(high)],
            "margin": self.margin,
            "alpha": self.alpha,
            "is_exact": self.is_exact,
            "needed": self.needed,
            "causes": [cause.to_dict() for cause in self.causes],
            "statistics": self.statistics.to_dict(),
            "evidence": self.evidence | {"e_value": _finite(self.process.e_value)},
            "sparse": asdict(self.sparse),
            "conditions": self.conditions,
            "free_run": None if self.free_run is None else self.free_run.to_dict(),
            "subject": self.subject,
            "prefixes": [asdict(prefix) | {"gap": _finite(prefix.gap), "kl": _finite(prefix.kl)} for prefix in self.prefixes],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The report that ``to_dict`` wrote, also after a trip through JSON.

        Raises:
            UsageError: not such a dict.
        """
        try:
            sparse = dict(values["sparse"])
            low, high = sparse["rate"]
            sparse |= {"persistent": tuple(sparse["persistent"]), "transient": tuple(sparse["transient"]), "rate": (low, high)}
            return cls(
                Verdict(values["verdict"]),
                Statistics.from_dict(values["statistics"]),
                values["margin"],
                values["alpha"],
                values["is_exact"],
                EProcess.from_dict(values["evidence"]),
                Sparse(**sparse),
                tuple(Finding.from_dict(cause) for cause in values["causes"]),
                tuple(
                    Prefix(**(prefix | {"gap": _infinite(prefix["gap"]), "kl": _infinite(prefix["kl"])})) for prefix in values["prefixes"]
                ),
                dict(values["conditions"]),
                dict(values["subject"]),
                None if values["free_run"] is None else FreeRun.from_dict(values["free_run"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"this is not a report of a check as to_dict() writes it: {error!r}") from error

    def __repr__(self) -> str:
        cause = f", {self.causes[0].name}" if self.causes else ""
        return f"<CheckReport {self.verdict}: D = {self.drift} nats over {self.drift.rows} prefixes{cause}>"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _infinite(value: float | None) -> float:
    return math.inf if value is None else value
