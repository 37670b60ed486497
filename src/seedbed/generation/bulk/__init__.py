"""Files of prompts, of any size: streamed in, streamed out, gone on with after any interruption, the same for any partition.

``generate_file`` is the whole of it. Its parts: ``prompts`` (what a line may be), ``stream`` (many prompts at once, few held at a time),
``columns`` (what a row has), ``output`` (where rows go, and how a run is gone on with), ``parquet``, ``cluster`` (the same on Ray).

Past one machine: what bounds a run? ``make simulate`` lets 1,000 workers (real ``open_stream`` loops on a virtual clock, no sockets) ask
100 replicas, models of servers with 8 slots each, 20 ms a token, 0.1 ms for each token of a prefix that is not in the replica's cache. So
40,000 tokens/s are the most there can be. Prompts share their first 512 tokens in 50 groups, and have 64 of their own.

| sequences a worker | who is asked | tokens/s | slots used | busiest, idlest | prefilled a token |
|---|---|---|---|---|---|
| 1 | the least busy, each worker in an order of its own | 16,149 | 70 % | 72 %, 69 % | 147 |
| 1 | by prefix, then load, as ``connect`` does | 20,570 | 66 % | 89 %, 46 % | 56 |
| 1 | the same, of equals the first in the list | 462 | 1 % | 39 %, 0 % | 37 |
| 1 | by a hash of the shared part, then load | 4,357 | 12 % | 92 %, 0 % | 12 |
| 4 | the least busy, each worker in an order of its own | 25,596 | 98 % | 100 %, 97 % | 108 |
| 4 | by prefix, then load, as ``connect`` does | 26,150 | 80 % | 100 %, 64 % | 44 |
| 4 | the same, of equals the first in the list | 1,227 | 4 % | 52 %, 0 % | 69 |
| 4 | by a hash of the shared part, then load | 4,717 | 12 % | 100 %, 0 % | 12 |

- The servers are the bound: with four sequences a worker that ask the least busy, 98 % of the slots work all the time, and what is missing
  to 40,000 is prefill. The client's own cost, measured beside, was 0.4 ms of CPU a token on a machine with much else to do: a worker that
  has a core to itself follows 2,500 tokens/s, and needs less than 30 here.
- Prefix affinity saves some 60 % of the prefill: 27 % more tokens where slots are free, 2 % where all are busy: its load is less even.
- A worker sees only its own requests. Where all take the first replica of the list for their first question, affinity keeps them there: 20
  to 50 times slower. So of equals the prefix picks one.
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
