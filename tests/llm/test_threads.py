"""Blocking models and look-alikes behind the one interface."""

from __future__ import annotations

import math
import threading
from functools import wraps

import httpx
import numpy as np
import pytest
import trio
import trio.lowlevel

from seedbed import BlockingLLM, ModelInfo, TinyLM, as_llm, generate, serve
from seedbed.errors import UsageError
from seedbed.llm import PrefixCache
from seedbed.server.planted import AroundLLM
from seedbed.testing import ScriptedLLM


class Blocking(BlockingLLM):
    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.running = self.most = 0
        self.lock = threading.Lock()
        self.gate = threading.Event()
        self.gate.set()

    def next_token_logits(self, prev_token_ids):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.threads.add(threading.get_ident())
        self.gate.wait(10)
        with self.lock:
            self.running -= 1
        return [0.0, 1.0, 2.0]

    def get_stop_token_id(self) -> int:
        return 0


def test_an_llm_is_itself() -> None:
    llm = ScriptedLLM({})

    assert as_llm(llm) is llm


async def test_a_blocking_model_runs_in_worker_threads_and_samples_the_same() -> None:
    blocking = Blocking()
    result = await generate([1], blocking, n=8, seed=7)
    awaited = await generate([1], ScriptedLLM({}, default=[0.0, 1.0, 2.0]), n=8, seed=7)

    assert result.token_ids == awaited.token_ids
    assert threading.get_ident() not in blocking.threads


async def test_its_threads_are_bounded_by_a_limiter_of_its_own() -> None:
    blocking = Blocking()
    await generate([1], as_llm(blocking, limiter=trio.CapacityLimiter(2)), n=16, seed=7)

    assert blocking.most <= 2
    assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0


async def test_a_cancelled_call_is_abandoned_at_once_and_keeps_its_token_until_it_ends() -> None:
    blocking, limiter = Blocking(), trio.CapacityLimiter(1)
    llm = as_llm(blocking, limiter=limiter)
    blocking.gate.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(llm.next_token_logits, [1])
        while not blocking.running:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert (blocking.running, limiter.borrowed_tokens) == (1, 1)
    blocking.gate.set()
    while limiter.borrowed_tokens:
        await trio.lowlevel.checkpoint()

    assert await llm.next_token_logits([1]) == [0.0, 1.0, 2.0]


class AwaitsButInheritsNothing:
    eos_token_ids = (2, 3)
    info = ModelInfo(model="mine")

    async def next_token_logits(self, prev_token_ids):
        await trio.lowlevel.checkpoint()
        return [0.0, 1.0]

    def get_stop_token_id(self):
        return 2


class ReturnsACoroutine:
    def next_token_logits(self, prev_token_ids):
        return AwaitsButInheritsNothing().next_token_logits(prev_token_ids)

    def get_stop_token_id(self):
        return 1


def decorated(function):
    @wraps(function)
    def inner(*args):
        return function(*args)

    return inner


class Decorated(AwaitsButInheritsNothing):
    next_token_logits = decorated(AwaitsButInheritsNothing.next_token_logits)


@pytest.mark.parametrize("model", [AwaitsButInheritsNothing(), ReturnsACoroutine(), Decorated()])
async def test_any_object_of_the_shape_is_accepted(model: object) -> None:
    assert await as_llm(model).next_token_logits([1]) == [0.0, 1.0]


async def test_what_a_look_alike_tells_is_passed_on() -> None:
    llm = as_llm(AwaitsButInheritsNothing())

    assert (llm.eos_token_ids, llm.info) == ((2, 3), ModelInfo(model="mine"))
    assert (as_llm(ReturnsACoroutine()).eos_token_ids, as_llm(ReturnsACoroutine()).info) == ((1,), None)


@pytest.mark.parametrize(("told", "passed_on"), [(20, 20), (np.int64(20), 20), (None, None), ("20", None), (lambda: 20, None)])
async def test_how_many_tokens_its_rows_list_is_passed_on_where_it_is_told(told: object, passed_on: int | None) -> None:
    llm = AwaitsButInheritsNothing()
    llm.top_k = told

    assert as_llm(llm).top_k == PrefixCache(llm).top_k == AroundLLM(llm).top_k == passed_on
    assert as_llm(AwaitsButInheritsNothing()).top_k is None


class Tokenizes(ReturnsACoroutine):
    async def tokenize(self, text):
        await trio.lowlevel.checkpoint()
        return [ord(letter) for letter in text]

    def detokenize(self, token_ids):
        return "".join(map(chr, token_ids))

    def token_bytes(self, token_id):
        return bytes([token_id])


async def test_a_look_alikes_tokenizer_is_passed_on_awaited_or_in_a_thread() -> None:
    llm = as_llm(Tokenizes())

    assert (await llm.tokenize("ab"), await llm.detokenize([97, 98]), llm.token_bytes(97)) == ([97, 98], "ab", b"a")
    with pytest.raises(UsageError, match="no tokenizer"):
        await as_llm(ReturnsACoroutine()).tokenize("ab")
    with pytest.raises(UsageError, match="no tokenizer"):
        await as_llm(ReturnsACoroutine()).detokenize([97])
    assert as_llm(ReturnsACoroutine()).token_bytes(97) == b""


async def test_a_look_alike_must_tell_its_end_in_ints() -> None:
    model = Tokenizes()
    model.get_stop_token_id = lambda: None
    with pytest.raises(UsageError, match=r"must tell in ints, not \(None,\)"):
        await generate([1], model)
    model.eos_token_ids = 5
    with pytest.raises(UsageError, match="must tell in ints, not 5"):
        await generate([1], model)


def test_what_is_no_limiter_is_refused() -> None:
    with pytest.raises(UsageError, match="limiter must be a trio.CapacityLimiter, not 5"):
        as_llm(Blocking(), limiter=5)


@pytest.mark.parametrize("model", [object(), None, "http://127.0.0.1", lambda prefix: [0.0]])
def test_what_is_no_model_is_refused_by_the_method_it_lacks(model: object) -> None:
    with pytest.raises(UsageError, match=r"no language model: it has no method next_token_logits\(\)"):
        as_llm(model)


class OverHttpx(BlockingLLM):
    """A model behind somebody's synchronous client, as programs have that are not written in trio."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def next_token_logits(self, prev_token_ids):
        trio.from_thread.check_cancelled()
        answer = self.client.post("/v1/next_token_logits", json={"token_ids": list(prev_token_ids)})
        answer.raise_for_status()
        return np.array([-math.inf if value is None else value for value in answer.json()["logits"]])

    def get_stop_token_id(self) -> int:
        return 256


async def test_over_a_synchronous_httpx_client_the_tokens_are_the_same() -> None:
    prompt, llm = list(b"The seed"), TinyLM()
    async with serve(llm) as server:
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            blocking = await generate(prompt, OverHttpx(client), n=16, seed=7, max_new_tokens=10)
        await trio.lowlevel.checkpoint()

    assert blocking.token_ids == (await generate(prompt, llm, n=16, seed=7, max_new_tokens=10)).token_ids


async def test_over_a_synchronous_httpx_client_n_calls_are_really_parallel() -> None:
    """All of them must be inside at the same time, or none gets out."""
    n = 48
    together = threading.Barrier(n)

    def handler(request: httpx.Request) -> httpx.Response:
        together.wait(timeout=30)
        return httpx.Response(200, json={"logits": [0.0, 1.0]})

    with httpx.Client(transport=httpx.MockTransport(handler), base_url="http://model.test") as client:
        llm = as_llm(OverHttpx(client))
        async with trio.open_nursery() as nursery:
            for k in range(n):
                nursery.start_soon(llm.next_token_logits, [k])

    assert not together.broken


async def test_over_a_synchronous_httpx_client_a_deadline_is_kept_and_what_waits_is_never_sent() -> None:
    """Two threads hang in a server that does not answer, the others wait for a thread: all are given up at once."""
    gate, asked = threading.Event(), []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        gate.wait(30)
        return httpx.Response(200, json={"logits": [0.0, 1.0]})

    with httpx.Client(transport=httpx.MockTransport(handler), base_url="http://model.test") as client:
        limiter = trio.CapacityLimiter(2)
        llm = as_llm(OverHttpx(client), limiter=limiter)
        async with trio.open_nursery() as nursery:
            for k in range(16):
                nursery.start_soon(llm.next_token_logits, [k])
            while len(asked) < 2:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert limiter.borrowed_tokens == 2
        result = await generate([1], llm, n=4, seed=7, timeout=0)
        gate.set()
        while limiter.borrowed_tokens:
            await trio.lowlevel.checkpoint()

    assert len(asked) == 2
    assert {sequence.finish_reason for sequence in result.sequences} == {"deadline"}


def test_a_class_instead_of_its_object_is_named() -> None:
    with pytest.raises(UsageError, match=r"Blocking is a class: pass one of its objects, as in Blocking\(\)"):
        as_llm(Blocking)


def test_a_url_is_told_how_it_becomes_a_model() -> None:
    with pytest.raises(UsageError, match=r"'http://x' is no language model.*connect\(url\)"):
        as_llm("http://x")
