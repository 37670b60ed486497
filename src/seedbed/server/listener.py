"""Our HTTP/1.1 server: httptools on trio sockets. Small, fast enough never to be what a test of the client measures.

Rule 1: nothing a client sends takes the server down; a connection that breaks the rules is told why, with a status, and closed.
Rule 2: what a client may make us hold is bounded: the head, the body, the time it may stay idle, send or not read its answer.
Rule 3: when a client goes away, the work done for it is cancelled. (One that has only closed its sending half counts as gone.)
"""

from __future__ import annotations

import errno
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import orjson
import trio

from seedbed.errors import UsageError
from seedbed.http.message import ChunkedBody, Malformed, RequestHead, TooLong, end_of_head
from seedbed.llm.arguments import check_seconds
from seedbed.llm.beside import open_beside
from seedbed.llm.running import require_trio
from seedbed.llm.threads import as_llm
from seedbed.protocols import PROTOCOLS, protocols_named
from seedbed.protocols.exchange import HttpRequest, HttpResponse
from seedbed.server.answer import MAX_BODY, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from seedbed.llm.base import LLM
    from seedbed.protocols.base import Protocol
    from seedbed.server.faults import Fault, Faults

__all__ = ["ALL", "Server", "cannot_listen", "open_listeners", "serve"]

ALL = tuple(PROTOCOLS)
READ_SIZE = 65_536
READ_AHEAD = 65_536  # octets of pipelined requests kept while an answer is made
DRAIN_SECONDS, DRAIN_READS = 1.0, 64
BACKLOG = 4096  # the usual 100 makes a thousand simultaneous connects wait for SYN retries


@dataclass(slots=True)
class Server:
    """A server under way.

    Attributes:
        url: where it listens.
        requests: how many requests it has answered.
        connections: how many connections are open now.
        failures: how many connections ended in an error of the server's own; always 0 but for bugs.
    """

    url: str
    requests: int = 0
    connections: int = 0
    failures: int = 0


def cannot_listen(host: str, port: int, error: BaseException) -> UsageError:
    """What to raise where an address cannot be listened on, from what the system said of it.

    Example:
        >>> str(cannot_listen("127.0.0.1", 80, PermissionError(13, "Permission denied")))
        'cannot listen on 127.0.0.1:80: Permission denied'
    """
    is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    if is_taken:
        why: object = "the port is in use, perhaps by another `seedbed serve`; take another, or port 0, which is any free one"
    elif isinstance(error, socket.gaierror):
        why = "there is no machine of this name"
    else:
        why = getattr(error, "strerror", None) or error
    return UsageError(f"cannot listen on {host}:{port}: {why}")


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """The sockets that a server at an address listens with.

    Raises:
        UsageError: it cannot be listened on.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 65_536:  # getaddrinfo takes it modulo 65,536
        raise UsageError(f"port must be an int in [0, 65536), not {port!r:.80}")
    if not isinstance(host, str):
        raise UsageError(f"host must be a name or an address, not {host!r:.80}")
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        raise cannot_listen(host, port, error) from error


@asynccontextmanager
async def serve(
    llm: object,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    protocols: Sequence[str] = ALL,
    idle_timeout: float = 75.0,
    faults: Faults | None = None,
) -> AsyncIterator[Server]:
    """Serve a model over HTTP while the block runs; leaving it closes every connection.

    Args:
        llm: an ``LLM``, ``BlockingLLM`` or look-alike.
        host: the address to listen on; the default is reachable from this machine only. There is no authentication.
        port: 0 takes a free one, which ``.url`` names.
        protocols: names of the protocols to speak; for paths that several of them have, the first wins.
        idle_timeout: seconds an unused connection is kept, and that a request may take to come or an answer to be read.
        faults: what goes wrong with which request, for tests of clients; see ``seedbed.server.faults``.

    Raises:
        UsageError: no model, an unknown protocol or none, an address that cannot be listened on, or a time that is none.

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
    require_trio()
    model, speaks = as_llm(llm), protocols_named(protocols)
    check_seconds(idle_timeout=idle_timeout)
    listeners = await open_listeners(host, port)
    bound_host, bound_port = listeners[0].socket.getsockname()[:2]
    server = Server(f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}")

    async def handle(stream: trio.SocketStream) -> None:
        server.connections += 1
        try:
            await _Connection(stream, model, speaks, server, idle_timeout, faults).run()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has gone
        except Exception:  # one connection's bug must not end the others
            server.failures += 1
        finally:
            server.connections -= 1
            await trio.aclose_forcefully(stream)

    async with open_beside() as nursery:
        await nursery.start(trio.serve_listeners, handle, listeners)
        yield server


class _Refused(Exception):
    """What came is no request we read on from; answered with this status, then closed."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Connection:
    """One client connection: requests in, responses out, in turn."""

    def __init__(
        self,
        stream: trio.SocketStream,
        llm: LLM,
        protocols: list[Protocol],
        server: Server,
        idle_timeout: float,
        faults: Faults | None,
    ) -> None:
        self._stream, self._llm, self._protocols, self._server, self._idle_timeout = stream, llm, protocols, server, idle_timeout
        self._faults = faults
        self._reader = _RequestReader()
        self._early = b""  # read while an answer was being made: a pipelined request

    async def run(self) -> None:
        while True:
            request = await self._next_request()
            if request is None:
                return
            keep_alive = self._reader.keeps_alive
            fault = self._faults(request) if self._faults is not None else None
            response = await self._answer_while_client_is_there(request, fault)
            if response is None:
                return
            keep_alive = keep_alive and (response.header("connection") or "").lower() != "close"
            if fault is not None and await fault.break_off(self._stream, _encoded(response, keep_alive=keep_alive)):
                return
            if not await self._send(response, keep_alive=keep_alive, bodiless=request.method == "HEAD") or not keep_alive:
                return

    async def _next_request(self) -> HttpRequest | None:
        try:
            with trio.move_on_after(self._idle_timeout):
                while True:
                    request = self._reader.next_request()
                    if request is not None:
                        return request
                    if self._reader.wants_continue():
                        await self._stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                    data, self._early = self._early, b""
                    data = data or await self._stream.receive_some(READ_SIZE)
                    if not data:
                        return None
                    self._reader.feed(bytes(data))
            if self._reader.has_begun:
                raise _Refused(408, f"the request did not come whole within {self._idle_timeout:g} s")
        except _Refused as error:
            body = orjson.dumps({"error": {"type": "bad_http", "message": str(error)}})
            await self._send(HttpResponse(error.status, (("content-type", "application/json"),), body), keep_alive=False)
            await self._drain()
        return None

    async def _answer_while_client_is_there(self, request: HttpRequest, fault: Fault | None) -> HttpResponse | None:
        response: HttpResponse | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            if fault is not None and fault.kind == "slow":
                await trio.sleep(fault.seconds)
            response = fault.replaced() if fault is not None else None
            if response is None:
                response = await answer(self._llm, self._protocols, request)
            nursery.cancel_scope.cancel()
        self._server.requests += response is not None
        return response

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Read ahead while the answer is made: end of file means that nobody waits for it any more."""
        try:
            while len(self._early) < READ_AHEAD:
                data = await self._stream.receive_some(READ_SIZE)
                if not data:
                    scope.cancel()
                    return
                self._early += data
        except trio.BrokenResourceError:
            scope.cancel()

    async def _send(self, response: HttpResponse, *, keep_alive: bool, bodiless: bool = False) -> bool:
        """Whether it was sent; not, when the client does not read it."""
        with trio.move_on_after(self._idle_timeout):
            if bodiless or len(response.body) >= READ_SIZE:
                await self._stream.send_all(_head(response, keep_alive=keep_alive))
                if not bodiless:
                    await self._stream.send_all(response.body)
            else:
                await self._stream.send_all(_encoded(response, keep_alive=keep_alive))
            return True
        return False

    async def _drain(self) -> None:
        """Read on for a moment: to close with octets unread resets the connection, and the client would not get our last word."""
        with trio.move_on_after(DRAIN_SECONDS):
            await self._stream.send_eof()
            for _ in range(DRAIN_READS):
                if not await self._stream.receive_some(READ_SIZE):
                    return


def _head(response: HttpResponse, *, keep_alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {response.status} {_phrase(response.status)}"]
    lines += [f"{name}: {value}" for name, value in response.headers if name != "connection"]
    lines += [f"content-length: {len(response.body)}", f"connection: {'keep-alive' if keep_alive else 'close'}", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")


def _encoded(response: HttpResponse, *, keep_alive: bool) -> bytes:
    return _head(response, keep_alive=keep_alive) + bytes(response.body)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # 529 and the like
        return "Unknown"


class _RequestReader:
    """Bytes in, whole requests out.

    Attributes:
        keeps_alive: whether the client of the last request given out wants to go on.
    """

    def __init__(self) -> None:
        self.keeps_alive = True
        self._buffer = bytearray()
        self._searched = 0
        self._head: RequestHead | None = None
        self._chunked: ChunkedBody | None = None
        self._expects_continue = False

    @property
    def has_begun(self) -> bool:
        """Whether a part of a request is there."""
        return self._head is not None or bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._buffer += data

    def next_request(self) -> HttpRequest | None:
        """The next whole request, if it has come.

        Raises:
            _Refused: what came is no request, or one beyond the bounds.
        """
        if self._head is None:
            self._head = self._read_head()
        head = self._head
        if head is None:
            return None
        body = self._read_body(head)
        if body is None:
            return None
        self._head = self._chunked = None
        self._expects_continue = False
        self.keeps_alive = head.keeps_alive
        return HttpRequest(head.method, head.target, tuple(head.headers), body)

    def wants_continue(self) -> bool:
        """Whether the client waits for our word before it sends its body; true once a request."""
        wants, self._expects_continue = self._expects_continue, False
        return wants

    def _read_head(self) -> RequestHead | None:
        while self._buffer[:2] == b"\r\n":  # some clients end a body with one more line end than they announced
            del self._buffer[:2]
        try:
            if self._buffer and not self._buffer[:1].isalpha() and self._buffer != b"\r":  # TLS for one, whose head would never end
                raise Malformed("no method")
            end = end_of_head(self._buffer, self._searched)
            self._searched = 0 if end else len(self._buffer)
            if not end:
                return None
            head = RequestHead.parse(bytes(self._buffer[:end]))
        except TooLong as error:
            raise _Refused(431, str(error)) from error
        except Malformed as error:
            raise _Refused(400, f"this is not HTTP/1.1: {error}") from error
        del self._buffer[:end]
        if (head.length or 0) > MAX_BODY:
            raise _Refused(413, f"the body is longer than {MAX_BODY} octets")
        if head.is_chunked:
            self._chunked = ChunkedBody(MAX_BODY)
        self._expects_continue = head.expects_continue
        return head

    def _read_body(self, head: RequestHead) -> bytes | None:
        if self._chunked is None:
            length = head.length or 0
            if len(self._buffer) < length:
                return None
            body = bytes(self._buffer[:length])
            del self._buffer[:length]
            return body
        data = bytes(self._buffer)
        self._buffer.clear()
        try:
            if not self._chunked.feed(data):
                return None
        except TooLong as error:
            raise _Refused(413, str(error)) from error
        except Malformed as error:
            raise _Refused(400, f"this is not HTTP/1.1: {error}") from error
        self._buffer += self._chunked.excess
        return bytes(self._chunked.body)
