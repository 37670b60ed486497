"""The connections to one server: the idle ones wait in a queue, a request takes the one that has waited longest, or opens another.

Deciding is synchronous (look, take, note), so no task ever sees half a decision; only then is there I/O. There is no queue of requests
here: how many may be under way is the caller's limiter's affair, so a cancelled request has nothing to leave behind.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from seedbed.errors import ConnectionLost
from seedbed.http.connection import Connection, Origin, open_connection

if TYPE_CHECKING:
    import ssl

    from seedbed.protocols.exchange import HttpRequest, HttpResponse

__all__ = ["Pool", "PoolStatistics"]

CONNECT_TIMEOUT = 10.0


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

    Concurrency:
        Any number of tasks; each request has a connection to itself.
    """

    def __init__(
        self,
        origin: Origin,
        ssl_context: ssl.SSLContext | None = None,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        self.origin = origin
        self._ssl_context, self._connect_timeout = ssl_context, connect_timeout
        self._idle: deque[Connection] = deque()
        self._active: set[Connection] = set()
        self._opening = self._opened = self._resent = self._bytes_received = 0
        self._is_closed = False
        default = {"http": 80, "https": 443}[origin.scheme]
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        self._host = host if origin.port == default else f"{host}:{origin.port}"
        self._headers = _lines(headers)

    async def send(self, request: HttpRequest, bound: int) -> HttpResponse:
        """Send a request, return its response, whole.

        A connection that closes before the first octet of an answer is the usual keep-alive race; the request is then sent once more
        on a new one, at once.

        Args:
            request: path and body; ``Host``, ``Content-Length`` and ``Accept-Encoding: identity`` are added.
            bound: the longest body accepted, in octets.

        Raises:
            ServerUnreachable, ConnectionLost, BrokenAnswer, AnswerTooLarge: as they say.
            trio.ClosedResourceError: the pool has been closed.

        Concurrency:
            Cancelled: this request's connection is closed, nothing else is touched; the server may still do the work.
        """
        if self._is_closed:
            raise trio.ClosedResourceError("this pool has been closed")
        data = self._encode(request)
        bodiless = request.method == "HEAD"
        try:
            return await self._exchange(self._take_idle() or await self._open(), data, bound, bodiless)
        except ConnectionLost as error:
            if error.answer_begun or self._is_closed:
                raise
        self._resent += 1
        return await self._exchange(await self._open(), data, bound, bodiless)

    async def aclose(self) -> None:
        """Close every connection, those in use too. Idempotent; a checkpoint, but closes even when cancelled."""
        self._is_closed = True
        for connection in (*self._idle, *self._active):
            connection.close()
        self._idle.clear()
        await trio.lowlevel.checkpoint()

    def statistics(self) -> PoolStatistics:
        """The state now."""
        active = len(self._active) + self._opening
        return PoolStatistics(active, len(self._idle), self._opened, self._resent, self._bytes_received)

    def __repr__(self) -> str:
        return f"<Pool {self.origin}: {len(self._active) + self._opening} active, {len(self._idle)} idle>"

    def _take_idle(self) -> Connection | None:
        now = trio.current_time() if self._idle else 0.0
        while self._idle:
            connection = self._idle.popleft()
            if connection.expires > now:
                return connection
            connection.close()
        return None

    async def _open(self) -> Connection:
        self._opening += 1
        try:
            connection = await open_connection(self.origin, self._ssl_context, self._connect_timeout)
        finally:
            self._opening -= 1
        self._opened += 1
        return connection

    async def _exchange(self, connection: Connection, data: bytes, bound: int, bodiless: bool) -> HttpResponse:
        self._active.add(connection)
        try:
            response = await connection.exchange(data, bound, bodiless=bodiless)
        finally:
            self._active.discard(connection)
        self._bytes_received += len(response.body)
        if connection.is_reusable:
            self._idle.append(connection)
        return response

    def _encode(self, request: HttpRequest) -> bytes:
        names = {name.lower() for name, _ in request.headers}
        host = "" if "host" in names else f"host: {self._host}\r\n"
        length = (
            ""
            if "content-length" in names or (request.method == "GET" and not request.body)
            else f"content-length: {len(request.body)}\r\n"
        )
        encoding = "" if "accept-encoding" in names else "accept-encoding: identity\r\n"
        head = f"{request.method} {request.path} HTTP/1.1\r\n{host}{encoding}{self._headers}{_lines(request.headers)}{length}\r\n"
        return head.encode("latin-1") + request.body


def _lines(headers: tuple[tuple[str, str], ...]) -> str:
    for name, value in headers:
        if not name or any(c in "\r\n\0" for c in name + value):
            raise ValueError(f"header {name!r} holds a line break")
    return "".join(f"{name}: {value}\r\n" for name, value in headers)
