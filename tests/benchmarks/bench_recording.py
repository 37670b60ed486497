"""P8: a recording of steps with 32,000 logits in JSON, beside vcrpy's cassette of the same exchanges: how large, how long to open?

vcrpy writes the cassette and opens it if it is installed. If not, PyYAML does both, in vcrpy's layout and with vcrpy's choice of loader
(libyaml's where there is one), which leaves out only what vcrpy adds to that; ``what`` says which it was.

The server is the usual one: Python, ``json.dumps(row.tolist())``, float32 logits. Beside it: the same from our own server, which writes
the shortest decimal that is the same float32; and what is kept when the 20 best are enough.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import trio

from seedbed import ModelInfo, RecordingLLM, open_recording
from seedbed.recording import ReplayLLM
from seedbed.testing import ScriptedLLM

V = 32_000
SMALLER, FASTER = 5.0, 100.0
URL = "http://127.0.0.1:8000/v1/next_token_logits"


def run(quick: bool) -> list[dict[str, Any]]:
    """The results, one dict each."""
    steps, rounds = 32, 3 if quick else 9
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
        sizes = {name: _size(path) for name, path in paths.items()}
        theirs_usual, theirs_shortest = (cassette.stat().st_size for cassette in cassettes)
    exact = f"{steps} steps of {V} logits, beside {how}"
    return [
        _result("P8 size", f"cassette / recording, full rows bit for bit: {exact}", [theirs_usual / sizes["full"]], SMALLER),
        _result("P8 open", f"time to open, cassette / recording: {exact}", opened["full"], FASTER),
        _result("P8 shortest", "size, when the server writes the shortest decimals", [theirs_shortest / sizes["full"]], None),
        _result("P8 top-20 size", "size, when the 20 best are kept", [theirs_usual / sizes["top_k"]], None),
        _result("P8 top-20 open", "time to open, when the 20 best are kept", opened["top_k"], None),
    ]


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
    for result in run(quick=True):
        print(f"{result['id']:<15} {result['ratio']:>8.1f}  {result['what']}")
