"""Evidence over several checks of one recording: what it is worth to look again, and yet again, at the same recorded answers."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from seedbed.errors import EvidenceRefused, UsageError
from seedbed.recording.files import read_file
from seedbed.recording.format import STEPS
from seedbed.regression.evidence import EProcess, exp, log_mean
from seedbed.regression.schema import finite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seedbed.recording import Recording

__all__ = ["Evidence"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What all checks of one recording so far say together against "nothing changed": the mean of their e-values.

    Let E_k be the e-process of the k-th check (``EProcess``) where that check ended, and ``M_k = (E_1 + ... + E_k) / k``. When nothing
    changed, ``P(M_k >= 1/alpha for any k) <= alpha``, however many checks are made, and for whatever reason the next one is:

    1. E_k is the value of a non-negative supermartingale that begins at 1, where the check ended; it ends when everything was asked, or,
       stopping early, when this value itself is high enough. So ``E[E_k] <= 1``.
    2. The checks share the recorded answers. Given these, the E_k are no fair bets: where the recorded noise happens to look like a drift,
       all of them have a mean above 1, and their product would grow without bound. But given these, the live answers of all checks are had
       alike and weighed by one rule, so the E_k are *exchangeable*: any order of them is as probable as the one that came.
    3. Hence ``E[E_j | M_k, M_(k+1), ...]`` is one value for all j <= k; their mean is M_k, so it is M_k, and
       ``E[M_(k-1) | M_k, M_(k+1), ...] = M_k``. Read backwards, M_K, ..., M_2, M_1 is a non-negative martingale whose mean is that of M_1,
       ``E[E_1] <= 1``. By Ville's inequality the chance that any of them is 1/alpha or more is at most alpha, and K may be any number.

    A first check is not made weaker by those that may follow: M_1 = E_1. Where step 2 fails, as when a server's noise is another every day,
    M_k is still an e-value for a number of checks fixed beforehand, since the mean of e-values is one under any dependence. Evidence of
    another recording, of one that was replaced since, or had by another rule is refused: nothing above would hold.

    Attributes:
        recording: SHA-256 of the recorded steps, 64 hex digits; what the evidence is about.
        alpha, repeats, stop_early: the rule, as given to ``check``; one for all checks.
        log_e_values: natural log of E_k of each check, the latest last; at least one.
        sequences: how many sequences were taken in, over all checks.

    Example:
        >>> today = Evidence("ab" * 32, 0.01, 2, False, (math.log(120.0),), 24)
        >>> tomorrow = Evidence("ab" * 32, 0.01, 2, False, (math.log(120.0), math.log(90.0)), 48)
        >>> today.is_alarm, round(tomorrow.e_value), tomorrow.is_alarm
        (True, 105, True)

    Source: Ville 1939; step 3 is the exchangeable Markov inequality of Ramdas and Manole 2023, arXiv:2304.02611.
    """

    recording: str
    alpha: float
    repeats: int
    stop_early: bool
    log_e_values: tuple[float, ...]
    sequences: int

    @classmethod
    def begun(cls, recording: Recording, *, alpha: float, repeats: int, stop_early: bool, earlier: Evidence | None = None) -> Self:
        """A check that has seen nothing yet, after the earlier ones.

        Raises:
            EvidenceRefused: the earlier evidence is of another recording, or of the one this replaced, or was had by another rule.
        """
        fresh = cls(_identity(recording), alpha, repeats, stop_early, (0.0,), 0)
        if earlier is None:
            return fresh
        _refuse_other(earlier, fresh, recording)
        return replace(fresh, log_e_values=(*earlier.log_e_values, 0.0), sequences=earlier.sequences)

    def after(self, process: EProcess) -> Self:
        """With what the latest check, begun already, has seen by now."""
        return replace(self, log_e_values=(*self.log_e_values[:-1], process.log_e_value), sequences=self.sequences + process.sequences)

    def path(self, process: EProcess) -> tuple[float, ...]:
        """Natural log of the mean after each sequence of the latest check, begun already."""
        return tuple(log_mean((*self.log_e_values[:-1], value)) for value in process.path)

    @property
    def checks(self) -> int:
        """How many checks there were."""
        return len(self.log_e_values)

    @property
    def e_value(self) -> float:
        """M_k: the mean over all checks; inf beyond what a float64 holds."""
        return exp(log_mean(self.log_e_values))

    @property
    def is_alarm(self) -> bool:
        """Whether the mean is 1/alpha or more."""
        return log_mean(self.log_e_values) >= -math.log(self.alpha)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; ``from_dict`` gives equal evidence back."""
        return {
            "recording": self.recording,
            "alpha": self.alpha,
            "repeats": self.repeats,
            "stop_early": self.stop_early,
            "log_e_values": list(self.log_e_values),
            "sequences": self.sequences,
            "e_value": finite(self.e_value),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What ``to_dict`` wrote.

        Raises:
            UsageError: not such a dict.
        """
        try:
            logs = tuple(float(value) for value in values["log_e_values"])
            recording, stop_early = str(values["recording"]), bool(values["stop_early"])
            alpha, repeats, sequences = float(values["alpha"]), int(values["repeats"]), int(values["sequences"])
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"this is not the evidence of a check as to_dict() writes it: {error!r}") from error
        if not logs or not all(map(math.isfinite, logs)) or not 0 < alpha < 0.5 or repeats < 1 or sequences < 0:
            raise UsageError("this is not the evidence of a check: a number in it is outside its range")
        return cls(recording, alpha, repeats, stop_early, logs, sequences)


def _identity(recording: Recording) -> str:
    """SHA-256 of the recorded steps, which hold every row or its hash: recordings with equal steps are one to a check."""
    seal = recording.manifest.seal
    return seal.sha256[STEPS] if seal is not None else hashlib.sha256(read_file(recording.path / STEPS)).hexdigest()


def _refuse_other(earlier: Evidence, fresh: Evidence, recording: Recording) -> None:
    for acceptance in recording.manifest.accepted:
        if acceptance.replaced == earlier.recording:
            raise EvidenceRefused(
                f"the evidence is of the baseline that {acceptance.who} replaced ({acceptance.why}), not of the one now "
                f"at {recording.path}: begin anew, without the earlier evidence"
            )
    if earlier.recording != fresh.recording:
        raise EvidenceRefused(
            f"the evidence is of another recording than {recording.path}: of steps with SHA-256 {earlier.recording[:12]}..., not "
            f"{fresh.recording[:12]}...; continue it over its own recording, or begin anew without it"
        )
    for name in ("alpha", "repeats", "stop_early"):
        was, now = getattr(earlier, name), getattr(fresh, name)
        if was != now:
            raise EvidenceRefused(
                f"the evidence was had with {name}={was}, not {name}={now}: go on with the same, or begin anew without it"
            )
