"""The connections to one server: the idle ones wait in a queue, a request takes the one that has waited longest, or opens another.

Deciding is synchronous (look, take, note), so no task ever sees half a decision; only then is there I/O. There is no queue of requests
here: how many may be under way is the caller's limiter's affair, so a cancelled request has nothing to leave behind.

A time limit is kept by one task for all connections, which closes those that are overdue: a cancel scope a request is a fifth of what a
request costs. The task sleeps until the first limit can have passed, and ends when there is nothing to watch.
"""

from __future__ import annotations

import math
import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from seedbed.errors import ConnectionLost, RequestTimeout, UsageError
from seedbed.http.connection import Connection, Origin, open_connection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from seedbed.protocols.exchange import Headers, HttpRequest, HttpResponse

__all__ = ["Pool", "PoolStatistics", "check_headers"]

CONNECT_TIMEOUT = 10.0
MAX_HEADS = 64  # kept encoded; a model's requests have one or two kinds of head
_FRAMING = ("content-length", "transfer-encoding")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(r"[\x21-\x7e]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """The state of a pool.

    Attributes:
        active: connections with a request under way, those being opened included.
        idle: connections waiting for one.
        opened: connections opened since the beginning.
        resent: requests sent a second time because the server closed the connection before it answered.
        bytes_received: octets of answers' bodies.
    """

    active: int
    idle: int
    opened: int
    resent: int
    bytes_received: int


class Pool:
    """Connections to one origin.

    Args:
        origin: the server.
        ssl_context: for https; made once, shared by all connections.
        headers: sent with every request, as (name, value); never shown.
        connect_timeout: seconds for opening a connection.
        time_limit: seconds for a whole request, opening included; ``math.inf`` for none.
        open: how a connection is opened; the default is a socket.

    Raises:
        UsageError: a header that cannot be sent.

    Concurrency:
        Any number of tasks; each request has a connection to itself.
    """

    def __init__(
        self,
        origin: Origin,
        ssl_context: ssl.SSLContext | None = None,
        *,
        headers: Headers = (),
        connect_timeout: float = CONNECT_TIMEOUT,
        time_limit: float = math.inf,
        open: Callable[[Origin, ssl.SSLContext | None, float], Awaitable[Connection]] = open_connection,  # noqa: A002
    ) -> None:
        check_headers(headers)
        self.origin = origin
        self._ssl_context, self._connect_timeout, self._open_connection = ssl_context, connect_timeout, open
        self._time_limit = time_limit
        self._watch_scope: trio.CancelScope | None = None  # of the task that watches, while there is one
        self._idle: deque[Connection] = deque()
        self._active: set[Connection] = set()
        self._opening: list[float] = []  # when the requests that connections are being opened for are due
        self._opened = self._resent = self._bytes_received = 0
        self._is_closed = False
        self._headers = headers
        self._heads: dict[tuple[str, str, Headers, bool], bytes] = {}  # all of the head but the body's length

    async def send(self, request: HttpRequest, bound: int) -> HttpResponse:
        """Send a request, return its response, whole.

        A connection that closes before the first octet of an answer is the usual keep-alive race; the request is then sent once more
        on a new one, at once.

        Args:
            request: path and body; ``Host`` and ``Accept-Encoding: identity`` are added unless it has them, ``Content-Length`` always.
            bound: the longest body accepted, in octets.

        Raises:
            ServerUnreachable, ConnectionLost, BrokenAnswer, AnswerTooLarge: as they say.
            RequestTimeout: it took longer than ``time_limit``.
            UsageError: a request that cannot be sent.
            trio.ClosedResourceError: the pool has been closed.

        Concurrency:
            Cancelled: this request's connection is closed, nothing else is touched; the server may still do the work. Always a
            checkpoint.
        """
        data = self._encode(request)
        bodiless = request.method == "HEAD"
        now = trio.current_time()
        due = now + self._time_limit
        try:
            return await self._exchange(self._take_idle(now) or await self._open(due), data, bound, bodiless, due)
        except ConnectionLost as error:
            if error.answer_begun:
                raise
        self._resent += 1
        return await self._exchange(await self._open(due), data, bound, bodiless, due)

    def close(self) -> None:
        """Close every connection, those in use too: their requests end with ``trio.ClosedResourceError``. Idempotent."""
        self._is_closed = True
        if self._watch_scope is not None:
            self._watch_scope.cancel()
        for connection in (*self._idle, *self._active):
            connection.close()
        self._idle.clear()

    async def aclose(self) -> None:
        """As ``close``; a checkpoint, but closes even when cancelled."""
        self.close()
        await trio.lowlevel.checkpoint()

    def statistics(self) -> PoolStatistics:
        """The state now."""
        active = len(self._active) + len(self._opening)
        return PoolStatistics(active, len(self._idle), self._opened, self._resent, self._bytes_received)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"{len(self._active) + len(self._opening)} active, {len(self._idle)} idle"
        return f"<Pool {self.origin}: {state}>"

    def _take_idle(self, now: float) -> Connection | None:
        while self._idle:
            connection = self._idle.popleft()
            if connection.expires > now and connection.is_quiet():
                return connection
            connection.close()
        return None

    async def _open(self, due: float) -> Connection:
        self._check_open()
        self._opening.append(due)
        try:
            with trio.CancelScope(deadline=due) as scope:
                connection = await self._open_connection(self.origin, self._ssl_context, self._connect_timeout)
        finally:
            self._opening.remove(due)
        if scope.cancelled_caught:
            raise self._timed_out()
        self._opened += 1
        return connection

    async def _exchange(self, connection: Connection, data: bytes, bound: int, bodiless: bool, due: float) -> HttpResponse:
        if self._is_closed:  # while this one was being opened
            connection.close()
            self._check_open()
        connection.due = due
        self._active.add(connection)
        if self._watch_scope is None and due != math.inf:
            self._watch_scope = trio.CancelScope()
            trio.lowlevel.spawn_system_task(self._watch, self._watch_scope, name=f"<time limits of {self!r}>")
        try:
            response = await connection.exchange(data, bound, bodiless=bodiless)
        except trio.ClosedResourceError:
            if connection.is_overdue:
                raise self._timed_out() from None
            raise
        finally:
            self._active.discard(connection)
        self._bytes_received += len(response.body)
        if connection.is_reusable:  # which it is not when the pool was closed meanwhile
            self._idle.append(connection)
        return response

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Close what is overdue. All have the same limit, so nobody's passes before that of the one who has waited longest; who may still
        be opening a connection."""
        with scope:
            while self._active and not self._is_closed:
                await trio.sleep_until(min([connection.due for connection in self._active] + self._opening))
                now = trio.current_time()
                for connection in self._active:
                    if connection.due <= now:
                        connection.is_overdue = True
                        connection.close()
        self._watch_scope = None

    def _timed_out(self) -> RequestTimeout:
        return RequestTimeout(f"{self.origin} gave no whole answer within {self._time_limit:g} s")

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this pool has been closed")

    def _encode(self, request: HttpRequest) -> bytes:
        kind = (request.method, request.path, request.headers, bool(request.body))
        head = self._heads.get(kind)
        if head is None:
            head = self._encode_head(request)
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            self._heads[kind] = head
        if head.endswith(b"\r\n\r\n"):
            return head + request.body
        return b"%b%d\r\n\r\n%b" % (head, len(request.body), request.body)

    def _encode_head(self, request: HttpRequest) -> bytes:
        """Up to the value of Content-Length, which comes last; or whole, where there is none to add."""
        if not _TOKEN.fullmatch(request.method) or not _TARGET.fullmatch(request.path):
            raise UsageError("a request's method or path holds a character that cannot be sent")
        check_headers(request.headers)
        names = {name.lower() for name, _ in (*self._headers, *request.headers)}
        lines = [f"{request.method} {request.path} HTTP/1.1"]
        if "host" not in names:
            lines.append(f"host: {self.origin.authority}")
        if "accept-encoding" not in names:
            lines.append("accept-encoding: identity")
        lines += [f"{name}: {value}" for name, value in (*self._headers, *request.headers)]
        if request.method in ("GET", "HEAD") and not request.body:
            lines += ["", ""]
        else:
            lines.append("content-length: ")
        return "\r\n".join(lines).encode("latin-1")


def check_headers(headers: Headers) -> None:
    """Whether they can be sent as they are.

    Raises:
        UsageError: a name or value holds a character HTTP does not allow, or is about the framing, which is ours; values are not shown,
            they may be secret.
    """
    for name, value in headers:
        if name.lower() in _FRAMING:
            raise UsageError(f"the header {name!r} says where a request's body ends, which is not for the caller to say; leave it out")
        if not _TOKEN.fullmatch(name):
            raise UsageError("a header's name holds a character that HTTP does not allow there")
        if not _VALUE.fullmatch(value):
            raise UsageError(f"the value of header {name!r} holds a line break or a character beyond latin-1; encode it first")
