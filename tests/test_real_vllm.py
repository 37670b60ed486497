"""Against a real vLLM server on the CPU, where one is installed: see ``vllm_server``. Skipped elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from seedbed import connect
from seedbed.errors import FeatureOff, UsageError
from tests.real_contract import check_contract
from tests.vllm_server import CONTEXT, V, interpreter, vllm_server

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
