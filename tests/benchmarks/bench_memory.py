"""P7: how much memory do 1,000 sequences in flight take, at a vocabulary of 151,936 in float32?

Peak resident memory of a process of its own that samples from a model in the same process: every question sleeps, lognormally, then a row
of 608 kB is there. Beside it the sketch, which gathers all rows of a step in a list. Run: ``python -m tests.benchmarks memory``.
"""

from __future__ import annotations

import json
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import trio

from seedbed import LLM, generate

SIZE = 151_936
GOAL = 400.0  # MB
ROW = np.random.Generator(np.random.PCG64(0)).normal(0, 2.5, SIZE).astype(np.float32)


class Sleeping(LLM):
    """A fresh row for every question, after a while; the first answer not before ``crowd`` questions are under way."""

    def __init__(self, median: float, crowd: int) -> None:
        self.median, self.chance = median, np.random.default_rng(7)
        self.crowd, self.all_there = crowd, trio.Event()
        self.under_way = self.most = 0

    async def next_token_logits(self, prev_token_ids):
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.under_way == self.crowd:
            self.all_there.set()
        try:
            await self.all_there.wait()
            await trio.sleep(self.median * self.chance.lognormal(0, 1))
            return ROW + np.float32(prev_token_ids[0])
        finally:
            self.under_way -= 1

    def get_stop_token_id(self) -> int:
        return SIZE


async def ours(llm: Sleeping, sequences: int, tokens: int) -> int:
    result = await generate([[prompt] for prompt in range(sequences)], llm, seed=7, max_new_tokens=tokens)
    return result.stats.tokens


async def sketch(llm: Sleeping, sequences: int, tokens: int) -> int:
    prefixes = [[prompt] for prompt in range(sequences)]
    for _ in range(tokens):
        rows: list[np.ndarray] = [ROW] * sequences

        async def ask(place: int, rows: list[np.ndarray] = rows) -> None:
            rows[place] = await llm.next_token_logits(prefixes[place])

        async with trio.open_nursery() as nursery:
            for place in range(sequences):
                nursery.start_soon(ask, place)
        for prefix, row in zip(prefixes, rows, strict=True):
            prefix.append(int(row.argmax()))  # its draw takes no memory to speak of, and this less time
    return sequences * tokens


def peak(way: str, sequences: int, tokens: int, median: float = 0.2) -> float:
    """MB of resident memory, at most, of a process that does it; all its questions are under way at once."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_memory", way, str(sequences), str(tokens), str(median)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said == {"tokens": sequences * tokens, "most": sequences, "MB": said["MB"]}, said
    return float(said["MB"])


def run(quick: bool) -> list[dict[str, object]]:
    rounds = 2 if quick else 5
    figures = [peak("ours", 1000, 1 if quick else 4) for _ in range(rounds)]
    results = [_result("P7", "MB at most, 1,000 sequences in flight, V = 151,936", figures, GOAL)]
    if not quick:
        beside = [peak("sketch", 1000, 1) for _ in range(rounds)]
        results.append(_result("P7 sketch", "the same, the rows of a step gathered in a list", beside, None))
    return results


def _result(name: str, what: str, figures: list[float], goal: float | None) -> dict[str, object]:
    low, middle, high = statistics.quantiles(figures, n=4)
    ok = None if goal is None else max(figures) <= goal
    return {"id": name, "what": what, "ratio": middle, "low": low, "high": high, "goal": goal, "ok": ok}


def main() -> None:
    if len(sys.argv) < 5:
        for result in run("--quick" in sys.argv):
            print(result)
        return
    way, sequences, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    llm = Sleeping(float(sys.argv[4]), sequences)
    drawn = trio.run(ours if way == "ours" else sketch, llm, sequences, tokens)
    print(json.dumps({"tokens": drawn, "most": llm.most, "MB": peak_megabytes()}))


def peak_megabytes() -> float:
    """Of this process. Linux counts in ru_maxrss what the parent had when it started us, too; VmHWM is our own."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


if __name__ == "__main__":
    main()
