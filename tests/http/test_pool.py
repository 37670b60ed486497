"""The connections to one server: which one a request takes, which are closed, and that a cancelled request leaves nothing behind."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from tests.http.fakes import HANG, OK, FakeChannel, FakeServer, read_request, tcp_server

from seedbed.errors import BrokenAnswer, ConnectionLost, RequestTimeout, ServerUnreachable, UsageError
from seedbed.http.connection import Connection, Origin
from seedbed.http.pool import MAX_HEADS, Pool, PoolStatistics
from seedbed.protocols.exchange import HttpRequest
from seedbed.testing import cancel_at_each_step

BOUND = 1000
ASK = HttpRequest("POST", "/v1/ask", (("content-type", "application/json"),), b'{"a": 1}')


def answers(count: int, answer: bytes = OK) -> FakeChannel:
    """A server's connection that answers so often; the answers come one by one, so that between them it is quiet."""
    return QuietChannel(*[answer] * count)


class QuietChannel(FakeChannel):
    """Has input only when it has ended."""

    def has_input(self) -> bool:
        return not self.parts


async def test_requests_one_after_the_other_share_a_connection() -> None:
    server = FakeServer(answers(3))
    pool = server.pool()
    for _ in range(2):
        assert (await pool.send(ASK, BOUND)).body == b"{}"

    assert pool.statistics() == PoolStatistics(active=0, idle=1, opened=1, resent=0, bytes_received=4)


async def test_requests_at_the_same_time_have_a_connection_each() -> None:
    server = FakeServer(default=lambda: answers(2))
    pool = server.pool()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(pool.send, ASK, BOUND)

    assert pool.statistics() == PoolStatistics(active=0, idle=5, opened=5, resent=0, bytes_received=10)


async def test_the_connection_that_has_waited_longest_is_taken() -> None:
    """So that none is left alone until its server closes it."""
    server = FakeServer(default=lambda: answers(9))
    pool = server.pool()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(pool.send, ASK, BOUND)
    before = [len(channel.sent) for channel in server.channels]
    for _ in range(3):
        await pool.send(ASK, BOUND)

    assert before == [1, 1, 1]
    assert [len(channel.sent) for channel in server.channels] == [2, 2, 2]


async def test_an_expired_connection_is_closed_and_not_used(autojump_clock) -> None:
    answer = OK.replace(b"200 OK\r\n", b"200 OK\r\nkeep-alive: timeout=5, max=100\r\n")
    server = FakeServer(default=lambda: answers(9, answer))
    pool = server.pool()
    await pool.send(ASK, BOUND)
    await trio.sleep(3.9)
    await pool.send(ASK, BOUND)
    assert pool.statistics().opened == 1

    await trio.sleep(4.0)
    await pool.send(ASK, BOUND)

    assert pool.statistics().opened == 2
    assert [channel.is_closed for channel in server.channels] == [True, False]


async def test_a_hundred_requests_a_connection_cost_no_retry() -> None:
    """llama.cpp's way: ``max=100`` announced in every answer, and the connection closed after the hundredth."""
    answer = OK.replace(b"200 OK\r\n", b"200 OK\r\nkeep-alive: timeout=5, max=100\r\n")
    server = FakeServer(default=lambda: answers(100, answer))
    pool = server.pool()
    for _ in range(250):
        await pool.send(ASK, BOUND)

    assert (pool.statistics().opened, pool.statistics().resent) == (3, 0)
    assert [len(channel.sent) for channel in server.channels] == [100, 100, 50]


async def test_a_connection_its_server_has_closed_is_not_used() -> None:
    server = FakeServer(answers(1), answers(2))
    pool = server.pool()
    await pool.send(ASK, BOUND)
    await pool.send(ASK, BOUND)

    assert pool.statistics() == PoolStatistics(active=0, idle=1, opened=2, resent=0, bytes_received=4)


async def test_a_request_lost_before_the_first_octet_is_sent_once_more_at_once() -> None:
    """The keep-alive race: the server closed while our request was on its way."""
    server = FakeServer(FakeChannel(), answers(2))
    pool = server.pool()

    assert (await pool.send(ASK, BOUND)).status == 200
    assert pool.statistics() == PoolStatistics(active=0, idle=1, opened=2, resent=1, bytes_received=2)
    assert server.channels[0].is_closed


async def test_a_request_lost_twice_is_lost() -> None:
    server = FakeServer(FakeChannel(), FakeChannel(), answers(1))
    pool = server.pool()

    with pytest.raises(ConnectionLost):
        await pool.send(ASK, BOUND)
    assert pool.statistics() == PoolStatistics(active=0, idle=0, opened=2, resent=1, bytes_received=0)


async def test_a_request_lost_after_the_first_octet_is_not_sent_again() -> None:
    server = FakeServer(FakeChannel(b"H"), answers(1))
    pool = server.pool()

    with pytest.raises(ConnectionLost):
        await pool.send(ASK, BOUND)
    assert pool.statistics().resent == 0
    assert server.open_channels() == 0


async def test_a_connection_that_broke_the_rules_is_not_used_again() -> None:
    server = FakeServer(FakeChannel(b"nonsense"), answers(2))
    pool = server.pool()
    with pytest.raises(BrokenAnswer):
        await pool.send(ASK, BOUND)
    await pool.send(ASK, BOUND)

    assert (server.open_channels(), pool.statistics().idle, pool.statistics().opened) == (1, 1, 2)


async def test_a_server_that_cannot_be_reached_leaves_nothing_behind() -> None:
    pool = FakeServer(ServerUnreachable("no"), answers(2)).pool()
    with pytest.raises(ServerUnreachable):
        await pool.send(ASK, BOUND)

    assert pool.statistics() == PoolStatistics(0, 0, 0, 0, 0)


async def test_a_cancelled_request_closes_its_connection_and_no_other() -> None:
    server = FakeServer(FakeChannel(HANG), default=lambda: answers(2))
    pool = server.pool()
    async with trio.open_nursery() as nursery:
        cancelled = await nursery.start(cancellable, pool)
        await trio.testing.wait_all_tasks_blocked()
        await pool.send(ASK, BOUND)
        assert pool.statistics() == PoolStatistics(active=1, idle=1, opened=2, resent=0, bytes_received=2)
        assert repr(pool) == "<Pool http://model.test:8000: 1 active, 1 idle>"
        cancelled.cancel()

    assert pool.statistics() == PoolStatistics(active=0, idle=1, opened=2, resent=0, bytes_received=2)
    assert [channel.is_closed for channel in server.channels] == [True, False]


async def cancellable(pool: Pool, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await pool.send(ASK, BOUND)


def test_cancelled_at_any_step_no_connection_and_no_count_is_leaked() -> None:
    """Five requests over connections that fail, end and go on; whatever step it strikes, what is not idle is closed."""
    runs: list[tuple[FakeServer, Pool]] = []

    async def main() -> None:
        server = FakeServer(
            FakeChannel(), answers(2), FakeChannel(b"HTTP/1.1 200 OK\r\n", b"content-length: 0\r\n\r\n"), answers(9), answers(9)
        )
        pool = server.pool()
        runs.append((server, pool))
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(pool.send, ASK, BOUND)
        await pool.send(ASK, BOUND)
        await pool.send(ASK, BOUND)

    def check() -> None:
        server, pool = runs[-1]
        state = pool.statistics()
        assert (state.active, state.idle) == (0, server.open_channels())

    assert cancel_at_each_step(main, check) > 20
    check()


@pytest.mark.parametrize("name", ["content-length", "Transfer-Encoding"])
async def test_where_a_body_ends_is_not_for_the_caller_to_say(name: str) -> None:
    pool = FakeServer(answers(1)).pool()
    with pytest.raises(UsageError, match=f"{name}.* says where a request's body ends"):
        await pool.send(HttpRequest("POST", "/", ((name, "1"),), b"{}"), BOUND)
    assert pool.statistics().opened == 0


async def test_closing_closes_what_is_idle_and_what_is_in_use() -> None:
    """A request under way ends as closed, not as lost: it was our doing, and is not to be tried again."""
    server = FakeServer(answers(2), FakeChannel(HANG))
    pool = server.pool()
    await pool.send(ASK, BOUND)
    server.channels[0].parts.clear()  # its server has closed it, so that the next request opens another

    async def send() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await pool.send(ASK, BOUND)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await pool.aclose()
        await pool.aclose()

    assert server.open_channels() == 0
    assert repr(pool) == "<Pool http://model.test:8000: closed>"
    with pytest.raises(trio.ClosedResourceError):
        await pool.send(ASK, BOUND)


class SlowServer(FakeServer):
    async def open(self, *args: object) -> Connection:
        await self.opens.wait()
        return await super().open(*args)


async def test_a_connection_opened_while_the_pool_was_closed_is_closed() -> None:
    server = SlowServer(answers(2))
    server.opens = trio.Event()
    pool = server.pool()

    async def send() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await pool.send(ASK, BOUND)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics().active == 1
        await pool.aclose()
        server.opens.set()

    assert len(server.channels) == 1
    assert server.open_channels() == 0
    assert pool.statistics().idle == 0


async def test_closing_while_cancelled_closes() -> None:
    server = FakeServer(answers(2))
    pool = server.pool()
    await pool.send(ASK, BOUND)
    with trio.CancelScope() as scope:
        scope.cancel()
        await pool.aclose()

    assert server.open_channels() == 0


async def test_a_pool_closed_under_a_request_over_a_socket_ends_it() -> None:
    asked = trio.Event()

    async def handle(stream: trio.SocketStream) -> None:
        await read_request(stream)
        asked.set()
        await trio.sleep_forever()

    async with tcp_server(handle) as origin, trio.open_nursery() as nursery:
        pool = Pool(origin)

        async def send() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await pool.send(ASK, BOUND)

        nursery.start_soon(send)
        await asked.wait()
        await pool.aclose()


# Time limits.


async def send_at(pool: Pool, when: float, ends: dict[float, tuple[float, type[Exception] | None]]) -> None:
    await trio.sleep_until(when)
    error = None
    try:
        await pool.send(ASK, BOUND)
    except RequestTimeout as caught:
        error = type(caught)
    ends[when] = (trio.current_time(), error)


class Slow(QuietChannel):
    """Answers after so many seconds."""

    def __init__(self, seconds: float, *parts: bytes) -> None:
        super().__init__(*parts)
        self.seconds = seconds

    async def receive_some(self, most: int = 1 << 30) -> bytes:
        with trio.move_on_after(self.seconds):
            await self._closed.wait()
        return await super().receive_some(most)


async def test_what_is_overdue_is_closed_at_its_own_time_and_nothing_else(autojump_clock) -> None:
    server = FakeServer(Slow(99, OK), Slow(4.5, OK, OK), Slow(99, OK), Slow(99, OK), default=lambda: Slow(1, OK, OK))
    pool = server.pool(time_limit=5.0)
    ends: dict[float, tuple[float, type[Exception] | None]] = {}
    async with trio.open_nursery() as nursery:
        for when in (0, 1, 2, 3.5, 20):
            nursery.start_soon(send_at, pool, when, ends)

    late = RequestTimeout
    assert ends == {0: (5, late), 1: (5.5, None), 2: (7, late), 3.5: (8.5, late), 20: (24.5, None)}
    assert pool.statistics() == PoolStatistics(active=0, idle=1, opened=4, resent=0, bytes_received=4)
    assert [channel.is_closed for channel in server.channels] == [True, False, True, True]


async def test_a_connection_that_opens_slowly_is_overdue_no_later_for_that(autojump_clock) -> None:
    """Another request, sent later and under way sooner, is what is watched meanwhile."""

    class SlowToOpen(FakeServer):
        async def open(self, *about: object) -> Connection:
            await trio.sleep(4 if trio.current_time() == 0 else 0)
            return await super().open(*about)

    ends: dict[float, tuple[float, type[Exception] | None]] = {}
    pool = SlowToOpen(default=lambda: Slow(99, OK)).pool(time_limit=5.0)
    async with trio.open_nursery() as nursery:
        for when in (0, 1):
            nursery.start_soon(send_at, pool, when, ends)

    assert ends == {0: (5, RequestTimeout), 1: (6, RequestTimeout)}


async def test_opening_counts_towards_the_limit(autojump_clock) -> None:
    server = SlowServer(answers(1))
    server.opens = trio.Event()
    pool = server.pool(time_limit=5.0)
    ends: dict[float, tuple[float, type[Exception] | None]] = {}
    await send_at(pool, 2, ends)

    assert ends == {2: (7, RequestTimeout)}
    assert pool.statistics() == PoolStatistics(0, 0, 0, 0, 0)


async def test_a_request_sent_again_has_no_more_time(autojump_clock) -> None:
    server = FakeServer(Slow(3), Slow(3, OK))
    pool = server.pool(time_limit=5.0)
    ends: dict[float, tuple[float, type[Exception] | None]] = {}
    await send_at(pool, 0, ends)

    assert ends == {0: (5, RequestTimeout)}


async def test_nothing_is_left_watching_when_there_is_nothing_to_watch(autojump_clock) -> None:
    def tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    before = tasks()
    pool = FakeServer(default=lambda: answers(9)).pool(time_limit=5.0)
    await pool.send(ASK, BOUND)
    assert tasks() == before + 1
    await trio.sleep(6)
    assert tasks() == before

    await pool.send(ASK, BOUND)
    assert tasks() == before + 1
    await pool.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert tasks() == before


async def test_a_socket_that_never_answers_is_overdue() -> None:
    ended = trio.Event()

    async def handle(stream: trio.SocketStream) -> None:
        try:
            while await stream.receive_some():
                pass
        finally:
            ended.set()

    async with tcp_server(handle) as origin:
        pool = Pool(origin, time_limit=0.25)
        with pytest.raises(RequestTimeout, match=r"gave no whole answer within 0\.25 s"):
            await pool.send(ASK, BOUND)
        if pool.statistics().opened:  # else even that took too long, on a machine this busy
            await ended.wait()
        await pool.aclose()


# What goes over the wire.


async def sent_by(pool_options: dict[str, object], request: HttpRequest) -> bytes:
    server = FakeServer(answers(2))
    pool = server.pool(**pool_options)
    await pool.send(request, BOUND)
    server.channels[0].sent.clear()
    await pool.send(request, BOUND)  # from the heads kept encoded
    return server.channels[0].sent[0]


async def test_a_request_has_what_http_needs_and_no_more() -> None:
    assert await sent_by({}, ASK) == (
        b"POST /v1/ask HTTP/1.1\r\nhost: model.test:8000\r\naccept-encoding: identity\r\ncontent-type: application/json\r\n"
        b'content-length: 8\r\n\r\n{"a": 1}'
    )


async def test_a_get_has_no_length() -> None:
    assert await sent_by({}, HttpRequest("GET", "/")) == b"GET / HTTP/1.1\r\nhost: model.test:8000\r\naccept-encoding: identity\r\n\r\n"


async def test_a_post_without_body_says_so() -> None:
    assert (await sent_by({}, HttpRequest("POST", "/"))).endswith(b"content-length: 0\r\n\r\n")


async def test_bodies_of_all_lengths_follow_one_kept_head() -> None:
    server = FakeServer(answers(99))
    pool = server.pool()
    for length in (0, 1, 10, 0, 100):
        await pool.send(HttpRequest("POST", "/", (), b"x" * length), BOUND)
        await pool.send(HttpRequest("GET", "/", (), b"x" * length), BOUND)

    for sent in server.channels[0].sent:
        head, _, body = sent.partition(b"\r\n\r\n")
        assert (b"content-length: %d" % len(body) in head) or (head.startswith(b"GET") and not body)


async def test_kept_heads_are_bounded() -> None:
    server = FakeServer(answers(999))
    pool = server.pool()
    for k in range(3 * MAX_HEADS):
        await pool.send(HttpRequest("GET", f"/{k}"), BOUND)

    assert len(pool._heads) <= MAX_HEADS


async def test_own_headers_go_with_every_request_and_may_replace_the_usual() -> None:
    sent = await sent_by({"headers": (("Host", "gateway"), ("X-Key", "abc"), ("Accept-Encoding", "gzip"))}, ASK)

    assert sent.startswith(b"POST /v1/ask HTTP/1.1\r\nHost: gateway\r\nX-Key: abc\r\nAccept-Encoding: gzip\r\ncontent-type")


@pytest.mark.parametrize(
    "header",
    [("a\r\nb", "value"), ("a", "b\r\nc: d"), ("a", "b\0"), ("", "value"), ("a b", "value"), ("a", "\N{SNOWMAN}"), ("a:", "value")],
)
def test_a_header_that_cannot_be_sent_is_refused_at_once_and_its_value_not_shown(header: tuple[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        Pool(Origin("http", "a", 80), headers=(("fine", "x"), header))

    assert header[1] not in str(caught.value).replace("the value of", "")


@pytest.mark.parametrize(
    "request_", [HttpRequest("GET", "/a b"), HttpRequest("GET", "/\r\nx: y"), HttpRequest("G T", "/"), HttpRequest("GET", "")]
)
async def test_a_request_line_that_cannot_be_sent_is_refused(request_: HttpRequest) -> None:
    server = FakeServer(answers(1))
    with pytest.raises(UsageError):
        await server.pool().send(request_, BOUND)

    assert server.channels == []
