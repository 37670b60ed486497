"""Whatever ends a program's sampling, the program still has what was finished: after Ctrl-C, and when the server dies."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import trio

from seedbed import TinyLM, connect, generate, open_generation, serve
from seedbed.errors import ServerError
from seedbed.http.retry import Retry

CTRL_C = r"""
import signal, sys, trio
from seedbed import TinyLM, open_generation

class Slow(TinyLM):
    async def next_token_logits(self, prev_token_ids):
        await trio.sleep(0.001)
        return await super().next_token_logits(prev_token_ids)

generation = None

async def main():
    global generation
    async with open_generation([list(b"The "), list(b"In ")], Slow(), 50, seed=7, max_new_tokens=40) as generation:
        async for sequence in generation:
            print("finished one", flush=True)

try:
    trio.run(main)
except* KeyboardInterrupt:
    done = [s for s in generation.sequences if s.finish_reason in ("stop", "length")]
    print("\nhave", len(generation.sequences), len(done) > 0, all(s.token_ids for s in done))
    reasons = {s.finish_reason for s in generation.sequences}
    print(reasons <= {"stop", "length", "cancelled"}, 0 <= len(done) - generation.progress.finished <= 1)
"""


def test_after_a_real_ctrl_c_the_program_reads_what_was_finished() -> None:
    """The signal comes from outside. One that had just drawn its last token may be finished without having been handed on."""
    process = subprocess.Popen([sys.executable, "-c", CTRL_C], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)

    assert said.splitlines()[-2:] == ["have 100 True True", "True True"]
    assert process.returncode == 0


@pytest.mark.parametrize("lookahead", [1, 4])
async def test_when_the_server_dies_the_error_has_what_was_finished(lookahead: int) -> None:
    """The listener goes away under open connections, in the middle of all sequences but those that are done."""
    prompts, arguments = [list(b"The "), list(b"In ")], {"n": 8, "seed": 7, "max_new_tokens": 200, "lookahead": lookahead}
    undisturbed = await generate(prompts, TinyLM(), **arguments)
    generation = None
    async with trio.open_nursery() as nursery:
        stop = trio.Event()

        async def server(task_status) -> None:
            async with serve(TinyLM()) as served:
                task_status.started(served.url)
                await stop.wait()

        url = await nursery.start(server)
        async with connect(url, retry=Retry(attempts=1)) as model:
            with pytest.raises(ServerError) as caught:
                async with open_generation(prompts, model, **arguments) as generation:
                    async for _ in generation:
                        stop.set()
    assert caught.value.result is not None
    assert generation is not None
    assert caught.value.result.sequences == generation.sequences
    finished = [s for s in generation.sequences if s.finish_reason in ("stop", "length")]
    assert finished
    assert {"error", "cancelled"} & {s.finish_reason for s in generation.sequences}
    for have, want in zip(generation.sequences, undisturbed.sequences, strict=True):
        assert have.token_ids == want.token_ids[: len(have.token_ids)]
    assert (await generate(prompts, TinyLM(), **arguments, resume=caught.value.result)) == undisturbed
