"""Token -> sequence -> result: one nursery task per sequence, each following its own draws to the end."""

from seedbed.generation.nursery import (
    Generation,
    Progress,
    generate,
    generate_token_ids,
    generate_token_ids_multiple,
    open_generation,
)
from seedbed.generation.result import GenerationResult, SampledSequence, Stats

__all__ = [
    "Generation",
    "GenerationResult",
    "Progress",
    "SampledSequence",
    "Stats",
    "generate",
    "generate_token_ids",
    "generate_token_ids_multiple",
    "open_generation",
]
