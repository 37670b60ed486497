"""``make demo-llama``: eight sequences from a real llama.cpp server with a real model, recorded, and sampled again offline."""

from __future__ import annotations

import sys
from pathlib import Path

from llama_server import llama_server
from main_job import main_job

from seedbed import Sampler
from seedbed.cli.running import run_trio
from seedbed.errors import SeedbedError

DIRECTORY = Path(__file__).parents[2] / "build" / "demo-llama-recording"


async def demo() -> bool:
    print("0. Starting llama.cpp with SmolLM2-135M-Instruct (a few seconds)")
    return await main_job(
        llama_server(),
        DIRECTORY,
        prompt="Once upon a time, in a small garden behind the school, there",
        n=8,
        seed=7,
        sampler=Sampler(temperature=0.8, top_k=40),
        max_new_tokens=48,
        top_k=50,
    )


if __name__ == "__main__":
    try:
        sys.exit(0 if run_trio(demo) else 1)
    except* KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except* SeedbedError as group:
        print(f"Error: {group.exceptions[0]}", file=sys.stderr)
        sys.exit(group.exceptions[0].exit_code)
