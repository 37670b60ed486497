"""The same server as an ASGI application: the same answers, whoever mounts it."""

from __future__ import annotations

import httpx
import pytest
import trio

from seedbed import ModelInfo, TinyLM
from seedbed.errors import UsageError
from seedbed.protocols import PROTOCOLS
from seedbed.protocols.exchange import HttpRequest
from seedbed.server import answer, asgi
from seedbed.server.asgi import asgi_app
from seedbed.testing import ScriptedLLM

INFO = ModelInfo("four", "test", "f", 4, (0,), 100)
MODEL = TinyLM()
HTTP = {"type": "http", "method": "POST", "path": "/v1/next_token_logits", "headers": [(b"X-Thing", b"\xe9")]}


class Server:
    """An ASGI server made of a script: what ``receive`` gives; then it hangs, until the client goes."""

    def __init__(self, *messages: dict[str, object]) -> None:
        self.messages, self.sent, self.gone = list(messages), [], trio.Event()

    async def receive(self) -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        if self.messages:
            return self.messages.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, object]) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(message)


def body(data: bytes, *, more: bool = False) -> dict[str, object]:
    return {"type": "http.request", "body": data, "more_body": more}


REQUESTS = [
    HttpRequest("GET", "/v1/model"),
    HttpRequest("GET", "/health"),
    HttpRequest("POST", "/v1/next_token_logits", (), b'{"token_ids":[1],"top_k":3}'),
    HttpRequest("POST", "/v1/next_token_logits", (("accept", "application/octet-stream"),), b'{"token_ids":[1]}'),
    HttpRequest("POST", "/v1/next_token_logits", (), b"{"),
    HttpRequest("POST", "/completion", (), b'{"prompt":[1],"n_predict":1,"n_probs":2}'),
    HttpRequest("GET", "/nowhere"),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: f"{request.method} {request.path} {len(request.body)}")
async def test_it_answers_what_answer_answers(request_: HttpRequest) -> None:
    want = await answer(MODEL, list(PROTOCOLS.values()), request_)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi_app(MODEL)), base_url="http://model") as client:
        have = await client.request(request_.method, request_.path, content=request_.body, headers=list(request_.headers))

    assert (have.status_code, have.content) == (want.status, bytes(want.body))
    assert have.headers["content-length"] == str(len(want.body))
    assert {(name, value) for name, value in want.headers if name not in ("connection", "keep-alive")} <= set(have.headers.items())


async def test_a_body_in_pieces_is_put_together() -> None:
    server = Server(body(b'{"token', more=True), body(b"", more=True), body(b'_ids":[1],"top_k":1}'))
    await asgi_app(MODEL)(HTTP, server.receive, server.send)

    assert [message["type"] for message in server.sent] == ["http.response.start", "http.response.body"]
    assert server.sent[0]["status"] == 200


async def test_a_body_beyond_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "MAX_BODY", 10)
    server = Server(body(b"x" * 8, more=True), body(b"x" * 8, more=True), body(b"x" * 8))
    await asgi_app(MODEL)(HTTP, server.receive, server.send)

    assert server.sent[0]["status"] == 413
    assert len(server.messages) == 1


async def test_a_client_that_goes_while_it_asks_is_not_answered() -> None:
    server = Server(body(b"{", more=True))
    server.gone.set()
    await asgi_app(MODEL)(HTTP, server.receive, server.send)

    assert server.sent == []


async def test_a_client_that_goes_ends_the_work_done_for_it(autojump_clock) -> None:
    slow = ScriptedLLM({}, default=[0.0] * 4, info=INFO, delay=100.0)
    server = Server(body(b'{"token_ids":[1]}'))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asgi_app(slow), HTTP, server.receive, server.send)
        await trio.sleep(3)
        server.gone.set()

    assert trio.current_time() == 3
    assert server.sent == []


async def test_it_lives_and_dies_with_its_server() -> None:
    server = Server({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    await asgi_app(MODEL)({"type": "lifespan"}, server.receive, server.send)

    assert server.sent == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


async def test_a_web_socket_is_refused() -> None:
    server = Server()
    with pytest.raises(ValueError, match="only HTTP"):
        await asgi_app(MODEL)({"type": "websocket"}, server.receive, server.send)


@pytest.mark.parametrize("protocols", [["gopher"], (), "native", None, 5], ids=str)
def test_an_unknown_protocol_is_refused_and_so_is_none_at_all(protocols: object) -> None:
    with pytest.raises(UsageError, match="protocol"):
        asgi_app(MODEL, protocols=protocols)


def test_something_that_is_no_model_is_refused() -> None:
    with pytest.raises(UsageError, match="is no language model"):
        asgi_app(object())
