"""HTTP/1.1 messages without I/O: the head of a response or request, and a chunked body, both bounded.

Rule 1: nothing here waits, reads or writes; octets come in, values or one of the two errors below come out.
Rule 2: everything a peer can make us hold is bounded before it is held: a head by ``MAX_HEAD``, a body by what the caller says.
Rule 3: framing is believed only when it is unambiguous: two lengths, a length beside chunks, or a coding other than chunked is malformed.

The client and the listener both stand on this file. The two errors never leave them: the client says whose answer it was, the listener
turns them into a status.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import httptools

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_HEAD", "ChunkedBody", "Malformed", "RequestHead", "ResponseHead", "TooLong", "end_of_head"]

MAX_HEAD = 65_536  # h11's default is 64 KiB too, nginx's 32 KiB, Node's 16 KiB
MAX_LINE = 4096  # of a chunk's size with its extensions; an honest one has 4 octets, or some 90 with a signature
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?")


# The headers that say something about the message's framing or the connection; of all others only what they are is kept.
_OF_THE_CONNECTION = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive"})


class Malformed(Exception):
    """Not HTTP/1.1; the text says what is wrong, without the octets."""


class TooLong(Exception):
    """Longer than the bound; the text says what is."""


def end_of_head(buffer: bytes | bytearray, searched: int = 0) -> int:
    """Where the body begins; 0 while the head is not whole.

    Args:
        buffer: what has come so far.
        searched: how many of its first octets an earlier call has seen in vain.

    Raises:
        TooLong: the head has more than ``MAX_HEAD`` octets, whether or not its end has come.

    Example:
        >>> end_of_head(b"HTTP/1.1 200 OK"), end_of_head(b"HTTP/1.1 200 OK" + b"\\r\\n\\r\\n" + b"body")
        (0, 19)
    """
    end = buffer.find(b"\r\n\r\n", max(0, searched - 3))
    if (len(buffer) if end < 0 else end) > MAX_HEAD:
        raise TooLong(f"the head is longer than {MAX_HEAD} octets")
    return 0 if end < 0 else end + 4


class _Head:
    """What both kinds of head have: header fields, and what they say of the body and the connection.

    Attributes:
        headers: names in lower case, as they came.
        length: of the body, as announced; None when it was not.
        is_chunked: whether the body comes in chunks.
        keeps_alive: whether the connection may carry another exchange.
    """

    __slots__ = ("headers", "is_chunked", "keeps_alive", "length")

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []
        self.length: int | None = None
        self.is_chunked = False
        self.keeps_alive = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by httptools, under that name."""
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers.append((key, text))
        if key in _OF_THE_CONNECTION:
            self._learn(key, text)

    def _learn(self, key: str, text: str) -> None:
        """What one of the few headers says that are about the connection."""
        if key == "content-length":
            self.length = int(text)  # httptools has refused anything but one decimal number
        elif key == "transfer-encoding":
            if text.strip().lower() != "chunked" or self.is_chunked:
                raise Malformed("a transfer coding other than chunked")
            self.is_chunked = True
        elif key == "connection":
            self.keeps_alive = self.keeps_alive and "close" not in _tokens(text)

    def header(self, name: str) -> str | None:
        """The first header of that name, which must be in lower case."""
        return next((value for key, value in self.headers if key == name), None)


class ResponseHead(_Head):
    """The head of a response.

    Attributes:
        status: the number; 101 and others below 200 are not the answer yet.
        idle_seconds: how long the server keeps an idle connection; None when it does not say.
        max_requests: how many requests it takes on the connection; None when it does not say.
    """

    __slots__ = ("idle_seconds", "max_requests", "status")

    def __init__(self) -> None:
        super().__init__()
        self.status = 0
        self.idle_seconds: int | None = None
        self.max_requests: int | None = None

    @classmethod
    def parse(cls, raw: bytes) -> ResponseHead:
        """A whole head, its empty line included.

        Raises:
            Malformed: it is none.
        """
        head = cls()
        parser = httptools.HttpResponseParser(head)
        _feed(parser, raw)
        head.status = parser.get_status_code()
        if head.status < 100:  # empty lines only, which httptools skips
            raise Malformed("no status line")
        head.keeps_alive = head.keeps_alive and parser.get_http_version() == "1.1"
        return head

    def _learn(self, key: str, text: str) -> None:
        if key == "keep-alive":
            for name, number in _promised(text):
                setattr(self, name, number)
        else:
            super()._learn(key, text)


class RequestHead(_Head):
    """The head of a request.

    Attributes:
        method: in capitals.
        target: path and query, also of a request that names the whole URL.
        expects_continue: whether the client waits for a word before it sends the body; in HTTP/1.0 there is no such word.
    """

    __slots__ = ("expects_continue", "method", "target")

    def __init__(self) -> None:
        super().__init__()
        self.method = ""
        self.target = ""
        self.expects_continue = False

    @classmethod
    def parse(cls, raw: bytes) -> RequestHead:
        """A whole head, its empty line included. An offer to upgrade the protocol is passed over, as HTTP allows.

        Raises:
            Malformed: it is none, or asks for a tunnel.
        """
        head = cls()
        parser = httptools.HttpRequestParser(head)
        _feed(parser, raw)
        head.method = parser.get_method().decode("ascii")
        if head.method == "CONNECT":
            raise Malformed("tunnels are not offered")
        if parser.get_http_version() not in ("1.0", "1.1"):
            raise Malformed("another version of HTTP")
        head.expects_continue = parser.get_http_version() == "1.1" and (head.header("expect") or "").lower() == "100-continue"
        head.keeps_alive = head.keeps_alive and (
            parser.get_http_version() == "1.1" or "keep-alive" in _tokens(head.header("connection") or "")
        )
        if not head.target.startswith("/"):
            head.target = "/" + head.target.partition("://")[2].partition("/")[2]
        return head

    def on_url(self, url: bytes) -> None:
        """Called by httptools, under that name."""
        self.target += url.decode("latin-1")


@functools.lru_cache(maxsize=64)  # a server says the same with every answer
def _promised(text: str) -> tuple[tuple[str, int], ...]:
    """What a Keep-Alive header promises, as attributes of a head."""
    names = {"timeout": "idle_seconds", "max": "max_requests"}
    parts = [part.strip().lower().partition("=") for part in text.split(",")]
    return tuple((names[word], int(number)) for word, _, number in parts if word in names and number.isdecimal() and len(number) < 10)


def _tokens(text: str) -> list[str]:
    return [word.strip() for word in text.lower().split(",")]


def _feed(parser: httptools.HttpResponseParser | httptools.HttpRequestParser, raw: bytes) -> None:
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        return  # the head has been read; what to do about the offer is the caller's affair
    except httptools.HttpParserCallbackError as error:
        raise Malformed(str(error.__context__)) from None
    except httptools.HttpParserError as error:
        raise Malformed(str(error)) from None


class ChunkedBody:
    """A chunked body, decoded and bounded as it comes.

    Args:
        bound: the longest body accepted, in octets. A chunk that would lead beyond is refused at its announcement.

    Attributes:
        body: what has come of it.
        is_complete: whether the last chunk and the trailer, which is dropped, have come.

    Example:
        >>> chunked = ChunkedBody(100)
        >>> chunked.feed(b"3\\r\\nabc\\r\\n0\\r\\n"), chunked.feed(b"\\r\\nmore"), bytes(chunked.body), chunked.excess
        (False, True, b'abc', b'more')
    """

    def __init__(self, bound: int) -> None:
        self.body = bytearray()
        self.is_complete = False
        self._bound = bound
        self._buffer = bytearray()
        self._left = 0  # octets of the present chunk that have not come
        self._expects: Callable[[ChunkedBody], bool] = ChunkedBody._size  # not bound: a cycle would keep bodies alive
        # Framing may cost 5 octets an octet of the body, when each comes alone; far more is somebody wasting our time.
        self._framing_left = MAX_HEAD + 8 * bound

    def feed(self, data: bytes) -> bool:
        """Take what came; returns ``is_complete``.

        Raises:
            Malformed, TooLong: as they say.
        """
        self._buffer += data
        while not self.is_complete and self._expects(self):
            pass
        return self.is_complete

    @property
    def excess(self) -> bytes:
        """What came after the body's end."""
        return bytes(self._buffer) if self.is_complete else b""

    # Each of these takes one step and says whether it had the octets for it.

    def _size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise Malformed("a chunk without a size")
        self._left = int(match[1], 16)
        if len(self.body) + self._left > self._bound:
            raise TooLong(f"the body is longer than {self._bound} octets")
        self._expects = ChunkedBody._data if self._left else ChunkedBody._trailer
        return True

    def _data(self) -> bool:
        taken = min(self._left, len(self._buffer))
        self.body += self._buffer[:taken]
        del self._buffer[:taken]
        self._left -= taken
        if not self._left:
            self._expects = ChunkedBody._end_of_data
        return taken > 0

    def _end_of_data(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise Malformed("a chunk longer than its size")
        del self._buffer[:2]
        self._expects = ChunkedBody._size
        return True

    def _trailer(self) -> bool:
        line = self._line()
        if line and (b"\r" in line or b"\n" in line):
            raise Malformed("a trailer with a line end of its own")
        self.is_complete = line == b""
        return line is not None

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if (len(self._buffer) if end < 0 else end) > MAX_LINE:
            raise TooLong(f"a line between chunks is longer than {MAX_LINE} octets")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        self._framing_left -= end + 2
        if self._framing_left < 0:
            raise TooLong("more framing than body")
        return line
