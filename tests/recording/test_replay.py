"""Replay: by prefix, offline, in process and through a respx-mocked server; a miss is an error, never a guess."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import re
import shlex
import shutil
import socket
import tracemalloc
from pathlib import Path

import httpx
import numpy as np
import pytest
import trio
from click.testing import CliRunner

from seedbed import RecordingLLM, ReplayLLM, Sampler, TinyLM, connect, generate, open_recording, replay_transport, serve, softmax
from seedbed.cli import main
from seedbed.errors import InvalidPrompt, MissingExtra, RecordingBroken, RecordingMiss, UsageError, WrongRunner
from seedbed.protocols import PROTOCOLS
from seedbed.protocols.rows import top_logprobs
from seedbed.testing import check_llm

FIXTURES = Path(__file__).parents[2] / "fixtures"
KNOWN = json.loads((FIXTURES / "known_answers" / "recordings.json").read_text())
TINY = FIXTURES / "recordings" / "tiny-lm"
SEED = list(b"The seed")


async def sampled(llm, name: str):
    known = KNOWN[name]
    sampler = Sampler(temperature=known["temperature"], top_k=known["top_k"])
    return await generate(known["prompts"], llm, known["n"], seed=known["seed"], sampler=sampler, max_new_tokens=known["max_new_tokens"])


@pytest.mark.parametrize("name", sorted(KNOWN))
async def test_a_shipped_recording_gives_the_tokens_sampled_when_it_was_made(name: str) -> None:
    result = await sampled(ReplayLLM(FIXTURES / "recordings" / name), name)

    assert (result.token_ids, result.sha256) == (KNOWN[name]["token_ids"], KNOWN[name]["sha256"])


@pytest.mark.parametrize("protocol", ["native", "llama.cpp", "all"])
@pytest.mark.parametrize("name", sorted(KNOWN))
async def test_so_does_a_respx_mocked_server_without_ever_opening_a_socket(
    name: str, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    for function in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, function, refuse)
    monkeypatch.setattr(trio.socket, "socket", refuse)
    path = FIXTURES / "recordings" / name
    async with connect("http://nobody.invalid", transport=replay_transport(path, protocol), top_k=20) as model:
        result = await sampled(model, name)

    assert (result.token_ids, result.sha256) == (KNOWN[name]["token_ids"], KNOWN[name]["sha256"])


@pytest.mark.parametrize("protocol", sorted(set(PROTOCOLS) - {"kserve-v2"}))
async def test_a_client_that_does_not_say_how_much_of_a_row_it_wants_gets_what_was_kept(protocol: str) -> None:
    """The default of JSON protocols is 50, and 20 were recorded."""
    told = {} if protocol in ("native", "llama.cpp") else {"eos_token_ids": [256], "vocab_size": 257}
    async with connect("http://nobody.invalid", protocol, transport=replay_transport(TINY, protocol), **told) as model:
        assert model.top_k == 20
        assert await model.next_token_logits(SEED) == await ReplayLLM(TINY).next_token_logits(SEED)
        with pytest.raises(UsageError, match="the 20 best tokens at most, not 30"):
            async with connect("http://nobody.invalid", protocol, transport=replay_transport(TINY, protocol), top_k=30, **told):
                pass


@pytest.mark.parametrize("protocol", sorted(set(PROTOCOLS) - {"kserve-v2"}))
async def test_every_protocol_that_can_carry_its_rows_gives_them_bit_for_bit(tmp_path: Path, protocol: str) -> None:
    async with RecordingLLM(TinyLM(), tmp_path / "full", "full") as recorded:
        row = await recorded.next_token_logits(SEED)
    for path, top_k in ((tmp_path / "full", 20), (tmp_path / "full", 257), (TINY, 20)):
        transport = replay_transport(path, protocol)
        told = {} if protocol in ("native", "llama.cpp") else {"eos_token_ids": [256], "vocab_size": 257}
        async with connect("http://nobody.invalid", protocol, transport=transport, top_k=top_k, **told) as model:
            have = await model.next_token_logits(SEED)
        want = await ReplayLLM(TINY).next_token_logits(SEED) if top_k == 20 else top_logprobs(row, 257)
        assert have == want


@pytest.mark.parametrize("protocol", ["native", "kserve-v2"])
async def test_a_protocol_of_full_rows_carries_a_full_recording_as_it_is(tmp_path: Path, protocol: str) -> None:
    told = {} if protocol == "native" else {"eos_token_ids": [256], "vocab_size": 257}
    async with RecordingLLM(TinyLM(), tmp_path / "full", "full") as recorded:
        row = await recorded.next_token_logits(SEED)
    async with connect("http://nobody.invalid", protocol, transport=replay_transport(tmp_path / "full", protocol), **told) as model:
        assert model.top_k is None
        assert np.array_equal(await model.next_token_logits(SEED), row)


async def test_a_damaged_row_comes_through_http_as_the_error_it_is(tmp_path: Path) -> None:
    async with RecordingLLM(TinyLM(), tmp_path / "full", "full") as recorded:
        await recorded.next_token_logits(SEED)
    shard = tmp_path / "full" / "logits-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x55")
    async with connect("http://nobody.invalid", transport=replay_transport(tmp_path / "full")) as model:
        with pytest.raises(RecordingBroken, match="step 2:"):
            await model.next_token_logits(SEED)


async def test_it_counts_what_was_asked() -> None:
    llm = ReplayLLM(TINY)
    await llm.next_token_logits(SEED)
    await llm.next_token_logits(SEED)
    assert dict(llm.answered) == {2: 2}


async def test_it_keeps_the_contract() -> None:
    prefixes = [step.prefix for step in open_recording(TINY).steps[:4]]
    await check_llm(ReplayLLM(TINY), prefixes)


async def test_inside_the_recorded_tree_a_test_may_change_sampler_n_and_stop_rules() -> None:
    """Nothing here was ever run when the recording was made."""
    llm = ReplayLLM(TINY)
    fewer = await generate([SEED], llm, 3, seed=7, sampler=Sampler(0.9, 10), max_new_tokens=25)
    stopped = await generate([SEED], llm, 8, seed=7, sampler=Sampler(0.9, 10), max_new_tokens=40, stop_token_ids=[ord(",")])

    assert fewer.token_ids == [tokens[:25] for tokens in KNOWN["tiny-lm"]["token_ids"][:3]]
    assert any(s.stop_match == (ord(","),) for s in stopped.sequences)


class TestMisses:
    async def test_the_first_differing_token_and_its_probability_are_named(self) -> None:
        with pytest.raises(RecordingMiss) as caught:
            await ReplayLLM(TINY).next_token_logits([*SEED, ord("q")])

        assert (caught.value.known, caught.value.prev_token_ids) == (8, (*SEED, ord("q")))
        assert "knows the first 8, then comes token 113, which is not among the 20 most probable there" in str(caught.value)

    async def test_a_likely_token_that_was_never_drawn_says_how_likely_it_was(self) -> None:
        recording = open_recording(TINY)
        step = next(s for s in recording.steps if s.prefix == tuple(SEED))
        missing = next(t for t in step.row.token_ids.tolist() if recording.get((*SEED, t)) is None)
        with pytest.raises(
            RecordingMiss, match=rf"then comes token {missing}, which had probability [0-9.e-]+ there; to add it: `seedbed record"
        ):
            await ReplayLLM(recording).next_token_logits([*SEED, missing])

    async def test_the_command_that_would_extend_the_recording_is_said(self, tmp_path: Path) -> None:
        path = Path(shutil.copytree(TINY, tmp_path / "a recording"))
        with pytest.raises(RecordingMiss) as caught:
            await ReplayLLM(path).next_token_logits([*SEED, ord("q")])
        command = shlex.split(re.search("to add it: `(.*)`$", str(caught.value))[1])
        assert command == ["seedbed", "record", "URL", str(path), "--extend", "--token-ids", ",".join(map(str, [*SEED, ord("q")]))]

        with pytest.raises(RecordingMiss, match="--token-ids ID,ID,...`$"):
            await ReplayLLM(path).next_token_logits(SEED * 10)
        with pytest.raises(RecordingMiss, match="to add it: `make it so`$"):
            await ReplayLLM(path, how_to_extend="make it so").next_token_logits(SEED * 10)

    @pytest.mark.parametrize(("keep", "tier"), [(8, "top_k"), (20, "full")])
    @pytest.mark.parametrize("protocol", ["native", "vllm"])
    async def test_that_command_is_not_refused(self, tmp_path: Path, keep: int, tier: str, protocol: str) -> None:
        """It says what the recording says of itself, and a prompt that misses inside a generation, and through HTTP, leaves it whole."""
        async with serve(TinyLM()) as server:
            more = {"eos_token_ids": [256], "vocab_size": 257} if protocol == "vllm" else {}
            async with (
                connect(server.url, protocol, top_k="all" if tier == "full" else keep, **more) as model,
                RecordingLLM(model, tmp_path / "r", tier, top_k=keep) as recorded,
            ):
                await recorded.next_token_logits(SEED)
            async with connect("http://nobody.invalid", transport=replay_transport(tmp_path / "r"), vocab_size=257) as replayed:
                with pytest.raises(RecordingMiss) as caught:
                    await generate([1, 2], replayed, 2, seed=1)
            words = shlex.split(re.search("to add it: `seedbed (.*)` ", str(caught.value))[1].replace("URL", server.url))
            told = [word for token_id in more.get("eos_token_ids", ()) for word in ("--eos-token-id", str(token_id), "--vocab-size", "257")]
            argv = [*words, "--max-new-tokens", "1", *told]
            done = await trio.to_thread.run_sync(lambda: CliRunner().invoke(main, argv, standalone_mode=False))

        assert done.exception is None, done.output
        assert open_recording(tmp_path / "r").get([1, 2]) is not None

    @pytest.mark.parametrize("token_id", [257, -1, 2**70])
    @pytest.mark.parametrize("tier", ["top_k", "full"])
    async def test_of_what_is_no_token_no_probability_is_said(self, tmp_path: Path, tier: str, token_id: int) -> None:
        async with RecordingLLM(TinyLM(), tmp_path / "r", tier) as recorded:
            await recorded.next_token_logits(SEED)
        with pytest.raises(RecordingMiss, match=f"then comes token {token_id}, which is no token of its vocabulary of 257;"):
            await ReplayLLM(tmp_path / "r").next_token_logits([*SEED, token_id])

    async def test_in_a_full_recording_every_token_has_its_probability(self, tmp_path: Path) -> None:
        async with RecordingLLM(TinyLM(), tmp_path / "full", "full") as recorded:
            row = await recorded.next_token_logits(SEED)
        want = f"{softmax(row)[ord('q')]:.3g}"
        with pytest.raises(RecordingMiss, match=f"then comes token 113, which had probability {re.escape(want)} there"):
            await ReplayLLM(tmp_path / "full").next_token_logits([*SEED, ord("q")])

    @pytest.mark.parametrize("prefix", [[2**70], [-1], ["x"], [1.5], []])
    async def test_what_is_no_prefix_is_a_miss_too(self, prefix: list[object]) -> None:
        with pytest.raises(RecordingMiss):
            await ReplayLLM(TINY).next_token_logits(prefix)

    @pytest.mark.parametrize("wrong", [5, None])
    async def test_what_is_no_list_is_none_even_while_recording(self, tmp_path: Path, wrong: object) -> None:
        async with RecordingLLM(TinyLM(), tmp_path / "r") as recorded:
            for model in (ReplayLLM(TINY), recorded):
                with pytest.raises(InvalidPrompt, match="the prefix must be a list of token ids"):
                    await model.next_token_logits(wrong)

    async def test_another_prompt_altogether_is_said(self) -> None:
        with pytest.raises(RecordingMiss, match="knows no beginning of this prefix"):
            await ReplayLLM(TINY).next_token_logits([1, 2, 3])

    async def test_out_of_a_generation_it_says_which_sequence_and_step(self) -> None:
        with pytest.raises(RecordingMiss) as caught:
            await generate([SEED], ReplayLLM(TINY), 4, seed=8, sampler=Sampler(temperature=3.0))

        assert (caught.value.prompt_index, caught.value.step is not None) == (0, True)
        assert caught.value.result is not None

    async def test_through_http_it_is_the_same_error_and_is_not_tried_again(self) -> None:
        async with connect("http://nobody.invalid", transport=replay_transport(TINY)) as model:
            before = model.counters()
            with pytest.raises(RecordingMiss):
                await model.next_token_logits([1, 2, 3])
            assert model.counters()["requests"] == before["requests"] + 1

    async def test_more_of_a_row_than_was_kept_is_refused_with_how_much_there_is(self) -> None:
        with pytest.raises(UsageError, match="the 20 best tokens at most, not 30"):
            async with connect("http://nobody.invalid", transport=replay_transport(TINY), top_k=30):
                pass
        async with httpx.AsyncClient(transport=replay_transport(TINY, "llama.cpp"), base_url="http://nobody.invalid") as client:
            refused = await client.post("/completion", json={"prompt": SEED, "n_predict": 1, "n_probs": 30})
        assert refused.status_code == 400
        assert "30 tokens were asked for, 20 are known" in refused.text


async def test_a_recording_spells_tokens_as_numbers_so_that_any_protocol_can_name_its_end() -> None:
    llm = ReplayLLM(TINY)

    assert llm.token_bytes(256) == b"<|256|>"
    assert await llm.tokenize("<|256|><|7|>") == [256, 7]
    with pytest.raises(UsageError, match="the recording tiny-lm has no tokenizer"):
        await llm.tokenize("The seed")


async def test_any_httpx_client_can_use_it() -> None:
    async with httpx.AsyncClient(transport=replay_transport(TINY), base_url="http://nobody.invalid") as client:
        described = (await client.get("/v1/model")).json()
        answer = (await client.post("/v1/next_token_logits", json={"token_ids": SEED, "top_k": 2})).json()
        missing = await client.get("/nope")

    assert (described["model"], described["max_top_k"]) == ("tiny-lm", 20)
    assert answer["top"]["token_ids"] == [32, 115]
    assert missing.status_code == 404


async def test_memory_stays_flat_over_many_requests() -> None:
    """respx keeps every call for ever unless told not to, 3 kB a small one: 300 kB here. Without time limits, since trio keeps up to a
    thousand deadlines that are over."""
    async with connect("http://nobody.invalid", transport=replay_transport(TINY), request_timeout=math.inf) as model:
        tracemalloc.start()
        sizes = []
        for _ in range(3):
            for _ in range(100):
                await model.next_token_logits(SEED)
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()

    assert sizes[2] - sizes[1] < 100_000  # respx would keep 300_000


def test_awaited_by_anything_but_trio_it_says_what_to_do(tmp_path: Path) -> None:
    async def record() -> None:
        async with RecordingLLM(TinyLM(), tmp_path / "recording"):
            pass

    for awaited in (record(), ReplayLLM(TINY).next_token_logits(SEED)):
        with pytest.raises(WrongRunner, match="this runs under trio"):
            asyncio.run(awaited)
    assert not (tmp_path / "recording").exists()


def test_without_respx_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "respx", None)
    with pytest.raises(MissingExtra, match=r"pip install 'seedbed\[test\]'"):
        replay_transport(TINY)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(UsageError, match="known are"):
        replay_transport(TINY, "gopher")
