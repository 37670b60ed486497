"""A server's misbehaviour, planted: what goes wrong on the way, at chosen requests or at random ones, the same whenever it is run.

``serve(llm, faults=...)`` asks at each request whether anything goes wrong with it. Some faults replace the answer, some break it below
HTTP, where only a server of one's own can. Use them to see what a program does when a server is overloaded, restarted or dishonest.
"""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import trio

from seedbed.errors import UsageError
from seedbed.protocols.exchange import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["PASSING", "Fault", "Faults", "Kind", "faults_at", "random_faults"]

Kind: TypeAlias = Literal[
    "500",
    "503",
    "429",
    "redirect",
    "slow",
    "stall",
    "cut",
    "reset",
    "half-close",
    "garbage",
    "oversized",
    "endless",
    "headers",
    "short length",
    "long length",
    "compressed",
    "deep",
]

PASSING: tuple[Kind, ...] = ("500", "503", "429", "slow", "stall", "cut", "reset", "half-close")
"""Faults that pass when the request is repeated; what any other means is that the server cannot be believed."""

ENOUGH = 100_000  # headers of a head
NESTING = 1500  # orjson gives up at 1,024; still within what an honest answer may have
GIBIBYTE = 1 << 30


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with one request.

    Args:
        kind: "500", "503", "429", "redirect" (to another host): the answer is that status. "slow": it comes ``seconds`` late. "stall": a
            part of it comes, then nothing. "cut": a part, then the end. "reset": a part, then a reset. "half-close": nothing, then the end.
            "garbage": no HTTP. "oversized": a gibibyte is announced. "endless": a chunked body without end. "headers": a hundred thousand.
            "short length", "long length": an octet less or more announced than sent. "compressed": a gzip bomb. "deep": nested JSON.
        seconds: of "slow"; and the Retry-After of "429" and "503", which have none when it is 0.
        part: how much of the answer's octets, head included, comes before "stall", "cut" and "reset"; in [0, 1].

    Raises:
        UsageError: no such kind, or a number outside its range.
    """

    kind: Kind
    seconds: float = 0.0
    part: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"no fault is called {self.kind!r}; there are {', '.join(get_args(Kind))}")
        if not self.seconds >= 0 or not 0 <= self.part <= 1:
            raise UsageError("a fault needs seconds >= 0 and a part in [0, 1]")

    def replaced(self) -> HttpResponse | None:
        """The answer in place of the true one, for the faults that are an answer."""
        match self.kind:
            case "500" | "503" | "429":
                wait = (("retry-after", f"{self.seconds:g}"),) if self.seconds else ()
                return HttpResponse(int(self.kind), wait, b'{"error":{"type":"planted","message":"a planted fault"}}')
            case "redirect":
                return HttpResponse(302, (("location", "http://elsewhere.invalid/"),))
            case "compressed":
                return HttpResponse(200, (("content-encoding", "gzip"),), gzip.compress(bytes(1_000_000), 9))
            case "deep":
                return HttpResponse(200, (("content-type", "application/json"),), b'{"logits":' + b"[" * NESTING + b"]" * NESTING + b"}")
        return None

    async def break_off(self, stream: trio.SocketStream, answer: bytes) -> bool:
        """Send the true answer's octets as this fault does; whether it broke the connection, which is then to be closed.

        Concurrency:
            May wait until the client goes.
        """
        match self.kind:
            case "stall":
                await stream.send_all(self._part_of(answer))
                await _until_gone(stream)
            case "cut":
                await stream.send_all(self._part_of(answer))
            case "reset":
                await stream.send_all(self._part_of(answer))
                # Linger 0: closing sends a reset instead of the end.
                stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            case "half-close":
                await stream.send_eof()
                await _until_gone(stream)
            case "garbage":
                await stream.send_all(bytes(range(256)) * 4)
            case "oversized":
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % GIBIBYTE)
                await _send_for_ever(stream, bytes(65_536))
            case "endless":
                await stream.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                await _send_for_ever(stream, b"1000\r\n" + bytes(4096) + b"\r\n")
            case "headers":
                await stream.send_all(b"HTTP/1.1 200 OK\r\n" + b"x-header: y\r\n" * ENOUGH + b"content-length: 0\r\n\r\n")
            case "short length" | "long length":
                await stream.send_all(_with_wrong_length(answer, -1 if self.kind == "short length" else 1))
            case _:
                return False
        return True

    def _part_of(self, answer: bytes) -> bytes:
        return answer[: int(len(answer) * self.part)]


Faults: TypeAlias = "Callable[[HttpRequest], Fault | None]"
"""Says what goes wrong with a request; asked once for each, in the order they come."""


def faults_at(chosen: Mapping[int, Fault], *, path: str | None = None) -> Faults:
    """Faults at chosen requests.

    Args:
        chosen: what goes wrong with which request, counted from 0 in the order they come.
        path: count only requests of this path, so that discovery does not count.

    Raises:
        Nothing; what no server can do is refused by ``Fault``.

    Example:
        >>> faults = faults_at({1: Fault("503")})
        >>> [faults(HttpRequest("GET", "/")) for _ in range(2)]
        [None, Fault(kind='503', seconds=0.0, part=0.5)]
    """
    count = -1

    def fault(request: HttpRequest) -> Fault | None:
        nonlocal count
        if path is not None and request.route != path:
            return None
        count += 1
        return chosen.get(count)

    return fault


def random_faults(rate: float, seed: int, faults: Sequence[Fault] | Iterable[Kind] = PASSING, *, path: str | None = None) -> Faults:
    """Faults at random requests: which, depends on the seed, on what is asked and how often it was, and not on any order.

    Args:
        rate: the probability that something goes wrong with a request, in [0, 1].
        seed: another seed, other faults.
        faults: what may go wrong, each as likely as another.
        path: only requests of this path.

    Raises:
        UsageError: a rate outside its range, or no faults.

    Example:
        >>> faults = random_faults(0.5, seed=7)
        >>> [fault.kind if (fault := faults(HttpRequest("GET", "/"))) else None for _ in range(6)]
        [None, 'reset', '500', None, None, None]
    """
    pool = [fault if isinstance(fault, Fault) else Fault(fault) for fault in faults]
    if not 0 <= rate <= 1 or not pool:
        raise UsageError("random faults need a rate in [0, 1] and at least one fault")
    asked: Counter[bytes] = Counter()

    def fault(request: HttpRequest) -> Fault | None:
        if path is not None and request.route != path:
            return None
        what = hashlib.blake2b(f"{seed} {request.method} {request.path} ".encode() + request.body, digest_size=16).digest()
        asked[what] += 1
        drawn = hashlib.blake2b(what + asked[what].to_bytes(8, "little"), digest_size=16).digest()
        if int.from_bytes(drawn[:8], "little") >= rate * 2**64:
            return None
        return pool[int.from_bytes(drawn[8:], "little") % len(pool)]

    return fault


async def _until_gone(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass


async def _send_for_ever(stream: trio.SocketStream, data: bytes) -> None:
    for part in repeat(data):
        await stream.send_all(part)


def _with_wrong_length(answer: bytes, off_by: int) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"content-length:")]
    return b"\r\n".join([*lines, b"content-length: %d" % (len(body) + off_by), b"", body])
