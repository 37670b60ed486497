"""Our transport under any httpx client, and any httpx transport or client under our model, respx in all its ways among them."""

from __future__ import annotations

import json
import math

import httpx
import pytest
import respx
import trio
import trio.testing
from tests.http.fakes import OK, read_request, tcp_server

from seedbed import TinyLM, connect, serve
from seedbed.errors import (
    AnswerTooLarge,
    BrokenAnswer,
    ConnectionLost,
    RequestTimeout,
    ServerUnreachable,
    UsageError,
)
from seedbed.http import Retry, TrioTransport
from seedbed.http.transport import HttpxSender
from seedbed.protocols import protocol_named
from seedbed.protocols.exchange import HttpRequest
from seedbed.server import answer
from seedbed.server.asgi import asgi_app

MODEL = TinyLM()
URL = "http://model.test:8000"
PROMPT = list(b"The seed")


async def answered(request: httpx.Request) -> httpx.Response:
    """The model in process, as a respx side effect or a mock transport's handler."""
    headers = tuple(request.headers.items())
    path = request.url.raw_path.decode()
    response = await answer(MODEL, [protocol_named("native")], HttpRequest(request.method, path, headers, request.content))
    return httpx.Response(response.status, headers=list(response.headers), content=bytes(response.body))


async def check_rows(model) -> None:
    want = await MODEL.next_token_logits(PROMPT)
    row = await model.next_token_logits(PROMPT)
    assert row.tolist() == want.tolist()


# Any httpx transport or client under our model.


async def test_a_mock_transport_is_a_way_to_a_model() -> None:
    async with connect(URL, transport=httpx.MockTransport(answered), decode_in_thread_above=math.inf) as model:
        await check_rows(model)


async def test_a_respx_router_as_a_transport_is_a_way_to_a_model() -> None:
    """No global state: two tests in one process cannot see each other's mocks."""
    router = respx.Router(assert_all_called=False)
    route = router.route(host="model.test").mock(side_effect=answered)
    async with connect(URL, transport=httpx.MockTransport(router.async_handler), decode_in_thread_above=math.inf) as model:
        await check_rows(model)

    assert route.call_count == 3


async def test_respx_that_patches_httpx_is_seen_through_a_client() -> None:
    async with respx.mock(using="httpx") as router, httpx.AsyncClient() as client:
        route = router.route(host="model.test").mock(side_effect=answered)
        async with connect(URL, client=client, decode_in_thread_above=math.inf) as model:
            await check_rows(model)

        assert route.call_count == 3
        assert not client.is_closed


async def test_respx_that_patches_httpx_is_seen_through_a_client_over_our_transport() -> None:
    async with respx.mock(using="httpx") as router, httpx.AsyncClient(transport=TrioTransport()) as client:
        router.route(host="model.test").mock(side_effect=answered)
        async with connect(URL, client=client, decode_in_thread_above=math.inf) as model:
            await check_rows(model)


async def test_respx_that_patches_httpcore_does_not_see_ours() -> None:
    """The default mocker patches httpcore, which is not under our transport: requests reach the server. Noticed if it changes."""
    async with serve(MODEL) as server, respx.mock(assert_all_called=False) as router:
        route = router.route().mock(return_value=httpx.Response(500))
        async with connect(server.url) as model:
            await check_rows(model)
        async with httpx.AsyncClient(transport=TrioTransport()) as client:
            assert (await client.get(server.url + "/health")).status_code == 200

        assert route.call_count == 0


async def test_an_asgi_application_in_process_is_a_way_to_a_model() -> None:
    async with connect(URL, transport=httpx.ASGITransport(asgi_app(MODEL)), decode_in_thread_above=math.inf) as model:
        await check_rows(model)


async def test_a_mock_that_knows_no_route_speaks_for_itself() -> None:
    """Its AssertionError is a failing test, not a server in trouble: it is neither translated nor tried again."""
    router = respx.Router()
    router.get(URL + "/other").respond(200)
    with pytest.raises(respx.models.AllMockedAssertionError):
        async with connect(URL, transport=httpx.MockTransport(router.async_handler)):
            pass


def sender_of(handler, **options) -> HttpxSender:
    return HttpxSender(httpx.URL(URL), transport=httpx.MockTransport(handler), **options)


GET = HttpRequest("GET", "/x")


@pytest.mark.parametrize(
    ("raised", "ours"),
    [
        (httpx.ConnectError("refused"), ServerUnreachable),
        (httpx.ConnectTimeout("slow"), RequestTimeout),
        (httpx.ReadTimeout("slow"), RequestTimeout),
        (httpx.PoolTimeout("slow"), RequestTimeout),
        (httpx.ReadError("reset"), ConnectionLost),
        (httpx.RemoteProtocolError("what"), ConnectionLost),
        (httpx.ProxyError("no"), ServerUnreachable),
        (httpx.LocalProtocolError("bad"), UsageError),
        (httpx.UnsupportedProtocol("bad"), UsageError),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_httpx_error_becomes_ours_with_its_cause(raised: httpx.TransportError, ours: type[Exception]) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise raised

    with pytest.raises(ours) as caught:
        await sender_of(handler).send(GET, 100)

    assert caught.value.__cause__ is raised


async def test_redirects_are_not_followed_whatever_the_client_does_otherwise() -> None:
    """Following one would take the key elsewhere."""
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers={"location": "http://elsewhere.test/"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler), follow_redirects=True) as client:
        response = await HttpxSender(httpx.URL(URL), client=client, headers=(("x-api-key", "secret"),)).send(GET, 100)

    assert response.status == 302
    assert asked == [URL + "/x"]


class Endless(httpx.AsyncByteStream):
    """Gives parts for ever, counted."""

    def __init__(self) -> None:
        self.given = 0
        self.is_closed = False

    async def __aiter__(self):
        while True:
            await trio.lowlevel.checkpoint()
            self.given += 1
            yield b"x" * 100

    async def aclose(self) -> None:
        self.is_closed = True


async def test_a_body_beyond_the_bound_is_not_read_on() -> None:
    body = Endless()
    with pytest.raises(AnswerTooLarge):
        await sender_of(lambda request: httpx.Response(200, stream=body)).send(GET, 1000)

    assert (body.given, body.is_closed) == (11, True)


async def test_a_length_beyond_the_bound_is_refused_before_reading() -> None:
    body = Endless()
    with pytest.raises(AnswerTooLarge, match="1001"):
        await sender_of(lambda request: httpx.Response(200, headers={"content-length": "1001"}, stream=body)).send(GET, 1000)

    assert (body.given, body.is_closed) == (0, True)


async def test_a_cancelled_answer_is_closed() -> None:
    body = Endless()
    with trio.move_on_after(0.01):
        await sender_of(lambda request: httpx.Response(200, stream=body)).send(GET, 1 << 60)

    assert body.is_closed


async def test_a_client_that_was_closed_is_a_mistake_of_the_callers() -> None:
    client = httpx.AsyncClient(transport=httpx.MockTransport(answered))
    async with connect(URL, client=client, decode_in_thread_above=math.inf) as model:
        await client.aclose()
        with pytest.raises(UsageError, match="closed"):
            await model.next_token_logits(PROMPT)


async def test_a_model_is_not_to_be_used_after_its_block_even_where_the_client_lives_on() -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(answered)) as client:
        async with connect(URL, client=client, decode_in_thread_above=math.inf) as model:
            pass
        with pytest.raises(UsageError, match="a model is used after its connect"):
            await model.next_token_logits(PROMPT)
        assert not client.is_closed


async def test_a_length_that_is_none_is_refused() -> None:
    sender = sender_of(lambda request: httpx.Response(200, headers={"content-length": "1" * 5000}, content=b"{}"))
    with pytest.raises(BrokenAnswer, match="no number of octets"):
        await sender.send(HttpRequest("GET", "/"), 100)


async def test_a_sender_closes_its_own_transport() -> None:
    class Transport(httpx.MockTransport):
        is_closed = False

        async def aclose(self) -> None:
            self.is_closed = True

    transport = Transport(answered)
    async with connect(URL, transport=transport, decode_in_thread_above=math.inf):
        pass

    assert transport.is_closed


async def test_a_sender_shows_no_secret() -> None:
    sender = HttpxSender(httpx.URL("http://user:hunter22@model.test/?key=hunter33"), transport=httpx.MockTransport(answered))

    assert repr(sender) == "<HttpxSender http://model.test>"
    await sender.aclose()


# Our transport under any httpx client.


async def test_a_client_over_our_transport_speaks_to_a_real_server() -> None:
    async with serve(MODEL) as server, httpx.AsyncClient(transport=TrioTransport()) as client:
        for _ in range(3):
            answer = await client.post(server.url + "/v1/tokenize", json={"text": "seed"})
            assert answer.json() == {"token_ids": list(b"seed")}

        assert server.connections == 1


async def test_a_streamed_body_goes_out_with_its_length() -> None:
    """httpx announces chunks for it; we send it whole, and must not announce what we do not do."""

    async def parts():
        yield b'{"text": '
        yield b'"seed"}'

    async with serve(MODEL) as server, httpx.AsyncClient(transport=TrioTransport()) as client:
        answer = await client.post(server.url + "/v1/tokenize", content=parts())

    assert answer.json() == {"token_ids": list(b"seed")}


async def test_head_and_empty_answers_leave_the_connection_usable() -> None:
    async with serve(MODEL) as server, httpx.AsyncClient(transport=TrioTransport()) as client:
        head = await client.head(server.url + "/health")
        get = await client.get(server.url + "/health")

        assert (head.content, get.json()) == (b"", {"status": "ok"})
        assert server.connections == 1


async def test_requests_beyond_the_limit_wait_their_turn() -> None:
    most = active = 0

    async def handle(stream: trio.SocketStream) -> None:
        nonlocal most, active
        while await read_request(stream):
            active += 1
            most = max(most, active)
            await trio.testing.wait_all_tasks_blocked()
            active -= 1
            await stream.send_all(OK)

    async with tcp_server(handle) as origin:
        transport = TrioTransport(max_connections=3)
        async with httpx.AsyncClient(transport=transport) as client, trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client.get, str(origin))

    assert most <= 3
    assert transport.statistics()[str(origin)].opened <= 3


async def test_httpx_timeouts_are_kept() -> None:
    async def handle(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await trio.sleep_forever()

    async with tcp_server(handle) as origin, httpx.AsyncClient(transport=TrioTransport(max_connections=1)) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get(str(origin), timeout=httpx.Timeout(None, read=0.02))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, str(origin))
            await trio.testing.wait_all_tasks_blocked(0.01)
            with pytest.raises(httpx.PoolTimeout):
                await client.get(str(origin), timeout=httpx.Timeout(None, pool=0.02))
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "raised", "cause"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", httpx.ReadError, ConnectionLost),
        (b"", httpx.RemoteProtocolError, ConnectionLost),
        (b"nonsense", httpx.RemoteProtocolError, BrokenAnswer),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n", httpx.RemoteProtocolError, AnswerTooLarge),
    ],
)
async def test_our_errors_come_as_those_of_httpx(answer: bytes, raised: type[Exception], cause: type[Exception]) -> None:
    async def handle(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(answer)

    async with tcp_server(handle) as origin, httpx.AsyncClient(transport=TrioTransport(max_body=100)) as client:
        with pytest.raises(raised) as caught:
            await client.get(str(origin))

    assert isinstance(caught.value.__cause__, cause)
    assert caught.value.request.url == str(origin)


async def test_nobody_there_is_a_connect_error() -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        async with httpx.AsyncClient(transport=TrioTransport()) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.1:{unused.getsockname()[1]}")


async def test_what_cannot_be_sent_is_a_local_error() -> None:
    async with httpx.AsyncClient(transport=TrioTransport()) as client:
        with pytest.raises(httpx.LocalProtocolError):
            await client.get("http://a.test", headers={"x": "a\r\nb: c"})
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get("ftp://a.test")


@pytest.mark.parametrize("number", [0, -1, 1.5, "3", True, None])
def test_no_number_of_connections_is_refused(number: object) -> None:
    """With none at all a request would wait for ever."""
    with pytest.raises(UsageError, match="max_connections"):
        TrioTransport(number)


async def test_closing_closes_all_also_when_cancelled_and_for_good() -> None:
    transport = TrioTransport()
    async with serve(MODEL) as one, serve(MODEL) as other, serve(MODEL) as third:
        for server in (one, other):
            await transport.handle_async_request(httpx.Request("GET", server.url + "/health"))
        with trio.CancelScope() as scope:
            scope.cancel()
            await transport.aclose()
        assert scope.cancelled_caught
        assert {(state.active, state.idle) for state in transport.statistics().values()} == {(0, 0)}
        for server in (one, third):
            with pytest.raises(httpx.LocalProtocolError, match="closed"):
                await transport.handle_async_request(httpx.Request("GET", server.url + "/health"))
        await transport.aclose()


async def test_a_request_under_way_when_it_is_closed_ends_with_an_error_of_httpx() -> None:
    asked = trio.Event()

    async def hang(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        asked.set()
        await trio.sleep_forever()

    transport = TrioTransport()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, hang, 0)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"

        async def send() -> None:
            with pytest.raises(httpx.LocalProtocolError, match="closed"):
                await transport.handle_async_request(httpx.Request("GET", url))
            nursery.cancel_scope.cancel()

        nursery.start_soon(send)
        await asked.wait()
        await transport.aclose()


async def test_it_shows_its_connections() -> None:
    transport = TrioTransport()
    assert repr(transport) == "<TrioTransport: no connections>"
    async with serve(MODEL) as server, httpx.AsyncClient(transport=transport) as client:
        await client.get(server.url + "/health")

        assert repr(transport) == f"<TrioTransport: <Pool {server.url}: 0 active, 1 idle>>"
    assert repr(transport) == f"<TrioTransport: <Pool {server.url}: closed>>"


async def test_a_model_over_a_client_over_our_transport_survives_a_lost_connection() -> None:
    """All the layers at once: ours under httpx under ours."""
    count = 0

    async def handle(stream: trio.SocketStream) -> None:
        nonlocal count
        while request := await read_request(stream):
            count += 1
            if count == 3:
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
                return
            head, _, body = request.partition(b"\r\n\r\n")
            method, path, _ = head.split(b" ", 2)
            answer = await answered(httpx.Request(method.decode(), URL + path.decode(), content=body))
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(answer.content), answer.content)
            )

    async with (
        tcp_server(handle) as origin,
        httpx.AsyncClient(transport=TrioTransport()) as client,
        connect(str(origin), client=client, retry=Retry(base=0.0)) as model,
    ):
        row = await model.next_token_logits(PROMPT)

    assert json.dumps(row.tolist()) == json.dumps((await MODEL.next_token_logits(PROMPT)).tolist())
    assert model.counters()["retries"] == 1
