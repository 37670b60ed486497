"""The model behind a URL: found out, verified, asked; and whatever is wrong is said in words, without a secret."""

from __future__ import annotations

import logging
import math
import re
import threading
import traceback
from dataclasses import replace

import httpx
import numpy as np
import orjson
import pytest
import trio
import trio.testing
from tests.http.fakes import ASK, INFO, NEVER, OK, URL, FakeHost, description, model_behind, read_request, tcp_server

from seedbed import HashLM, Sampler, TinyLM, connect, generate, serve, softmax
from seedbed.errors import (
    AnswerTooLarge,
    BadRequest,
    BrokenAnswer,
    ConnectionLost,
    DishonestAnswer,
    EngineFailed,
    InvalidPrompt,
    NotAModelServer,
    NotReady,
    Overloaded,
    RequestRefused,
    RequestTimeout,
    SeedbedError,
    ServerUnreachable,
    Unauthorized,
    UnknownModel,
    UsageError,
)
from seedbed.http import Retry, TrioTransport
from seedbed.http.endpoint import DISCOVERY_BOUND
from seedbed.protocols import PROTOCOLS, protocol_named
from seedbed.protocols.exchange import HttpRequest, Sample
from seedbed.protocols.vllm import VLLM
from seedbed.server import answer
from seedbed.testing import ScriptedLLM, cancel_at_each_step, check_llm

PROMPT = list(b"The seed")
ROUTES = ("native", "llama.cpp")


# Finding out.


@pytest.mark.parametrize("protocol", ROUTES)
async def test_the_model_is_found_by_asking(protocol: str) -> None:
    async with serve(TinyLM(), protocols=[protocol]) as server, connect(server.url) as model:
        assert model.protocol == protocol
        assert model.info.vocab_size == 257
        assert model.eos_token_ids == (256,)
        assert model.get_stop_token_id() == 256
        assert model.info.context_length == 2048
        await check_llm(model)


@pytest.mark.parametrize("protocol", ROUTES)
async def test_rows_over_the_wire_are_those_of_the_model(protocol: str) -> None:
    llm = TinyLM()
    sampled = (await generate(PROMPT, llm, n=3, seed=7, max_new_tokens=20)).token_ids
    async with serve(llm, protocols=[protocol]) as server, connect(server.url, protocol, top_k="all") as model:
        over_the_wire = (await generate(PROMPT, model, n=3, seed=7, max_new_tokens=20)).token_ids

    assert over_the_wire == sampled


async def test_the_cache_is_reused_where_it_could_be_forbidden_and_only_then() -> None:
    for protocol, can_bypass in (("llama.cpp", True), ("native", False)):
        async with serve(TinyLM(), protocols=[protocol]) as server, connect(server.url, top_k=3) as model:
            warm = model.reusing_cache()

            assert (warm is not model) == can_bypass
            assert await warm.next_token_logits([65]) == await model.next_token_logits([65])
            assert warm.statistics() == model.statistics()


async def test_it_keeps_the_contract_over_a_mock_too() -> None:
    """A mock without a checkpoint of its own included."""
    async with model_behind(FakeHost()) as model:
        await check_llm(model)


async def test_an_http_server_of_another_kind_is_no_model_server() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(404, headers={"server": "nginx"}, text="<html>Not Found</html>")

    with pytest.raises(NotAModelServer) as caught:
        async with model_behind(handler):
            pass

    assert str(caught.value).startswith(f"{URL} answers HTTP (status 404, server nginx), but does not speak native or llama.cpp")
    assert str(caught.value).endswith("; is the URL right?")


async def test_a_page_that_answers_200_to_everything_is_no_model_server() -> None:
    with pytest.raises(NotAModelServer):
        async with model_behind(lambda request: httpx.Response(200, text="<html>Welcome</html>")):
            pass


async def test_a_server_asked_in_another_protocol_than_its_own_says_so() -> None:
    with pytest.raises(NotAModelServer, match=r"does not speak llama\.cpp"):
        async with model_behind(FakeHost(), protocol="llama.cpp"):
            pass


async def test_something_that_does_not_speak_http_is_a_broken_answer() -> None:
    async def handle(stream: trio.SocketStream) -> None:
        await stream.send_all(b"SSH-2.0-OpenSSH_9.6\r\n")
        await trio.sleep_forever()

    async with tcp_server(handle) as origin:
        with pytest.raises(BrokenAnswer, match="SSH") as caught:
            async with connect(str(origin)):
                pass

    assert caught.value.__notes__ == [f"while asking {origin} whether it speaks native"]


async def test_nobody_there_is_said_at_once(autojump_clock) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with pytest.raises(ServerUnreachable):
        async with model_behind(handler):
            pass

    assert trio.current_time() == 0


@pytest.mark.parametrize(
    ("status", "error"), [(401, Unauthorized), (403, Unauthorized), (302, RequestRefused), (500, EngineFailed), (502, EngineFailed)]
)
async def test_a_gateway_in_front_of_everything_says_why(status: int, error: type[SeedbedError]) -> None:
    """A wrong key must not read as "no model server"."""

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers={"location": "http://elsewhere.test/login?next=x"}, text="go away")

    with pytest.raises(error) as caught:
        async with model_behind(handler):
            pass

    assert caught.value.status == status
    assert "next=" not in str(caught.value)


async def test_a_server_that_loads_its_model_is_waited_for(autojump_clock) -> None:
    loading = [httpx.Response(503, json={"error": {"message": "Loading model", "type": "unavailable_error"}}) for _ in range(2)]
    host = FakeHost(script={"/v1/model": loading})
    retry = Retry(base=1.0)
    async with model_behind(host, retry=retry) as model:
        assert model.info.vocab_size == 4
        assert model.statistics().allowed == 16  # for that, nothing is held against it

    assert trio.current_time() == sum(retry.delay(b"/v1/model", k) for k in range(2))


async def test_a_server_that_never_ends_loading_is_given_up(autojump_clock) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503, json={"error": {"message": "Loading model", "type": "unavailable_error"}})

    with pytest.raises(NotReady) as caught:
        async with model_behind(handler):
            pass

    assert caught.value.__notes__ == ["after 5 attempts", f"while asking {URL} whether it speaks native"]


async def test_another_model_than_the_one_wanted_is_refused() -> None:
    with pytest.raises(UnknownModel, match="'four', not 'five'"):
        async with model_behind(FakeHost(), model="five"):
            pass


async def test_a_server_that_does_not_tell_its_end_token_must_be_helped() -> None:
    host = FakeHost(script={"/v1/model": [httpx.Response(200, content=description(eos_token_ids=[])) for _ in range(2)]})
    with pytest.raises(UsageError, match=r"does not tell its eos_token_ids: give eos_token_ids= to connect\(\)"):
        async with model_behind(host):
            pass
    async with model_behind(host, eos_token_ids=[3]) as model:
        assert model.eos_token_ids == (3,)


async def test_an_end_token_outside_the_vocabulary_is_a_lie_or_a_mistake() -> None:
    host = FakeHost(script={"/v1/model": [httpx.Response(200, content=description(eos_token_ids=[9]))]})
    with pytest.raises(DishonestAnswer, match="end token 9 is not in the vocabulary of 4"):
        async with model_behind(host):
            pass
    with pytest.raises(UsageError, match="end token 4 is not in the vocabulary of 4: ids are 0 to 3"):
        async with model_behind(FakeHost(), eos_token_ids=[4]):
            pass
    with pytest.raises(UsageError, match="end token -1 is not in the vocabulary of 4: ids are 0 to 3"):
        async with model_behind(FakeHost(), eos_token_ids=[-1]):
            pass
    host = FakeHost(script={"/v1/model": [httpx.Response(200, content=description(eos_token_ids=[3]))]})
    with pytest.raises(UsageError, match="end token 3 is not in the vocabulary of 2"):
        async with model_behind(host, vocab_size=2):
            pass


async def test_the_probe_catches_a_server_that_contradicts_itself() -> None:
    """Its rows have five entries, its description says four."""
    with pytest.raises(DishonestAnswer, match="5 entries"):
        async with model_behind(
            FakeHost(ScriptedLLM({}, default=[0.0] * 5), script={"/v1/model": [httpx.Response(200, content=description())]})
        ):
            pass


@pytest.mark.parametrize("protocol", ["native", "kserve-v2"])
async def test_the_probe_catches_a_server_that_gives_probabilities_for_logits(protocol: str) -> None:
    """As a model's softmax output is called by Triton's metadata: an output like any other."""
    probabilities = softmax(np.random.default_rng(7).normal(0, 3, 300)).astype(np.float32)
    llm = ScriptedLLM({}, default=probabilities.tolist(), info=replace(INFO, vocab_size=300))
    with pytest.raises(DishonestAnswer, match="logits are probabilities"):
        async with model_behind(FakeHost(llm, protocol=protocol), protocol=protocol, top_k="all", eos_token_ids=[0]):
            pass


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("model.test:8000", {}),
        ("ftp://model.test", {}),
        ("http://", {}),
        ("", {}),
        (None, {}),
        ("http://model.test:99999", {}),
        ("http://model.test:0", {}),
        ("http://a b", {}),
        (URL, {"top_k": 0}),
        (URL, {"top_k": True}),
        (URL, {"top_k": 1.5}),
        (URL, {"top_k": "some"}),
        (URL, {"max_connections": 0}),
        (URL, {"request_timeout": 0}),
        (URL, {"request_timeout": math.nan}),
        (URL, {"connect_timeout": -1}),
        (URL, {"protocol": "gopher"}),
        (URL, {"headers": [("a", "b\nc")]}),
        (URL, {"headers": {"Content-Length": "3"}}),
        (URL, {"headers": {"transfer-encoding": "chunked"}}),
        (URL, {"api_key": "\N{SNOWMAN}"}),
        (URL, {"transport": httpx.MockTransport(lambda request: httpx.Response(200)), "client": httpx.AsyncClient(trust_env=False)}),
        ([], {}),
        ([URL, URL], {}),
        ([URL, "http://"], {}),
        (URL, {"top_k": "3"}),
        (URL, {"max_connections": None}),
        (URL, {"max_connections": 8.0}),
        (URL, {"max_connections": "3"}),
        (URL, {"request_timeout": None}),
        (URL, {"request_timeout": "60"}),
        (URL, {"request_timeout": True}),
        (URL, {"connect_timeout": None}),
        (URL, {"decode_in_thread_above": None}),
        (URL, {"protocol": 5}),
        (URL, {"model": 5}),
        (URL, {"headers": "authorization"}),
        (URL, {"headers": {"a": 5}}),
        (URL, {"headers": {"a": None}}),
        (URL, {"headers": 5}),
        (URL, {"api_key": b"key"}),
        (URL, {"api_key": ""}),
        (URL, {"retry": 3}),
        (URL, {"transport": "http"}),
        (URL, {"client": object()}),
        (URL, {"ssl_context": True}),
        (URL, {"eos_token_ids": 46}),
        (URL, {"eos_token_ids": "46"}),
        (URL, {"eos_token_ids": []}),
        (URL, {"eos_token_ids": [0.5]}),
        (URL, {"eos_token_ids": [True]}),
        (URL, {"eos_token_ids": np.array([[256]])}),
        (URL, {"eos_token_ids": np.array(256)}),
        (URL, {"top_k": np.array([5])}),
        (URL, {"top_k": np.array(["all", "all"])}),
        (URL, {"vocab_size": 0}),
        (URL, {"vocab_size": "257"}),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),
)
async def test_a_wrong_argument_is_refused_before_anything_is_sent(url: str, arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        async with connect(url, **arguments):
            pass


@pytest.mark.parametrize("top_k", [3, "all"])
async def test_more_than_the_server_gives_is_refused_before_it_is_asked(top_k: object) -> None:
    host = FakeHost(script={"/v1/model": [httpx.Response(200, content=description(max_top_k=2))]})
    with pytest.raises(UsageError, match=f"the 2 best tokens at most, not {top_k}"):
        async with model_behind(host, top_k=top_k):
            pass


# Asking.


async def test_a_path_in_front_and_a_query_go_with_every_request() -> None:
    host = FakeHost()

    async def mounted(request: httpx.Request) -> httpx.Response:
        assert request.url.raw_path.startswith(b"/a%20b/v1/")
        assert request.url.query == b"key=hunter22"
        request.url = request.url.copy_with(raw_path=request.url.raw_path.removeprefix(b"/a%20b"))
        return await host(request)

    async with model_behind(mounted, url=URL + "/a%20b/?key=hunter22") as model:
        await model.next_token_logits([1])
        assert model._servers.where == URL + "/a%20b"

    assert len(host.asked) == 3


@pytest.mark.parametrize(
    ("url", "arguments", "authorization"),
    [
        (URL, {"api_key": "k"}, "Bearer k"),
        ("http://user:pass@model.test", {}, "Basic dXNlcjpwYXNz"),
        ("http://user:pass@model.test", {"api_key": "k"}, "Bearer k"),
        (URL, {}, None),
    ],
)
async def test_the_key_goes_with_every_request(url: str, arguments: dict[str, str], authorization: str | None) -> None:
    host = FakeHost()
    async with model_behind(host, url=url, headers=[("x-team", "seedbed")], **arguments) as model:
        await model.next_token_logits([1])

    assert [request.headers.get("authorization") for request in host.asked] == [authorization] * 3
    assert {request.headers["x-team"] for request in host.asked} == {"seedbed"}
    assert {request.headers["accept-encoding"] for request in host.asked} == {"identity"}


@pytest.mark.parametrize(("url", "arguments"), [(URL, {"api_key": "k-hunter22"}), ("http://user:hunter22@model.test", {})])
async def test_two_authorizations_are_one_too_many(url: str, arguments: dict[str, str]) -> None:
    """Which of them a server reads is its own affair."""
    with pytest.raises(UsageError, match="Authorization") as caught:
        async with model_behind(FakeHost(), url=url, headers={"AUTHORIZATION": "Bearer hunter33"}, **arguments):
            pass
    assert "hunter" not in str(caught.value)

    host = FakeHost()
    async with model_behind(host, headers={"AUTHORIZATION": "Bearer hunter33"}):
        assert {request.headers["authorization"] for request in host.asked} == {"Bearer hunter33"}


async def test_ints_of_numpys_are_ints() -> None:
    arguments = {"top_k": np.int64(2), "vocab_size": np.uint16(4), "eos_token_ids": np.array([3])}
    async with model_behind(FakeHost(), **arguments) as model:
        assert (model.top_k, model.info.vocab_size, model.eos_token_ids) == (2, 4, (3,))
        assert {type(n) for n in (model.top_k, model.info.vocab_size, *model.eos_token_ids)} == {int}


async def test_headers_may_be_a_mapping() -> None:
    for headers in (
        {"x-team": "seedbed", "x-b": "1"},
        [("x-team", "seedbed"), ("x-b", "1")],
        httpx.Headers({"x-team": "seedbed", "x-b": "1"}),
    ):
        host = FakeHost()
        async with model_behind(host, headers=headers):
            assert {(request.headers["x-team"], request.headers["x-b"]) for request in host.asked} == {("seedbed", "1")}


async def test_a_prefix_may_be_an_array_and_what_is_none_is_one_clear_error() -> None:
    async with model_behind(FakeHost()) as model:
        assert (await model.next_token_logits(np.array([1, 2]))).tolist() == [0, 1, 2, 3]
        with pytest.raises(InvalidPrompt, match="the prefix holds <object object .* at place 0, which is no token id"):
            await model.next_token_logits([object()])


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_prefix_that_is_none_is_refused_by_us_or_the_server_and_never_taken_for_another(protocol: str) -> None:
    llm = TinyLM()
    async with model_behind(FakeHost(llm, protocol=protocol), protocol=protocol, eos_token_ids=[256]) as model:
        for prefix in ([], [-1], [1.5], ["a"], [True], [257], [2**31], [2**70], None, 5, "ab", np.array([1.5])):
            with pytest.raises((UsageError, BadRequest)):
                await model.next_token_logits(prefix)
            with pytest.raises((UsageError, BadRequest)):
                await model.logits_ahead(prefix, 4)


class Slots:
    """A server that works on so many questions at a time, a second each, and refuses any more."""

    def __init__(self, slots: int) -> None:
        self.slots, self.busy = slots, 0
        self.answered = self.refused = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response | None:
        if self.busy == self.slots:
            self.refused += 1
            return httpx.Response(503, json={"error": "busy"})
        self.busy += 1
        await trio.sleep(1)
        self.busy -= 1
        self.answered += 1
        return None


async def test_a_server_with_eight_slots_behind_256_sequences_is_kept_busy_without_a_storm(autojump_clock) -> None:
    slots = Slots(8)
    host = FakeHost(script={ASK: slots})
    async with model_behind(host, max_connections=64) as model:
        began, before = trio.current_time(), slots.answered
        result = await generate(
            [1], model, n=256, seed=7, max_new_tokens=4, prefix_cache_bytes=0, sampler=Sampler(logit_bias={0: -math.inf})
        )
        seconds, answered = trio.current_time() - began, slots.answered - before

    assert {sequence.finish_reason for sequence in result.sequences} == {"length"}
    assert answered == 256 * 4
    assert answered / seconds > 0.9 * 8
    assert slots.refused < 0.1 * answered
    assert model.statistics().allowed < 10


async def test_a_server_that_refuses_nobody_soon_has_all_it_may_have(autojump_clock) -> None:
    slots = Slots(1000)
    async with model_behind(FakeHost(script={ASK: slots}), max_connections=64) as model:
        assert model.statistics().allowed == 16
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(256):
                nursery.start_soon(model.next_token_logits, [1])

        assert trio.current_time() - began == 6  # 16, 32, 64, 64, 64 and the last 16
        assert model.statistics().allowed == 64


async def test_answers_that_take_long_are_no_reason_to_ask_for_more_at_once(autojump_clock) -> None:
    async with model_behind(FakeHost(script={ASK: Slots(1000)}), request_timeout=1.5) as model:
        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(model.next_token_logits, [1])

        assert model.statistics().allowed == 16


async def test_a_pause_the_server_asked_for_holds_for_every_request(autojump_clock) -> None:
    """Not only for the one that was refused: nobody is sent before it is over, and nobody is given up for it."""
    asked: list[float] = []

    async def first_refused(request: httpx.Request) -> httpx.Response | None:
        asked.append(trio.current_time())
        if len(asked) <= 3:
            return httpx.Response(429, headers={"retry-after": "7"})
        return None

    host = FakeHost()
    async with model_behind(host, max_connections=3) as model:
        host.script = {ASK: first_refused}
        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(model.next_token_logits, [1])

    assert asked == [0.0] * 3 + [7.0] * 64


async def test_a_pause_longer_than_anybody_waits_is_said_at_once(autojump_clock) -> None:
    host = FakeHost()
    async with model_behind(host) as model:
        host.script = {ASK: [httpx.Response(503, headers={"retry-after": "3600"})]}
        for text in ("503", "asked not to be asked for another 3.6e\\+03 s"):
            with pytest.raises(Overloaded, match=text) as caught:
                await model.next_token_logits([1])
            assert caught.value.retry_after == 3600
    assert trio.current_time() == 0


async def test_a_refusal_that_may_pass_is_tried_again(autojump_clock) -> None:
    row = httpx.Response(200, json={"logits": [0.0, 1.0, 2.0, 3.0]})
    host = FakeHost(script={ASK: [row, httpx.Response(429, headers={"retry-after": "7"}), httpx.Response(503), httpx.Response(502)]})
    async with model_behind(host) as model:
        before = trio.current_time()
        row = await model.next_token_logits([1])

        assert row.tolist() == [0, 1, 2, 3]
        assert model.counters() == {"requests": 6, "retries": 3, "bytes_received": model.counters()["bytes_received"]}
        assert trio.current_time() - before > 7


async def test_an_attempt_takes_no_longer_than_allowed_and_says_so(autojump_clock) -> None:
    slow = ScriptedLLM({}, default=[0.0] * 4, info=INFO, delay=lambda prefix: 100.0 if prefix == (1,) else 0.0)
    async with model_behind(FakeHost(slow), request_timeout=7.5, retry=NEVER) as model:
        with pytest.raises(RequestTimeout, match=r"no whole answer within 7.5 s"):
            await model.next_token_logits([1])

        assert trio.current_time() == 7.5
        assert model.statistics().under_way == 0


async def test_a_deadline_of_the_callers_is_the_callers(autojump_clock) -> None:
    """It comes as trio demands, not as an error of ours, and ends the request."""
    slow = ScriptedLLM({}, default=[0.0] * 4, info=INFO, delay=lambda prefix: 100.0 if prefix == (1,) else 0.0)
    async with model_behind(FakeHost(slow), request_timeout=7.5) as model:
        with trio.move_on_after(5) as scope:
            await model.next_token_logits([1])

        assert scope.cancelled_caught
        assert trio.current_time() == 5
        assert (model.statistics().under_way, model.statistics().waiting) == (0, 0)


async def test_requests_beyond_the_limit_wait_their_turn_and_their_time_does_not_run(autojump_clock) -> None:
    slow = ScriptedLLM({}, default=[0.0] * 4, info=INFO, delay=lambda prefix: 6.0 if prefix == (1,) else 0.0)
    async with model_behind(FakeHost(slow), max_connections=2, request_timeout=7.0) as model:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(model.next_token_logits, [1])
            await trio.testing.wait_all_tasks_blocked()
            assert (model.statistics().under_way, model.statistics().waiting) == (2, 4)
            assert repr(model) == f"<HTTPModel four at {URL}, native, full rows: 2 under way, 4 waiting>"

        assert trio.current_time() == 18
        assert (model.statistics().under_way, model.statistics().waiting) == (0, 0)


def test_cancelled_at_any_step_no_turn_is_leaked() -> None:
    models = []

    async def main() -> None:
        host = FakeHost(script={ASK: [None, httpx.Response(503), httpx.ReadError("reset")]})
        async with model_behind(host, max_connections=2) as model:
            models.append(model)
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(model.next_token_logits, [1])

    def check() -> None:
        for model in models:
            assert (model.statistics().under_way, model.statistics().waiting) == (0, 0)

    assert cancel_at_each_step(main, check) > 10
    check()


async def test_a_large_row_is_decoded_in_a_thread_and_is_the_same() -> None:
    async with serve(HashLM(1000)) as server, connect(server.url, decode_in_thread_above=100) as model:
        row = await model.next_token_logits([1, 2])

        assert row.tolist() == (await HashLM(1000).next_token_logits([1, 2])).tolist()
        with pytest.raises(BadRequest):
            await model.next_token_logits([1001])


async def test_whatever_is_long_is_decoded_in_a_thread() -> None:
    """The answers to scores are the longest of all."""
    seen = []

    class Watched(VLLM):
        def decode_response(self, *question):
            seen.append(("row", threading.current_thread() is threading.main_thread()))
            return super().decode_response(*question)

        def decode_scores(self, *question):
            seen.append(("scores", threading.current_thread() is threading.main_thread()))
            return super().decode_scores(*question)

        def decode_samples(self, *question):
            seen.append(("samples", threading.current_thread() is threading.main_thread()))
            return super().decode_samples(*question)

        def decode_tokens(self, response):
            seen.append(("tokens", threading.current_thread() is threading.main_thread()))
            return super().decode_tokens(response)

    async with serve(TinyLM()) as server:
        for above in (0, math.inf):
            seen.clear()
            async with connect(server.url, Watched(), eos_token_ids=[256], decode_in_thread_above=above) as model:
                await model.score([84, 104])
                await model.sample(Sample((84,)))
                await model.tokenize("The")
            assert {name for name, _ in seen} == {"row", "scores", "samples", "tokens"}
            assert {in_main for _, in_main in seen} == {above > 0}


async def test_a_compressed_answer_is_refused() -> None:
    """It was asked not to be, and inflating could fill the memory before anything could be counted."""
    host = FakeHost(script={"/v1/model": lambda request: zipped()})

    async def zipped() -> httpx.Response:
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"\x1f\x8b not even that"))

    with pytest.raises(BrokenAnswer, match="compressed"):
        async with model_behind(host, retry=NEVER):
            pass


async def test_text_is_the_servers_affair() -> None:
    async with serve(TinyLM()) as server, connect(server.url) as model:
        assert await model.tokenize("seed") == list(b"seed")
        assert await model.detokenize(list(b"seed")) == "seed"
        with trio.testing.assert_checkpoints():
            assert await model.detokenize([]) == ""


@pytest.mark.parametrize("protocol", ROUTES)
async def test_what_is_no_prefix_or_text_is_named(protocol: str) -> None:
    async with serve(TinyLM()) as server, connect(server.url, protocol) as model:
        for wrong in (None, 5):
            with pytest.raises(InvalidPrompt, match="the prefix must be"):
                await model.next_token_logits(wrong)
            with pytest.raises(InvalidPrompt, match="the prefix must be"):
                await model.logits_ahead(wrong, 2)
        for wrong in (None, 5, "ab", [1.5], [-1], {1}):
            with pytest.raises(InvalidPrompt, match="what is to be detokenized"):
                await model.detokenize(wrong)
        for wrong in (None, 5, b"ab", ["ab"]):
            with pytest.raises(UsageError, match="what is to be tokenized must be text"):
                await model.tokenize(wrong)
        assert await model.detokenize(np.array([97, 98])) == "ab"


async def test_a_model_used_after_its_block_says_so() -> None:
    async with serve(TinyLM()) as server:
        async with connect(server.url) as model:
            pass
        with pytest.raises(UsageError, match=r"after its connect\(\) block has ended"):
            await model.next_token_logits([1])
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.connections == 0


async def test_requests_under_way_when_the_block_ends_fail_and_say_why() -> None:
    slow = ScriptedLLM(lambda prefix: [0.0] * 4, info=INFO, delay=lambda prefix: math.inf if prefix == (1,) else 0.0)
    caught = []

    async def ask(model) -> None:
        try:
            await model.next_token_logits([1])
        except UsageError as error:
            caught.append(error)

    async with serve(slow) as server, trio.open_nursery() as nursery, connect(server.url) as model:
        nursery.start_soon(ask, model)
        await trio.testing.wait_all_tasks_blocked(0.01)

    assert len(caught) == 1


async def test_the_state_of_the_way_to_a_model_can_be_read() -> None:
    async with serve(TinyLM()) as server, connect(server.url) as model:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(model.next_token_logits, [1])
        state = model.statistics()

    assert (state.under_way, state.waiting, state.requests, state.retries) == (0, 0, 7, 0)
    assert state.pool.active == 0
    assert 1 <= state.pool.idle == state.pool.opened <= 5
    assert state.bytes_received == state.pool.bytes_received


# What may never be believed, kept or shown.


@pytest.mark.parametrize("protocol", ROUTES)
@pytest.mark.parametrize(("has_length", "error"), [(True, ConnectionLost), (False, BrokenAnswer)])
async def test_an_answer_cut_at_any_octet_is_a_typed_error_never_a_row(protocol: str, has_length: bool, error: type[SeedbedError]) -> None:
    """With a length that notices, and ended by closing, where only the content can tell."""
    llm = ScriptedLLM({}, default=[0.0, 1.0, 2.0, 3.0], info=INFO)
    speaks = protocol_named(protocol)
    whole, cut = b"", None

    async def handle(stream: trio.SocketStream) -> None:
        nonlocal whole
        while request := await read_request(stream):
            head, _, body = request.partition(b"\r\n\r\n")
            method, path, _ = head.decode().split(" ", 2)
            response = await answer(llm, [speaks], HttpRequest(method, path, (), body))
            if path in (ASK, "/completion") and cut is not None:
                whole = bytes(response.body)
                framing = b"content-length: %d\r\n" % len(whole) if has_length else b""
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + framing + b"\r\n" + whole[:cut])
                return
            await stream.send_all(b"HTTP/1.1 %d OK\r\ncontent-length: %d\r\n\r\n%b" % (response.status, len(response.body), response.body))

    async with tcp_server(handle) as origin, connect(str(origin), protocol, top_k=2, eos_token_ids=[0], retry=NEVER) as model:
        cut = 0
        while not whole or cut < len(whole):
            with pytest.raises(error):
                await model.next_token_logits([1])
            cut += 1


class Echo(FakeHost):
    """Repeats everything it was sent in its refusals, as some gateways do."""

    def __init__(self, status: int, body=lambda text: text, **options) -> None:
        super().__init__(**options)
        self.status, self.body = status, body

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.status is None or (request.url.path != ASK and self.only_ask):
            return await super().__call__(request)
        text = f"{request.url} {request.headers.raw!r}"
        return httpx.Response(self.status, headers={"location": str(request.url), "server": text}, text=self.body(text))

    only_ask = False


def in_json(text: str) -> str:
    return orjson.dumps({"error": {"message": text}}).decode()


def without_its_beginning(text: str) -> str:
    """So that a quotation of the first octets cuts something else."""
    return text[40:]


def escaped(text: str) -> str:
    """As JSON may write it, though it need not."""
    return orjson.dumps({"error": "text"}).decode().replace("text", "".join(f"\\u{ord(character):04x}" for character in text))


CANARIES = ("canary-bearer-1", "canary-header-2", "canary-user-3", "canary-word-4", "canary-query-5")


def everything_said(error: BaseException) -> str:
    """Text, repr, notes and traceback, of the error and of all that led to it."""
    said = "".join(traceback.format_exception(error, chain=True))
    chain = [error]
    while chain:
        at = chain.pop()
        said += f"{at!s} {at!r} {at.args!r} {getattr(at, '__notes__', ())!r}"
        chain += [cause for cause in (at.__cause__, at.__context__) if cause is not None]
    return said


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 418, 422, 429, 500, 501, 502, 503])
@pytest.mark.parametrize("only_ask", [False, True])
@pytest.mark.parametrize("body", [str, in_json, without_its_beginning, escaped])
async def test_no_error_shows_a_secret_even_when_the_server_repeats_it(status: int, only_ask: bool, body, autojump_clock) -> None:
    host = Echo(status, body)
    host.only_ask = only_ask
    url = f"http://{CANARIES[2]}:{CANARIES[3]}@model.test/?key={CANARIES[4]}"
    with pytest.raises(SeedbedError) as caught:
        async with model_behind(host, url=url, api_key=CANARIES[0], headers=[("x-api-key", CANARIES[1])], retry=Retry(attempts=2)):
            pass

    for canary in CANARIES:
        assert canary[:10] not in everything_said(caught.value)


@pytest.mark.parametrize("status", [200, 400, 401, 500])
@pytest.mark.parametrize("body", [str, in_json, escaped])
async def test_no_question_once_connected_is_answered_with_a_secret(status: int, body, autojump_clock) -> None:
    key = 'canary-"quoted"/\\slashed'  # JSON has to write some of it otherwise, and may all of it
    host = FakeHost(protocol="vllm")
    async with model_behind(host, protocol="vllm", api_key=key, eos_token_ids=[0], retry=NEVER) as model:
        for path in ("/v1/completions", "/tokenize", "/detokenize"):
            host.script[path] = lambda request: answered_with(httpx.Response(status, text=body(request.headers["authorization"])))
        for question in (
            lambda: model.next_token_logits([1]),
            lambda: model.score([1, 2]),
            lambda: model.sample(Sample((1,))),
            lambda: model.tokenize("a"),
            lambda: model.detokenize([1]),
        ):
            with pytest.raises(SeedbedError) as caught:
                await question()
            assert "canary" not in everything_said(caught.value)


async def answered_with(response: httpx.Response) -> httpx.Response:
    await trio.lowlevel.checkpoint()
    return response


async def test_no_error_shows_what_a_client_was_given(autojump_clock) -> None:
    host = Echo(400, in_json)
    host.only_ask = True
    given = {"headers": {"X-Auth-Token": CANARIES[1]}, "params": {"key": CANARIES[4]}, "cookies": {"session": CANARIES[0]}}
    async with httpx.AsyncClient(transport=httpx.MockTransport(host), **given) as client:
        with pytest.raises(BadRequest) as caught:
            async with connect(URL, client=client, decode_in_thread_above=math.inf):
                pass

    assert "canary" not in everything_said(caught.value)


async def test_no_log_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    """Not that of httpx either, which writes down the URLs its clients ask."""
    caplog.set_level(logging.DEBUG)
    async with serve(TinyLM()) as server:
        url = server.url.replace("http://", f"http://{CANARIES[2]}:{CANARIES[3]}@") + f"/?key={CANARIES[4]}"
        for transport in (None, TrioTransport(), httpx.AsyncHTTPTransport()):
            async with connect(url, transport=transport, headers={"x-api-key": CANARIES[1]}) as model:
                await model.next_token_logits(PROMPT)

    assert "canary" not in caplog.text


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError(f"cannot reach {request.url} with {request.headers.raw}")


def reset(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError(f"reset {request.url}")


@pytest.mark.parametrize("handler", [refuse, reset])
async def test_no_error_of_another_transport_shows_a_secret(handler, autojump_clock) -> None:
    url = f"http://{CANARIES[2]}:{CANARIES[3]}@model.test/?key={CANARIES[4]}"
    with pytest.raises(SeedbedError) as caught:
        async with model_behind(handler, url=url, api_key=CANARIES[0], headers=[("x-api-key", CANARIES[1])]):
            pass

    for canary in CANARIES:
        assert canary not in everything_said(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://canary-user-3:canary-word-4@model.test:port",
        "http://model.test:canary-word-4",
        "canary://canary-word-4@x",
        "http://canary-word-4@",
    ],
)
async def test_a_url_that_is_none_is_not_shown(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        async with connect(url):
            pass

    assert "canary" not in str(caught.value)
    assert "canary" not in repr(caught.value.__cause__)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


async def test_no_repr_shows_a_secret() -> None:
    url = f"http://{CANARIES[2]}:{CANARIES[3]}@model.test/?key={CANARIES[4]}"
    async with model_behind(FakeHost(), url=url, api_key=CANARIES[0], headers=[("x-api-key", CANARIES[1])]) as model:
        shown = f"{model!r} {model._servers._sender!r} {model.info!r} {model.statistics()!r} {model._servers.secrets!r}"

    assert "canary" not in shown


async def test_a_server_that_echoes_the_request_shows_no_secret() -> None:
    """An echo port: what comes back is our own request, key included."""

    async def handle(stream: trio.SocketStream) -> None:
        await stream.send_all(await read_request(stream))

    async with tcp_server(handle) as origin:
        with pytest.raises(BrokenAnswer) as caught:
            async with connect(f"{origin}/?key={CANARIES[4]}", api_key=CANARIES[0]):
                pass

    assert "canary" not in everything_said(caught.value)


async def test_discovery_is_bounded() -> None:
    with pytest.raises(AnswerTooLarge):
        async with model_behind(lambda request: httpx.Response(200, content=b"x" * (DISCOVERY_BOUND + 1)), retry=NEVER):
            pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_deep_nesting_is_refused(protocol: str) -> None:
    """A parser that recurses must give a typed error, not exhaust the stack."""
    deep = b'{"logits":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(SeedbedError):
        async with model_behind(lambda request: httpx.Response(200, content=deep), protocol=protocol, retry=NEVER):
            pass


async def test_a_hundred_requests_a_connection_go_unnoticed() -> None:
    """Our own server in llama.cpp's clothes: ``max=100`` in every answer."""
    async with serve(TinyLM(), protocols=["llama.cpp"]) as server, connect(server.url, "llama.cpp", max_connections=1) as model:
        for _ in range(205):
            await model.next_token_logits([1])
        state = model.statistics()

    assert (state.pool.opened, state.pool.resent, state.retries) == (3, 0, 0)


async def test_a_server_that_closes_after_every_answer_costs_connections_and_no_retries() -> None:
    async def handle(stream: trio.SocketStream) -> None:
        request = await read_request(stream)
        if request:
            head, _, body = request.partition(b"\r\n\r\n")
            method, path, _ = head.decode().split(" ", 2)
            response = await answer(TinyLM(), [protocol_named("native")], HttpRequest(method, path, (), body))
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(response.body), response.body))

    async with tcp_server(handle) as origin, connect(str(origin)) as model:
        for _ in range(5):
            await model.next_token_logits([1])
        state = model.statistics()

    assert state.retries == 0
    assert state.requests == 7
    assert OK


async def test_overload_says_how_long_it_was_asked_to_wait(autojump_clock) -> None:
    host = FakeHost()
    async with model_behind(host, retry=NEVER) as model:
        host.script[ASK] = [httpx.Response(429, headers={"retry-after": "7"}, json={"error": "busy"})]
        with pytest.raises(Overloaded, match="busy") as caught:
            await model.next_token_logits([1])

    assert caught.value.retry_after == 7
