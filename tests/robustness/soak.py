"""``make soak MINUTES=10``: 256 sequences at a time over HTTP, something wrong with 5 % of all requests, for as long as you like.

Rounds of 256 sequences follow each other through one ``connect`` block to one server in the same process. Every round must give the
tokens that a server without faults gives, memory must stay flat after the first rounds, and at the end no task and no socket is left.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter
from pathlib import Path

import trio
import trio.testing

from seedbed import HashLM, HTTPModel, Retry, connect, generate, serve
from seedbed.server import random_faults
from tests.robustness import minutes_from

SEQUENCES, TOKENS, VOCAB, RATE, SEEDS = 256, 12, 2048, 0.05, 5
PROMPTS = [[number] for number in range(SEQUENCES // 4)]
WARM_UP = 6  # rounds, until caches, pools, allocators and the server's count of what it was asked have what they keep
ALLOWED = 0.03  # growth of resident memory after that, as a part of it


def resident() -> float:
    """MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def sockets() -> int:
    """How many this process has open."""
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum(os.readlink(link).startswith("socket:") for link in links if os.path.lexists(link))


async def sampled(model: HTTPModel, seed: int) -> tuple[str, int]:
    """The hash of a round, and how many sequences failed on the way: they go on where they were."""
    arguments = {"n": SEQUENCES // len(PROMPTS), "seed": seed, "max_new_tokens": TOKENS, "on_error": "keep"}
    result, failed = await generate(PROMPTS, model, **arguments), 0
    while broken := sum(sequence.finish_reason == "error" for sequence in result.sequences):
        failed += broken
        result = await generate(PROMPTS, model, **arguments, resume=result)
    return result.sha256, failed


async def soak(minutes: float) -> None:
    """See the module.

    Raises:
        AssertionError: what leaked, grew, or came out different.
    """
    before, tasks = sockets(), trio.lowlevel.current_statistics().tasks_living
    async with serve(HashLM(VOCAB)) as server, connect(server.url, top_k=50) as model:
        want = [(await sampled(model, seed))[0] for seed in range(SEEDS)]
    memory, failed, seen = await disturbed(minutes, want)
    gc.collect()
    await trio.testing.wait_all_tasks_blocked()
    left = sockets() - before, trio.lowlevel.current_statistics().tasks_living - tasks
    steady = memory[WARM_UP:]
    third = max(1, len(steady) // 3)
    growth = min(steady[-third:]) - min(steady[:third])
    print(f"{len(memory)} rounds of {SEQUENCES} sequences, the same tokens as without faults; {failed} sequences failed and went on")
    print(
        f"{seen.total():,} requests, {seen.total() - seen[None]:,} faults: {', '.join(f'{kind} {n}' for kind, n in seen.items() if kind)}"
    )
    print(f"memory {min(steady):.1f} to {max(steady):.1f} MB, growth {growth:+.2f} MB; left: {left[0]} sockets, {left[1]} tasks")
    assert left == (0, 0)
    assert growth <= ALLOWED * min(steady), "memory grows"


async def disturbed(minutes: float, want: list[str]) -> tuple[list[float], int, Counter[str | None]]:
    """Resident memory after each round, how many sequences failed, and what went wrong how often."""
    memory: list[float] = []
    failed, seen, faults = 0, Counter[str | None](), random_faults(RATE, seed=7, path="/v1/next_token_logits")

    def counted(request):
        fault = faults(request)
        seen[fault and fault.kind] += 1
        return fault

    ends = time.monotonic() + 60 * minutes
    async with (
        serve(HashLM(VOCAB), faults=counted) as server,
        connect(server.url, top_k=50, request_timeout=2.0, retry=Retry(base=0.02, cap=0.2)) as model,
    ):
        while time.monotonic() < ends or len(memory) <= WARM_UP:
            seed = len(memory) % SEEDS
            got, more = await sampled(model, seed)
            assert got == want[seed], f"round {len(memory)} gave other tokens"
            failed += more
            gc.collect()
            memory.append(resident())
            if len(memory) % 10 == 0:
                print(f"round {len(memory)}: {memory[-1]:.1f} MB, {seen.total():,} requests", flush=True)
        statistics = model.statistics()
        assert (statistics.under_way, statistics.waiting) == (0, 0)
    return memory, failed, seen


if __name__ == "__main__":
    trio.run(soak, minutes_from(sys.argv))
