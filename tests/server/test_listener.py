"""Our server: it speaks HTTP as it is spoken, is bounded in what it holds, and no client takes it down."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import orjson
import pytest
import trio
import trio.testing

from seedbed import ModelInfo, TinyLM, serve
from seedbed.errors import UsageError
from seedbed.http.message import MAX_HEAD
from seedbed.server import listener
from seedbed.testing import ScriptedLLM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

INFO = ModelInfo("four", "test", "f", 4, (0,), 100)
ROW = b'{"logits":[0.0,1.0,2.0,3.0]}'
MODEL = ScriptedLLM({}, default=[0.0, 1.0, 2.0, 3.0], info=INFO)


def ask(*lines: str, body: bytes = b'{"token_ids":[1]}', method: str = "POST", path: str = "/v1/next_token_logits") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "host: a", *lines]
    if not any(line.startswith("transfer-encoding") for line in lines):
        head.append(f"content-length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


@asynccontextmanager
async def client_of(server: listener.Server) -> AsyncIterator[Client]:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    stream = await trio.open_tcp_stream(host.strip("[]"), int(port))
    try:
        yield Client(stream)
    finally:
        await trio.aclose_forcefully(stream)


class Client:
    """Reads answers one by one, strictly."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream, self.buffer = stream, b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def _more(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            raise EOFError(self.buffer)
        self.buffer += data

    async def answer(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        while b"\r\n\r\n" not in self.buffer:
            await self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        status = int(first.split()[1])
        length = int(headers.get("content-length", 0)) if has_body and status >= 200 else 0
        while len(self.buffer) < length:
            await self._more()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return status, headers, body

    async def is_closed_by_server(self) -> bool:
        try:
            return self.buffer == b"" and await self.stream.receive_some() == b""
        except trio.BrokenResourceError:
            return True


async def test_it_counts_requests_and_connections() -> None:
    async with serve(MODEL) as server, client_of(server) as client:
        for _ in range(3):
            await client.send(ask())
            status, headers, body = await client.answer()
            assert (status, headers["connection"], body) == (200, "keep-alive", ROW)

        assert (server.requests, server.connections, server.failures) == (3, 1, 0)


async def test_a_request_pipelined_while_an_answer_is_made_is_not_lost() -> None:
    slow = ScriptedLLM({}, default=[0.0] * 4, info=INFO, delay=0.02)
    async with serve(slow) as server, client_of(server) as client:
        second = ask()
        await client.send(ask() + second[:30])
        await client.answer()
        await client.send(second[30:])

        assert (await client.answer())[0] == 200


async def test_a_client_that_waits_for_our_word_gets_it_once() -> None:
    request = ask("expect: 100-continue")
    async with serve(MODEL) as server, client_of(server) as client:
        for _ in range(2):
            await client.send(request[:-17])
            assert (await client.answer())[0] == 100
            await client.send(request[-17:-5])
            await client.send(request[-5:])
            assert (await client.answer())[2] == ROW


async def test_a_client_that_does_not_wait_for_our_word_gets_none() -> None:
    async with serve(MODEL) as server, client_of(server) as client:
        await client.send(ask("expect: 100-continue"))

        assert (await client.answer())[0] == 200


async def test_a_client_that_waits_to_send_too_much_is_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(MODEL) as server, client_of(server) as client:
        await client.send(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 99999999999\r\n\r\n")

        assert (await client.answer())[0] == 413


async def test_the_answer_to_head_has_a_length_and_no_body() -> None:
    async with serve(MODEL) as server, client_of(server) as client:
        await client.send(b"HEAD /health HTTP/1.1\r\n\r\n")
        status, headers, body = await client.answer(has_body=False)
        assert (status, body) == (404, b"")
        assert int(headers["content-length"]) > 0
        await client.send(ask())

        assert (await client.answer())[2] == ROW


async def test_an_answer_that_closes_is_the_connections_last() -> None:
    """llama.cpp's errors all say ``Connection: close``."""
    async with serve(TinyLM(), protocols=["llama.cpp"]) as server, client_of(server) as client:
        await client.send(ask(path="/completion", body=b"{}"))
        status, headers, _ = await client.answer()

        assert (status, headers["connection"]) == (400, "close")
        assert await client.is_closed_by_server()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS, whose client waits for the first word
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /" + b"a" * MAX_HEAD + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\na: " + b"b" * (MAX_HEAD + 1), 431),
        (b"POST / HTTP/1.1\r\ncontent-length: 67108865\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4000001\r\n", 413),
    ],
)
async def test_what_breaks_the_rules_is_told_why_and_closed(sent: bytes, status: int) -> None:
    async with serve(MODEL) as server:
        async with client_of(server) as client:
            await client.send(sent)
            have, headers, body = await client.answer()

            assert (have, headers["connection"]) == (status, "close")
            assert orjson.loads(body)["error"]["type"] == "bad_http"
            assert await client.is_closed_by_server()
        async with client_of(server) as client:
            await client.send(ask())
            assert (await client.answer())[2] == ROW
        assert server.failures == 0


async def test_one_endless_header_is_not_collected() -> None:
    """Its end never comes, so what counts is what has come."""
    async with serve(MODEL) as server, client_of(server) as client:
        await client.send(b"GET / HTTP/1.1\r\na: ")
        sent = 0
        with pytest.raises((trio.BrokenResourceError, EOFError, AssertionError)):
            while True:
                await client.send(b"b" * 10_000)
                sent += 10_000
                assert sent < 20_000_000
        assert sent < 20_000_000


async def test_a_client_that_resets_ends_the_work_done_for_it() -> None:
    ended = trio.Event()

    class Slow(ScriptedLLM):
        async def next_token_logits(self, prev_token_ids):
            client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.stream.socket.close()
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

    async with serve(Slow({}, info=INFO)) as server, client_of(server) as client:
        await client.send(ask())
        await ended.wait()


async def test_a_model_that_fails_is_a_500_and_the_server_lives_on() -> None:
    broken = ScriptedLLM({(1,): RuntimeError("secret detail")}, default=[0.0, 1.0, 2.0, 3.0], info=INFO)
    async with serve(broken) as server, client_of(server) as client:
        await client.send(ask())
        status, _, body = await client.answer()
        assert status == 500
        assert b"RuntimeError" in body
        assert b"secret" not in body
        await client.send(ask(body=b'{"token_ids":[2]}'))

        assert (await client.answer())[2] == ROW
        assert server.failures == 0


async def test_a_bug_in_one_connection_ends_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """trio's own rule would end the whole server."""
    async with serve(MODEL) as server, client_of(server) as other:
        await other.send(ask())
        await other.answer()
        with monkeypatch.context() as patch:
            patch.setattr(listener, "answer", None)
            async with client_of(server) as client:
                await client.send(ask())
                with pytest.raises(EOFError):
                    await client.answer()
        await other.send(ask())

        assert (await other.answer())[2] == ROW
        assert server.failures == 1


@pytest.mark.parametrize("sent", [b"", ask()[:10], ask()[:-3]], ids=["nothing", "half a head", "half a body"])
async def test_a_client_that_does_not_go_on_is_closed_after_a_while(sent: bytes) -> None:
    async with serve(MODEL, idle_timeout=0.05) as server, client_of(server) as client:
        if sent:
            await client.send(sent)
            assert (await client.answer())[0] == 408

        assert await client.is_closed_by_server()


async def test_a_client_that_does_not_read_its_answer_is_closed_after_a_while() -> None:
    wide = ScriptedLLM({}, default=[0.5] * 2_000_000, info=ModelInfo("wide", "", "", 2_000_000, (0,), 10))
    async with serve(wide, idle_timeout=0.1) as server, client_of(server) as client:
        await client.send(ask("accept: application/octet-stream"))
        await client.stream.receive_some(1)
        assert server.connections == 1
        await trio.testing.wait_all_tasks_blocked(0.3)

        assert (server.connections, server.failures) == (0, 0)


async def test_leaving_the_block_closes_every_connection() -> None:
    slow = ScriptedLLM({}, default=[0.0] * 4, info=INFO, delay=1e9)
    async with serve(slow) as server:
        idle, busy = client_of(server), client_of(server)
        client, asking = await idle.__aenter__(), await busy.__aenter__()
        await asking.send(ask())
        await trio.testing.wait_all_tasks_blocked(0.01)

    assert await client.is_closed_by_server()
    assert await asking.is_closed_by_server()
    assert server.connections == 0
    await idle.__aexit__(None, None, None)
    await busy.__aexit__(None, None, None)


async def test_an_error_in_the_block_comes_out_as_itself() -> None:
    """Not as a group of one, though a nursery is under it."""
    with pytest.raises(ZeroDivisionError):
        async with serve(MODEL):
            raise ZeroDivisionError


async def test_a_cancellation_in_the_block_stays_one() -> None:
    with trio.move_on_after(0.01) as scope:
        async with serve(MODEL):
            await trio.sleep_forever()

    assert scope.cancelled_caught


@pytest.mark.parametrize(
    "arguments",
    [
        {"protocols": ["gopher"]},
        {"protocols": []},
        {"protocols": "native"},
        {"host": "203.0.113.1"},
        {"port": 70_000},
        {"port": -1},
        {"host": "a" * 64},
        {"port": "80"},
        {"port": True},
        {"host": 3},
        {"idle_timeout": 0},
        {"idle_timeout": "75"},
    ],
    ids=str,
)
async def test_a_wrong_argument_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        async with serve(MODEL, **arguments):
            pass


async def test_an_address_in_use_is_named() -> None:
    async with serve(MODEL) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
            async with serve(MODEL, port=port):
                pass


async def test_something_that_is_no_model_leaves_nothing_open() -> None:
    async with serve(MODEL) as server:
        port = int(server.url.rpartition(":")[2])
    with pytest.raises(UsageError, match="is no language model") as kept:
        async with serve(object(), port=port):
            pass
    async with serve(MODEL, port=port) as server:
        assert server.url.endswith(f":{port}")
    del kept


async def test_it_listens_on_ipv6_too() -> None:
    with trio.socket.socket(trio.socket.AF_INET6) as probe:
        try:
            await probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
    async with serve(MODEL, host="::1") as server, client_of(server) as client:
        assert server.url.startswith("http://[::1]:")
        await client.send(ask())
        assert (await client.answer())[2] == ROW


async def test_a_status_without_a_name_is_sent() -> None:
    class Odd(ScriptedLLM):
        async def next_token_logits(self, prev_token_ids):
            from seedbed.errors import Overloaded

            raise Overloaded("busy", status=529)

    async with serve(Odd({}, info=INFO)) as server, client_of(server) as client:
        await client.send(ask())

        assert (await client.answer())[0] == 529


async def test_a_thousand_connections_at_once_are_all_answered() -> None:
    async def one(server: listener.Server) -> None:
        async with client_of(server) as client:
            await client.send(ask())
            assert (await client.answer())[2] == ROW

    async with serve(MODEL) as server:
        async with trio.open_nursery() as nursery:
            for _ in range(300):
                nursery.start_soon(one, server)

        assert server.requests == 300
