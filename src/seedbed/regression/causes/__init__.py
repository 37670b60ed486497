"""What changed, by name: each cause is a small class with its own test on the compared prefixes.

Causes are examined in order. One that is found takes out of the rows, or of the drift, what it explains, and the next sees the rest; so a
temperature is not also called noise, and two faults at once are both named, by the share of the drift each explains.
"""

from __future__ import annotations

from seedbed.regression.causes.case import Case, Cause, Finding
from seedbed.regression.causes.conditions import AboveConcurrency, WarmOnly
from seedbed.regression.causes.everywhere import AnotherModel, Growing, Spread
from seedbed.regression.causes.places import BestPlace, BlockMultiples, FromPosition, OnePrompt, Place, SingleRows
from seedbed.regression.causes.prompt import ExtraBos, MissingBos, ShiftedByOne
from seedbed.regression.causes.rows import CutApplied, SixteenBits, SwappedIds, TemperatureApplied

ENOUGH = 0.01
"""A share of the drift that needs no cause: neither one that explains no more, nor any when no more is left."""

__all__ = ["CAUSES", "PLACES", "Case", "Cause", "Finding", "find_causes"]

PLACES: tuple[Place, ...] = (OnePrompt(), FromPosition(), BlockMultiples(), WarmOnly(), AboveConcurrency())

CAUSES: tuple[Cause, ...] = (
    BestPlace(PLACES),
    CutApplied(),
    ShiftedByOne(),
    ExtraBos(),
    MissingBos(),
    TemperatureApplied(),
    SwappedIds(),
    SingleRows(),
    SixteenBits(),
    BestPlace(PLACES),
    Growing(),
    AnotherModel(),
    Spread(),
)


def find_causes(case: Case) -> tuple[Finding, ...]:
    """All causes found, the one that explains most first.

    Args:
        case: the evidence; used up.
    """
    found = []
    for cause in CAUSES:
        if case.left <= ENOUGH:
            break
        finding = cause.examine(case)
        if finding is not None and finding.share > ENOUGH:
            found.append(finding)
    return tuple(sorted(found, key=lambda finding: -finding.share))
