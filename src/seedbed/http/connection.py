"""One HTTP/1.1 connection to a server: a request goes out, a whole response comes in, again and again.

Rule 1: a connection does one exchange at a time; after anything but a clean exchange it is closed and never used again.
Rule 2: everything the server can make us hold is bounded: the head by ``MAX_HEAD``, the body by what the caller says an honest answer has.
Rule 3: closing is synchronous, so that a cancelled request closes its connection without waiting, and touches nothing else.
"""

from __future__ import annotations

import math
import os
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httptools
import trio

from seedbed.errors import AnswerTooLarge, BrokenAnswer, ConnectionLost, ServerUnreachable
from seedbed.protocols.exchange import HttpResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Connection", "Origin", "open_connection"]

MAX_HEAD = 65_536  # h11's default is 64 KiB too, nginx's 32 KiB, Node's 16 KiB
READ_SIZE = 65_536
MAX_INTERIM = 16  # 1xx responses before the real one


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom a connection is with; its text is what may enter a message: no user info, no query."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}[self.scheme]
        return f"{self.scheme}://{host}" if self.port == default else f"{self.scheme}://{host}:{self.port}"


async def open_connection(origin: Origin, ssl_context: ssl.SSLContext | None, timeout: float) -> Connection:
    """Connect (racing a name's addresses against each other), and shake hands if the scheme says so.

    Raises:
        ServerUnreachable: unknown name, refused, TLS failed, or not within ``timeout`` seconds.
    """
    try:
        with trio.fail_after(timeout):
            stream = await trio.open_tcp_stream(origin.host, origin.port)
            if ssl_context is None:
                return Connection(origin, stream, stream)
            secure = trio.SSLStream(stream, ssl_context, server_hostname=origin.host, https_compatible=True)
            try:
                await secure.do_handshake()
            except BaseException:
                stream.socket.close()
                raise
            return Connection(origin, secure, stream)
    except trio.TooSlowError as error:
        raise ServerUnreachable(f"cannot connect to {origin}: no answer within {timeout:g} s") from error
    except ssl.SSLError as error:
        raise ServerUnreachable(f"cannot connect to {origin}: TLS failed: {error.reason or error}") from error
    except (OSError, trio.BrokenResourceError) as error:
        reason = _reason(error)
        raise ServerUnreachable(f"cannot connect to {origin}: {reason}. Is the server running, and is the URL right?") from error


def _reason(error: BaseException) -> str:
    """trio wraps the failures of a name's several addresses; the first one says what a reader needs."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    shown = cause or error
    if isinstance(shown, OSError) and shown.errno is not None and not isinstance(shown, socket.gaierror):
        text = os.strerror(shown.errno)
    else:
        text = getattr(shown, "strerror", None) or str(shown)
    return text[:1].lower() + text[1:]


class Connection:
    """An open connection.

    Attributes:
        expires: when the server said it will close it if idle, on trio's clock; inf when it did not say.
        is_reusable: whether another request may be sent.
    """

    def __init__(self, origin: Origin, stream: trio.abc.Stream, tcp: trio.SocketStream) -> None:
        self.expires = math.inf
        self.is_reusable = True
        self._origin, self._stream, self._tcp = origin, stream, tcp
        # The body of a plain connection is read by the kernel straight into its buffer.
        self._recv_into: Callable[[memoryview], Awaitable[int]] | None = tcp.socket.recv_into if stream is tcp else None

    def close(self) -> None:
        """Close at once, without a word to the server. Idempotent; not a checkpoint."""
        self.is_reusable = False
        self._tcp.socket.close()

    async def exchange(self, request: bytes, bound: int, *, bodiless: bool = False) -> HttpResponse:
        """Send a request, read its response whole.

        Args:
            request: head and body.
            bound: the longest body accepted, in octets.
            bodiless: the request's method is HEAD, whose response has no body whatever its head says.

        Raises:
            ConnectionLost: it broke or closed before the answer was whole.
            BrokenAnswer, AnswerTooLarge: what came is not HTTP/1.1, or beyond the bounds.

        Concurrency:
            One task. On any exception, Cancelled included, the connection is closed; the server may still do the work.
        """
        try:
            return await self._exchange(request, bound, bodiless)
        except BaseException:
            self.close()
            raise

    async def _exchange(self, request: bytes, bound: int, bodiless: bool) -> HttpResponse:
        # A server may answer before it has read the whole request, and close; what it said is worth more than that it closed.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stream.send_all(request)
        head, rest = await self._read_head()
        if bodiless or head.status in (204, 304):
            body: bytes | bytearray = b""
        elif head.is_chunked:
            body, rest = await self._read_chunked(head, rest, bound)
        elif head.length is not None:
            body, rest = await self._read_sized(head.length, rest, bound)
        else:
            body, rest = await self._read_to_end(rest, bound), b""
            head.keeps_alive = False
        self._learn(head, rest)
        return HttpResponse(head.status, tuple(head.headers), body)

    async def _read_head(self) -> tuple[_Head, bytes]:
        buffer = b""
        for _ in range(MAX_INTERIM):
            while (end := buffer.find(b"\r\n\r\n")) < 0:
                if len(buffer) > MAX_HEAD:
                    raise AnswerTooLarge(f"the head of {self._origin}'s answer is longer than {MAX_HEAD} octets")
                buffer += await self._read_some(begun=bool(buffer))
            head, buffer = _Head.parse(buffer[: end + 4], self._origin), buffer[end + 4 :]
            if head.status >= 200:
                return head, buffer
            if head.status == 101:
                raise BrokenAnswer(f"{self._origin} switched to another protocol, unasked")
        raise BrokenAnswer(f"{self._origin} sent {MAX_INTERIM} interim responses and no real one")

    async def _read_sized(self, length: int, rest: bytes, bound: int) -> tuple[bytes | bytearray, bytes]:
        if length > bound:
            raise AnswerTooLarge(f"{self._origin} announced an answer of {length} octets; an honest one has at most {bound}")
        if len(rest) >= length:
            return rest[:length], rest[length:]
        body = bytearray(length)
        body[: len(rest)] = rest
        unread = memoryview(body)[len(rest) :]
        while unread:
            count = await self._read_into(unread)
            unread = unread[count:]
        return body, b""

    async def _read_chunked(self, head: _Head, rest: bytes, bound: int) -> tuple[bytes, bytes]:
        body = _ChunkedBody(head.raw, self._origin, bound)
        while not body.feed(rest):
            rest = await self._read_some(begun=True)
        return b"".join(body.parts), body.excess

    async def _read_to_end(self, rest: bytes, bound: int) -> bytes:
        parts: list[bytes | bytearray] = [rest]
        size = len(rest)
        while size <= bound:
            try:
                parts.append(await self._stream.receive_some(READ_SIZE))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise self._lost(begun=True) from error
            if not parts[-1]:
                return b"".join(parts)
            size += len(parts[-1])
        raise AnswerTooLarge(f"{self._origin}'s answer is longer than {bound} octets, more than an honest one has")

    async def _read_some(self, *, begun: bool) -> bytes:
        try:
            data = await self._stream.receive_some(READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._lost(begun=begun) from error
        if not data:
            raise self._lost(begun=begun)
        return bytes(data)

    async def _read_into(self, unread: memoryview) -> int:
        if self._recv_into is None:
            data = await self._read_some(begun=True)
            if len(data) > len(unread):  # more than the announced length: not to be trusted with another request
                self.is_reusable = False
            count = min(len(data), len(unread))
            unread[:count] = data[:count]
            return count
        try:
            count = await self._recv_into(unread)
        except OSError as error:
            raise self._lost(begun=True) from error
        if not count:
            raise self._lost(begun=True)
        return count

    def _lost(self, *, begun: bool) -> ConnectionLost:
        where = "in the middle of its answer" if begun else "before it answered"
        return ConnectionLost(f"{self._origin} closed the connection {where}", answer_begun=begun)

    def _learn(self, head: _Head, rest: bytes) -> None:
        # Octets after the answer were not asked for: whatever they are, the next answer must not begin with them.
        self.is_reusable = self.is_reusable and head.keeps_alive and not rest
        if head.idle_seconds is not None:
            self.expires = trio.current_time() + head.idle_seconds
        if not self.is_reusable:
            self.close()


class _Head:
    """The head of a response, and what it says of the body and the connection. The callbacks are httptools' names."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.length: int | None = None
        self.is_chunked = False
        self.keeps_alive = True
        self.idle_seconds: float | None = None

    @classmethod
    def parse(cls, raw: bytes, origin: Origin) -> _Head:
        head = cls(raw)
        parser = httptools.HttpResponseParser(head)
        try:
            parser.feed_data(raw)
            head.status = parser.get_status_code()
            head.keeps_alive = parser.get_http_version() != "1.0" and head.keeps_alive
        except httptools.HttpParserUpgrade:
            head.status = 101
        except (httptools.HttpParserError, ValueError) as error:
            raise BrokenAnswer(f"{origin} answered with something that is not HTTP/1.1: {raw[:40]!r}") from error
        return head

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers.append((key, text))
        if key == "content-length":
            self.length = int(text)
        elif key == "transfer-encoding":
            self.is_chunked = "chunked" in text.lower()
        elif key == "connection":
            self.keeps_alive = "close" not in text.lower()
        elif key == "keep-alive":
            self.idle_seconds = _idle_seconds(text)


def _idle_seconds(text: str) -> float | None:
    """``timeout=5, max=100`` means: closed after 5 idle seconds. A second less, for the time on the way."""
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "timeout" and value.isdecimal():
            return max(0.0, float(value) - 1.0)
    return None


class _ChunkedBody:
    """A chunked body, decoded and counted as it comes. The callbacks are httptools' names."""

    def __init__(self, raw_head: bytes, origin: Origin, bound: int) -> None:
        self.parts: list[bytes] = []
        self.excess = b""
        self._size, self._bound, self._origin, self._done = 0, bound, origin, False
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(raw_head)

    def feed(self, data: bytes) -> bool:
        """Whether the body is complete."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # After the end, the parser takes what follows for another response; that is the connection's affair.
            if not self._done:
                raise BrokenAnswer(f"{self._origin} broke off its chunked answer: {error}") from error
        if self._size > self._bound:
            raise AnswerTooLarge(f"{self._origin}'s answer is longer than {self._bound} octets, more than an honest one has")
        return self._done

    def on_body(self, data: bytes) -> None:
        if self._done:
            self.excess = data
            return
        self._size += len(data)
        if self._size <= self._bound:
            self.parts.append(data)

    def on_message_begin(self) -> None:
        if self._done:
            self.excess = b"?"

    def on_message_complete(self) -> None:
        self._done = True
