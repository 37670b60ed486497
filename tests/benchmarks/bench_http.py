"""P1, P2, P3, P9: what does a request cost the client, beside aiohttp, the stock httpx pool and a bare socket; and what does it leak?

Client CPU a request (``time.process_time``), the server being another process. Every measurement is a fresh process: all connections are
opened and used once, then K requests each are counted. The contestants of a comparison take turns; a ratio is made within a round. All
send the same question, and all end with the same two numpy arrays, which is asserted before anything is counted. Ours is the whole
``HTTPModel.next_token_logits``: turn, time limit, retry, encoding, decoding with every check. aiohttp comes twice: doing the same, with
the question made and the answer checked as ours is, and ``unchecked``, as somebody who believes every server would write it. ``Pool
only`` stops at the body.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import trio
import trio.testing

from seedbed import HashLM, TopLogprobs, connect, serve
from seedbed.http.connection import Origin
from seedbed.http.pool import Pool
from seedbed.protocols import protocol_named
from seedbed.protocols.exchange import Ask, HttpRequest, HttpResponse
from seedbed.server import answer
from seedbed.testing import ScriptedLLM
from tests.benchmarks.canned_server import as_http, canned_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

VOCAB = 151_936
PROMPT = tuple(range(100_000, 100_100))
TOP_K = 50
FULL = "full row"
KINDS = {"native": TOP_K, "llama.cpp": TOP_K, FULL: None}
PATHS = {"native": "/v1/next_token_logits", "llama.cpp": "/completion", FULL: "/v1/next_token_logits"}


class WordLM(HashLM):
    """One row as peaked as a real model's, whatever the prefix; and its tokens have octets, as those of a real vocabulary."""

    async def next_token_logits(self, prev_token_ids: object) -> Any:
        await trio.lowlevel.checkpoint()
        return np.random.default_rng(7).normal(0, 3, VOCAB).astype(np.float32)

    def token_bytes(self, token_id: int) -> bytes:
        return b" tok%d" % token_id


LLM = WordLM(VOCAB)
ASKS = {kind: Ask(PROMPT, top_k, None, LLM.get_stop_token_id()) for kind, top_k in KINDS.items()}


def question(kind: str) -> HttpRequest:
    protocol = protocol_named(kind if kind != FULL else "native")
    return protocol.encode_request(ASKS[kind], LLM.info)


async def answers_of(kind: str) -> dict[tuple[str, bool], bytes]:
    """Everything the server is asked for one kind: discovery, its one-token probe, and the question."""
    protocol = protocol_named(kind if kind != FULL else "native")
    answers = {}

    async def can(request: HttpRequest, *, is_long: bool) -> None:
        response = await answer(LLM, [protocol], request)
        assert response.status == 200, response
        answers[f"{request.method} {request.path}", is_long] = as_http(200, response.headers, bytes(response.body))

    for path in ("/v1/model",) if protocol.name == "native" else ("/props", "/v1/models"):
        await can(HttpRequest("GET", path), is_long=False)
    if protocol.name == "llama.cpp":
        answers["POST /tokenize", False] = as_http(200, (), b'{"tokens": [0]}')
    await can(protocol.encode_request(Ask((0,), KINDS[kind]), LLM.info), is_long=False)
    await can(question(kind), is_long=True)
    return answers


# The contestants. Each is called with what to ask and how many ask at once, and hands ``go`` a way to ask.


async def ours(kind: str, url: str, connections: int, go: Callable[..., Awaitable[None]]) -> None:
    protocol = kind if kind != FULL else "native"
    async with connect(url, protocol, top_k=KINDS[kind] or "all", max_connections=connections) as model:

        async def one() -> Any:
            row = await model.next_token_logits(PROMPT)
            return (row.token_ids, row.logprobs) if isinstance(row, TopLogprobs) else (None, row)

        await go(one)


async def pool_only(kind: str, url: str, connections: int, go: Callable[..., Awaitable[None]]) -> None:
    request = question(kind)
    host, _, port = url.removeprefix("http://").partition(":")
    pool = Pool(Origin("http", host, int(port)))

    async def one() -> Any:
        return decoded(kind, (await pool.send(request, 10_000_000)).body) if one.decodes else await pool.send(request, 10_000_000)

    one.decodes = True
    await go(one)
    await pool.aclose()


def decoded(kind: str, body: bytes) -> tuple[Any, Any]:
    """As a user of a plain HTTP client would, with no checks."""
    if kind == FULL:
        return None, np.frombuffer(body, "<f4")
    data = orjson.loads(body)
    if kind == "native":
        return np.array(data["top"]["token_ids"]), np.array(data["top"]["logprobs"], dtype=np.float32)
    listed = data["completion_probabilities"][0]["top_logprobs"]
    return np.array([entry["id"] for entry in listed]), np.array([entry["logprob"] for entry in listed], dtype=np.float32)


def body_of(kind: str) -> bytes:
    """The question again, made anew for every request as ours is."""
    data = orjson.loads(question(kind).body)
    return orjson.dumps(data)


async def with_aiohttp(kind: str, url: str, connections: int, go: Callable[..., Awaitable[None]], *, checks: bool = True) -> None:
    import aiohttp

    target, headers = url + PATHS[kind], dict(question(kind).headers)
    data = orjson.loads(question(kind).body)
    protocol, ask, info = protocol_named(kind), ASKS[kind], LLM.info
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections), timeout=aiohttp.ClientTimeout(60), headers=headers
    ) as session:

        async def unchecked() -> Any:
            async with session.post(target, data=orjson.dumps(data)) as response:
                return decoded(kind, await response.read())

        async def one() -> Any:
            async with session.post(target, data=protocol.encode_request(ask, info).body) as response:
                row = protocol.decode_response(ask, info, HttpResponse(response.status, (), await response.read())).row
                return row.token_ids, row.logprobs

        await go(one if checks else unchecked)


async def with_httpx(kind: str, url: str, connections: int, go: Callable[..., Awaitable[None]]) -> None:
    import httpx

    target, headers = url + PATHS[kind], dict(question(kind).headers)
    data = orjson.loads(question(kind).body)
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(limits=limits, timeout=60, headers=headers) as client:

        async def one() -> Any:
            return decoded(kind, (await client.post(target, content=orjson.dumps(data))).content)

        await go(one)


async def raw_socket(kind: str, url: str, connections: int, go: Callable[..., Awaitable[None]], *, keeps: bool = False) -> None:
    """The floor: a trio socket a task, no parsing but for the first length, read straight into one buffer, the same for each answer.

    Whoever hands rows on cannot do that: with ``keeps`` each answer has memory of its own, which the kernel must find and clear.
    """
    request = question(kind)
    host, _, port = url.removeprefix("http://").partition(":")
    lines = [f"POST {request.path} HTTP/1.1", f"host: {host}", *(f"{k}: {v}" for k, v in request.headers)]
    data = "\r\n".join([*lines, f"content-length: {len(request.body)}", "", ""]).encode() + request.body
    streams: dict[object, tuple[trio.SocketStream, memoryview, int]] = {}

    async def one() -> Any:
        task = trio.lowlevel.current_task()
        if task not in streams:
            stream = await trio.open_tcp_stream(host, int(port))
            await stream.send_all(data)
            first = b""
            while b"\r\n\r\n" not in first:
                first += await stream.receive_some()
            head, _, _ = first.partition(b"\r\n\r\n")
            total = len(head) + 4 + int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            buffer = memoryview(bytearray(total))
            buffer[: len(first)] = first
            have = len(first)
            streams[task] = stream, buffer, len(head) + 4
        else:
            stream, buffer, _ = streams[task]
            if keeps:
                buffer = np.empty(len(buffer), np.uint8).data
            await stream.send_all(data)
            have = 0
        while have < len(buffer):
            have += await stream.socket.recv_into(buffer[have:])
        return None, np.frombuffer(buffer[streams[task][2] :], "<f4")

    await go(one)
    for stream, _, _ in streams.values():
        await trio.aclose_forcefully(stream)


CLIENTS: dict[str, tuple[Callable[..., Awaitable[None]], str]] = {
    "ours": (ours, "trio"),
    "pool": (pool_only, "trio"),
    "raw": (raw_socket, "trio"),
    "raw, keeping": (partial(raw_socket, keeps=True), "trio"),
    "httpx": (with_httpx, "trio"),
    "aiohttp": (with_aiohttp, "asyncio"),
    "aiohttp unchecked": (partial(with_aiohttp, checks=False), "asyncio"),
}


# One measurement: this file again, in a process of its own.


def measured(client: str, kind: str, connections: int, count: int, url: str) -> float:
    """Client CPU a request, in microseconds."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_http", "--one", client, kind, str(connections), str(count), url]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(json.loads(output))


def measure_here(client: str, kind: str, connections: int, count: int, url: str) -> float:
    run, loop = CLIENTS[client]
    want = trio.run(_expected, kind)
    used = math.nan
    ready = done = 0
    began = 0.0

    async def task(one: Any, gate: Any) -> None:
        nonlocal ready, done, used, began
        ids, values = await one()
        assert ids is None or np.array_equal(ids, want[0]), client
        assert np.array_equal(values, want[1]), client
        ready += 1
        if ready == connections:
            if hasattr(one, "decodes"):
                one.decodes = False
            began = time.process_time()
            gate.set()
        await gate.wait()
        for _ in range(count):
            await one()
        done += 1
        if done == connections:
            used = time.process_time() - began

    async def go_trio(one: Any) -> None:
        gate = trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(task, one, gate)

    async def go_asyncio(one: Any) -> None:
        import asyncio

        gate = asyncio.Event()
        await asyncio.gather(*(task(one, gate) for _ in range(connections)))

    if loop == "trio":
        trio.run(run, kind, url, connections, go_trio)
    else:
        import asyncio

        asyncio.run(run(kind, url, connections, go_asyncio))
    return used / (count * connections) * 1e6


async def _expected(kind: str) -> tuple[Any, Any]:
    protocol = protocol_named(kind if kind != FULL else "native")
    request = question(kind)
    row = protocol.decode_response(ASKS[kind], LLM.info, await answer(LLM, [protocol], request)).row
    return (row.token_ids, row.logprobs) if isinstance(row, TopLogprobs) else (None, row)


def compare(contestants: dict[str, tuple[str, str, int, int]], quick: bool) -> dict[str, list[float]]:
    """CPU a request of each (client, kind, connections, requests a connection), round by round, in a new order each round.

    Quickly: two rounds.
    """
    rounds = 2 if quick else 9
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    with ExitStack() as stack:
        kinds = {kind for _, kind, _, _ in contestants.values()}
        urls = {kind: stack.enter_context(canned_server(trio.run(answers_of, kind))) for kind in kinds}
        for turn in range(rounds):
            order = list(contestants)
            random.Random(turn).shuffle(order)
            for name in order:
                client, kind, connections, count = contestants[name]
                figures[name].append(measured(client, kind, connections, count, urls[kind]))
    return figures


def run(quick: bool) -> list[dict[str, Any]]:
    """Quickly: less of everything, nothing that has no goal, and httpx, which takes fifty times as long, not at all."""
    _allow_many_files()
    results = [result for kind in ("native", "llama.cpp") for result in _small_answers(kind, quick)]
    results += _many_connections(quick)
    results += [result for connections in ((64,) if quick else (64, 8)) for result in _full_rows(connections, quick)]
    return [*results, _leaks(300 if quick else 10_000)]


def _small_answers(kind: str, quick: bool) -> list[dict[str, Any]]:
    count = 20 if quick else 60
    contestants = {client: (client, kind, 64, count) for client in ("ours", "aiohttp")}
    if not quick:
        contestants["httpx"] = ("httpx", kind, 64, 4)
        contestants |= {client: (client, kind, 64, count) for client in ("pool", "aiohttp unchecked")}
    figures = compare(contestants, quick)
    size = len(trio.run(answers_of, kind)[f"POST {PATHS[kind]}", True])
    about = f"{kind}, {size} octets, 64 connections"
    what = f"CPU a request / aiohttp + orjson doing the same ({about})"
    results = [_result(f"P1 {kind}", what, figures["ours"], figures["aiohttp"], 0.9)]
    if not quick:
        unchecked = figures["aiohttp unchecked"]
        results += [
            _result(f"P1 {kind} httpx", f"CPU a request / stock httpx pool ({about})", figures["ours"], figures["httpx"], 0.05),
            _result(f"P1 {kind} unchecked", f"CPU a request / the same, nothing checked ({about})", figures["ours"], unchecked, None),
            _result(f"P1 {kind} pool", f"Pool only, undecoded / the same, nothing checked ({about})", figures["pool"], unchecked, None),
        ]
    return results


def _many_connections(quick: bool) -> list[dict[str, Any]]:
    contestants = {"many": ("ours", "native", 1024, 6), "few": ("ours", "native", 64, 48 if quick else 96)}
    if not quick:
        contestants["aiohttp"] = ("aiohttp unchecked", "native", 1024, 6)
    figures = compare(contestants, quick)
    results = [_result("P2", "CPU a request at 1,024 connections / at 64", figures["many"], figures["few"], 1.5)]
    if not quick:
        what = "CPU a request at 1,024 connections / aiohttp + orjson at 1,024, nothing checked"
        results.append(_result("P2 aiohttp", what, figures["many"], figures["aiohttp"], None))
    return results


def _full_rows(connections: int, quick: bool) -> list[dict[str, Any]]:
    clients = ("ours", "raw") if quick else ("ours", "raw", "raw, keeping")
    figures = compare({client: (client, FULL, connections, 1280 // connections) for client in clients}, quick)
    about = f"full row, V = {VOCAB}, {connections} connections, octets to numpy"
    results = [_result(f"P3 {connections}", f"{about} / raw trio socket into one buffer", figures["ours"], figures["raw"], 1.5)]
    if not quick:
        what = f"{about} / the same, a buffer an answer"
        results.append(_result(f"P3 {connections} keeping", what, figures["ours"], figures["raw, keeping"], None))
    return results


def _leaks(count: int) -> dict[str, Any]:
    leaked, what = trio.run(leaked_by_cancelling, count)
    return {
        "id": "P9",
        "what": f"leaked by cancelling: {what}",
        "ratio": leaked,
        "low": leaked,
        "high": leaked,
        "goal": 0,
        "ok": leaked == 0,
    }


def _result(name: str, what: str, ours: list[float], theirs: list[float], goal: float | None) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    what = f"{what}: {statistics.median(ours):.0f} / {statistics.median(theirs):.0f} us"
    return {"id": name, "what": what, "ratio": ratio, "low": low, "high": high, "goal": goal, "ok": None if goal is None else ratio <= goal}


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))


async def leaked_by_cancelling(count: int) -> tuple[int, str]:
    """Cancel so many requests, at all stages of their lives; what is then still held, that was not before."""
    rng = random.Random(7)
    row = [0.0] * 8
    slow = ScriptedLLM(lambda prefix: row, info=HashLM(8).info, delay=lambda prefix: (0.0, 0.005, 0.02, 1.0)[prefix[-1] % 4])
    files = _open_files()
    cancelled = answered = 0
    async with serve(slow) as server:
        tasks = trio.lowlevel.current_statistics().tasks_living
        async with connect(server.url, max_connections=32) as model:

            async def ask(times: int) -> None:
                nonlocal cancelled, answered
                while times:
                    with trio.CancelScope(deadline=trio.current_time() + rng.random() * 0.1) as scope:
                        await model.next_token_logits([rng.randrange(8)])
                        answered += 1
                    cancelled += scope.cancelled_caught
                    times -= scope.cancelled_caught

            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(ask, count // 50)
            state = model.statistics()
            assert state.pool is not None
            slots = state.under_way + state.waiting + state.pool.active
            assert (await model.next_token_logits([1])).tolist() == row
        await trio.testing.wait_all_tasks_blocked(0.1)
        tasks = trio.lowlevel.current_statistics().tasks_living - tasks
    files = _open_files() - files
    assert cancelled == count
    return slots + tasks + files, f"{slots} slots, {files} sockets, {tasks} tasks; {cancelled} cancelled among {answered} answered"


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


if __name__ == "__main__":
    if "--one" in sys.argv:
        client, kind, connections, count, url = sys.argv[2:]
        _allow_many_files()
        print(measure_here(client, kind, int(connections), int(count), url))
    else:
        for result in run("--quick" in sys.argv):
            verdict = {True: "met", False: "MISSED", None: ""}[result["ok"]]
            wanted = "" if result["goal"] is None else f"<= {result['goal']}"
            spread = f"{result['ratio']:.3g} [{result['low']:.3g}, {result['high']:.3g}]"
            print(f"{result['id']:<20} {spread:<24} {wanted:<8} {verdict:<7} {result['what']}")
