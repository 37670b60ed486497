"""The same connections as a transport for any ``httpx.AsyncClient`` on trio, and any httpx transport or client as a way to a model.

Why not httpx's own pool: its cost grows with requests times connections (0.5 ms a request at one connection, 38 ms at 256), and it
loses slots for good when a queued request is cancelled.
"""

from __future__ import annotations

import math
import ssl
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

import httpx
import trio

from seedbed.errors import AnswerTooLarge, BrokenAnswer, ConnectionLost, RequestTimeout, ServerError, ServerUnreachable, UsageError
from seedbed.http.arguments import check_count
from seedbed.http.connection import Origin
from seedbed.http.pool import CONNECT_TIMEOUT, Pool, PoolStatistics, check_headers
from seedbed.protocols.exchange import HttpRequest, HttpResponse
from seedbed.protocols.fields import count_in

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from seedbed.protocols.exchange import Headers

__all__ = ["HttpxSender", "TrioTransport"]

MAX_BODY = 1 << 30


class TrioTransport(httpx.AsyncBaseTransport):
    """An httpx transport over trio sockets.

    Proxies, HTTP/2 and asyncio are not spoken; answers are read whole before the client sees them. Environment variables are not read.

    Args:
        max_connections: requests under way at once; more wait in turn.
        ssl_context: for https; the default verifies against the system's certificates.
        max_body: the longest answer accepted, in octets.
        connect_timeout: seconds for opening a connection.

    Of httpx's timeouts, "pool" bounds the wait for a turn, and "read" the rest of the request.

    Raises:
        UsageError: ``max_connections`` is no number of connections.
        httpx.ConnectError, httpx.PoolTimeout, httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError, httpx.LocalProtocolError:
            as httpx's own transport; ours is the cause.

    Concurrency:
        Any number of tasks. Cancelled: that request's connection is closed, nothing else is touched.

    Example:
        >>> async def main():
        ...     from seedbed.server import TinyLM, serve
        ...     async with serve(TinyLM()) as server, httpx.AsyncClient(transport=TrioTransport()) as client:
        ...         return (await client.get(server.url + "/health")).json()
        >>> trio.run(main)
        {'status': 'ok'}
    """

    def __init__(
        self,
        max_connections: int = 64,
        *,
        ssl_context: ssl.SSLContext | None = None,
        max_body: int = MAX_BODY,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        self._limiter = trio.CapacityLimiter(check_count("max_connections", max_connections))
        self._ssl_context, self._max_body, self._connect_timeout = ssl_context, max_body, connect_timeout
        self._pools: dict[Origin, Pool] = {}
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; called by httpx."""
        if self._is_closed:
            raise _closed(request)
        pool = self._pool(request.url)
        body = await request.aread()
        # The body goes out whole, so its length is known, whatever httpx thought.
        headers = tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in request.headers.raw
            if name.lower() not in (b"transfer-encoding", b"content-length")
        )
        timeouts = request.extensions.get("timeout", {})
        sent = HttpRequest(request.method, request.url.raw_path.decode("ascii"), headers, body)
        ticket = object()  # not the task: one may have several requests under way
        try:
            with trio.fail_after(_seconds(timeouts.get("pool"))):
                await self._limiter.acquire_on_behalf_of(ticket)
        except trio.TooSlowError as error:
            raise httpx.PoolTimeout(f"no turn within {timeouts['pool']} s", request=request) from error
        try:
            with trio.fail_after(_seconds(timeouts.get("read"))):
                response = await pool.send(sent, self._max_body)
        except trio.TooSlowError as error:
            raise httpx.ReadTimeout(f"no whole answer within {timeouts['read']} s", request=request) from error
        except UsageError as error:
            raise httpx.LocalProtocolError(str(error), request=request) from error
        except trio.ClosedResourceError as error:
            raise _closed(request) from error
        except ServerError as error:
            raise _as_httpx(error, request) from error
        finally:
            self._limiter.release_on_behalf_of(ticket)
        return httpx.Response(
            response.status, headers=list(response.headers), stream=httpx.ByteStream(bytes(response.body)), request=request
        )

    def statistics(self) -> dict[str, PoolStatistics]:
        """The state of the connections now, by origin."""
        return {str(origin): pool.statistics() for origin, pool in self._pools.items()}

    async def aclose(self) -> None:
        """Close every connection, those in use too: their requests end with ``httpx.LocalProtocolError``, as all later ones do.

        Idempotent; a checkpoint, but closes even when cancelled.
        """
        self._is_closed = True
        for pool in self._pools.values():
            pool.close()
        await trio.lowlevel.checkpoint()

    def __repr__(self) -> str:
        return f"<TrioTransport: {', '.join(map(repr, self._pools.values())) or 'no connections'}>"

    def _pool(self, url: httpx.URL) -> Pool:
        if url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"only http and https are spoken, not {url.scheme!r}")
        origin = origin_of(url)
        if origin not in self._pools:
            if origin.scheme == "https" and self._ssl_context is None:
                self._ssl_context = ssl.create_default_context()
            self._pools[origin] = Pool(
                origin, self._ssl_context if origin.scheme == "https" else None, connect_timeout=self._connect_timeout
            )
        return self._pools[origin]


def origin_of(url: httpx.URL) -> Origin:
    """Scheme, host and port of a URL, without anything secret."""
    host = url.raw_host.decode("ascii")  # a name beyond ASCII as DNS and the Host header have it
    return Origin(url.scheme, host, {"http": 80, "https": 443}[url.scheme] if url.port is None else url.port)


def _seconds(timeout: float | None) -> float:
    return math.inf if timeout is None else timeout


def _closed(request: httpx.Request) -> httpx.LocalProtocolError:
    return httpx.LocalProtocolError("this transport has been closed", request=request)


def _as_httpx(error: ServerError, request: httpx.Request) -> httpx.TransportError:
    match error:
        case ServerUnreachable():
            return httpx.ConnectError(str(error), request=request)
        case RequestTimeout():
            return httpx.ReadTimeout(str(error), request=request)
        case ConnectionLost(answer_begun=True):
            return httpx.ReadError(str(error), request=request)
    return httpx.RemoteProtocolError(str(error), request=request)


class HttpxSender:
    """A way to a model through somebody else's httpx transport or client: a mock, an ASGI application, a proxy.

    Args:
        base_url: where requests go.
        transport: the transport; closed with the sender.
        client: or a client, which stays its owner's: it is not closed.
        headers: sent with every request; never shown.
        time_limit: seconds for a whole request; ``math.inf`` for none.
    """

    def __init__(
        self,
        base_url: httpx.URL,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        client: httpx.AsyncClient | None = None,
        headers: Headers = (),
        time_limit: float = math.inf,
    ) -> None:
        check_headers(headers)
        self._base_url, self._headers, self._time_limit = base_url, headers, time_limit
        self._transport, self._client = transport, client
        self._is_closed = False

    async def send(self, request: HttpRequest, bound: int) -> HttpResponse:
        """As ``Pool.send``; the transport below may have read more than ``bound`` before it is refused."""
        with trio.move_on_after(self._time_limit):
            return await self._send(request, bound)
        raise RequestTimeout(f"{origin_of(self._base_url)} gave no whole answer within {self._time_limit:g} s")

    async def _send(self, request: HttpRequest, bound: int) -> HttpResponse:
        await trio.lowlevel.checkpoint()  # a mock may have none
        if self._is_closed or (self._client is not None and self._client.is_closed):
            raise trio.ClosedResourceError("this client has been closed")
        where = origin_of(self._base_url)
        try:
            body = await _read(response := await self._answered(request), bound, where)
        except (httpx.ConnectError, httpx.ProxyError) as error:
            raise ServerUnreachable(f"cannot connect to {where}: {error}") from error
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol) as error:
            raise UsageError(f"the client cannot send that: {error}") from error
        except httpx.TimeoutException as error:
            raise RequestTimeout(f"{where} did not answer in the time the client allows") from error
        except httpx.TransportError as error:
            raise ConnectionLost(f"the connection to {where} broke: {type(error).__name__}", answer_begun=True) from error
        return HttpResponse(response.status_code, tuple(response.headers.items()), body)

    async def _answered(self, request: HttpRequest) -> httpx.Response:
        """The answer, of which no more than the head need have come. No timeout of httpx's: deadlines are cancel scopes above, which a
        mocked transport sees too."""
        url = self._base_url.copy_with(raw_path=request.path.encode("ascii"), username=None, password=None)
        headers = [("accept-encoding", "identity"), *self._headers, *request.headers]
        if self._client is not None:
            sent = self._client.build_request(request.method, url, headers=headers, content=request.body)
            # Not followed, whatever the client does otherwise: keys are for this server alone.
            return await self._client.send(sent, stream=True, follow_redirects=False)
        assert self._transport is not None
        # With no client of ours around it: that would write the URL into the log, and its query may be a key.
        return await self._transport.handle_async_request(httpx.Request(request.method, url, headers=headers, content=request.body))

    async def aclose(self) -> None:
        """Close what is ours."""
        is_first, self._is_closed = not self._is_closed, True
        if is_first and self._transport is not None:
            await self._transport.aclose()

    def __repr__(self) -> str:
        return f"<HttpxSender {origin_of(self._base_url)}>"


async def _read(response: httpx.Response, bound: int, where: Origin) -> bytes:
    try:
        announced = count_in(response.headers.get("content-length", "0"))
        if announced is None:
            raise BrokenAnswer(f"{where} announced an answer of no number of octets")
        if announced > bound:
            raise AnswerTooLarge(f"{where} announced an answer of {announced} octets; an honest one has at most {bound}")
        if response.is_stream_consumed or response.is_closed:  # a mock that was given its content whole
            parts, size = [response.content], len(response.content)
        else:
            parts, size = await _read_parts(response, bound)
        if size > bound:
            raise AnswerTooLarge(f"{where}'s answer is longer than {bound} octets, more than an honest one has")
        return b"".join(parts)
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(1):
            await response.aclose()


async def _read_parts(response: httpx.Response, bound: int) -> tuple[list[bytes], int]:
    """The body's parts, and how much was read: beyond the bound, the last of it is not among the parts."""
    parts, size = [], 0
    # Leaving an async iterator early leaves the generators below it open; being cancelled inside closes them.
    with trio.CancelScope() as enough:
        async with aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_raw())) as raw:
            async for part in raw:
                size += len(part)
                if size <= bound:
                    parts.append(part)
                elif enough.cancel_called:  # there is no checkpoint in there
                    break
                else:
                    enough.cancel()
    return parts, size
