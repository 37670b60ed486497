"""``make demo``: sixteen sequences from the reference server over HTTP, recorded, and sampled again offline."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from main_job import main_job

from seedbed import Sampler, TinyLM, serve
from seedbed.cli.options import run_trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DIRECTORY = Path(__file__).parents[2] / "build" / "demo-recording"


@asynccontextmanager
async def reference_server() -> AsyncIterator[str]:
    async with serve(TinyLM()) as server:
        yield server.url


async def demo() -> bool:
    same = await main_job(
        reference_server(), DIRECTORY, prompt="The seed", n=16, seed=7, sampler=Sampler(temperature=0.9), max_new_tokens=96, top_k=20
    )
    print("Next:")
    print("   .venv/bin/seedbed serve                        # a model server to play with; it says how")
    print("   .venv/bin/seedbed replay build/demo-recording  # the recording as a server")
    print("   make demo-llama                                # the same with a real model")
    print("   make test                                      # the test suite")
    return same


if __name__ == "__main__":
    try:
        sys.exit(0 if run_trio(demo) else 1)
    except* KeyboardInterrupt:
        sys.exit(130)
