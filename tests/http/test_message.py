"""HTTP/1.1 octets: strict where framing is at stake, bounded before anything is held, the same however the octets are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.http.message import MAX_HEAD, MAX_LINE, ChunkedBody, Malformed, RequestHead, ResponseHead, TooLong, end_of_head


def response(*lines: str, status: str = "HTTP/1.1 200 OK") -> ResponseHead:
    return ResponseHead.parse("\r\n".join([status, *lines, "", ""]).encode("latin-1"))


def request(*lines: str, first: str = "GET / HTTP/1.1") -> RequestHead:
    return RequestHead.parse("\r\n".join([first, *lines, "", ""]).encode("latin-1"))


def test_a_head_ends_where_its_empty_line_ends() -> None:
    assert end_of_head(b"HTTP/1.1 200 OK\r\n\r\nbody") == 19


@pytest.mark.parametrize("cut", range(19))
def test_a_head_cut_anywhere_is_not_whole(cut: int) -> None:
    assert end_of_head(b"HTTP/1.1 200 OK\r\n\r\n"[:cut]) == 0


@pytest.mark.parametrize("cut", range(19))
def test_searching_on_finds_an_end_that_was_cut(cut: int) -> None:
    """What was searched in vain need not be searched again, but for the three octets an end may begin in."""
    assert end_of_head(b"HTTP/1.1 200 OK\r\n\r\n", cut) == 19


def test_a_head_at_the_bound_is_accepted_and_one_octet_more_refused() -> None:
    at_bound = b"x" * MAX_HEAD + b"\r\n\r\n"

    assert end_of_head(at_bound) == MAX_HEAD + 4
    with pytest.raises(TooLong):
        end_of_head(b"x" + at_bound)
    with pytest.raises(TooLong):
        end_of_head(b"x" * (MAX_HEAD + 1))


def test_a_response_head_says_how_its_body_and_connection_go_on() -> None:
    head = response("Content-Length: 5", "Keep-Alive: timeout=5, max=100", "Server: llama.cpp")

    assert (head.status, head.length, head.is_chunked, head.keeps_alive) == (200, 5, False, True)
    assert (head.idle_seconds, head.max_requests) == (5.0, 100)
    assert head.header("server") == "llama.cpp"


@pytest.mark.parametrize(
    ("lines", "keeps_alive"),
    [
        ((), True),
        (("Connection: close",), False),
        (("Connection: Keep-Alive, CLOSE",), False),
        (("Connection: close", "Connection: keep-alive"), False),
        (("Connection: x-closed",), True),
    ],
)
def test_a_close_anywhere_in_connection_is_heard(lines: tuple[str, ...], keeps_alive: bool) -> None:
    assert response(*lines).keeps_alive is keeps_alive


def test_http_1_0_is_never_kept_alive() -> None:
    assert response("Connection: keep-alive", status="HTTP/1.0 200 OK").keeps_alive is False


@pytest.mark.parametrize("text", ["timeout=x", "timeout=", "timeout=-1", "timeout=99999999999999", "=5", "max", ""])
def test_a_keep_alive_that_says_nothing_is_passed_over(text: str) -> None:
    head = response(f"Keep-Alive: {text}")

    assert (head.idle_seconds, head.max_requests) == (None, None)


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Content-Length: 5"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5, 5",),
        ("Content-Length: -1",),
        ("Content-Length: +5",),
        ("Content-Length: 0x5",),
        ("Content-Length:",),
        ("Content-Length: 99999999999999999999999999",),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: identity",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Folded: a", " b"),
        ("No colon",),
        ("Space : a",),
        ("Nul: \0",),
    ],
)
def test_ambiguous_framing_is_malformed(lines: tuple[str, ...]) -> None:
    """A length that can be read in two ways is where one answer becomes a part of the next."""
    with pytest.raises(Malformed):
        response(*lines)


@pytest.mark.parametrize("status", ["HTTP/2 200 OK", "HTTP/1.1", "HTTP/1.1 99 OK", "HTTP/1.1 abc OK", "ICY 200 OK", ""])
def test_a_status_line_that_is_none_is_malformed(status: str) -> None:
    with pytest.raises(Malformed):
        response(status=status)


def test_a_request_head_says_method_target_and_body() -> None:
    head = request("Host: a", "Content-Length: 3", first="POST /v1/x?y=1 HTTP/1.1")

    assert (head.method, head.target, head.length, head.keeps_alive) == ("POST", "/v1/x?y=1", 3, True)


def test_a_request_that_names_the_whole_url_means_its_path() -> None:
    assert request(first="GET http://a:1/b?c HTTP/1.1").target == "/b?c"


def test_an_offer_to_upgrade_is_passed_over() -> None:
    """``curl --http2`` makes one with every request, and takes an answer in HTTP/1.1."""
    head = request("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")

    assert (head.method, head.target, head.keeps_alive) == ("GET", "/", True)


@pytest.mark.parametrize(("first", "keeps_alive"), [("GET / HTTP/1.0", False), ("GET / HTTP/1.1", True)])
def test_a_request_keeps_its_connection_by_its_version(first: str, keeps_alive: bool) -> None:
    assert request(first=first).keeps_alive is keeps_alive


@pytest.mark.parametrize(("version", "line", "expects"), [("1.1", "Expect: 100-Continue", True), ("1.0", "Expect: 100-continue", False)])
def test_only_http_1_1_knows_the_word_a_client_waits_for(version: str, line: str, expects: bool) -> None:
    """One of HTTP/1.0 would take it for the answer."""
    assert request(line, first=f"POST / HTTP/{version}").expects_continue is expects


def test_http_1_0_may_ask_to_be_kept_alive() -> None:
    assert request("Connection: keep-alive", first="GET / HTTP/1.0").keeps_alive is True


@pytest.mark.parametrize("first", ["PRI * HTTP/2.0", "CONNECT a:1 HTTP/1.1", "FOO / HTTP/1.1", "GET /", "\x16\x03\x01", "GET / HTTP/9.9"])
def test_what_is_no_request_of_ours_is_malformed(first: str) -> None:
    with pytest.raises(Malformed):
        request(first=first)


CHUNKED = b"4;sig=a\r\nWiki\r\nA \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"


@given(st.lists(st.integers(0, len(CHUNKED)), max_size=12))
def test_a_chunked_body_is_the_same_however_it_is_cut(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(CHUNKED)]
    body = ChunkedBody(14)
    done = [body.feed(CHUNKED[begin:end]) for begin, end in pairwise(at)]

    assert body.is_complete
    assert done == sorted(done)
    assert (bytes(body.body), body.excess) == (b"Wiki0123456789", b"")


@pytest.mark.parametrize("cut", range(len(CHUNKED)))
def test_a_chunked_body_cut_anywhere_is_not_complete(cut: int) -> None:
    assert ChunkedBody(100).feed(CHUNKED[:cut]) is False


def test_what_follows_a_chunked_body_is_not_lost() -> None:
    """It may be the next pipelined request; after an answer it is a reason to close."""
    body = ChunkedBody(100)

    assert body.feed(CHUNKED + b"GET /")
    assert body.excess == b"GET /"


@pytest.mark.parametrize(
    "size", [b"", b"x", b"-1", b"+1", b"0x1", b"1_0", b" 1", b"11111111111111111", b"1 2", b"\xff", b"1;a\nb", b"1;a\rb"]
)
def test_a_size_that_is_no_hexadecimal_number_is_malformed(size: bytes) -> None:
    with pytest.raises(Malformed):
        ChunkedBody(1 << 70).feed(size + b"\r\n")


@pytest.mark.parametrize("line", [b"a: b\nc: d", b"a: b\rc: d", b"\n"])
def test_a_trailer_with_a_line_end_of_its_own_is_malformed(line: bytes) -> None:
    """Who reads it as two has another request in front of them than we."""
    with pytest.raises(Malformed):
        ChunkedBody(100).feed(b"0\r\n" + line + b"\r\n\r\n")


def test_a_chunk_longer_than_its_size_is_malformed() -> None:
    with pytest.raises(Malformed):
        ChunkedBody(100).feed(b"1\r\nab\r\n")


def test_a_chunk_beyond_the_bound_is_refused_at_its_announcement() -> None:
    body = ChunkedBody(10)
    body.feed(b"8\r\n12345678\r\n")

    with pytest.raises(TooLong):
        body.feed(b"3\r\n")
    assert len(body.body) == 8


def test_an_endless_line_is_refused() -> None:
    with pytest.raises(TooLong):
        ChunkedBody(10).feed(b"1;" + b"x" * MAX_LINE)


def test_endless_trailers_are_refused() -> None:
    body = ChunkedBody(10)
    body.feed(b"0\r\n")

    with pytest.raises(TooLong):
        for _ in range(100):
            body.feed(b"x" * 1000 + b"\r\n")


def test_one_octet_a_chunk_is_accepted() -> None:
    """The most wasteful honest framing: 5 octets an octet."""
    body = ChunkedBody(10_000)

    assert body.feed(b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n")
    assert len(body.body) == 10_000
