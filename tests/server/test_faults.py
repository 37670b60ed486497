"""Planted faults, and what our client makes of them: a typed error or the right row, nothing lost, leaked or sent twice for nothing."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest
import trio
import trio.testing

from seedbed import HashLM, connect, generate, serve
from seedbed.errors import (
    AnswerTooLarge,
    BrokenAnswer,
    ConnectionLost,
    EngineFailed,
    Overloaded,
    RequestRefused,
    RequestTimeout,
    SeedbedError,
    UsageError,
)
from seedbed.http import Retry
from seedbed.protocols.exchange import HttpRequest
from seedbed.server import Fault, faults_at, random_faults
from seedbed.server.faults import PASSING

ASK = "/v1/next_token_logits"
NEVER, AT_ONCE = Retry(attempts=1), Retry(base=0.0)


class EndlessLM(HashLM):
    """Never ends a sequence, so that the number of steps is known; and remembers how often each prefix was asked for."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.asked: Counter[tuple[int, ...]] = Counter()

    async def next_token_logits(self, prev_token_ids):
        self.asked[tuple(prev_token_ids)] += 1
        row = await super().next_token_logits(prev_token_ids)
        row[self.get_stop_token_id()] = -np.inf
        return row


async def nothing_is_left(server, model) -> None:
    state = model.statistics()
    assert (state.under_way, state.waiting, state.pool.active) == (0, 0, 0)
    await trio.testing.wait_all_tasks_blocked(0.005)
    assert server.connections == state.pool.idle
    assert server.failures == 0


FATES = {
    # kind: what it means when never tried again, and whether trying again helps
    "500": (EngineFailed, True),
    "503": (Overloaded, True),
    "429": (Overloaded, True),
    "slow": (RequestTimeout, True),
    "stall": (RequestTimeout, True),
    "cut": (ConnectionLost, True),
    "reset": (ConnectionLost, True),
    "redirect": (RequestRefused, False),
    "garbage": (BrokenAnswer, False),
    "oversized": (AnswerTooLarge, False),
    "endless": (AnswerTooLarge, False),
    "headers": (AnswerTooLarge, False),
    "short length": (BrokenAnswer, False),
    "long length": (ConnectionLost, True),
    "compressed": (BrokenAnswer, False),
    "deep": (BrokenAnswer, False),
}


def fault_called(kind: str) -> Fault:
    return Fault(kind, seconds=60.0 if kind == "slow" else 0.0)


@pytest.mark.parametrize("kind", FATES)
async def test_each_fault_is_a_typed_error_and_passes_where_it_can(kind: str) -> None:
    error, passes = FATES[kind]
    llm = HashLM(8)
    for retry in (NEVER, AT_ONCE):
        faults = faults_at({1: fault_called(kind)}, path=ASK)
        limit = 0.3 if kind in ("slow", "stall") else 60
        async with serve(llm, faults=faults) as server, connect(server.url, "native", retry=retry, request_timeout=limit) as model:
            if retry is AT_ONCE and passes:
                row = await model.next_token_logits([1])
            else:
                with pytest.raises(error):
                    await model.next_token_logits([1])
                row = await model.next_token_logits([1])

            assert row.tolist() == (await llm.next_token_logits([1])).tolist()
            await nothing_is_left(server, model)


async def test_a_half_close_before_the_answer_is_the_keep_alive_race() -> None:
    """Recovered by sending once more, at once, without counting as a retry."""
    async with (
        serve(HashLM(8), faults=faults_at({1: Fault("half-close")}, path=ASK)) as server,
        connect(server.url, "native", retry=NEVER) as model,
    ):
        await model.next_token_logits([1])

        assert (model.statistics().retries, model.statistics().pool.resent) == (0, 1)
        await nothing_is_left(server, model)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["cut", "reset", "stall"])
async def test_an_answer_broken_off_anywhere_is_had_again(kind: str, part: float) -> None:
    llm = HashLM(8)
    async with (
        serve(llm, faults=faults_at({1: Fault(kind, part=part)}, path=ASK)) as server,
        connect(server.url, "native", retry=AT_ONCE, request_timeout=0.3 if kind == "stall" else 60) as model,
    ):
        row = await model.next_token_logits([1])

        assert row.tolist() == (await llm.next_token_logits([1])).tolist()
        await nothing_is_left(server, model)


async def test_a_server_that_asks_for_patience_gets_it(autojump_clock) -> None:
    assert Fault("429", seconds=7).replaced().header("retry-after") == "7"
    assert Fault("503").replaced().header("retry-after") is None


@pytest.mark.parametrize("kind", ["oversized", "endless", "headers", "compressed", "deep", "garbage"])
async def test_what_a_dishonest_server_sends_is_not_collected(kind: str) -> None:
    """A gibibyte, chunks for ever, a bomb: refused early, in the memory an honest answer may take."""
    async with (
        serve(HashLM(8), faults=faults_at({1: Fault(kind)}, path=ASK)) as server,
        connect(server.url, "native", retry=NEVER) as model,
    ):
        tracemalloc.start()
        try:
            with pytest.raises(SeedbedError):
                await model.next_token_logits([1])
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        # The fault is made in this process too: 1.3 MB of headers, a bomb of 1 MB of zeros.
        assert most < 4_000_000
        assert model.statistics().bytes_received < 400_000


# Under load: 64 sequences at once.

STEPS = 8
# On a machine with much else to do, requests that nothing is wrong with may take as long as that, and then again.
STALLED, MANY = 1.0, 50


async def sampled(model, steps: int = STEPS, **options):
    return await generate([1, 2], model, n=64, seed=7, max_new_tokens=steps, **options)


@pytest.fixture(scope="module")
def undisturbed():
    """What is sampled without a server, and so without faults; of a sequence cut short, its beginning is all there is of it."""
    return trio.run(sampled, EndlessLM(16))


def once_each(kind: str):
    """At the first asking of every twentieth question; twice in a row, a broken engine is given up."""
    asked: set[bytes] = set()

    def fault(request: HttpRequest) -> Fault | None:
        if request.route != ASK or request.body in asked:
            return None
        asked.add(request.body)
        return Fault(kind) if len(asked) % 20 == 0 else None

    return fault


@pytest.mark.parametrize("kind", [*PASSING, "long length"])
async def test_faults_that_pass_change_no_token_under_load(kind: str, undisturbed) -> None:
    llm = EndlessLM(16)
    faults = once_each(kind)
    if kind not in ("500", "stall"):
        faults = random_faults(0.05, seed=3, faults=[Fault(kind, seconds=0.001 if kind == "slow" else 0.0)], path=ASK)
    retry = Retry(base=0.001, attempts=MANY)
    async with (
        serve(llm, faults=faults) as server,
        connect(server.url, "native", retry=retry, request_timeout=STALLED if kind == "stall" else 60, max_connections=32) as model,
    ):
        result = await sampled(model)
        await nothing_is_left(server, model)
        state = model.statistics()

    assert result.token_ids == undisturbed.token_ids
    assert (state.retries + state.pool.resent > 10) is (kind != "slow")
    # No prefix was worked on more than once, but for those that were asked again.
    assert sum(count - 1 for count in llm.asked.values()) <= state.retries + state.pool.resent


@pytest.mark.parametrize("kind", [kind for kind, (_, passes) in FATES.items() if not passes])
async def test_a_fault_that_does_not_pass_ends_its_sequence_and_no_other(kind: str, undisturbed) -> None:
    faults = random_faults(0.05, seed=5, faults=[Fault(kind)], path=ASK)
    async with serve(EndlessLM(16), faults=faults) as server, connect(server.url, "native", max_connections=32) as model:
        result = await sampled(model, steps=5, on_error="keep")
        await nothing_is_left(server, model)

    failed = [sequence for sequence in result.sequences if sequence.finish_reason == "error"]
    assert 0 < len(failed) < 64
    assert {sequence.error.partition(":")[0] for sequence in failed} == {FATES[kind][0].__name__}
    for sequence in result.sequences:
        full = undisturbed.token_ids[sequence.index][:5]
        assert list(sequence.token_ids) == (full[: len(sequence.token_ids)] if sequence in failed else full)


async def test_the_first_failure_ends_the_rest_and_leaves_nothing_open() -> None:
    faults = random_faults(0.05, seed=5, faults=["garbage"], path=ASK)
    async with serve(EndlessLM(16), faults=faults) as server, connect(server.url, "native", max_connections=32) as model:
        with pytest.raises(BrokenAnswer) as caught:
            await sampled(model, steps=50)

        assert caught.value.step is not None
        await nothing_is_left(server, model)


@pytest.mark.parametrize("steps", [20, pytest.param(157, marks=pytest.mark.thorough)])
async def test_thousands_of_steps_with_five_percent_faults_give_the_same_tokens(steps: int) -> None:
    """Every passing fault at once; the same tokens as without any, and all that was opened is accounted for. Thoroughly, ten thousand."""
    want = (await sampled(EndlessLM(16), steps=steps)).sha256
    kinds = [Fault(kind, seconds=0.001 if kind == "slow" else 0.0) for kind in PASSING if kind != "500"]
    async with (
        serve(EndlessLM(16), faults=random_faults(0.05, seed=11, faults=kinds, path=ASK)) as server,
        connect(server.url, "native", retry=Retry(base=0.001, attempts=MANY), request_timeout=STALLED) as model,
    ):
        result = await sampled(model, steps=steps)
        await nothing_is_left(server, model)
        state = model.statistics()

    assert sum(len(ids) for ids in result.token_ids) == 64 * steps
    assert result.sha256 == want
    assert state.retries + state.pool.resent > 64 * steps // 33


# The faults themselves.


def test_chosen_requests_are_counted_where_asked() -> None:
    fault = Fault("503")
    faults = faults_at({0: fault, 2: fault}, path="/a")
    asked = [faults(HttpRequest("GET", path)) for path in ("/b", "/a?x", "/b", "/a", "/a", "/a")]

    assert asked == [None, fault, None, None, fault, None]


def test_random_faults_do_not_depend_on_the_order_of_requests() -> None:
    requests = [HttpRequest("POST", ASK, (), b"%d" % (k % 50)) for k in range(500)]
    forward, backward = random_faults(0.3, seed=7), random_faults(0.3, seed=7)
    one = Counter((request.body, fault) for request in requests if (fault := forward(request)))
    other = Counter((request.body, fault) for request in reversed(requests) if (fault := backward(request)))

    assert one == other
    assert one.total() > 100


def test_random_faults_come_as_often_as_said() -> None:
    faults = random_faults(0.05, seed=7)
    seen = Counter(fault.kind for k in range(20_000) if (fault := faults(HttpRequest("POST", ASK, (), b"%d" % k))))

    assert 900 < seen.total() < 1100
    assert set(seen) == set(PASSING)


def test_a_rate_of_one_spares_nobody_and_of_zero_everybody() -> None:
    always, never = random_faults(1, seed=7), random_faults(0, seed=7)

    assert all(always(HttpRequest("GET", f"/{k}")) for k in range(100))
    assert not any(never(HttpRequest("GET", f"/{k}")) for k in range(100))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fault("plague"),
        lambda: Fault("slow", seconds=-1),
        lambda: Fault("cut", part=1.5),
        lambda: random_faults(1.5, 7),
        lambda: random_faults(0.5, 7, faults=[]),
    ],
)
def test_a_wrong_argument_is_refused(make) -> None:
    with pytest.raises(UsageError):
        make()
