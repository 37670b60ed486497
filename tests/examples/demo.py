"""``make demo``: sixteen sequences from the reference server over HTTP, recorded, sampled again offline, and held against two servers."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from main_job import main_job, shown_path

from seedbed import CheckReport, Sampler, TinyLM, check, connect, serve
from seedbed.cli.running import run_trio
from seedbed.regression.page import as_html
from seedbed.regression.report import sentence
from seedbed.server.planted import PlantedLLM, Scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DIRECTORY = Path(__file__).parents[2] / "build" / "demo-recording"
REPORT = DIRECTORY.with_name("demo-report.html")
TOP_K = 20
TEMPERATURE = 1.05


@asynccontextmanager
async def server_of(llm: object) -> AsyncIterator[str]:
    async with serve(llm) as server:
        yield server.url


async def check_against(llm: object) -> CheckReport:
    async with server_of(llm) as url, connect(url, top_k=TOP_K) as model:
        report = await check(DIRECTORY, model)
    print(f"   {report.verdict}: {sentence(report)}")
    for cause in report.causes:
        print(f"   cause: {cause.name}, {100 * cause.share:.0f} % of the drift: {cause.detail}")
    print(f"   sampled again with the recorded seed: {report.free_run}")
    return report


async def demo() -> bool:
    same = await main_job(
        server_of(TinyLM()),
        DIRECTORY,
        prompt="The seed",
        n=16,
        seed=7,
        sampler=Sampler(temperature=0.9),
        max_new_tokens=48,
        top_k=TOP_K,
    )
    print("6. Is a server the one that was recorded? The same one, started again, asked for every recorded prefix:")
    unchanged = await check_against(TinyLM())
    print(f"7. And one with a fault planted in it, its logits divided by {TEMPERATURE}:")
    changed = await check_against(PlantedLLM(TinyLM(), Scaled(TEMPERATURE)))
    REPORT.write_text(as_html(changed), "utf-8")
    print(f"   the report to read in a browser: {shown_path(REPORT)}")
    print("Next:")
    print("   .venv/bin/seedbed serve                        # a model server to play with; it says how")
    print("   .venv/bin/seedbed replay build/demo-recording  # the recording as a server")
    print("   .venv/bin/seedbed check build/demo-recording URL  # any server against it")
    print("   make demo-llama                                # the same with a real model")
    print("   make test                                      # the test suite")
    return same and (unchanged.verdict, changed.verdict) == ("IDENTICAL", "DRIFT")


if __name__ == "__main__":
    try:
        sys.exit(0 if run_trio(demo) else 1)
    except* KeyboardInterrupt:
        sys.exit(130)
