"""What a conformance test found, as a value: to print, to keep."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from seedbed.regression.figures import significant
from seedbed.regression.schema import finite

if TYPE_CHECKING:
    from seedbed.regression.estimates import Estimate

__all__ = ["ConformanceProgress", "ConformanceReport", "Flaw", "FlawName"]

FlawName: TypeAlias = Literal[
    "temperature",
    "greedy",
    "filter",
    "order",
    "distribution",
    "seed ignored",
    "seeds do not always repeat",
    "seeds repeat",
    "seeds overlap",
]


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that is not as it was asked for.

    Attributes:
        name: "temperature", "greedy", "filter", "order", "distribution", or one of the seeds: "seed ignored", "seeds do not always repeat",
            "seeds repeat", "seeds overlap".
        detail: what was seen, as a sentence.
        is_fault: whether draws are wrong by it; False for what one must know about the seeds to use them.
    """

    name: FlawName
    detail: str
    is_fault: bool = True


@dataclass(frozen=True, slots=True)
class ConformanceProgress:
    """How far it is.

    Attributes:
        draws, of: tokens drawn by the server, and how many there will be.
        e_value: the evidence against "as asked for" so far.
    """

    draws: int
    of: int
    e_value: float


@dataclass(frozen=True, slots=True)
class ConformanceReport:
    """What a conformance test found.

    Attributes:
        flaws: what is not as asked for, the draws before the seeds.
        asked: the parameters: temperature, top_k, top_p, min_p, and whose order was expected.
        temperature: the one under which the draws are most probable, with its standard error.
        z_score: of the temperature asked for; beyond ±2.8 the draws contradict it at alpha 0.01.
        log_e_value: natural log of the highest evidence against "as asked for".
        excluded: draws that the parameters exclude.
        draws, prefixes: how many tokens were drawn for the distribution, after how many prefixes.
        alpha: how often a server that does as it is asked may be called flawed.
        untold: questions about the seeds that could not be answered, with the reason.
        seed: the first of the seeds sent.
    """

    flaws: tuple[Flaw, ...]
    asked: dict[str, Any]
    temperature: Estimate
    z_score: float
    log_e_value: float
    excluded: int
    draws: int
    prefixes: int
    alpha: float
    untold: tuple[str, ...]
    seed: int

    @property
    def is_conforming(self) -> bool:
        """Whether nothing was found that makes draws wrong."""
        return not any(flaw.is_fault for flaw in self.flaws)

    @property
    def detectable(self) -> float:
        """How far off the temperature must be for as many draws to show it, nine times in ten."""
        return (NormalDist().inv_cdf(1 - self.alpha / 4) + NormalDist().inv_cdf(0.9)) * self.temperature.standard_error

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        known = {"is_conforming": self.is_conforming, "detectable": finite(self.detectable)}
        return asdict(self) | known | {"temperature": self.temperature.to_dict()}

    def lines(self) -> list[str]:
        """A line a finding, the verdict first."""
        faults = [flaw.name for flaw in self.flaws if flaw.is_fault]
        verdict = f"DOES NOT CONFORM: {', '.join(faults)}" if faults else "CONFORMS: no draw contradicts what the server reports"
        asked = ", ".join(f"{name} {value}" for name, value in self.asked.items())
        estimate = self.temperature
        prefixes = f"{self.prefixes} prefix{'es' if self.prefixes > 1 else ''}"
        return [
            f"{'verdict':<14} {verdict}",
            *(f"{'flaw' if flaw.is_fault else 'seeds':<14} {flaw.name}: {flaw.detail}" for flaw in self.flaws),
            *(f"{'untold':<14} {reason}" for reason in self.untold),
            f"{'asked for':<14} {asked}",
            f"{'temperature':<14} {estimate} by the draws, z-score {self.z_score:.2f}",
            f"{'power':<14} a temperature off by {significant(self.detectable, 2)} is found by as many draws, nine times in ten",
            f"{'evidence':<14} e-value {significant(math.exp(min(self.log_e_value, 700)))}; {significant(2 / self.alpha)} is an alarm",
            f"{'draws':<14} {self.draws} after {prefixes}, {self.excluded} of them excluded ones; seeds from {self.seed} on",
        ]
