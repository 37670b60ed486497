"""P8: a recording of steps with 32,000 logits in JSON, beside vcrpy's cassette of the same exchanges: how large, how long to open?

vcrpy writes the cassette and opens it if it is installed. If not, PyYAML does both, in vcrpy's layout and with vcrpy's choice of loader
(libyaml's where there is one), which leaves out only what vcrpy adds to that; ``what`` says which it was.

The server is the usual one: Python, ``json.dumps(row.tolist())``, float32 logits. Beside it: the same from our own server, which writes
the shortest decimal that is the same float32; and what is kept when the 20 best are enough.

Then: how many steps a second are replayed, in this process and through HTTP that opens no socket, beside vcrpy doing the same through
httpx; and does a replay through HTTP take more memory after 100,000 requests than after 10,000?
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import trio

from seedbed import ModelInfo, RecordingLLM, connect, open_recording, replay_transport
from seedbed.recording import ReplayLLM
from seedbed.testing import ScriptedLLM

V = 32_000
SMALLER, FASTER = 5.0, 100.0
URL = "http://127.0.0.1:8000/v1/next_token_logits"
REQUESTS = 100_000
GROWTH = 4.0  # MB that a flat memory may grow by: what an allocator keeps for itself


def run(quick: bool) -> list[dict[str, Any]]:
    """The results, one dict each."""
    steps, rounds = 32, 2 if quick else 9
    rows = [(np.random.default_rng(n).normal(size=V) * 4).astype(np.float32) for n in range(steps)]
    prefixes = [[1, *range(2, 2 + n)] for n in range(steps)]
    save, load, how = _cassettes()
    with tempfile.TemporaryDirectory() as directory:
        paths = {tier: Path(directory) / tier for tier in ("full", "top_k")}
        for tier, path in paths.items():
            trio.run(_record, path, tier, prefixes, rows)
        bodies = [json.dumps({"logits": row.tolist()}) for row in rows]
        shortest = [orjson.dumps({"logits": row}, option=orjson.OPT_SERIALIZE_NUMPY).decode() for row in rows]
        cassettes = [Path(directory) / name for name in ("usual.yaml", "shortest.yaml")]
        for cassette, texts in zip(cassettes, (bodies, shortest), strict=True):
            save(cassette, prefixes, texts)
        _assert_the_same_answers(load(cassettes[0]), paths["full"], prefixes, rows)

        opened: dict[str, list[float]] = {"full": [], "top_k": []}
        for _ in range(rounds):
            theirs = _seconds(lambda: load(cassettes[0]))
            for tier, path in paths.items():
                opened[tier].append(theirs / statistics.median(_seconds(lambda path=path: open_recording(path)) for _ in range(9)))  # type: ignore[misc]
        replayed = _replayed(paths, cassettes[0], prefixes, rounds)
        milliseconds = {
            tier: 1e3 * statistics.median(_seconds(lambda path=path: open_recording(path)) for _ in range(9))
            for tier, path in paths.items()
        }  # type: ignore[misc]
        sizes = {name: _size(path) for name, path in paths.items()}
        theirs_usual, theirs_shortest = (cassette.stat().st_size for cassette in cassettes)
    exact = f"{steps} steps of {V} logits, beside {how}"
    return [
        _result("P8 size", f"cassette / recording, full rows bit for bit: {exact}", [theirs_usual / sizes["full"]], SMALLER),
        _result("P8 open", f"time to open, cassette / recording ({milliseconds['full']:.1f} ms): {exact}", opened["full"], FASTER),
        _result("P8 shortest", "size, when the server writes the shortest decimals", [theirs_shortest / sizes["full"]], None),
        _result("P8 top-20 size", "size, when the 20 best are kept", [theirs_usual / sizes["top_k"]], None),
        _result("P8 top-20 open", f"time to open ({milliseconds['top_k']:.1f} ms), when the 20 best are kept", opened["top_k"], None),
        *replayed,
        _memory(2_000 if quick else REQUESTS),
    ]


def _replayed(paths: dict[str, Path], cassette: Path, prefixes: list[list[int]], rounds: int) -> list[dict[str, Any]]:
    """Steps a second."""
    ways = {
        "in process, full rows": lambda: trio.run(_replay, ReplayLLM(paths["full"]), prefixes),
        "in process, top 20": lambda: trio.run(_replay, ReplayLLM(paths["top_k"]), prefixes),
        "replay_transport, full rows": lambda: trio.run(_replay_http, paths["full"], prefixes),
        "replay_transport, top 20": lambda: trio.run(_replay_http, paths["top_k"], prefixes),
        "vcrpy and httpx, full rows": lambda: _replay_vcrpy(cassette, prefixes),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, seconds in ways.items():
            if (took := seconds()) is not None:
                rates[way].append(len(prefixes) / took)
    return [_result("replay", f"steps/s: {way}", figures, None) for way, figures in rates.items() if figures]


async def _replay(llm: Any, prefixes: list[list[int]]) -> float:
    """Seconds, and each row is looked at, so that it has been read."""
    began = time.perf_counter()
    for prefix in prefixes:
        row = await llm.next_token_logits(prefix)
        (row if isinstance(row, np.ndarray) else row.logprobs).max()
    return time.perf_counter() - began


async def _replay_http(path: Path, prefixes: list[list[int]]) -> float:
    async with connect("http://recording.invalid", transport=replay_transport(path)) as model:
        return await _replay(model, prefixes)


def _replay_vcrpy(path: Path, prefixes: list[list[int]]) -> float | None:
    """Opening the cassette is not counted, as opening the recording is not."""
    try:
        import vcr
    except ImportError:
        return None
    with vcr.use_cassette(str(path), record_mode="none", match_on=["method", "uri", "body"]), httpx.Client() as client:
        began = time.perf_counter()
        for prefix in prefixes:
            answer = client.post(URL, content=json.dumps({"token_ids": prefix}))
            np.array(answer.json()["logits"], dtype=np.float32).max()
        return time.perf_counter() - began


def _memory(requests: int) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", __spec__.name if __spec__ else __file__, "memory", str(requests)], capture_output=True, text=True, check=True
    )
    grown = float(ran.stdout)
    what = f"MB that {requests} requests to replay_transport add to what the first tenth took"
    result = _result("replay memory", what, [grown], GROWTH)
    return result | {"ok": grown <= GROWTH, "sense": "<="}


async def _grow(requests: int) -> float:
    """MB of resident memory between the first tenth of the requests and the last."""
    sizes = []
    recording = Path(__file__).parents[2] / "fixtures" / "recordings" / "tiny-lm"
    async with connect("http://recording.invalid", transport=replay_transport(recording)) as model:
        for share in (requests // 10, requests - requests // 10):
            for _ in range(share):
                await model.next_token_logits(b"The seed")
            sizes.append(_resident())
    return sizes[1] - sizes[0]


def _resident() -> float:
    """MB of memory this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


async def _record(path: Path, tier: Any, prefixes: list[list[int]], rows: list[np.ndarray]) -> None:
    by_prefix = {tuple(prefix): row for prefix, row in zip(prefixes, rows, strict=True)}
    llm = ScriptedLLM(by_prefix, default=rows[0], info=ModelInfo(model="m", vocab_size=V, eos_token_ids=(0,)))
    async with RecordingLLM(llm, path, tier) as recorded:
        for prefix in prefixes:
            await recorded.next_token_logits(prefix)


def _cassettes() -> tuple[Any, Any, str]:
    """How to write a cassette, how to open one, and with what."""
    try:
        import vcr
        from vcr.request import Request
    except ImportError:
        return _save_with_yaml, _load_with_yaml, "PyYAML in vcrpy's layout"

    def save(path: Path, prefixes: list[list[int]], bodies: list[str]) -> None:
        with vcr.use_cassette(str(path)) as cassette:
            for prefix, body in zip(prefixes, bodies, strict=True):
                request = Request("POST", URL, json.dumps({"token_ids": prefix}), {"content-type": "application/json"})
                cassette.append(request, _answer(body))

    def load(path: Path) -> list[str]:
        from vcr.cassette import Cassette

        return [response["body"]["string"].decode() for response in Cassette.load(path=str(path)).responses]

    return save, load, "vcrpy"


def _answer(body: str) -> dict[str, Any]:
    headers = {"content-type": ["application/json"], "content-length": [str(len(body))], "server": ["uvicorn"]}
    return {"status": {"code": 200, "message": "OK"}, "headers": headers, "body": {"string": body.encode()}}


def _save_with_yaml(path: Path, prefixes: list[list[int]], bodies: list[str]) -> None:
    import yaml

    interactions = []
    for prefix, body in zip(prefixes, bodies, strict=True):
        answer = _answer(body)
        answer["body"]["string"] = body  # vcrpy writes octets that are UTF-8 as text
        request = {
            "method": "POST",
            "uri": URL,
            "body": json.dumps({"token_ids": prefix}),
            "headers": {"content-type": ["application/json"]},
        }
        interactions.append({"request": request, "response": answer})
    path.write_text(yaml.dump({"interactions": interactions, "version": 1}, Dumper=getattr(yaml, "CDumper", yaml.Dumper)))


def _load_with_yaml(path: Path) -> list[str]:
    import yaml

    data = yaml.load(path.read_text(), Loader=getattr(yaml, "CLoader", yaml.Loader))
    return [interaction["response"]["body"]["string"] for interaction in data["interactions"]]


def _assert_the_same_answers(bodies: list[str], path: Path, prefixes: list[list[int]], rows: list[np.ndarray]) -> None:
    replay = ReplayLLM(path)
    for body, prefix, row in zip(bodies, prefixes, rows, strict=True):
        have = trio.run(replay.next_token_logits, prefix)
        assert np.array_equal(have, row)
        assert np.array_equal(np.array(json.loads(body)["logits"], dtype=np.float32), row)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def _seconds(function: Any) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def _result(name: str, what: str, ratios: list[float], goal: float | None) -> dict[str, Any]:
    low, ratio, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    ok = None if goal is None else ratio >= goal
    return {"id": name, "what": what, "ratio": ratio, "low": low, "high": high, "goal": goal, "ok": ok, "sense": ">="}


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        print(trio.run(_grow, int(sys.argv[2])))
        sys.exit()
    for result in run(quick=True):
        print(f"{result['id']:<15} {result['ratio']:>8.1f}  {result['what']}")
