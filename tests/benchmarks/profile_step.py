"""``make profile``: where does the client's time of one step go, from asking for a row to the token drawn from it?

64 sequences are generated over 64 connections from a server process with canned answers, V = 151,936, once with the 50 best tokens a row
and once with full rows, no row kept. Every millisecond of CPU time the innermost Python frame is noted: the room of ours it is in, or the
library; time inside a C function, such as a sum of numpy's or a write to a socket, counts for the frame that called it.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from rich.console import Console
from rich.table import Table

import seedbed
from seedbed import connect, generate
from tests.benchmarks.bench_http import FULL, KINDS, PROMPT, answers_of
from tests.benchmarks.canned_server import canned_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

INTERVAL = 0.001  # seconds of CPU time
SEQUENCES = 64
TOKENS = {"native": 200, FULL: 60}  # a sequence
OURS = Path(seedbed.__file__).parent
SITE = Path(trio.__file__).parents[1]


class Samples:
    """Where the process was found, by room and by function."""

    def __init__(self) -> None:
        self.rooms: Counter[str] = Counter()
        self.functions: Counter[str] = Counter()

    def note(self, _signal: int, frame: FrameType | None) -> None:
        if frame is not None:
            self.rooms[room_of(frame)] += 1
            self.functions[function_of(frame)] += 1

    def share(self, count: int) -> float:
        return count / max(1, self.rooms.total())


def room_of(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    if path.is_relative_to(OURS):
        return path.relative_to(OURS).parts[0]
    if path.is_relative_to(SITE):
        return "trio: its sockets" if path.name == "_socket.py" else path.relative_to(SITE).parts[0]
    return "the standard library"


def function_of(frame: FrameType) -> str:
    """The innermost function of ours: what a library does, it does for somebody."""
    inner: FrameType | None = frame
    while inner is not None and not Path(inner.f_code.co_filename).is_relative_to(OURS):
        inner = inner.f_back
    if inner is None:
        return "trio's own loop"
    return f"{Path(inner.f_code.co_filename).relative_to(OURS)} {inner.f_code.co_qualname}"


@contextmanager
def sampled() -> Iterator[Samples]:
    """Note where the process is, while the block runs."""
    samples = Samples()
    before = signal.signal(signal.SIGPROF, samples.note)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
    try:
        yield samples
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


async def profiled(kind: str, url: str) -> tuple[Samples, float]:
    """The samples, and CPU seconds a token."""
    async with connect(url, "native", top_k=KINDS[kind] or "all", max_connections=SEQUENCES) as model:

        async def steps(tokens: int) -> int:
            result = await generate(PROMPT, model, n=SEQUENCES, seed=7, max_new_tokens=tokens, prefix_cache_bytes=0)
            return result.stats.tokens

        await steps(2)  # opens the connections
        with sampled() as samples:
            began = time.process_time()
            drawn = await steps(TOKENS[kind])
            elapsed = time.process_time() - began
    return samples, elapsed / drawn


def show(console: Console, kind: str, samples: Samples, seconds: float) -> None:
    console.print(f"\n[bold]{kind}[/bold]: {seconds * 1e6:.0f} µs of CPU a token, {samples.rooms.total()} samples")
    for what, counted, most in (("room", samples.rooms, 12), ("function, and what it calls outside", samples.functions, 10)):
        table = Table("share", what, box=None)
        for name, count in counted.most_common(most):
            table.add_row(f"{samples.share(count):.0%}", name)
        console.print(table)


def main() -> None:
    console = Console() if sys.stdout.isatty() else Console(width=120)
    for kind in TOKENS:
        with canned_server(trio.run(answers_of, kind)) as url:
            show(console, "50 best of a row" if kind == "native" else kind, *trio.run(profiled, kind, url))


if __name__ == "__main__":
    main()
