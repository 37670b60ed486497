"""One connection: every way an answer may come, stop or lie, and what becomes of the connection."""

from __future__ import annotations

import math
import ssl
from contextlib import asynccontextmanager, suppress
from functools import partial

import httpx
import pytest
import trio
import trio.testing
import trustme
from tests.http.fakes import HANG, OK, ORIGIN, FakeChannel, read_request, tcp_server

from seedbed.errors import AnswerTooLarge, BrokenAnswer, ConnectionLost, RequestTimeout, ServerUnreachable
from seedbed.http.connection import MAX_INTERIM, Connection, Origin, StreamChannel, open_connection
from seedbed.http.message import MAX_HEAD
from seedbed.http.pool import Pool
from seedbed.http.transport import origin_of
from seedbed.protocols.exchange import HttpRequest
from seedbed.testing import cancel_at_each_step

BOUND = 1000


async def exchange(*parts: bytes | Exception | None, bound: int = BOUND, **options):
    channel = FakeChannel(*parts)
    connection = Connection(ORIGIN, channel)
    response = await connection.exchange(b"request", bound, **options)
    assert channel.sent == [b"request"]
    assert channel.is_closed is not connection.is_reusable
    return response, connection


def in_octets(data: bytes) -> list[bytes]:
    return [data[k : k + 1] for k in range(len(data))]


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde"
TO_END = b"HTTP/1.1 200 OK\r\n\r\nabcde"


@pytest.mark.parametrize(("answer", "is_reusable"), [(SIZED, True), (CHUNKED, True), (TO_END, False)], ids=["sized", "chunked", "to end"])
@pytest.mark.parametrize("cut", [lambda answer: [answer], in_octets], ids=["whole", "an octet at a time"])
async def test_a_body_comes_whole_in_each_framing_however_it_is_cut(answer, is_reusable, cut) -> None:
    response, connection = await exchange(*cut(answer))

    assert (response.status, bytes(response.body)) == (200, b"abcde")
    assert connection.is_reusable is is_reusable


@pytest.mark.parametrize("answer", [SIZED, CHUNKED], ids=["sized", "chunked"])
async def test_an_answer_that_stops_at_any_octet_is_lost_never_shorter(answer: bytes) -> None:
    for cut in range(len(answer)):
        with pytest.raises(ConnectionLost) as caught:
            await exchange(*([answer[:cut]] if cut else []))

        assert caught.value.answer_begun is (cut > 0)


@pytest.mark.parametrize("answer", [SIZED, CHUNKED, TO_END], ids=["sized", "chunked", "to end"])
async def test_an_answer_that_is_reset_at_any_octet_is_lost(answer: bytes) -> None:
    for cut in range(len(answer)):
        with pytest.raises(ConnectionLost) as caught:
            await exchange(*([answer[:cut]] if cut else []), trio.BrokenResourceError("reset"))

        assert caught.value.answer_begun is (cut > 0)
        assert isinstance(caught.value.__cause__, trio.BrokenResourceError)


@pytest.mark.parametrize(("status", "length"), [("204 No Content", 5), ("304 Not Modified", 5)])
async def test_an_answer_without_a_body_is_not_waited_for(status: str, length: int) -> None:
    response, connection = await exchange(f"HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n".encode(), HANG)

    assert response.body == b""
    assert connection.is_reusable


async def test_the_answer_to_head_has_no_body() -> None:
    response, _ = await exchange(SIZED.removesuffix(b"abcde"), HANG, bodiless=True)

    assert response.body == b""


async def test_interim_responses_are_passed_over() -> None:
    response, connection = await exchange(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK)

    assert (response.status, response.body) == (200, b"{}")
    assert connection.is_reusable


async def test_interim_responses_without_end_are_refused() -> None:
    with pytest.raises(BrokenAnswer, match="interim"):
        await exchange(b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_INTERIM + OK)


async def test_a_connection_that_ends_after_an_interim_response_had_begun_to_answer() -> None:
    """Once the server has said anything, sending again at once is no keep-alive race."""
    with pytest.raises(ConnectionLost) as caught:
        await exchange(b"HTTP/1.1 100 Continue\r\n\r\n")

    assert caught.value.answer_begun


async def test_a_switch_of_protocols_is_refused() -> None:
    with pytest.raises(BrokenAnswer, match="switched"):
        await exchange(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")


@pytest.mark.parametrize("more", [b"\r\n", b"junk", OK])
@pytest.mark.parametrize("answer", [SIZED, CHUNKED], ids=["sized", "chunked"])
async def test_octets_after_an_answer_end_the_connection_and_not_the_answer(answer: bytes, more: bytes) -> None:
    response, connection = await exchange(answer + more)

    assert bytes(response.body) == b"abcde"
    assert not connection.is_reusable


async def test_octets_that_come_later_are_noticed_before_the_next_request() -> None:
    channel = FakeChannel(OK)
    connection = Connection(ORIGIN, channel)
    await connection.exchange(b"request", BOUND)
    assert connection.is_quiet()

    channel.parts.append(b"HTTP/1.1 408 Request Timeout\r\n\r\n")

    assert not connection.is_quiet()


async def test_an_announced_close_ends_the_connection() -> None:
    response, connection = await exchange(OK.replace(b"200 OK\r\n", b"200 OK\r\nconnection: close\r\n"))

    assert response.body == b"{}"
    assert not connection.is_reusable


async def test_a_connection_carries_exactly_as_many_requests_as_announced() -> None:
    """llama.cpp says ``max=100`` in every answer, and means 100 a connection, the first included."""
    answer = OK.replace(b"200 OK\r\n", b"200 OK\r\nkeep-alive: timeout=5, max=100\r\n")
    connection = Connection(ORIGIN, FakeChannel(*[answer] * 101))
    sent = 0
    while connection.is_reusable:
        await connection.exchange(b"request", BOUND)
        sent += 1

    assert sent == 100


async def test_an_idle_connection_expires_a_second_before_the_server_closes_it(autojump_clock) -> None:
    await trio.sleep(3)
    _, connection = await exchange(OK.replace(b"200 OK\r\n", b"200 OK\r\nkeep-alive: timeout=5\r\n"))

    assert connection.expires == trio.current_time() + 4


async def test_a_server_that_does_not_say_never_expires() -> None:
    _, connection = await exchange(OK)

    assert connection.expires == math.inf


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("framing", ["sized", "chunked", "to end"])
async def test_a_body_at_the_bound_is_accepted_and_one_octet_more_refused(framing: str, extra: int) -> None:
    body = b"x" * (BOUND + extra)
    answer = {
        "sized": b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body),
        "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        "to end": b"HTTP/1.1 200 OK\r\n\r\n" + body,
    }[framing]
    if extra:
        with pytest.raises(AnswerTooLarge, match="1000"):
            await exchange(answer)
    else:
        response, _ = await exchange(answer)
        assert response.body == body


async def test_a_gibibyte_is_refused_at_its_announcement() -> None:
    channel = FakeChannel(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (1 << 30), HANG)

    with pytest.raises(AnswerTooLarge, match=str(1 << 30)):
        await Connection(ORIGIN, channel).exchange(b"request", BOUND)
    assert channel.is_closed


async def test_a_head_beyond_the_bound_is_refused() -> None:
    with pytest.raises(AnswerTooLarge, match=str(MAX_HEAD)):
        await exchange(b"HTTP/1.1 200 OK\r\n" + b"x-header: y\r\n" * 100_000)


async def test_an_endless_head_is_refused_after_the_bound() -> None:
    channel = FakeChannel(b"HTTP/1.1 200 OK\r\n", *[b"a: b\r\n" * 100] * 1000)

    with pytest.raises(AnswerTooLarge):
        await Connection(ORIGIN, channel).exchange(b"request", BOUND)
    assert len(channel.parts) > 800


@pytest.mark.parametrize(
    ("garbage", "hint"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0-Open"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "https"),
        (b"<html>", "<html>"),
        (b"H", None),
        (b"HTTP/2 200\r\n\r\n", "HTTP/2 200"),
        (b"\0" * 100, "begins"),
    ],
)
async def test_what_is_not_http_is_known_by_its_first_octets(garbage: bytes, hint: str | None) -> None:
    """Its head would never end: without this only the time limit would end the wait."""
    if hint is None:
        with pytest.raises(ConnectionLost):
            await exchange(garbage)
    else:
        with pytest.raises(BrokenAnswer, match=hint):
            await exchange(garbage, HANG)


@pytest.mark.parametrize("framing", [b"content-length: 5\r\ncontent-length: 6", b"transfer-encoding: gzip", b"content-length: x"])
async def test_ambiguous_framing_is_a_broken_answer(framing: bytes) -> None:
    with pytest.raises(BrokenAnswer, match=r"not HTTP/1\.1"):
        await exchange(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\nabcde")


async def test_a_refusal_that_came_before_the_request_was_sent_is_heard() -> None:
    """A server may answer 413 and close while we still send; what it said is worth more than that it closed."""
    channel = FakeChannel(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n", send_error=trio.BrokenResourceError())
    connection = Connection(ORIGIN, channel)

    assert (await connection.exchange(b"request", BOUND)).status == 413
    assert not connection.is_reusable


async def test_closing_is_idempotent_and_ends_the_exchange_under_way() -> None:
    connection = Connection(ORIGIN, FakeChannel())
    connection.close()
    connection.close()

    with pytest.raises(trio.ClosedResourceError):
        await connection.exchange(b"request", BOUND)


@pytest.mark.parametrize("answer", [SIZED, CHUNKED, TO_END], ids=["sized", "chunked", "to end"])
def test_cancelled_at_any_step_the_connection_is_closed(answer: bytes) -> None:
    made: list[FakeChannel] = []

    async def main() -> None:
        made.append(FakeChannel(*in_octets(answer)))
        await Connection(ORIGIN, made[-1]).exchange(b"request", BOUND)

    def check() -> None:
        assert all(channel.is_closed for channel in made if channel.sent)

    assert cancel_at_each_step(main, check) > len(answer)


async def test_it_works_over_any_trio_stream() -> None:
    client, server = trio.testing.memory_stream_pair()
    connection = Connection(ORIGIN, StreamChannel(client, client.send_stream.close))
    await server.send_all(SIZED)

    assert (await connection.exchange(b"request", BOUND)).body == b"abcde"
    assert await server.receive_some() == b"request"


# Over real sockets.


async def open_to(origin: Origin) -> Connection:
    return await open_connection(origin, None, 5)


async def test_a_large_body_comes_whole_over_a_socket() -> None:
    body = bytes(range(256)) * 20_000

    async def handle(stream: trio.SocketStream) -> None:
        while await read_request(stream):
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
            await stream.send_all(body)

    async with tcp_server(handle) as origin:
        connection = await open_to(origin)
        for _ in range(2):
            response = await connection.exchange(b"GET / HTTP/1.1\r\n\r\n", len(body))
            assert response.body == body
        connection.close()


async def test_a_large_request_is_sent_whole_over_a_socket() -> None:
    seen = []

    async def handle(stream: trio.SocketStream) -> None:
        seen.append(await read_request(stream))
        await stream.send_all(OK)

    body = b"x" * 10_000_000
    async with tcp_server(handle) as origin:
        connection = await open_to(origin)
        await connection.exchange(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body), BOUND)
        connection.close()

    assert seen[0].endswith(b"\r\n\r\n" + body)


async def test_a_socket_closed_by_us_ends_its_exchange_as_closed() -> None:
    async def handle(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await trio.sleep_forever()

    caught = []

    async def ask(connection: Connection) -> None:
        try:
            await connection.exchange(b"GET / HTTP/1.1\r\n\r\n", BOUND)
        except trio.ClosedResourceError as error:
            caught.append(error)

    async with tcp_server(handle) as origin:
        connection = await open_to(origin)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, connection)
            await trio.testing.wait_all_tasks_blocked(0.01)
            connection.close()
        with pytest.raises(trio.ClosedResourceError):
            await connection.exchange(b"GET / HTTP/1.1\r\n\r\n", BOUND)

    assert len(caught) == 1


async def test_a_socket_reset_by_the_server_is_lost() -> None:
    async def handle(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(SIZED[:-1])
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with tcp_server(handle) as origin:
        connection = await open_to(origin)
        with pytest.raises(ConnectionLost):
            await connection.exchange(b"GET / HTTP/1.1\r\n\r\n", BOUND)


async def test_a_socket_the_server_has_closed_is_not_quiet() -> None:
    closed = trio.Event()

    async def handle(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(OK)
        await stream.aclose()
        closed.set()

    async with tcp_server(handle) as origin:
        connection = await open_to(origin)
        await connection.exchange(b"GET / HTTP/1.1\r\n\r\n", BOUND)
        await closed.wait()

        assert not connection.is_quiet()
        connection.close()


# Opening.


async def test_nobody_listening_is_unreachable_and_says_what_to_do() -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        origin = Origin("http", "127.0.0.1", unused.getsockname()[1])
        with pytest.raises(ServerUnreachable, match="connection refused; is the server running, and is the URL right"):
            await open_to(origin)


class NoSuchName(trio.abc.HostnameResolver):
    async def getaddrinfo(self, *args: object) -> object:
        raise trio.socket.gaierror(trio.socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *args: object) -> object:
        raise NotImplementedError


async def test_an_unknown_name_is_unreachable_and_says_so() -> None:
    before = trio.socket.set_custom_hostname_resolver(NoSuchName())
    try:
        with pytest.raises(ServerUnreachable, match=r"http://nowhere.test: name or service not known; is the host's name right"):
            await open_to(Origin("http", "nowhere.test", 80))
    finally:
        trio.socket.set_custom_hostname_resolver(before)


async def test_a_name_that_is_none_is_unreachable() -> None:
    with pytest.raises(ServerUnreachable, match="the host's name is none"):
        await open_to(Origin("http", "a" * 64, 80))


class NeverAnswers(trio.abc.HostnameResolver):
    async def getaddrinfo(self, *args: object) -> object:
        await trio.sleep_forever()

    async def getnameinfo(self, *args: object) -> object:
        raise NotImplementedError


async def test_connecting_takes_no_longer_than_allowed(autojump_clock) -> None:
    before = trio.socket.set_custom_hostname_resolver(NeverAnswers())
    try:
        with pytest.raises(ServerUnreachable, match=r"no answer within 7 s"):
            await open_connection(Origin("http", "slow.test", 80), None, 7)
    finally:
        trio.socket.set_custom_hostname_resolver(before)

    assert trio.current_time() == 7


async def test_a_server_that_does_not_speak_tls_is_unreachable() -> None:
    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with tcp_server(handle) as origin:
        with pytest.raises(ServerUnreachable, match=r"TLS failed: .*is it an https server"):
            await open_connection(Origin("https", origin.host, origin.port), ssl.create_default_context(), 5)


async def test_cancelled_while_shaking_hands_nothing_is_left_open() -> None:
    ended = trio.Event()
    shaking = trio.Event()

    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        shaking.set()
        assert await stream.receive_some() == b""
        ended.set()

    async with tcp_server(handle) as origin:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_connection, Origin("https", origin.host, origin.port), ssl.create_default_context(), 5)
            await shaking.wait()
            nursery.cancel_scope.cancel()
        await ended.wait()


def test_an_origin_shows_itself_as_a_url_without_its_default_port() -> None:
    shown = [str(Origin(*parts)) for parts in [("http", "a", 80), ("https", "a", 443), ("http", "a", 8000), ("http", "::1", 81)]]

    assert shown == ["http://a", "https://a", "http://a:8000", "http://[::1]:81"]


@pytest.mark.parametrize(("url", "shown"), [("http://b\xfccher.test", "http://xn--bcher-kva.test"), ("http://[::1]:80", "http://[::1]")])
def test_a_name_beyond_ascii_is_the_one_dns_knows(url: str, shown: str) -> None:
    """It goes into the Host header too, which has no other letters."""
    assert str(origin_of(httpx.URL(url))) == shown
    assert origin_of(httpx.URL(url)).authority.isascii()


async def test_a_connection_shows_whether_it_can_be_used_again() -> None:
    connection = Connection(ORIGIN, FakeChannel())
    assert repr(connection) == "<Connection with http://model.test:8000>"

    connection.close()

    assert repr(connection) == "<Connection with http://model.test:8000, not to be used again>"


# Over TLS, against certificates made here.

AUTHORITY = trustme.CA()
LARGE = bytes(range(256)) * 4000


@asynccontextmanager
async def tls_server(name: str = "127.0.0.1"):
    """Answers every request with 1 MB, from a server whose certificate is for ``name``."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert(name).configure_cert(context)

    async def handle(stream: trio.SSLStream) -> None:
        with suppress(trio.BrokenResourceError):
            while request := await read_request(stream):
                if request.startswith(b"GET /never"):
                    await stream.receive_some()
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(LARGE) + LARGE)

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_ssl_over_tcp, handle, 0, context, host="127.0.0.1", https_compatible=True)
        listeners = await nursery.start(serve)
        yield Origin("https", "127.0.0.1", listeners[0].transport_listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


async def test_a_trusted_server_is_spoken_to_over_tls_and_its_connection_kept() -> None:
    async with tls_server() as origin:
        pool = Pool(origin, trusting())
        for _ in range(3):
            assert (await pool.send(HttpRequest("GET", "/"), len(LARGE))).body == LARGE

        assert (pool.statistics().opened, pool.statistics().idle) == (1, 1)
        await pool.aclose()


async def test_a_certificate_nobody_vouches_for_is_refused_with_its_reason_and_the_remedy() -> None:
    async with tls_server() as origin:
        with pytest.raises(ServerUnreachable, match=r"its certificate was refused: .*; trust it with ssl_context="):
            await open_connection(origin, ssl.create_default_context(), 5)


async def test_a_certificate_for_another_name_is_refused() -> None:
    async with tls_server("elsewhere.test") as origin:
        with pytest.raises(ServerUnreachable, match=r"its certificate was refused: .*mismatch"):
            await open_connection(origin, trusting(), 5)


async def test_plain_http_to_a_tls_server_is_noticed() -> None:
    async with tls_server() as origin:
        connection = await open_connection(Origin("http", origin.host, origin.port), None, 5)
        with pytest.raises((BrokenAnswer, ConnectionLost)):
            await connection.exchange(b"GET / HTTP/1.1\r\n\r\n", BOUND)


async def test_a_time_limit_and_a_close_end_a_request_over_tls_too() -> None:
    async with tls_server() as origin:
        pool = Pool(origin, trusting(), time_limit=0.25)
        with pytest.raises(RequestTimeout):
            await pool.send(HttpRequest("GET", "/never"), len(LARGE))
        assert pool.statistics().active == pool.statistics().idle == 0

        connection = await open_connection(origin, trusting(), 5)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await connection.exchange(b"GET /never HTTP/1.1\r\n\r\n", BOUND)

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.01)
            connection.close()
        await pool.aclose()
