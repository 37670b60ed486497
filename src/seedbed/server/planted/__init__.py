"""Numeric faults planted in a model, to see whether a regression tester finds them and calls them by their names.

A fault says what goes wrong with a row or a prefix, a place says where it does: ``PlantedLLM(TinyLM(), RoundTo("bfloat16"),
where=FromPosition(64))``. Several faults are several wrappers. Nothing here is random: what looks like noise is a hash of the prefix and
of the condition it is said to depend on, so the same questions get the same answers on every CPU.
"""

from seedbed.server.planted.around import AroundLLM
from seedbed.server.planted.circumstances import Circumstances, NumericFault, Place
from seedbed.server.planted.model import PlantedLLM
from seedbed.server.planted.numeric_faults import (
    CutTopK,
    CutTopP,
    DropBest,
    ExtraToken,
    Growing,
    Lattice,
    MissingToken,
    Noise,
    RoundTo,
    Scaled,
    ShiftByOne,
    SwappedIds,
)
from seedbed.server.planted.places import (
    AboveConcurrency,
    AfterAnswers,
    AllOf,
    AtMultiples,
    Everywhere,
    FromPosition,
    OneIn,
    OnePrompt,
    SlotWarm,
    WarmOnly,
)
from seedbed.server.planted.sampler import PlantedSampler

__all__ = [
    "AboveConcurrency",
    "AfterAnswers",
    "AllOf",
    "AroundLLM",
    "AtMultiples",
    "Circumstances",
    "CutTopK",
    "CutTopP",
    "DropBest",
    "Everywhere",
    "ExtraToken",
    "FromPosition",
    "Growing",
    "Lattice",
    "MissingToken",
    "Noise",
    "NumericFault",
    "OneIn",
    "OnePrompt",
    "Place",
    "PlantedLLM",
    "PlantedSampler",
    "RoundTo",
    "Scaled",
    "ShiftByOne",
    "SlotWarm",
    "SwappedIds",
    "WarmOnly",
]
