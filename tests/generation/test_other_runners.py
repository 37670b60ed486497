"""Ways in from asyncio, IPython and plain code; and what is said to who awaits under something else than trio."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
import trio

from seedbed import (
    HashLM,
    PrefixCache,
    check,
    conformance,
    connect,
    generate,
    generate_token_ids,
    generate_token_ids_multiple,
    open_generation,
    probe,
    serve,
)
from seedbed.errors import WrongRunner
from seedbed.testing import ScriptedLLM

EXAMPLE = Path(__file__).parents[1] / "examples" / "from_asyncio.py"


def example():
    spec = util.spec_from_file_location("from_asyncio", EXAMPLE)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def opened() -> None:
    async with open_generation([1], HashLM(9)):
        pass


async def entered() -> None:
    async with PrefixCache(HashLM(9)):
        pass


async def connected() -> None:
    async with connect("http://127.0.0.1:1"):
        pass


async def served() -> None:
    async with serve(HashLM(9)):
        pass


WAYS = {
    "generate": lambda: generate([1], HashLM(9)),
    "generate_token_ids": lambda: generate_token_ids([1], HashLM(9)),
    "generate_token_ids_multiple": lambda: generate_token_ids_multiple([1], HashLM(9), 2),
    "open_generation": opened,
    "PrefixCache": entered,
    "connect": connected,
    "serve": served,
    "check": lambda: check("nowhere", HashLM(9)),
    "conformance": lambda: conformance(HashLM(9)),
    "probe": lambda: probe(HashLM(9)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_awaited_by_asyncio_it_says_what_to_do(way) -> None:
    async def main() -> None:
        await way()

    with pytest.raises(WrongRunner, match="asyncio.to_thread"):
        asyncio.run(main())


def test_awaited_by_asyncio_while_trio_runs_as_its_guest_it_says_so_too() -> None:
    """trio runs in this thread, but not in this task."""

    async def main() -> None:
        begun = asyncio.Event()

        async def sleeping() -> None:
            begun.set()
            await trio.sleep_forever()

        guest = asyncio.create_task(example().as_guest(sleeping))
        await begun.wait()
        try:
            with pytest.raises(WrongRunner):
                await generate([1], HashLM(9))
        finally:
            guest.cancel()
            with pytest.raises(asyncio.CancelledError):
                await guest

    asyncio.run(main())


def test_the_example_runs_as_it_is() -> None:
    said = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=True).stdout

    assert said == "the same sequences both ways: True\n"


def test_cancelling_the_asyncio_task_cancels_the_sequences() -> None:
    ended = []

    class Endless(ScriptedLLM):
        async def next_token_logits(self, prev_token_ids):
            self.asked.append(tuple(prev_token_ids))
            if len(self.asked) == 2:
                both.set()
            try:
                await trio.sleep_forever()
            finally:
                ended.append(tuple(prev_token_ids))

    both = asyncio.Event()

    async def main() -> None:
        task = asyncio.create_task(example().as_guest(lambda: generate([[1], [2]], Endless({}))))
        await both.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(ended) == [(1,), (2,)]

    asyncio.run(main())


@pytest.mark.parametrize("way", ["in_a_thread", "as_guest"])
def test_errors_come_out_as_they_are(way: str) -> None:
    async def main() -> None:
        with pytest.raises(OSError, match="gone"):
            await getattr(example(), way)(lambda: generate([1], ScriptedLLM({}, default=OSError("gone"))))

    asyncio.run(main())


def test_plain_code_needs_nothing_but_trio_run() -> None:
    assert len(trio.run(lambda: generate([1], HashLM(9), max_new_tokens=3, seed=7)).token_ids) == 1


def test_in_ipython_cells_can_await() -> None:
    pytest.importorskip("IPython", reason="needs IPython: pip install ipython")
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
shell.run_cell("%autoawait trio")
shell.run_cell("from seedbed import HashLM, generate")
shell.run_cell("result = await generate([1], HashLM(9), max_new_tokens=3, seed=7)").raise_error()
shell.run_cell("print('sampled', len(result.sequences))")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert "sampled 1" in said.stdout, said.stderr
