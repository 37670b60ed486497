"""The same server as an ASGI application, for hypercorn, uvicorn or ``httpx.ASGITransport``.

Our own listener is faster; this is the second, independent HTTP implementation, and the way into an existing ASGI deployment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import trio

from seedbed.llm.threads import as_llm
from seedbed.protocols import PROTOCOLS, protocols_named
from seedbed.protocols.exchange import HttpRequest, HttpResponse
from seedbed.server.answer import MAX_BODY, answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["asgi_app"]


def asgi_app(llm: object, *, protocols: Sequence[str] = tuple(PROTOCOLS)) -> Callable[..., Awaitable[None]]:
    """An ASGI 3 application that serves a model; run it on a server whose event loop is trio.

    Args:
        llm: an ``LLM``, ``BlockingLLM`` or look-alike.
        protocols: names of the protocols to speak.

    Raises:
        UsageError: no model, an unknown protocol or none.

    Concurrency:
        Requests are answered at the same time, as the ASGI server calls. When it says that a client has gone, the work is cancelled.

    Example:
        >>> import httpx, trio
        >>> from seedbed.server import TinyLM
        >>> async def main():
        ...     transport = httpx.ASGITransport(asgi_app(TinyLM()))
        ...     async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
        ...         return (await client.get("/v1/model")).json()["vocab_size"]
        >>> trio.run(main)
        257
    """
    model, speaks = as_llm(llm), protocols_named(protocols)

    async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            try:
                request = await _request(scope, receive)
            except _TooLarge:
                await _respond(HttpResponse(413), send)
                return
            if request is not None:
                await _answer_while_client_is_there(request, receive, send)
        else:
            raise ValueError(f"only HTTP is spoken here, not {scope['type']}")

    async def _answer_while_client_is_there(
        request: HttpRequest, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        response: HttpResponse | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, receive, nursery.cancel_scope)
            response = await answer(model, speaks, request)
            nursery.cancel_scope.cancel()
        if response is not None:
            await _respond(response, send)

    return app


class _TooLarge(Exception):
    """The request's body is beyond the bound."""


async def _watch(receive: Callable[[], Awaitable[Any]], scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _live(receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _request(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]]) -> HttpRequest | None:
    """None when the client has gone."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            raise _TooLarge
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    # "path" is decoded, and a slash in a model's name would then divide it.
    path = scope["raw_path"].decode("latin-1") if scope.get("raw_path") else quote(scope["path"])
    return HttpRequest(scope["method"], path, headers, bytes(body))


async def _respond(response: HttpResponse, send: Callable[[Any], Awaitable[None]]) -> None:
    # keep-alive and connection belong to the server that mounts us
    headers = [(name, value) for name, value in response.headers if name not in ("connection", "keep-alive")]
    headers.append(("content-length", str(len(response.body))))
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": response.status, "headers": encoded})
    await send({"type": "http.response.body", "body": bytes(response.body)})
