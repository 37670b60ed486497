"""Against a real llama.cpp server with a real 135M model; run by ``make test-real``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from seedbed import RecordingLLM, ReplayLLM, Sampler, connect, generate
from seedbed.errors import BadRequest, ContextOverflow, InvalidPrompt
from seedbed.http.model import HTTPModel
from tests.real_contract import check_contract

EXAMPLES = Path(__file__).parent / "examples"
DEMO = EXAMPLES / "demo_llama.py"
sys.path.insert(0, str(EXAMPLES))

from llama_server import llama_server  # noqa: E402

pytestmark = pytest.mark.real
FRANCE = [504, 3575, 282, 4649, 314]


def llama_processes() -> list[int]:
    """Processes that run the server script, as the kernel lists them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"llama_server.py" in command and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


async def test_discovery_and_rows() -> None:
    async with llama_server() as url, connect(url, top_k=20) as model:
        assert isinstance(model, HTTPModel)
        assert (model.protocol, model.info.vocab_size, model.info.eos_token_ids, model.info.context_length) == (
            "llama.cpp",
            49152,
            (2,),
            2048,
        )
        assert await model.tokenize("The capital of France is") == FRANCE
        assert await model.detokenize(FRANCE) == "The capital of France is"
        row = await model.next_token_logits(FRANCE)
        assert await model.detokenize(row.token_ids[:1].tolist()) == " Paris"
        assert row == await model.next_token_logits(FRANCE)

    async with llama_server() as url, connect(url, top_k="all") as model:
        full = await model.next_token_logits(FRANCE)
        assert full.shape == (49152,)
        np.testing.assert_allclose(full[row.token_ids], row.logprobs, atol=2e-4)


async def test_it_keeps_the_contract_of_real_servers(tmp_path: Path) -> None:
    async with llama_server() as url:

        async def busy() -> int:
            async with httpx.AsyncClient() as client:
                return sum(slot["is_processing"] for slot in (await client.get(url + "/slots")).json())

        await check_contract(url, FRANCE, busy, tmp_path / "recording", top_k=20)


async def test_a_row_is_had_where_the_servers_own_choice_is_half_a_character() -> None:
    """Without a forced choice this server answers this prefix without probabilities."""
    prefix = [504, 3575, 282, 4649, 314, 7042, 284, 624, 10882, 1453, 260, 2240, 28, 260, 3575, 282, 624, 2695, 28, 260]
    async with llama_server() as url, connect(url, top_k=5) as model:
        assert (await model.next_token_logits(prefix)).token_ids[0] == 5549


async def test_recorded_and_replayed_it_is_the_same(tmp_path: Path) -> None:
    arguments = {"n": 3, "seed": 7, "sampler": Sampler(temperature=0.8, top_k=20), "max_new_tokens": 8}
    async with llama_server() as url, connect(url, top_k=20) as model, RecordingLLM(model, tmp_path / "recording") as recorded:
        live = await generate(FRANCE, recorded, **arguments)
        again = await generate(FRANCE, model, **arguments)

    assert (await generate(FRANCE, ReplayLLM(tmp_path / "recording"), **arguments)).sha256 == live.sha256 == again.sha256


async def test_asked_ahead_it_is_asked_half_as_often() -> None:
    """P6: at most 0.5 round trips a token at temperature 0.7; and siblings share their first step."""
    async with llama_server() as url, connect(url, top_k=40) as model:
        prompt = await model.tokenize("Once upon a time, there was a little girl who")
        arguments = {"n": 6, "seed": 7, "sampler": Sampler(temperature=0.7, top_k=40), "max_new_tokens": 40}
        ahead = await generate(prompt, model, lookahead="auto", **arguments)

    print(f"{ahead.stats.requests} requests for {ahead.stats.tokens} tokens")
    assert ahead.stats.requests <= 0.55 * ahead.stats.tokens


async def test_what_it_refuses_is_understood() -> None:
    async with llama_server() as url, connect(url, top_k=5) as model:
        with pytest.raises(BadRequest, match="invalid tokens"):
            await model.next_token_logits([504, 49152])
        with pytest.raises(ContextOverflow, match="exceeds the available context size"):
            await model.next_token_logits([504] * 2100)
        with pytest.raises(InvalidPrompt, match="holds token id 49152"):
            await generate([504, 49152], model)


@pytest.mark.parametrize("lines_first", [1, 3])
def test_ctrl_c_at_any_moment_leaves_no_process(lines_first: int) -> None:
    """After the first line the server is loading, after the third it is being sampled from."""
    process = subprocess.Popen(
        [sys.executable, "-u", DEMO],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(lines_first):
        process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)

    assert process.returncode == 130
    assert re.fullmatch(r"interrupted\n", said)
    assert not llama_processes()


def test_killed_outright_it_takes_its_server_with_it() -> None:
    process = subprocess.Popen([sys.executable, "-u", DEMO], stdout=subprocess.PIPE, text=True)
    for _ in range(3):
        process.stdout.readline()
    children = llama_processes()
    process.kill()
    process.communicate()
    for child in children:
        for _ in range(100):
            if child not in llama_processes():
                break
            signal.sigtimedwait([], 0.1)

    assert children
    assert not llama_processes()
