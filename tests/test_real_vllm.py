"""Against a real vLLM server on the CPU, where one is installed: see ``vllm_server``. Skipped elsewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from seedbed import CheckReport, RecordingLLM, check, connect, generate
from seedbed.errors import FeatureOff, UsageError
from seedbed.regression import Verdict
from seedbed.regression.report import as_lines
from tests.real_contract import check_contract
from tests.vllm_server import CONTEXT, V, interpreter, make_model, vllm_server

sys.path.insert(0, str(Path(__file__).parent / "examples"))

from llama_server import is_installed, llama_server
from tiny_gguf import write_gguf

pytestmark = [pytest.mark.real, pytest.mark.skipif(interpreter() is None, reason="vLLM is not installed: see tests/vllm_server.py")]
PROMPT = [5, 6, 7, 300]
PENALISING = '{"repetition_penalty": 2.0, "top_k": 3}'  # the model's own defaults, as many have them
EVERYTHING = ("--max-logprobs", "-1", "--enable-scale-out")


async def running(url: str) -> int:
    """How many requests its own metrics say it works on."""
    async with httpx.AsyncClient() as client:
        metrics = (await client.get(url + "/metrics")).text
    return sum(int(float(value)) for value in re.findall(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)", metrics, re.MULTILINE))


async def test_logprobs_in_both_of_its_protocols(tmp_path: Path) -> None:
    async with vllm_server(*EVERYTHING) as url:
        with pytest.raises(UsageError, match="does not tell its eos_token_ids"):
            async with connect(url):
                pass
        for protocol in ("auto", "vllm", "vllm-generate"):
            options = {"protocol": protocol, "top_k": 20, "eos_token_ids": [2]}
            async with connect(url, **options) as model:
                assert model.protocol == ("vllm" if protocol == "auto" else protocol)
                assert (model.info.model, model.info.vocab_size, model.info.context_length) == ("tiny", V, CONTEXT)
                assert (model.info.kind, model.info.max_top_k) == ("logprobs", None)
                assert await model.detokenize(await model.tokenize("The seed")) == "The seed"
            await check_contract(url, PROMPT, lambda: running(url), tmp_path / protocol, **options)


async def test_raw_logits_and_the_cap_and_what_the_model_would_penalise() -> None:
    """A model's own repetition penalty, as many have, must not make its choice look like a lie."""
    async with vllm_server("--logprobs-mode", "raw_logits", defaults=PENALISING) as url:
        with pytest.raises(FeatureOff) as caught:
            async with connect(url, top_k=20, eos_token_ids=[2]):
                pass
        assert caught.value.flag in ("--logprobs-mode raw_logprobs", "--max-logprobs -1")
    async with (
        vllm_server("--logprobs-mode", "raw_logits", "--max-logprobs", "-1", defaults=PENALISING) as url,
        connect(url, eos_token_ids=[2]) as model,
    ):
        assert (model.info.kind, model.top_k) == ("logits", None)
        prompt = list(PROMPT)
        best = int((await model.next_token_logits(prompt)).argmax())
        for _ in range(8):  # where its choice is in the prompt already, a penalty would change it
            prompt.append(best)
            best = int((await model.next_token_logits(prompt)).argmax())


async def test_processed_scores_are_what_raw_ones_are_as_we_ask_for_them() -> None:
    async with (
        vllm_server("--logprobs-mode", "processed_logprobs", defaults=PENALISING) as url,
        connect(url, eos_token_ids=[2]) as model,
    ):
        processed = await model.next_token_logits([*PROMPT, *PROMPT])
    async with vllm_server() as url, connect(url, eos_token_ids=[2]) as model:
        raw = await model.next_token_logits([*PROMPT, *PROMPT])

    assert processed == raw


async def recorded(url: str, path: Path, **options: Any) -> None:
    async with connect(url, top_k=20, eos_token_ids=[2], **options) as model, RecordingLLM(model, path, repeats=2) as kept:
        kept.note(await generate([[1, *PROMPT], [1, 40, 41, 42, 43, 44]], kept, n=2, seed=7, max_new_tokens=8))


async def checked(url: str, path: Path) -> CheckReport:
    async with connect(url, top_k=20, eos_token_ids=[2]) as model:
        report = await check(path, model)
    print(*as_lines(report), sep="\n")
    return report


async def test_held_against_its_recording_it_is_itself_and_in_16_bits_it_is_not(tmp_path: Path) -> None:
    async with vllm_server() as url:
        await recorded(url, tmp_path / "r")
        report = await checked(url, tmp_path / "r")

    assert report.verdict in (Verdict.IDENTICAL, Verdict.PASS)
    assert report.causes == ()

    async with vllm_server("--dtype", "bfloat16") as url:
        report = await checked(url, tmp_path / "r")

    assert report.verdict is Verdict.CHANGED
    assert [cause.name for cause in report.causes] == ["16-bit logits"]


@pytest.mark.skipif(not is_installed(), reason="llama.cpp is not installed: make test-real")
async def test_another_engine_with_the_same_weights_is_the_same_model(tmp_path: Path) -> None:
    """Recorded on llama.cpp, held against vLLM: the last bits differ, by orders of magnitude less than matters."""
    (tmp_path / "tiny").mkdir()
    await make_model(tmp_path / "tiny")
    async with llama_server(path=write_gguf(tmp_path / "tiny", tmp_path / "tiny.gguf")) as url:
        await recorded(url, tmp_path / "r")
    async with vllm_server() as url:
        report = await checked(url, tmp_path / "r")

    assert report.verdict in (Verdict.CHANGED, Verdict.PASS)
    assert report.interval[1] < 1e-2 * report.margin
