"""A server process for the benchmarks: canned answers, so fast that only the client is measured.

It is told on standard input what to answer, as one JSON object, and says on standard output, in one line, where it listens.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# (method and path, whether the request's body is longer than this) -> answer; shorter bodies are discovery's
SHORT_BODY = 200


@contextmanager
def canned_server(answers: dict[tuple[str, bool], bytes]) -> Iterator[str]:
    """Run one while the block runs; gives its URL. The keys are ("POST /path", whether the body is long)."""
    told = json.dumps([[what, is_long, base64.b85encode(answer).decode()] for (what, is_long), answer in answers.items()])
    with subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(told + "\n")
        process.stdin.flush()
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def as_http(status: int, headers: tuple[tuple[str, str], ...], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status} OK", *(f"{name}: {value}" for name, value in headers), f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class Canned(asyncio.Protocol):
    answers: dict[tuple[bytes, bool], bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            what = b" ".join(self.buffer.split(b" ", 2)[:2])
            self.buffer = self.buffer[end + 4 + length :]
            self.transport.write(self.answers.get((what, length > SHORT_BODY), b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"))


async def main() -> None:
    told = json.loads(sys.stdin.readline())
    Canned.answers = {(what.encode(), is_long): base64.b85decode(answer) for what, is_long, answer in told}
    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
