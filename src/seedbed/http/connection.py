"""One HTTP/1.1 connection to a server: a request goes out, a whole response comes in, again and again.

Rule 1: a connection does one exchange at a time; after anything but a clean exchange it is closed and never used again.
Rule 2: everything the server can make us hold is bounded: the head by ``MAX_HEAD``, the body by what the caller says an honest answer has.
Rule 3: closing is synchronous, so that a cancelled request closes its connection without waiting, and touches nothing else.
"""

from __future__ import annotations

import math
import os
import select
import socket
import ssl
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import trio

from seedbed.errors import AnswerTooLarge, BrokenAnswer, ConnectionLost, ServerUnreachable
from seedbed.http.message import ChunkedBody, Malformed, ResponseHead, TooLong, end_of_head
from seedbed.protocols.exchange import HttpResponse

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Channel", "Connection", "Origin", "StreamChannel", "open_connection"]

READ_SIZE = 65_536
HEAD_SIZE = 16_384  # read at first: a head and a short answer whole; what comes with it of a long one is copied, the rest is not
TURN = 1_048_576  # octets read without letting other tasks run; a server on the same machine may always have more
MAX_INTERIM = 16  # 1xx responses before the real one


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom a connection is with; its text is what may enter a message: no user info, no query."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host, and port unless it is the scheme's own: what the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}[self.scheme]
        return host if self.port == default else f"{host}:{self.port}"


async def open_connection(origin: Origin, ssl_context: ssl.SSLContext | None, timeout: float) -> Connection:
    """Connect (racing a name's addresses against each other), and shake hands if the scheme says so.

    Raises:
        ServerUnreachable: unknown name, refused, TLS failed, or not within ``timeout`` seconds.

    Concurrency:
        Any number at once. Cancelled: nothing is left open.
    """
    try:
        with trio.fail_after(timeout):
            stream = await trio.open_tcp_stream(origin.host, origin.port)
            if ssl_context is None:
                return Connection(origin, _TcpChannel(stream))
            secure = trio.SSLStream(stream, ssl_context, server_hostname=origin.host, https_compatible=True)
            try:
                await secure.do_handshake()
            except BaseException:
                stream.socket.close()
                raise
            return Connection(origin, StreamChannel(secure, stream.socket.close, stream.socket.is_readable))
    except trio.TooSlowError as error:
        raise ServerUnreachable(f"cannot connect to {origin}: no answer within {timeout:g} s") from error
    except (OSError, trio.BrokenResourceError, UnicodeError) as error:
        raise ServerUnreachable(f"cannot connect to {origin}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """trio wraps the failures of a name's several addresses, and what TLS says; the first one says what a reader needs."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    match cause or error:
        case ssl.SSLCertVerificationError() as failure:
            return f"its certificate was refused: {failure.verify_message}; trust it with ssl_context="
        case ssl.SSLError() as failure:
            said = (failure.reason or str(failure)).lower().replace("_", " ")
            return f"TLS failed: {said}; is it an https server?"
        case socket.gaierror() as failure:
            return f"{str(failure.strerror).lower()}; is the host's name right?"
        case OSError(errno=int() as number):
            said = os.strerror(number)
            return f"{said[:1].lower()}{said[1:]}; is the server running, and is the URL right?"
        case UnicodeError():
            return "the host's name is none"
        case failure:
            return f"{failure or type(failure).__name__}; is the server running, and is the URL right?"


class Channel(Protocol):
    """Octets to and from a server. Broken or ended is ``trio.BrokenResourceError``, closed by us ``trio.ClosedResourceError``."""

    async def send_all(self, data: bytes) -> None:
        """Send; need not be a checkpoint."""

    async def receive_some(self, most: int) -> bytes:
        """What has come, at most so many octets; b"" at the end. Always a checkpoint."""

    async def receive_into(self, buffer: memoryview) -> int:
        """Read at most as much as fits; how much, 0 at the end. Need not be a checkpoint."""

    def has_input(self) -> bool:
        """Whether there is something to read, the end included."""

    def close(self) -> None:
        """Close at once. Idempotent."""


class _TcpChannel:
    """A TCP socket, used directly: a reply of one packet costs one wait and two system calls, and the kernel writes bodies in place."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        self._fd = self._socket.fileno()
        self._is_closed = False
        self._poll = None
        if sys.platform != "win32":
            self._poll = select.poll()
            self._poll.register(self._fd, select.POLLIN)

    async def send_all(self, data: bytes) -> None:
        sent = self._try_send(data)
        if sent < len(data):
            with memoryview(data) as view:
                while sent < len(data):
                    await trio.lowlevel.wait_writable(self._fd)
                    sent += self._try_send(view[sent:])

    def _try_send(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._broken() from error

    async def receive_some(self, most: int) -> bytes:
        while True:
            if self._is_closed:  # as in _readable, at the price of a call less for every request
                raise self._broken()
            await trio.lowlevel.wait_readable(self._fd)
            try:
                return self._socket.recv(most)
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._broken() from error

    async def receive_into(self, buffer: memoryview) -> int:
        while True:
            try:
                return self._socket.recv_into(buffer)
            except BlockingIOError:
                await self._readable()
            except OSError as error:
                raise self._broken() from error

    async def _readable(self) -> None:
        if self._is_closed:  # the number may be another file's by now
            raise self._broken()
        await trio.lowlevel.wait_readable(self._fd)

    def _broken(self) -> Exception:
        return trio.ClosedResourceError("closed") if self._is_closed else trio.BrokenResourceError("broken")

    def has_input(self) -> bool:
        if self._is_closed:  # the number may be another file's by now
            return True
        if self._poll is not None:  # without an exception, as which the usual answer of the other way comes
            return bool(self._poll.poll(0))
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            trio.lowlevel.notify_closing(self._fd)  # whoever waits for it gets ClosedResourceError
            self._socket.close()


class StreamChannel:
    """Any trio stream, TLS for one.

    Args:
        stream: the stream.
        close: closes what is below it, at once.
        has_input: whether there is something to read; the default does not know, and says no.
    """

    def __init__(self, stream: trio.abc.Stream, close: Callable[[], object], has_input: Callable[[], bool] = lambda: False) -> None:
        self._stream, self._close, self._has_input = stream, close, has_input

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def receive_some(self, most: int) -> bytes:
        return bytes(await self._stream.receive_some(most))

    async def receive_into(self, buffer: memoryview) -> int:
        data = await self._stream.receive_some(min(len(buffer), READ_SIZE))
        buffer[: len(data)] = data
        return len(data)

    def has_input(self) -> bool:
        return self._has_input()

    def close(self) -> None:
        self._close()


class Connection:
    """An open connection.

    Args:
        origin: whom it is with.
        channel: what it goes over.

    Attributes:
        expires: when the server said it will close it if idle, on trio's clock; inf when it did not say.
        is_reusable: whether another request may be sent, as far as the last answer said.
        due: when the present exchange must be over; the pool's note, on trio's clock.
        is_overdue: whether the pool closed it because it was not.
    """

    def __init__(self, origin: Origin, channel: Channel) -> None:
        self.expires = self.due = math.inf
        self.is_reusable = True
        self.is_overdue = False
        self._origin, self._channel = origin, channel
        self._requests_left: float = math.inf
        self._is_answered = False  # whether any octet of the present exchange's answer has come

    def is_quiet(self) -> bool:
        """Whether nothing has come since the last answer: what an idle server sends is its farewell, or junk."""
        return not self._channel.has_input()

    def close(self) -> None:
        """Close at once, without a word to the server. Idempotent; not a checkpoint."""
        self.is_reusable = False
        self._channel.close()

    async def exchange(self, request: bytes, bound: int, *, bodiless: bool = False) -> HttpResponse:
        """Send a request, read its response whole.

        Args:
            request: head and body.
            bound: the longest body accepted, in octets.
            bodiless: the request's method is HEAD, whose response has no body whatever its head says.

        Raises:
            ConnectionLost: it broke or closed before the answer was whole.
            BrokenAnswer, AnswerTooLarge: what came is not HTTP/1.1, or beyond the bounds.
            trio.ClosedResourceError: ``close`` was called meanwhile.

        Concurrency:
            One task; always a checkpoint. On any exception, Cancelled included, the connection is closed; the server may still do the
            work.
        """
        self._is_answered = is_over = False
        try:
            response = await self._exchange(request, bound, bodiless)
            is_over = True
        except Malformed as error:
            raise BrokenAnswer(f"{self._origin} answered with something that is not HTTP/1.1: {error}") from error
        except TooLong as error:
            raise AnswerTooLarge(f"{self._origin}'s answer is refused: {error}, more than an honest one has") from error
        except trio.BrokenResourceError as error:
            where = "in the middle of its answer" if self._is_answered else "before it answered"
            raise ConnectionLost(f"{self._origin} closed the connection {where}", answer_begun=self._is_answered) from error
        finally:
            if not (is_over and self.is_reusable):
                self.close()
        return response

    async def _exchange(self, request: bytes, bound: int, bodiless: bool) -> HttpResponse:
        # A server may answer before it has read the whole request, and close; what it said is worth more than that it closed.
        with suppress(trio.BrokenResourceError):
            self.is_reusable = False
            await self._channel.send_all(request)
            self.is_reusable = True
        head, rest = await self._read_head()
        body: bytes | bytearray | memoryview = b""
        if bodiless or head.status in (204, 304):
            pass
        elif head.is_chunked:
            body, rest = await self._read_chunked(rest, bound)
        elif head.length is not None:
            body, rest = await self._read_sized(head.length, rest, bound)
        else:
            body, rest = await self._read_to_end(rest, bound), b""
            head.keeps_alive = False
        self._learn(head, rest)
        return HttpResponse(head.status, tuple(head.headers), body)

    async def _read_head(self) -> tuple[ResponseHead, bytes]:
        buffer = await self._receive(HEAD_SIZE)
        for _ in range(MAX_INTERIM):
            searched = 0
            while not (end := end_of_head(buffer, searched)):
                self._check_beginning(buffer)
                searched = len(buffer)
                buffer += await self._receive(HEAD_SIZE)
            if not buffer.startswith(b"HTTP/1."):
                self._check_beginning(buffer)
            head, buffer = ResponseHead.parse(buffer[:end]), buffer[end:]
            if head.status >= 200:
                return head, buffer
            if head.status == 101:
                raise BrokenAnswer(f"{self._origin} switched to another protocol, unasked")
        raise BrokenAnswer(f"{self._origin} sent {MAX_INTERIM} interim responses and no real one")

    def _check_beginning(self, buffer: bytes) -> None:
        """Something that is not HTTP need not be waited for until its head ends, which it never does."""
        if not b"HTTP/1.".startswith(buffer[:7]):
            # Twelve octets tell what it is, and are too few to repeat a secret out of our own request.
            hint = "; it speaks TLS: is it an https:// server?" if buffer[:2] == b"\x15\x03" else ""
            raise BrokenAnswer(f"{self._origin} answered with something that is not HTTP/1.1: it begins {buffer[:12]!r}{hint}")

    async def _read_sized(self, length: int, rest: bytes, bound: int) -> tuple[bytes | memoryview, bytes]:
        if length > bound:
            raise AnswerTooLarge(f"{self._origin} announced an answer of {length} octets; an honest one has at most {bound}")
        if len(rest) >= length:
            return rest[:length], rest[length:]
        body = np.empty(length, dtype=np.uint8).data  # a bytearray would be written twice, first with zeros: a tenth of a large row
        body[: len(rest)] = rest
        have, turn = len(rest), TURN
        while have < length:
            if have > turn:
                turn = have + TURN
                await trio.lowlevel.checkpoint()
            count = await self._channel.receive_into(body[have:])
            if not count:
                raise trio.BrokenResourceError("the end came early")
            have += count
        return body, b""

    async def _read_chunked(self, rest: bytes, bound: int) -> tuple[bytearray, bytes]:
        chunked = ChunkedBody(bound)
        while not chunked.feed(rest):
            rest = await self._receive(READ_SIZE)
        return chunked.body, chunked.excess

    async def _read_to_end(self, rest: bytes, bound: int) -> bytes:
        parts, size = [rest], len(rest)
        while size <= bound:
            rest = await self._channel.receive_some(READ_SIZE)
            if not rest:
                return b"".join(parts)
            parts.append(rest)
            size += len(rest)
        raise TooLong(f"the body is longer than {bound} octets")

    async def _receive(self, most: int) -> bytes:
        data = await self._channel.receive_some(most)
        if not data:
            raise trio.BrokenResourceError("the end came early")
        self._is_answered = True
        return data

    def _learn(self, head: ResponseHead, rest: bytes) -> None:
        """What the answer says of the connection's future."""
        if self._requests_left == math.inf and head.max_requests is not None:
            self._requests_left = head.max_requests
        self._requests_left -= 1
        # Octets after the answer were not asked for: whatever they are, the next answer must not begin with them.
        self.is_reusable = self.is_reusable and head.keeps_alive and not rest and self._requests_left > 0
        if head.idle_seconds is not None:
            # A second less, for the time on the way.
            self.expires = trio.current_time() + max(0.0, head.idle_seconds - 1.0)

    def __repr__(self) -> str:
        return f"<Connection with {self._origin}{'' if self.is_reusable else ', not to be used again'}>"
