"""Does the memory of a run over a file depend on how long the file is, and what does an observer cost?

B1: peak resident memory of a process that samples a token from each of 10,000 prompts, over that of one with 1,000, which fill the window
both; ``--million`` does it with 1,000,000, and takes its time. B2: CPU of a generation while nobody listens, over the same with no hooks.
Run: ``python -m tests.benchmarks bulk``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import trio

from seedbed import LLM, generate
from seedbed.generation import nursery
from seedbed.generation.bulk import Pace, generate_file
from seedbed.llm import ModelInfo, prefix_cache
from tests.benchmarks.bench_memory import peak_megabytes

SIZE = 1000
GOAL_MEMORY, GOAL_OBSERVER = 1.1, 1.02
PACE = Pace(window=512, prefix_cache_bytes=1_000_000)  # bounds that both runs reach


class Flat(LLM):
    """The same row always, after a moment."""

    row = np.random.Generator(np.random.PCG64(0)).normal(0, 2.5, SIZE).astype(np.float32)
    info = ModelInfo(vocab_size=SIZE, eos_token_ids=(0,))

    async def next_token_logits(self, prev_token_ids):
        await trio.lowlevel.checkpoint()
        return self.row

    def get_stop_token_id(self) -> int:
        return 0


def run_file(count: int) -> dict[str, float]:
    """In a process of its own: sample, and say what it took."""
    with tempfile.TemporaryDirectory() as directory:
        prompts, out = Path(directory, "prompts.jsonl"), Path(directory, "rows.jsonl")
        with prompts.open("w") as file:
            for place in range(count):
                file.write(f'{{"token_ids": [{place % SIZE}, {place // SIZE % SIZE}, {place // SIZE**2 % SIZE}], "id": {place}}}\n')
        began = time.perf_counter()
        report = trio.run(lambda: generate_file(prompts, out, Flat(), seed=7, max_new_tokens=1, pace=PACE))
        return {"MB": peak_megabytes(), "prompts": report.prompts, "seconds": time.perf_counter() - began, "octets": out.stat().st_size}


def measured(count: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_bulk", "file", str(count)], capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert said["prompts"] == count
    return said


def cpu_of_a_generation() -> float:
    began = time.process_time()
    trio.run(lambda: generate([1], Flat(), 64, seed=7, max_new_tokens=16, stop_token_ids=()))
    return time.process_time() - began


def observer_ratio() -> float:
    """Nobody listens: as it is, over with the look at who listens replaced by a constant."""
    with_hooks = cpu_of_a_generation()
    real = nursery.observers
    nothing: tuple[()] = ()
    try:
        nursery.observers = prefix_cache.observers = lambda: nothing
        without = cpu_of_a_generation()
    finally:
        nursery.observers = prefix_cache.observers = real
    return with_hooks / without


def run(quick: bool) -> list[dict[str, object]]:
    short, long = (250, 1_000) if quick else (1_000, 10_000)
    memory = [measured(long)["MB"] / measured(short)["MB"] for _ in range(2 if quick else 3)]
    cpu_of_a_generation()
    off = [observer_ratio() for _ in range(3 if quick else 15)]
    return [
        _result("B1", f"peak memory of {long:,} prompts / of {short:,}", memory, GOAL_MEMORY),
        _result("B2", "CPU of a generation: nobody listens / no hooks", off, GOAL_OBSERVER),
    ]


def _result(name: str, what: str, figures: list[float], goal: float) -> dict[str, object]:
    low, ratio, high = statistics.quantiles(figures, n=4)
    return {"id": name, "what": what, "ratio": ratio, "low": low, "high": high, "goal": goal, "ok": ratio <= goal}


def main() -> None:
    if sys.argv[1:2] == ["file"]:
        print(json.dumps(run_file(int(sys.argv[2]))))
        return
    if "--million" in sys.argv:
        print(measured(1_000_000))
        return
    for result in run("--quick" in sys.argv):
        print(result)


if __name__ == "__main__":
    main()
