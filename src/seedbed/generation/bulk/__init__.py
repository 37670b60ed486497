"""Files of prompts, of any size: streamed in, streamed out, gone on with after any interruption, the same for any partition.

``generate_file`` is the whole of it. Its parts: ``prompts`` (what a line may be), ``stream`` (many prompts at once, few held at a time),
``columns`` (what a row has), ``output`` (where rows go, and how a run is gone on with), ``parquet``, ``cluster`` (the same on Ray).

The guide's page ``bulk.md`` shows it in use, and what bounds its speed by ``make simulate``.
"""

from seedbed.generation.bulk.cluster import BatchSampler, generate_file_on_ray
from seedbed.generation.bulk.prompts import BadLine, Prompt, PromptFile, read_prompts
from seedbed.generation.bulk.run import BulkReport, generate_file
from seedbed.generation.bulk.stream import FinishedPrompts, Pace, Recipe, open_stream

__all__ = [
    "BadLine",
    "BatchSampler",
    "BulkReport",
    "FinishedPrompts",
    "Pace",
    "Prompt",
    "PromptFile",
    "Recipe",
    "generate_file",
    "generate_file_on_ray",
    "open_stream",
    "read_prompts",
]
