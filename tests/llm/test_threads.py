"""Blocking models and look-alikes behind the one interface."""

from __future__ import annotations

import threading
from functools import wraps

import pytest
import trio
import trio.lowlevel

from seedbed import BlockingLLM, ModelInfo, as_llm, generate
from seedbed.errors import UsageError
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


@pytest.mark.parametrize("model", [object(), None, "http://127.0.0.1", lambda prefix: [0.0]])
def test_what_is_no_model_is_refused_by_the_method_it_lacks(model: object) -> None:
    with pytest.raises(UsageError, match=r"no language model: it has no method next_token_logits\(\)"):
        as_llm(model)


def test_a_class_instead_of_its_object_is_named() -> None:
    with pytest.raises(UsageError, match=r"Blocking is a class: pass one of its objects, as in Blocking\(\)"):
        as_llm(Blocking)


def test_a_url_is_told_how_it_becomes_a_model() -> None:
    with pytest.raises(UsageError, match=r"'http://x' is no language model.*connect\(url\)"):
        as_llm("http://x")
