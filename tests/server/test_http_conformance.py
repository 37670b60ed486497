"""One suite for two HTTP implementations that share no line, our listener and hypercorn: what we take for HTTP is not merely our own idea.

What is ours alone, bounds and what is said to those who break the rules, is in ``test_listener``.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import hypercorn.config
import hypercorn.trio
import orjson
import pytest
import trio
import trio.testing
from tests.server.test_listener import INFO, MODEL, ROW, Client, ask

from seedbed import HashLM, ModelInfo, TinyLM, connect, generate, serve
from seedbed.errors import BadRequest, ContextOverflow, UnknownModel
from seedbed.server.asgi import asgi_app
from seedbed.testing import ScriptedLLM, check_llm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from seedbed.llm import LLM

pytestmark = pytest.mark.parametrize("kind", ["listener", "hypercorn"])


@asynccontextmanager
async def mounted(kind: str, llm: LLM = MODEL, **settings: Any) -> AsyncIterator[str]:
    """The URL of a server of that kind; ``settings`` are hypercorn's."""
    if kind == "listener":
        async with serve(llm) as server:
            yield server.url
            assert server.failures == 0
        return
    config = hypercorn.config.Config()
    config.bind, config.errorlog, config.accesslog = ["127.0.0.1:0"], None, None
    for name, value in settings.items():
        setattr(config, name, value)
    async with trio.open_nursery() as nursery:
        yield (await nursery.start(partial(hypercorn.trio.serve, asgi_app(llm), config)))[0]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Client]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    try:
        yield Client(stream)
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def connected(kind: str) -> AsyncIterator[Client]:
    async with mounted(kind) as url, client_of(url) as client:
        yield client


# As octets on a socket.


async def test_requests_follow_each_other_on_one_connection(kind: str) -> None:
    async with connected(kind) as client:
        for _ in range(5):
            await client.send(ask())
            status, headers, body = await client.answer()
            assert (status, body, int(headers["content-length"])) == (200, ROW, len(ROW))


async def test_pipelined_requests_are_answered_in_order(kind: str) -> None:
    async with connected(kind) as client:
        await client.send(ask() + ask(method="GET", path="/health", body=b"") + ask())
        assert [(await client.answer())[2] for _ in range(3)] == [ROW, b'{"status":"ok"}', ROW]


async def test_a_request_that_comes_octet_by_octet_is_understood(kind: str) -> None:
    async with connected(kind) as client:
        for octet in ask():
            await client.send(bytes([octet]))
        assert (await client.answer())[2] == ROW


@pytest.mark.parametrize("cuts", [(16,), (1, 15), (1,) * 16])
async def test_a_chunked_request_is_understood(kind: str, cuts: tuple[int, ...]) -> None:
    body, chunks = b'{"token_ids":[1]}', b""
    for size in (*cuts, len(body) - sum(cuts)):
        chunks += b"%x\r\n%b\r\n" % (size, body[:size])
        body = body[size:]
    async with connected(kind) as client:
        for _ in range(2):
            await client.send(ask("transfer-encoding: chunked", body=chunks + b"0\r\n\r\n"))
            assert (await client.answer())[2] == ROW


async def test_a_client_that_waits_for_the_servers_word_gets_it(kind: str) -> None:
    async with connected(kind) as client:
        head, _, body = ask("expect: 100-continue").partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        assert (await client.answer())[0] == 100
        await client.send(body)
        assert (await client.answer())[2] == ROW


@pytest.mark.parametrize(("version", "line"), [("1.1", "connection: close"), ("1.0", "x: y")])
async def test_a_client_that_wants_to_go_is_let_go(kind: str, version: str, line: str) -> None:
    async with connected(kind) as client:
        await client.send(ask(line).replace(b"HTTP/1.1", b"HTTP/" + version.encode()))
        assert (await client.answer())[2] == ROW
        assert await client.is_closed_by_server()


async def test_names_of_headers_and_spaces_around_values_do_not_matter(kind: str) -> None:
    async with connected(kind) as client:
        await client.send(ask("Accept:   application/octet-stream  ").replace(b"content-length", b"CONTENT-Length"))
        status, headers, body = await client.answer()

    assert (status, headers["content-type"], len(body)) == (200, "application/octet-stream", 16)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/model", 200), ("/v1/model?key=x", 200), ("/nothing", 404), ("/v1/next_token_logits", 404), ("/", 404)],
)
async def test_paths_are_found_with_their_query_and_others_are_not(kind: str, path: str, status: int) -> None:
    async with connected(kind) as client:
        await client.send(ask(method="GET", path=path, body=b""))
        have, headers, body = await client.answer()

    assert (have, int(headers["content-length"])) == (status, len(body))
    assert orjson.loads(body)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"token_ids":[]}', b'{"token_ids":[9]}', b"\xff" * 1000])
async def test_a_body_that_is_no_question_is_refused_and_the_connection_lives(kind: str, body: bytes) -> None:
    async with connected(kind) as client:
        await client.send(ask(body=body))
        assert (await client.answer())[0] == 400
        await client.send(ask())
        assert (await client.answer())[2] == ROW


async def test_what_is_no_http_gets_no_200_and_ends_only_its_connection(kind: str) -> None:
    async with mounted(kind) as url:
        for junk in (b"\x16\x03\x01 hello \r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n"):
            async with client_of(url) as client:
                await client.send(junk)
                try:
                    assert (await client.answer())[0] >= 400
                    assert await client.is_closed_by_server()
                except (EOFError, trio.BrokenResourceError):
                    pass
        async with client_of(url) as client:
            await client.send(ask())
            assert (await client.answer())[2] == ROW


async def test_a_client_that_goes_away_ends_the_work_done_for_it(kind: str) -> None:
    begun, ended = trio.Event(), trio.Event()

    class Slow(ScriptedLLM):
        async def next_token_logits(self, prev_token_ids: Any) -> Any:
            begun.set()
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

    with trio.fail_after(30):
        async with mounted(kind, Slow({}, info=INFO)) as url:
            async with client_of(url) as client:
                await client.send(ask())
                await begun.wait()
            await ended.wait()


# As our own client takes it.


async def test_sampled_through_it_the_tokens_are_the_same(kind: str) -> None:
    """With announced closes on the way, where the implementation has them."""
    prompt, llm = list(b"The seed"), TinyLM()
    want = (await generate(prompt, llm, n=16, seed=7, max_new_tokens=10)).token_ids
    async with mounted(kind, llm, keep_alive_max_requests=10) as url, connect(url, max_connections=8) as model:
        have = (await generate(prompt, model, n=16, seed=7, max_new_tokens=10)).token_ids
        state = model.statistics()

    assert have == want
    assert (state.retries, state.pool.resent) == (0, 0)
    assert kind == "listener" or state.pool.opened >= state.requests / 10


async def test_it_keeps_the_contract_of_a_model(kind: str) -> None:
    async with mounted(kind, HashLM(200_000)) as url, connect(url) as model:
        await check_llm(model)


async def test_what_is_wrong_is_said_in_the_same_types(kind: str) -> None:
    async with mounted(kind, TinyLM()) as url:
        async with connect(url) as model:
            with pytest.raises(BadRequest, match="vocabulary of 257"):
                await model.next_token_logits([999])
            with pytest.raises(ContextOverflow):
                await model.next_token_logits([1] * 3000)
        with pytest.raises(UnknownModel):
            async with connect(url, model="another"):
                pass


@pytest.mark.parametrize("name", ["a/b c", "\N{SEEDLING}", "50%", "a?b#c"])
async def test_a_models_name_survives_in_a_path(kind: str, name: str) -> None:
    llm = ScriptedLLM({}, default=[0.0, 1.0, 2.0, 3.0], info=ModelInfo(name, "test 1", "f", 4, (0,), 100))
    async with mounted(kind, llm) as url, connect(url, "kserve-v2", model=name, eos_token_ids=[0]) as model:
        assert (await model.next_token_logits([1])).tolist() == [0, 1, 2, 3]


async def test_many_at_once_are_all_answered(kind: str) -> None:
    async with mounted(kind, HashLM(8), backlog=4096) as url, connect(url, max_connections=64, request_timeout=math.inf) as model:
        async with trio.open_nursery() as nursery:
            for k in range(128):
                nursery.start_soon(model.next_token_logits, [k % 8])

        assert model.statistics().requests == 130
