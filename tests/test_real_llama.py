"""Against a real llama.cpp server with a real 135M model; run by ``make test-real``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

from seedbed import RecordingLLM, ReplayLLM, Sampler, connect, generate
from seedbed.errors import BadRequest, ContextOverflow, InvalidPrompt
from seedbed.http.model import HTTPModel
from seedbed.llm import LLM
from seedbed.protocols.exchange import Sample
from seedbed.regression import Verdict, check
from seedbed.regression.conformance import conformance
from seedbed.regression.probe import probe
from seedbed.regression.report import as_lines
from tests.real_contract import check_contract

if TYPE_CHECKING:
    from collections.abc import Iterator

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


async def test_probe_finds_that_a_warm_prompt_cache_changes_rows_and_from_which_length() -> None:
    """What it says is held against questions of our own: at that length the cached answer differs, one token below it does not."""
    async with llama_server() as url, connect(url, top_k=20) as model:
        report = await probe(model, max_length=66, max_concurrency=1, prompts=1, seed=5)
        found = report.first
        print(*report.lines(), sep="\n")
        differs = {}
        for length in (found.length - 1, found.length):
            tokens = [504 + place for place in range(length)]
            cold = await model.next_token_logits(tokens)
            differs[length] = await model.reusing_cache().next_token_logits(tokens) != cold
            assert await model.next_token_logits(tokens) == cold

    assert [one.condition for one in report.breaks] == ["prompt cache"]
    assert found.place == f"from {found.length} tokens on"
    assert found.difference > 0.01
    assert differs == {found.length - 1: False, found.length: True}


async def test_held_against_its_recording_it_is_itself_also_after_a_restart(tmp_path: Path) -> None:
    """Alone and in company, as it was recorded; with its context stretched it is another model."""
    path = tmp_path / "recording"
    async with llama_server(threads=1) as url, connect(url, top_k=20) as model:
        async with RecordingLLM(model, path, repeats=2) as kept:
            kept.note(await generate([FRANCE, [504, 1290]], kept, n=2, seed=7, sampler=Sampler(0.8, top_k=20), max_new_tokens=6))
        at_once = await check(path, model)
    async with llama_server(threads=1) as url, connect(url, top_k=20) as model:
        restarted = await check(path, model)
    async with llama_server(threads=1, rope_freq_scale=0.5) as url, connect(url, top_k=20) as model:
        stretched = await check(path, model)
    print(*as_lines(at_once), *as_lines(restarted), *as_lines(stretched), sep="\n")

    for report in (at_once, restarted):
        assert report.verdict in (Verdict.IDENTICAL, Verdict.PASS)
        assert report.causes == ()
        assert report.free_run.same == report.free_run.sequences == 4
        assert {tags for name in report.conditions for tags in name.split(", ")} >= {"solo", "concurrent"}
    assert stretched.verdict is Verdict.DRIFT
    assert stretched.drift.value > 100 * stretched.margin


class AtAnotherTemperature(LLM):
    """The real server, asked at 1.1 where 1.0 is meant: what a server that gets temperatures wrong looks like."""

    def __init__(self, model: HTTPModel) -> None:
        self._model = model

    async def next_token_logits(self, prev_token_ids: list[int]) -> object:
        return await self._model.next_token_logits(prev_token_ids)

    async def sample(self, question: Sample) -> object:
        return await self._model.sample(replace(question, temperature=question.temperature * 1.1))

    def get_stop_token_id(self) -> int:
        return self._model.get_stop_token_id()


async def test_its_own_draws_conform_and_what_its_seeds_do_is_named() -> None:
    """Samples of one request overlap with those of the next seeds, and of a seed 32 bits count."""
    async with llama_server(slots=4) as url, connect(url, top_k="all") as model:
        prompts = [FRANCE, [504], await model.tokenize("Once upon a time, there was a"), await model.tokenize("I think that")]
        right = await conformance(model, prompts=prompts, temperature=1.5, top_k=30, top_p=0.95, draws=400, seed=1)
        wrong = await conformance(model, prompts=prompts, temperature=1.5, top_k=30, top_p=0.95, order="hf", draws=400, seed=1)
        print(*right.lines(), *wrong.lines(), sep="\n")
        hot = await conformance(AtAnotherTemperature(model), prompts=prompts, top_k=100, draws=1000, seed=1)
        print(*hot.lines(), sep="\n")

    assert right.is_conforming
    assert sorted((flaw.name, flaw.is_fault) for flaw in right.flaws) == [("seeds overlap", False), ("seeds repeat", False)]
    assert wrong.flaws[0].name == "order"
    assert "order were that of llama.cpp" in wrong.flaws[0].detail
    assert hot.flaws[0].name == "temperature"
    assert abs(hot.temperature.value - 1.1) < 3 * hot.temperature.standard_error


async def test_what_it_refuses_is_understood() -> None:
    async with llama_server() as url, connect(url, top_k=5) as model:
        with pytest.raises(BadRequest, match="invalid tokens"):
            await model.next_token_logits([504, 49152])
        with pytest.raises(ContextOverflow, match="exceeds the available context size"):
            await model.next_token_logits([504] * 2100)
        with pytest.raises(InvalidPrompt, match="holds token id 49152"):
            await generate([504, 49152], model)


@contextmanager
def demo_after(lines: int) -> Iterator[subprocess.Popen[str]]:
    """The demo, when it has said so much: after the first line its server is loading, after the third it is being sampled from."""
    process = subprocess.Popen(
        [sys.executable, "-u", DEMO], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        try:
            for _ in range(lines):
                process.stdout.readline()
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("lines", [1, 3])
def test_ctrl_c_at_any_moment_leaves_no_process(lines: int) -> None:
    before = llama_processes()
    with demo_after(lines) as process:
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)

        assert process.returncode == 130
        assert re.fullmatch(r"interrupted\n", said)
        assert set(llama_processes()) <= set(before)


def test_killed_outright_it_takes_its_server_with_it() -> None:
    before = llama_processes()
    with demo_after(3) as process:
        children = set(llama_processes()) - set(before)
        process.kill()
        process.communicate()
        for child in children:
            for _ in range(100):
                if child not in llama_processes():
                    break
                signal.sigtimedwait([], 0.1)

        assert children
        assert not children & set(llama_processes())
