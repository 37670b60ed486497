"""The same server as an ASGI application, for hypercorn, uvicorn or ``httpx.ASGITransport``.

Our own listener is faster; this is the second, independent HTTP implementation, and the way into an existing ASGI deployment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seedbed.llm.threads import as_llm
from seedbed.protocols import PROTOCOLS, protocol_named
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
        UsageError: an unknown protocol.

    Concurrency:
        Requests are answered at the same time, as the ASGI server calls. When a client goes away its work runs to its end.

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
    model, speaks = as_llm(llm), [protocol_named(name) for name in protocols]

    async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            request = await _request(scope, receive)
            await _respond(await answer(model, speaks, request) if request else HttpResponse(413), send)

    return app


async def _live(receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _request(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]]) -> HttpRequest | None:
    """None when the body is too large."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            return None
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    return HttpRequest(scope["method"], scope["path"], headers, bytes(body))


async def _respond(response: HttpResponse, send: Callable[[Any], Awaitable[None]]) -> None:
    # keep-alive and connection belong to the server that mounts us
    headers = [(name, value) for name, value in response.headers if name not in ("connection", "keep-alive")]
    headers.append(("content-length", str(len(response.body))))
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": response.status, "headers": encoded})
    await send({"type": "http.response.body", "body": bytes(response.body)})
