"""Several servers as one: who is asked, who is left out and had back, and that no token depends on any of it."""

from __future__ import annotations

import math

import httpx
import pytest
import trio
import trio.lowlevel
import trio.testing
from tests.http.fakes import ASK, INFO, NEVER, FakeHost, description

from seedbed import HashLM, Retry, TinyLM, connect, generate, serve
from seedbed.errors import (
    BadRequest,
    ContextOverflow,
    DishonestAnswer,
    EngineFailed,
    NotReady,
    Overloaded,
    ReplicasDiffer,
    SeedbedError,
    ServerUnreachable,
    Unauthorized,
    UsageError,
)
from seedbed.http.replicas import BLOCK, SLACK
from seedbed.server.faults import Fault, random_faults
from seedbed.testing import ScriptedLLM, cancel_at_each_step, check_llm

NAMES = ("a", "b", "c")
URLS = [f"http://{name}.test" for name in NAMES]
DOWN = httpx.ConnectError("refused")
ROW = [0.0, 1.0, 2.0, 3.0]


class Hosts:
    """Several hosts behind one transport. Each can be made to fail: an exception, or an answer to everything; ``HANG`` never answers."""

    HANG = object()

    def __init__(self, **hosts: FakeHost) -> None:
        self.hosts = {name: hosts.get(name) or FakeHost() for name in NAMES}
        self.fails: dict[str, object] = {}
        self.asked: list[str] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        name = request.url.host.partition(".")[0]
        if request.url.path == ASK:
            self.asked.append(name)
        failure = self.fails.get(name)
        if isinstance(failure, Exception):
            raise type(failure)(str(failure))
        if failure is self.HANG:
            await trio.sleep_forever()
        if isinstance(failure, int):
            return httpx.Response(failure, headers={"retry-after": "20"} if failure == 429 else {})
        return await self.hosts[name](request)

    def connect(self, names=NAMES, **options):
        urls = [f"http://{name}.test" for name in names]
        return connect(urls, transport=httpx.MockTransport(self), decode_in_thread_above=math.inf, **options)


def troubles(model) -> list[str]:
    return [state.trouble for state in model.statistics().replicas]


def asked_of(hosts: Hosts) -> list[str]:
    """Who was asked since the last call."""
    asked, hosts.asked = hosts.asked, []
    return asked


def slow_model(seconds: float = 1.0) -> ScriptedLLM:
    return ScriptedLLM({}, default=ROW, info=INFO, delay=lambda prefix: seconds if len(prefix) > 1 else 0.0)


# The same tokens.


async def test_tokens_do_not_depend_on_how_many_replicas_there_are_or_which_answer() -> None:
    prompts = [list(b"The seed"), list(b"A bed of seeds in the garden")]
    alone = await generate(prompts, TinyLM(), n=8, seed=7, max_new_tokens=30)
    async with (
        serve(TinyLM()) as one,
        serve(TinyLM(), faults=random_faults(0.1, 7, [Fault("503"), Fault("cut"), Fault("reset")], path=ASK)) as two,
        serve(TinyLM()) as three,
    ):
        async with connect([one.url, two.url, three.url]) as model:
            together = await generate(prompts, model, n=8, seed=7, max_new_tokens=30, prefix_cache_bytes=0)

        assert together.sha256 == alone.sha256
        assert all(state.requests > 20 for state in model.statistics().replicas[::2])
        assert model.statistics().retries > 0


async def test_a_replica_that_dies_under_load_is_not_missed() -> None:
    prompt = list(b"The seed")
    alone = await generate(prompt, TinyLM(), n=32, seed=7, max_new_tokens=12)
    async with serve(TinyLM()) as one, trio.open_nursery() as nursery:
        started = trio.Event()
        url = ""

        async def doomed(scope: trio.CancelScope) -> None:
            nonlocal url
            with scope:
                async with serve(TinyLM()) as server:
                    url = server.url
                    started.set()
                    while server.requests < 100:
                        await trio.lowlevel.checkpoint()

        nursery.start_soon(doomed, trio.CancelScope())
        await started.wait()
        async with connect([url, one.url]) as model:
            together = await generate(prompt, model, n=32, seed=7, max_new_tokens=12, prefix_cache_bytes=0)
            state = model.statistics()

    assert together.sha256 == alone.sha256
    assert "cannot connect" in state.replicas[0].trouble or "closed the connection" in state.replicas[0].trouble
    well = state.replicas[1]  # the other may be being asked whether it is back
    assert (well.under_way, well.waiting, state.replicas[0].waiting) == (0, 0, 0)


async def test_they_keep_the_contract_of_a_model() -> None:
    async with Hosts().connect() as model:
        await check_llm(model)


async def test_text_is_the_affair_of_any_of_them(autojump_clock) -> None:
    hosts = Hosts(**{name: FakeHost(TinyLM()) for name in NAMES})
    async with hosts.connect() as model:
        hosts.fails = {"a": DOWN, "b": DOWN}
        assert await model.tokenize("seed") == list(b"seed")
        assert await model.detokenize(list(b"seed")) == "seed"
        assert trio.current_time() == 0


# Who is asked.


async def test_what_goes_on_from_a_prefix_goes_where_the_prefix_went() -> None:
    hosts = Hosts()
    async with hosts.connect() as model:
        asked_of(hosts)
        prefixes = [[k % 4] * BLOCK + [k // 4 % 4] * BLOCK for k in range(9)]
        for prefix in prefixes:
            await model.next_token_logits(prefix)
        homes = asked_of(hosts)
        for _ in range(2):
            for prefix in prefixes:
                await model.next_token_logits([*prefix, 1, 2, 3])
        again = asked_of(hosts)

    assert again == homes * 2
    assert set(homes) == set(NAMES)


async def test_one_much_busier_than_another_is_spared_whatever_it_has_in_its_cache(autojump_clock) -> None:
    hosts = Hosts(**{name: FakeHost(slow_model()) for name in NAMES})
    prefix = [1] * BLOCK
    async with hosts.connect() as model:
        asked_of(hosts)
        async with trio.open_nursery() as nursery:
            for k in range(16):
                nursery.start_soon(model.next_token_logits, [*prefix, k % 4])
        asked = asked_of(hosts)
        counts = sorted(asked.count(name) for name in NAMES)

    assert sum(counts) == 16
    assert counts[-1] - counts[0] <= SLACK + 1
    assert trio.current_time() == 1


async def test_short_prefixes_go_to_the_least_busy(autojump_clock) -> None:
    hosts = Hosts(**{name: FakeHost(slow_model()) for name in NAMES})
    async with hosts.connect() as model:
        asked_of(hosts)
        async with trio.open_nursery() as nursery:
            for k in range(9):
                nursery.start_soon(model.next_token_logits, [1, k % 4])

    assert sorted(asked_of(hosts)) == [name for name in NAMES for _ in range(3)]


# Who is left out.


@pytest.mark.parametrize("failure", [DOWN, httpx.ReadError("reset"), httpx.RemoteProtocolError("junk"), 503, 200])
async def test_a_question_goes_to_the_next_one_at_once(autojump_clock, failure: object) -> None:
    """Refused, reset, no HTTP, loading, and 200 with nothing in it."""
    hosts = Hosts()
    async with hosts.connect() as model:
        hosts.fails = {"a": failure, "b": failure}
        for _ in range(6):
            assert (await model.next_token_logits([1])).tolist() == ROW

        assert trio.current_time() == 0
        assert model.statistics().retries == (12 if failure == 503 else 2)
        assert troubles(model)[2] == ""


async def test_one_left_out_is_asked_who_it_is_more_and_more_seldom_until_it_is_well(autojump_clock) -> None:
    hosts = Hosts()
    async with hosts.connect() as model:
        hosts.fails = {"a": DOWN}
        while "refused" not in troubles(model)[0]:
            await model.next_token_logits([1])
        asked_of(hosts)
        for _ in range(6):
            await model.next_token_logits([1])
        assert "a" not in asked_of(hosts)
        await trio.sleep(300)
        tries = model.statistics().replicas[0].requests
        assert 10 < tries < 30
        hosts.fails = {}
        await trio.sleep(30)
        asked_of(hosts)
        for _ in range(6):
            await model.next_token_logits([1])

        assert troubles(model) == ["", "", ""]
        assert "a" in asked_of(hosts)


async def test_one_that_comes_back_as_another_model_stays_left_out_and_says_so(autojump_clock) -> None:
    hosts = Hosts()
    async with hosts.connect() as model:
        hosts.fails = {"a": DOWN}
        while not troubles(model)[0]:
            await model.next_token_logits([1])
        hosts.hosts["a"] = FakeHost(script={"/v1/model": [httpx.Response(200, content=description(fingerprint="new")) for _ in range(99)]})
        hosts.fails = {}
        await trio.sleep(60)
        asked_of(hosts)
        for _ in range(6):
            await model.next_token_logits([1])

        assert "fingerprint 'new' and 'f'" in troubles(model)[0]
        assert "a" not in asked_of(hosts)


async def test_who_waits_for_a_replica_that_fails_is_sent_to_another(autojump_clock) -> None:
    """One hangs: those it has been sent take until their time limit, those that wait for a turn with it do not."""
    hosts = Hosts(b=FakeHost(slow_model()))
    async with hosts.connect("ab", max_connections=2, request_timeout=10) as model:
        hosts.fails = {"a": Hosts.HANG}
        async with trio.open_nursery() as nursery:
            for k in range(12):
                nursery.start_soon(model.next_token_logits, [1, k % 4])

        assert trio.current_time() < 10 + 12
        assert model.statistics().replicas[0].under_way <= 1  # a look at whether it is well


async def test_one_with_too_much_to_do_is_asked_again_when_it_said(autojump_clock) -> None:
    hosts = Hosts()
    async with hosts.connect() as model:
        hosts.fails = {"a": 429}
        while not troubles(model)[0]:
            await model.next_token_logits([1])
        assert troubles(model)[0] == "it asked for patience for 20 s"
        hosts.fails = {}
        asked_of(hosts)
        for _ in range(6):
            await model.next_token_logits([1])
        assert "a" not in asked_of(hosts)
        await trio.sleep(20)
        for _ in range(6):
            await model.next_token_logits([1])

        assert "a" in asked_of(hosts)


async def test_when_all_have_too_much_to_do_the_first_that_said_is_waited_for(autojump_clock) -> None:
    hosts = Hosts()
    async with hosts.connect() as model:
        hosts.fails = dict.fromkeys(NAMES, 429)

        async def recover() -> None:
            await trio.sleep(5)
            hosts.fails = {}

        async with trio.open_nursery() as nursery:
            nursery.start_soon(recover)
            await model.next_token_logits([1])
        assert trio.current_time() == 20

        hosts.fails = dict.fromkeys(NAMES, 429)
        with pytest.raises(Overloaded), trio.fail_after(15):
            await model.next_token_logits([1])
        assert trio.current_time() == 20  # it would be too late


async def test_when_none_is_well_it_is_waited_for_as_for_one_server(autojump_clock) -> None:
    hosts = Hosts()
    async with hosts.connect() as model:
        hosts.fails = dict.fromkeys(NAMES, DOWN)
        with pytest.raises(ServerUnreachable, match="none of the 3 replicas can be asked: http://a.test: cannot connect") as caught:
            await model.next_token_logits([1])
        assert caught.value.__notes__ == ["after 5 attempts"]

        async def recover() -> None:
            await trio.sleep(1)
            hosts.fails = {}

        await trio.sleep(30)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recover)
            with trio.fail_after(60):
                while True:
                    try:
                        assert (await model.next_token_logits([1])).tolist() == ROW
                        break
                    except ServerUnreachable:
                        pass


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, '{"error":{"type":"bad_request","message":"no"}}', BadRequest),
        (400, '{"error":{"type":"context_overflow","message":"long"}}', ContextOverflow),
        (401, "{}", Unauthorized),
        (200, '{"logits":[1,2]}', DishonestAnswer),
    ],
)
async def test_what_is_about_the_question_comes_out_at_once_and_nobody_is_left_out(autojump_clock, status, body, error) -> None:
    hosts = Hosts()
    async with hosts.connect() as model:
        asked_of(hosts)
        for name in NAMES:
            hosts.hosts[name].script = {ASK: [httpx.Response(status, text=body, headers={"content-type": "application/json"})]}
        with pytest.raises(error):
            await model.next_token_logits([1])

        assert len(asked_of(hosts)) == 1
        assert troubles(model) == ["", "", ""]


async def test_a_question_that_breaks_engines_is_taken_to_two_and_no_more(autojump_clock) -> None:
    hosts = Hosts()
    async with hosts.connect() as model:
        asked_of(hosts)
        for name in NAMES:
            hosts.hosts[name].script = {ASK: [httpx.Response(500)] * 9}
        with pytest.raises(EngineFailed):
            await model.next_token_logits([1])

        assert len(set(asked_of(hosts))) == 2


# Who is one of them.


async def test_one_that_is_down_at_first_joins_when_it_is_up(autojump_clock) -> None:
    hosts = Hosts()
    hosts.fails = {"a": DOWN}
    async with hosts.connect() as model:
        assert trio.current_time() == 0
        assert "refused" in troubles(model)[0]
        hosts.fails = {}
        await trio.sleep(1)
        asked_of(hosts)
        for _ in range(6):
            await model.next_token_logits([1])
        assert set(asked_of(hosts)) == set(NAMES)


async def test_one_that_never_says_what_it_is_is_waited_for_as_long_as_connecting_may_take(autojump_clock) -> None:
    hosts = Hosts()
    hosts.fails = {"b": Hosts.HANG}
    async with hosts.connect(connect_timeout=3) as model:
        assert trio.current_time() == 3
        assert troubles(model)[1] == "http://b.test had not said what it is 3 s after another had"


async def test_when_none_can_be_asked_at_first_that_is_said_of_all(autojump_clock) -> None:
    hosts = Hosts()
    hosts.fails = dict.fromkeys(NAMES, DOWN)
    with pytest.raises(ServerUnreachable, match="http://a.test") as caught:
        async with hosts.connect():
            pass
    assert "none of the 3 replicas can be asked" in caught.value.__notes__
    assert trio.current_time() == 0

    hosts.fails = dict.fromkeys(NAMES, 503)
    with pytest.raises(Overloaded):
        async with hosts.connect():
            pass
    assert trio.current_time() > 1


@pytest.mark.parametrize(
    ("facts", "error", "words"),
    [
        (
            {"fingerprint": "g"},
            ReplicasDiffer,
            "http://c.test and http://a.test are no replicas of one model.*fingerprint 'g' and 'f'.*may_differ",
        ),
        ({"model": "five"}, ReplicasDiffer, "model 'five' and 'four'"),
        ({"server": "other"}, ReplicasDiffer, "server 'other' and 'test'"),
        ({"context_length": 50}, ReplicasDiffer, "context_length 50 and 100"),
        ({"eos_token_ids": [1]}, ReplicasDiffer, r"eos_token_ids \(1,\) and \(0,\)"),
        ({"vocab_size": 5}, DishonestAnswer, "4 entries"),
    ],
)
async def test_servers_that_tell_different_things_are_refused(facts, error, words) -> None:
    with pytest.raises(error, match=words):
        async with Hosts(c=FakeHost(script={"/v1/model": [httpx.Response(200, content=description(**facts))]})).connect():
            pass


async def test_other_fingerprints_can_be_allowed_and_are_noted_and_another_vocabulary_cannot() -> None:
    async with Hosts(c=FakeHost(script={"/v1/model": [httpx.Response(200, content=description(fingerprint="g"))]})).connect(
        replicas_may_differ=True
    ) as model:
        assert model.info.fingerprint == "f"
        assert model.info.notes == ("its replicas differ in fingerprint: so may their rows",)

    async with serve(HashLM(8)) as eight, serve(HashLM(9)) as nine:
        with pytest.raises(ReplicasDiffer, match="vocab_size 9 and 8") as caught:
            async with connect([eight.url, nine.url], replicas_may_differ=True):
                pass
    assert "replicas_may_differ" not in str(caught.value)


async def test_one_that_wants_a_key_is_a_mistake_and_not_left_out() -> None:
    hosts = Hosts()
    hosts.fails = {"c": 401}
    with pytest.raises(Unauthorized):
        async with hosts.connect():
            pass


@pytest.mark.parametrize("failure", [503, DOWN])
async def test_a_patience_of_one_attempt_is_one(autojump_clock, failure: object) -> None:
    hosts = Hosts()
    hosts.fails = dict.fromkeys(NAMES, failure)
    with pytest.raises((NotReady, Overloaded, ServerUnreachable)):
        async with hosts.connect(retry=NEVER):
            pass
    assert trio.current_time() == 0


# Leaving.


def test_cancelled_at_any_step_nothing_is_left() -> None:
    models = []

    async def main() -> None:
        hosts = Hosts(a=FakeHost(script={ASK: [None, httpx.Response(503), httpx.ReadError("reset")]}))
        async with hosts.connect("ab", max_connections=2, retry=Retry(base=0.0)) as model:
            models.append(model)
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(model.next_token_logits, [1])

    def check() -> None:
        for model in models:
            assert (model.statistics().under_way, model.statistics().waiting) == (0, 0)

    assert cancel_at_each_step(main, check) > 10
    check()


async def test_an_error_in_the_block_comes_out_as_itself_and_ends_the_looking_after() -> None:
    hosts = Hosts()
    hosts.fails = {"a": DOWN}
    tasks = trio.lowlevel.current_statistics().tasks_living
    with pytest.raises(KeyError):
        async with hosts.connect():
            raise KeyError("mine")
    await trio.testing.wait_all_tasks_blocked()

    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_used_after_its_block_it_says_so() -> None:
    hosts = Hosts()
    async with hosts.connect() as model:
        pass
    with pytest.raises(UsageError, match=r"after its connect\(\) block has ended"):
        await model.next_token_logits([1])


async def test_no_trouble_shows_a_secret(autojump_clock) -> None:
    hosts = Hosts()
    hosts.fails = {"a": httpx.ConnectError("cannot reach canary-word-1 at canary-query-2 with canary-key-3")}
    urls = [f"http://user:canary-word-1@{name}.test/?key=canary-query-2" for name in NAMES]
    transport = httpx.MockTransport(hosts)
    async with connect(urls, transport=transport, decode_in_thread_above=math.inf, api_key="canary-key-3") as model:
        shown = f"{model!r} {model.statistics()!r} {model.info!r}"
        hosts.fails = dict.fromkeys(NAMES, hosts.fails["a"])
        with pytest.raises(SeedbedError) as caught:
            await model.next_token_logits([1])
        shown += f"{caught.value!s} {caught.value.__cause__!r} {caught.value.__notes__!r} {model.statistics()!r}"

    assert "canary" not in shown


async def test_the_state_of_all_and_of_each_can_be_read(autojump_clock) -> None:
    async with Hosts().connect() as model:
        for _ in range(3):
            await model.next_token_logits([1])
        state = model.statistics()

    assert repr(model) == "<HTTPModel four at http://a.test, http://b.test, http://c.test, native, full rows: 0 under way, 0 waiting>"
    assert [replica.where for replica in state.replicas] == URLS
    assert [replica.requests for replica in state.replicas] == [3, 3, 3]
    assert (state.requests, state.retries, state.pool) == (9, 0, None)
    assert state.bytes_received == sum(replica.bytes_received for replica in state.replicas) > 0
