"""1,000 workers, 100 replicas: is it the servers that bound the throughput, and what does prefix affinity buy?

Everything runs on a virtual clock, without a socket: the workers are real ``open_stream`` loops (their draws, caches and windows are those
of a run), the replicas are models of servers. A replica answers up to SLOTS questions at a time; one takes STEP seconds and, for each token
of the prefix whose block it has not kept, PREFILL more; it keeps KEPT blocks of 16 tokens, the youngest. Each worker knows only its own
requests, and chooses by the function that ``connect`` chooses by. Prompts come in groups that share their first 512 tokens, as with a
system prompt or a few-shot header.

The client's own cost is real time, which a virtual clock does not see: it is measured beside, as CPU seconds a token.

Run: ``make simulate``, or ``python -m tests.benchmarks.simulate_replicas --quick``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import trio
import trio.testing
from rich.console import Console
from rich.table import Table

from seedbed import LLM
from seedbed.generation.bulk import Pace, Prompt, Recipe, open_stream
from seedbed.http.replicas import BLOCK, SLACK, blocks_of, whom
from seedbed.llm import ModelInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOTS, STEP, PREFILL, KEPT = 8, 0.020, 0.0001, 4_096
GROUPS, SHARED, OWN, TOKENS = 50, 512, 64, 8
VOCABULARY = 32


@dataclass
class Replica:
    """A model of a server."""

    slots: trio.CapacityLimiter
    kept: dict[int, None] = field(default_factory=dict)  # blocks, the youngest last
    busy: float = 0.0  # slot-seconds
    prefilled: int = 0  # tokens

    async def answer(self, blocks: Sequence[int], tokens: int) -> None:
        async with self.slots:
            had = 0
            for block in blocks:
                if block not in self.kept:
                    break
                had += BLOCK
            for block in blocks:
                self.kept.pop(block, None)
                self.kept[block] = None
            while len(self.kept) > KEPT:
                del self.kept[next(iter(self.kept))]
            seconds = STEP + PREFILL * (tokens - had)
            self.busy += seconds
            self.prefilled += tokens - had
            await trio.sleep(seconds)


def by_list(states: dict[int, tuple[int, int]], known: int | None) -> int:
    """The rule without what breaks ties: the first of the list does."""
    least = min(states, key=lambda replica: states[replica])
    return known if known is not None and states[known][0] <= states[least][0] + SLACK else least


class Client(LLM):
    """A worker's view of all replicas: its own loads, its own memory of whom it asked for what."""

    def __init__(self, replicas: list[Replica], policy: str, row: np.ndarray) -> None:
        self._replicas, self._policy, self._row = replicas, policy, row
        self._loads, self._asked = [0] * len(replicas), [0] * len(replicas)
        self._asked_of: dict[int, int] = {}

    async def next_token_logits(self, prev_token_ids):
        blocks = blocks_of(tuple(prev_token_ids))
        chosen = self._choose(blocks)
        self._loads[chosen] += 1
        self._asked[chosen] += 1
        try:
            await self._replicas[chosen].answer(blocks, len(prev_token_ids))
        finally:
            self._loads[chosen] -= 1
        return self._row

    def _choose(self, blocks: Sequence[int]) -> int:
        if self._policy == "prefix hash":  # the same for all clients: by the first shared blocks alone
            known: int | None = blocks[SHARED // BLOCK - 1] % len(self._replicas)
        elif self._policy == "least busy":
            known = None
        else:
            known = next((self._asked_of[block] for block in reversed(blocks) if block in self._asked_of), None)
        states = dict(enumerate(zip(self._loads, self._asked, strict=True)))
        chosen = by_list(states, known) if self._policy == "affinity, ties by list" else whom(states, blocks, known)
        for block in blocks:
            self._asked_of.setdefault(block, chosen)
        if blocks:
            self._asked_of[blocks[-1]] = chosen
        return chosen

    def get_stop_token_id(self) -> int:
        return 0

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(vocab_size=VOCABULARY, eos_token_ids=(0,))


def prompt(number: int) -> Prompt:
    """Its group's beginning, then tokens of its own."""
    group = 1 + number % GROUPS % (VOCABULARY - 1), 1 + number % GROUPS // (VOCABULARY - 1)
    own = [1 + (number // 31**place) % 31 for place in range(OWN)]
    return Prompt(number, (*group, *group * (SHARED // 2 - 1), *own))


async def simulate(workers: int, count: int, concurrency: int, prompts: int, policy: str) -> dict[str, float]:
    """Every worker samples its own prompts, ``concurrency`` at a time."""
    row = np.zeros(VOCABULARY, np.float32)
    row[0] = -np.inf  # never the end: TOKENS tokens each
    replicas = [Replica(trio.CapacityLimiter(SLOTS)) for _ in range(count)]
    tokens = 0

    async def work(number: int) -> None:
        nonlocal tokens
        mine = (prompt(number * prompts + place) for place in range(prompts))
        client = Client(replicas, policy, row)
        recipe, pace = Recipe(7, max_new_tokens=TOKENS, text=False), Pace(concurrency=concurrency, prefix_cache_bytes=0)
        async with open_stream(mine, client, recipe, pace) as stream:
            async for finished in stream:
                tokens += finished.tokens

    began, cpu = trio.current_time(), time.process_time()
    async with trio.open_nursery() as nursery:
        for number in range(workers):
            nursery.start_soon(work, number)
    seconds, cpu = trio.current_time() - began, time.process_time() - cpu
    busy = [replica.busy / (SLOTS * seconds) for replica in replicas]
    return {
        "tokens/s": tokens / seconds,
        "use of the slots": float(np.mean(busy)),
        "busiest": max(busy),
        "idlest": min(busy),
        "prefill a token": sum(replica.prefilled for replica in replicas) / tokens,
        "bound": count * SLOTS / STEP,
        "CPU us a token": 1e6 * cpu / tokens,
    }


def run(workers: int, count: int, concurrency: int, prompts: int, policy: str) -> dict[str, float]:
    return trio.run(simulate, workers, count, concurrency, prompts, policy, clock=trio.testing.MockClock(autojump_threshold=0))


POLICIES = ("least busy", "affinity, ties by list", "affinity", "prefix hash")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="50 workers, 5 replicas")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--policy", choices=POLICIES, action="append", help="only these")
    options = parser.parse_args()
    workers, count = (50, 5) if options.quick else (1000, 100)
    results = [
        {"concurrency": concurrency, "policy": policy, **run(workers, count, concurrency, max(4, 2 * concurrency), policy)}
        for concurrency in (1, 4)
        for policy in options.policy or POLICIES
    ]
    if options.json:
        print(json.dumps(results, indent=1))
        return
    columns = (
        "workers",
        "sequences each",
        "who is asked",
        "tokens/s",
        "of the bound",
        "slots used",
        "busiest",
        "idlest",
        "prefilled a token",
    )
    table = Table(*columns, "client CPU a token", box=None)
    for r in results:
        table.add_row(
            str(workers), str(r["concurrency"]), r["policy"], f"{r['tokens/s']:,.0f}", f"{r['tokens/s'] / r['bound']:.0%}",
            f"{r['use of the slots']:.0%}", f"{r['busiest']:.0%}", f"{r['idlest']:.0%}", f"{r['prefill a token']:.1f}",
            f"{r['CPU us a token']:.0f} us",
        )  # fmt: skip
    console = Console(width=150)
    console.print(table)
    console.print(f"{count} replicas of {SLOTS} slots, {STEP * 1000:g} ms a token: {count * SLOTS / STEP:,.0f} tokens/s at most")


if __name__ == "__main__":
    main()
