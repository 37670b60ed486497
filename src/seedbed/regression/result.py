"""What a check found, as a value: to print, to keep, to go on from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from seedbed.errors import UsageError
from seedbed.regression.causes import Finding
from seedbed.regression.continued import Evidence
from seedbed.regression.estimates import Estimate, rows_needed
from seedbed.regression.evidence import Sparse
from seedbed.regression.free_run import FreeRun
from seedbed.regression.schema import finite
from seedbed.regression.statistics import Statistics
from seedbed.regression.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from seedbed.llm.base import LLM
    from seedbed.recording import Recording
    from seedbed.regression.compared import Compared

__all__ = ["CheckReport", "Prefix", "Worst"]


SHOWN, SHOWN_TOKENS = 5, 12  # of a row, and of a prefix's end


@dataclass(frozen=True, slots=True)
class Prefix:
    """One compared prefix, for plots.

    Attributes:
        position: its length in tokens.
        sequence: which sequence it belongs to.
        d: its drift free of noise, nats.
        kl: the largest KL of its answers, nats.
        gap: how far the best token led the next when recorded, nats; inf where only one is known.
        flipped: whether another token is best now.
    """

    position: int
    sequence: int
    d: float
    kl: float
    gap: float
    flipped: bool


Listed: TypeAlias = tuple[tuple[int, str, float], ...]
"""Tokens with what is known of their text and their probability, the most probable first."""


@dataclass(frozen=True, slots=True)
class Worst:
    """One of the prefixes that are furthest off, to look at.

    Attributes:
        position: its length in tokens.
        end: its last tokens, with what is known of their texts.
        d, kl: as in ``Prefix``.
        recorded, live: the five best of either side, averaged over the answers.
    """

    position: int
    end: tuple[tuple[int, str], ...]
    d: float
    kl: float
    recorded: Listed
    live: Listed

    @classmethod
    def of(cls, row: Compared, texts: Mapping[int, str]) -> Self:
        """Out of a compared prefix."""

        def best(logprobs: NDArray[np.float64], listed: float) -> Listed:
            places = np.argsort(-logprobs, kind="stable")[:SHOWN].tolist()
            ids = [int(row.ids[place]) for place in places]
            return tuple((i, texts.get(i, ""), listed * math.exp(logprobs[place])) for i, place in zip(ids, places, strict=True))

        end = tuple((token_id, texts.get(token_id, "")) for token_id in row.prefix[-SHOWN_TOKENS:])
        return cls(row.position, end, row.d, max(row.kl), best(row.before, row.listed), best(row.after, 1.0 - row.tail[1]))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What ``asdict`` made of it, also after a trip through JSON."""
        end = tuple((token_id, text) for token_id, text in values["end"])
        recorded, live = (tuple((i, text, p) for i, text, p in values[side]) for side in ("recorded", "live"))
        return cls(values["position"], end, values["d"], values["kl"], recorded, live)


@dataclass(slots=True)
class CheckReport:
    """What a check found.

    Attributes:
        verdict: see ``Verdict``.
        statistics: all numbers, each with its standard error.
        margin: the drift that matters, nats.
        alpha: the false-alarm rate asked for.
        is_exact: no answer to one question differed on either server, so D has no error on these prefixes.
        evidence: against "nothing changed", of this check and those it went on from; to hand to the next check of the same recording.
        sparse: what the test for single corrupted rows found.
        causes: what changed, the cause that explains most first.
        prefixes: every compared prefix.
        conditions: {condition: how many pairs of answers were compared under it}.
        path: the natural log of the e-value after each sequence of this check.
        worst: the prefixes that are furthest off, the worst first.
        free_run: what came of sampling the recorded sequences again; None when that was not asked for, or none are recorded.
        subject: who was compared with what: names and fingerprints, how many prefixes, and how many could not be compared since no live
            answer was had under a recorded one's condition.
    """

    verdict: Verdict
    statistics: Statistics
    margin: float
    alpha: float
    is_exact: bool
    evidence: Evidence
    sparse: Sparse
    causes: tuple[Finding, ...]
    prefixes: tuple[Prefix, ...]
    conditions: dict[str, int]
    subject: dict[str, Any] = field(default_factory=dict)
    free_run: FreeRun | None = None
    path: tuple[float, ...] = ()
    worst: tuple[Worst, ...] = ()

    @property
    def drift(self) -> Estimate:
        """Mean D, the drift free of noise, in nats."""
        return self.statistics.drift

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the drift; a point where both servers repeat themselves bit by bit and only one cluster is known."""
        low, high = self.drift.interval()
        return (self.drift.value, self.drift.value) if self.is_exact and math.isinf(low) else (low, high)

    @property
    def noise(self) -> Estimate | None:
        """Mean KL between two answers of one server to one question, in nats; None where no two were had under one condition."""
        noise = self.statistics.noise
        if noise.rows and self.is_exact:
            return replace(noise, standard_error=0.0)
        # Where none is known the statistics hold one value, a 0.
        return noise if noise.rows > 1 or noise.value > 0 else None

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
        """As JSON values, each explained in ``schema.MEMBERS``; ``from_dict`` gives an equal report back."""
        low, high = self.interval
        return {
            "verdict": self.verdict.value,
            "drift": finite(self.drift.value),
            "interval": [finite(low), finite(high)],
            "margin": self.margin,
            "alpha": self.alpha,
            "is_exact": self.is_exact,
            "needed": self.needed,
            "causes": [cause.to_dict() for cause in self.causes],
            "statistics": self.statistics.to_dict(),
            "evidence": self.evidence.to_dict(),
            "sparse": asdict(self.sparse),
            "conditions": self.conditions,
            "free_run": None if self.free_run is None else self.free_run.to_dict(),
            "subject": self.subject,
            "path": list(self.path),
            "worst": [asdict(one) for one in self.worst],
            "prefixes": [asdict(prefix) | {"gap": finite(prefix.gap)} for prefix in self.prefixes],
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
                Evidence.from_dict(values["evidence"]),
                Sparse(**sparse),
                tuple(Finding.from_dict(cause) for cause in values["causes"]),
                tuple(Prefix(**(prefix | {"gap": math.inf if prefix["gap"] is None else prefix["gap"]})) for prefix in values["prefixes"]),
                dict(values["conditions"]),
                dict(values["subject"]),
                None if values["free_run"] is None else FreeRun.from_dict(values["free_run"]),
                tuple(values["path"]),
                tuple(Worst.from_dict(one) for one in values["worst"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"this is not a report of a check as to_dict() writes it: {error!r}") from error

    def __repr__(self) -> str:
        cause = f", {self.causes[0].name}" if self.causes else ""
        return f"<CheckReport {self.verdict}: D = {self.drift} nats over {self.drift.rows} prefixes{cause}>"
