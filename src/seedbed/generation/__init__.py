"""Token -> sequence -> result: one nursery task per sequence, each following its own draws to the end.

Everything that awaits here runs under trio. From plain code: ``trio.run(main)``. From asyncio: ``await asyncio.to_thread(trio.run, main)``,
or trio as a guest of the asyncio loop (``tests/examples/from_asyncio.py`` has both). In IPython and Jupyter: ``trio.run(main)`` in a cell
works as it is; after ``%autoawait trio`` cells may await. Awaited by anything else, ``seedbed.errors.WrongRunner`` says so.
"""

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
