"""Our HTTP/1.1 server: httptools on trio sockets. Small, fast enough never to be what a test of the client measures.

Rule 1: nothing a client sends takes the server down; a connection that breaks the rules is answered 400 and closed.
Rule 2: what a client may make us hold is bounded: the head, the body, the time it may stay idle.
Rule 3: when a client goes away, the work done for it is cancelled.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import httptools
import trio

from seedbed.errors import UsageError
from seedbed.llm.threads import as_llm
from seedbed.protocols import PROTOCOLS, protocol_named
from seedbed.protocols.exchange import HttpRequest, HttpResponse
from seedbed.server.answer import MAX_BODY, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from seedbed.llm.base import LLM
    from seedbed.protocols.base import Protocol

__all__ = ["ALL", "Server", "serve"]

ALL = tuple(PROTOCOLS)
MAX_HEAD = 65_536
READ_SIZE = 65_536
BACKLOG = 4096  # the usual 100 makes a thousand simultaneous connects wait for SYN retries


@dataclass(slots=True)
class Server:
    """A server under way.

    Attributes:
        url: where it listens.
        requests: how many requests it has answered.
        connections: how many connections are open now.
    """

    url: str
    requests: int = 0
    connections: int = 0


@asynccontextmanager
async def serve(
    llm: object,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    protocols: Sequence[str] = ALL,
    idle_timeout: float = 75.0,
) -> AsyncIterator[Server]:
    """Serve a model over HTTP while the block runs; leaving it closes every connection.

    Args:
        llm: an ``LLM``, ``BlockingLLM`` or look-alike.
        host: the address to listen on; the default is reachable from this machine only. There is no authentication.
        port: 0 takes a free one, which ``.url`` names.
        protocols: names of the protocols to speak; for paths that several of them have, the first wins.
        idle_timeout: seconds an unused connection is kept.

    Raises:
        UsageError: an unknown protocol, or an address that cannot be listened on.

    Concurrency:
        Each connection is a task; requests of different connections are answered at the same time.

    Example:
        >>> async def main():
        ...     async with serve(TinyLM()) as server:
        ...         return server.url.startswith("http://127.0.0.1:")
        >>> from seedbed.server.models import TinyLM
        >>> trio.run(main)
        True
    """
    speaks = [protocol_named(name) for name in protocols]
    if not speaks:
        raise UsageError("a server needs at least one protocol")
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error}") from error
    bound_host, bound_port = listeners[0].socket.getsockname()[:2]
    server = Server(f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}")
    model = as_llm(llm)

    async def handle(stream: trio.SocketStream) -> None:
        server.connections += 1
        try:
            await _Connection(stream, model, speaks, server, idle_timeout).run()
        finally:
            server.connections -= 1
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handle, listeners)
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()


class _Refused(Exception):
    """What came is no request we read on from; answered with this status, then closed."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Connection:
    """One client connection: requests in, responses out, in turn."""

    def __init__(self, stream: trio.SocketStream, llm: LLM, protocols: list[Protocol], server: Server, idle_timeout: float) -> None:
        self._stream, self._llm, self._protocols, self._server, self._idle_timeout = stream, llm, protocols, server, idle_timeout
        self._reader = _RequestReader()
        self._early = b""  # read while an answer was being made: a pipelined request

    async def run(self) -> None:
        try:
            while True:
                request = await self._next_request()
                if request is None:
                    return
                keep_alive = self._reader.keep_alive
                response = await self._answer_while_client_is_there(request)
                if response is None:
                    return
                keep_alive = keep_alive and (response.header("connection") or "").lower() != "close"
                await self._send(response, keep_alive=keep_alive)
                if not keep_alive:
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client has gone

    async def _next_request(self) -> HttpRequest | None:
        try:
            while True:
                request = self._reader.next_request()
                if request is not None:
                    return request
                if self._reader.wants_continue():
                    await self._stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                data, self._early = self._early, b""
                if not data:
                    with trio.move_on_after(self._idle_timeout) as idle:
                        data = await self._stream.receive_some(READ_SIZE)
                    if idle.cancelled_caught or not data:
                        return None
                self._reader.feed(data)
        except _Refused as error:
            body = f'{{"error":{{"type":"bad_http","message":"{error}"}}}}'.encode()
            await self._send(HttpResponse(error.status, (("content-type", "application/json"),), body), keep_alive=False)
            return None

    async def _answer_while_client_is_there(self, request: HttpRequest) -> HttpResponse | None:
        response: HttpResponse | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            response = await answer(self._llm, self._protocols, request)
            nursery.cancel_scope.cancel()
        self._server.requests += response is not None
        return response

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Read ahead while the answer is made: end of file means that nobody waits for it any more."""
        try:
            while len(self._early) < MAX_HEAD:
                data = await self._stream.receive_some(READ_SIZE)
                if not data:
                    scope.cancel()
                    return
                self._early += data
        except trio.BrokenResourceError:
            scope.cancel()

    async def _send(self, response: HttpResponse, *, keep_alive: bool) -> None:
        status = HTTPStatus(response.status)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
        lines += [f"{name}: {value}" for name, value in response.headers if name != "connection"]
        lines += [f"content-length: {len(response.body)}", f"connection: {'keep-alive' if keep_alive else 'close'}", "", ""]
        head = "\r\n".join(lines).encode("latin-1", "replace")
        if len(response.body) < READ_SIZE:
            await self._stream.send_all(head + response.body)
        else:
            await self._stream.send_all(head)
            await self._stream.send_all(response.body)


class _RequestReader:
    """Bytes in, whole requests out. The callbacks are httptools' names."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._ready: list[tuple[HttpRequest, bool]] = []
        self._expects_continue = False
        self.keep_alive = True
        self._start()

    def _start(self) -> None:
        self._path = b""
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._head_size = self._body_size = 0

    def feed(self, data: bytes) -> None:
        """Raises ``_Refused`` for what is no request, or one beyond the bounds."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise _Refused(400, "upgrades are not spoken here") from error
        except httptools.HttpParserCallbackError as error:
            refused = error.__context__
            raise refused if isinstance(refused, _Refused) else _Refused(400, "bad request") from error
        except httptools.HttpParserError as error:
            raise _Refused(400, "this is not HTTP/1.1") from error

    def next_request(self) -> HttpRequest | None:
        """The next whole request; ``keep_alive`` then says whether its client wants to go on."""
        if not self._ready:
            return None
        request, self.keep_alive = self._ready.pop(0)
        return request

    def wants_continue(self) -> bool:
        """Whether the client waits for our word before it sends its body; true once a request."""
        wants, self._expects_continue = self._expects_continue, False
        return wants

    def on_message_begin(self) -> None:
        self._start()

    def on_url(self, url: bytes) -> None:
        self._path += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + 4)
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD:
            raise _Refused(431, "the request's head is too large")

    def on_headers_complete(self) -> None:
        headers = dict(self._headers)
        self._expects_continue = headers.get("expect", "").lower() == "100-continue"
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_BODY:
            raise _Refused(413, "the request's body is too large")

    def on_body(self, data: bytes) -> None:
        self._body_size += len(data)
        if self._body_size > MAX_BODY:
            raise _Refused(413, "the request's body is too large")
        self._body.append(data)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        request = HttpRequest(method, self._path.decode("latin-1"), tuple(self._headers), b"".join(self._body))
        self._ready.append((request, self._parser.should_keep_alive()))
        self._expects_continue = False
