"""A server made of a script: in memory, octet for octet, on a real socket, or as a handler of httpx requests."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import orjson
import trio

from seedbed import ModelInfo, connect
from seedbed.http.connection import Connection, Origin
from seedbed.http.pool import Pool
from seedbed.http.retry import Retry
from seedbed.protocols import protocol_named
from seedbed.protocols.exchange import HttpRequest
from seedbed.server import answer
from seedbed.testing import ScriptedLLM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ORIGIN = Origin("http", "model.test", 8000)
HANG = None
"""A part that never comes."""

URL = "http://model.test:8000"
ASK = "/v1/next_token_logits"
INFO = ModelInfo("four", "test", "f", 4, (0,), 100)
NEVER = Retry(attempts=1)
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class FakeChannel:
    """A channel that gives its parts one a read; at the end the stream ends. An exception among them is raised, ``HANG`` waits for ever."""

    def __init__(self, *parts: bytes | Exception | None, send_error: Exception | None = None) -> None:
        self.parts, self.send_error = list(parts), send_error
        self.sent: list[bytes] = []
        self.is_closed = False
        self._closed = trio.Event()

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        self.sent.append(data)
        if self.send_error is not None:
            raise self.send_error

    async def receive_some(self, most: int = 1 << 30) -> bytes:
        await trio.lowlevel.checkpoint()
        self._check()
        if not self.parts:
            return b""
        part = self.parts[0]
        if part is HANG:
            await self._closed.wait()
            self._check()
        self.parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return part

    async def receive_into(self, buffer: memoryview) -> int:
        data = await self.receive_some()
        count = min(len(data), len(buffer))
        buffer[:count] = data[:count]
        if data[count:]:
            self.parts.insert(0, data[count:])
        return count

    def has_input(self) -> bool:
        return bool(self.parts) and self.parts[0] is not HANG

    def close(self) -> None:
        self.is_closed = True
        self._closed.set()

    def _check(self) -> None:
        if self.is_closed:
            raise trio.ClosedResourceError


class FakeServer:
    """Answers each new connection of a pool with the next channel of its script, and remembers them.

    Channels may also be exceptions, which opening then raises. When the script has ended, ``default()`` makes one.
    """

    def __init__(self, *script: FakeChannel | Exception, default: Callable[[], FakeChannel] | None = None) -> None:
        self.script = list(script)
        self.default = default
        self.channels: list[FakeChannel] = []

    async def open(self, origin: Origin, ssl_context: object, timeout: float) -> Connection:
        await trio.lowlevel.checkpoint()
        channel = self.script.pop(0) if self.script else self.default()
        if isinstance(channel, Exception):
            raise channel
        self.channels.append(channel)
        return Connection(origin, channel)

    def pool(self, **options: object) -> Pool:
        return Pool(ORIGIN, open=self.open, **options)

    def open_channels(self) -> int:
        return sum(not channel.is_closed for channel in self.channels)


@asynccontextmanager
async def tcp_server(handle: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[Origin]:
    """A server on a real socket, each connection handled by ``handle`` and closed after it."""

    async def handle_and_close(stream: trio.SocketStream) -> None:
        try:
            await handle(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, handle_and_close, 0)
        port = listeners[0].socket.getsockname()[1]
        yield Origin("http", "127.0.0.1", port)
        nursery.cancel_scope.cancel()


async def read_request(stream: trio.abc.ReceiveStream) -> bytes:
    """One whole request with a Content-Length, or b"" at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some()
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += await stream.receive_some()
    return head + b"\r\n\r\n" + body


def model_behind(handler, url: str = URL, **options):
    """``connect`` to a handler in process: no socket, no thread, so that clocks may be virtual."""
    return connect(url, transport=httpx.MockTransport(handler), decode_in_thread_above=math.inf, **options)


class FakeHost:
    """A server in process over a model; subclass or script its answers. Remembers what it was asked."""

    def __init__(self, llm=None, *, protocol: str = "native", script=None) -> None:
        self.llm = llm or ScriptedLLM({}, default=[0.0, 1.0, 2.0, 3.0], info=INFO)
        self.protocol = protocol_named(protocol)
        self.script = script or {}
        self.asked: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        path = request.url.raw_path.decode().partition("?")[0]
        scripted = self.script.get(path)
        if callable(scripted):
            scripted = await scripted(request)
        if isinstance(scripted, list):
            scripted = scripted.pop(0) if scripted else None
        if isinstance(scripted, Exception):
            raise scripted
        if scripted is not None:
            return scripted
        asked = HttpRequest(request.method, path, tuple(request.headers.items()), request.content)
        response = await answer(self.llm, [self.protocol], asked)
        return httpx.Response(response.status, headers=list(response.headers), content=bytes(response.body))


def description(**changes: object) -> bytes:
    facts = {"model": "four", "server": "test", "fingerprint": "f", "vocab_size": 4, "eos_token_ids": [0], "context_length": 100}
    return orjson.dumps(facts | changes)
