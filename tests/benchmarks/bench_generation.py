"""P5 and lookahead: what waiting costs.

P5: how many tokens a second do 64 sequences get, each in a loop of its own, beside the sketch, where each step waits for the slowest?

The model sleeps for real before every answer, lognormally with sigma 1 (the slowest of 64 takes ten times the median, the mean 1.6 times),
and its rows are small, so waiting is all there is.

Lookahead: how many more tokens a second come from a server 20 ms away when it is asked ahead; TinyLM behind its protocol, once told the
client's noise and once greedy, as others are. The same tokens both ways. Run: ``python -m tests.benchmarks generation``.
"""

from __future__ import annotations

import statistics
import sys
import time

import httpx
import numpy as np
import trio

from seedbed import LLM, Sampler, TinyLM, connect, generate, softmax
from seedbed.server.asgi import asgi_app

SEQUENCES, SIZE = 64, 64
MEDIAN = 0.02  # seconds; the loop's own work is 0.1 ms a token
GOAL = 2.0
AWAY = 0.02  # seconds


class Sleeping(LLM):
    def __init__(self, seed: int) -> None:
        self.chance = np.random.default_rng(seed)
        self.row = self.chance.normal(0, 1, SIZE).astype(np.float32)

    async def next_token_logits(self, prev_token_ids):
        await trio.sleep(MEDIAN * self.chance.lognormal(0, 1))
        return self.row

    def get_stop_token_id(self) -> int:
        return SIZE


async def ours(llm: LLM, tokens: int) -> list[list[int]]:
    return (await generate([1], llm, n=SEQUENCES, seed=7, max_new_tokens=tokens)).token_ids


async def sketch(llm: LLM, tokens: int) -> list[list[int]]:
    """Every step gathers the rows of all sequences, then draws from each."""
    prefixes = [[1] for _ in range(SEQUENCES)]
    for _ in range(tokens):
        rows: list[np.ndarray] = [llm.row] * SEQUENCES

        async def ask(place: int, rows: list[np.ndarray] = rows) -> None:
            rows[place] = await llm.next_token_logits(prefixes[place])

        async with trio.open_nursery() as nursery:
            for place in range(SEQUENCES):
                nursery.start_soon(ask, place)
        for prefix, row in zip(prefixes, rows, strict=True):
            prefix.append(int(np.random.choice(SIZE, p=softmax(row))))
    return [prefix[1:] for prefix in prefixes]


def seconds(way, seed: int, tokens: int) -> float:
    began = time.perf_counter()
    token_ids = trio.run(way, Sleeping(seed), tokens)
    elapsed = time.perf_counter() - began
    assert [len(drawn) for drawn in token_ids] == [tokens] * SEQUENCES
    return elapsed


class Away(httpx.ASGITransport):
    """In process, but for the way there and back."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.sleep(AWAY)
        return await super().handle_async_request(request)


async def ahead(protocol: str, sampler: Sampler, seed: int, tokens: int) -> float:
    """Tokens a second with ``lookahead="auto"`` over those without."""
    told = {"eos_token_ids": [256], "vocab_size": 257}
    async with connect("http://tiny", protocol, transport=Away(asgi_app(TinyLM(), protocols=[protocol])), **told) as model:
        elapsed, drawn = [], []
        for lookahead in (1, "auto"):
            began = time.perf_counter()
            drawn.append(
                await generate(list(b"The seed"), model, n=4, seed=seed, sampler=sampler, max_new_tokens=tokens, lookahead=lookahead)
            )
            elapsed.append(time.perf_counter() - began)
    assert drawn[0] == drawn[1]
    return elapsed[0] / elapsed[1]


def run(quick: bool) -> list[dict[str, object]]:
    return [*own_loops(quick), *lookahead(quick)]


def lookahead(quick: bool) -> list[dict[str, object]]:
    rounds, tokens = (2, 12) if quick else (5, 80)
    results = []
    for name, protocol, sampler in (("noise told", "native", Sampler()), ("greedy proposals, T = 0.7", "llama.cpp", Sampler(0.7))):
        ratios = [trio.run(ahead, protocol, sampler, seed, tokens) for seed in range(rounds)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        what = f"tokens/s from a server 20 ms away: lookahead auto / none, {name}"
        results.append(
            {"id": "ahead", "what": what, "ratio": ratio, "low": low, "high": high, "goal": GOAL, "ok": ratio >= GOAL, "sense": ">="}
        )
    return results


def own_loops(quick: bool) -> list[dict[str, object]]:
    rounds, tokens = (2, 6) if quick else (5, 24)
    ratios = [seconds(sketch, seed, tokens) / seconds(ours, seed, tokens) for seed in range(rounds)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    what = "tokens/s of 64 sequences, latency lognormal (sigma 1): own loops / lock-step gather"
    return [{"id": "P5", "what": what, "ratio": ratio, "low": low, "high": high, "goal": GOAL, "ok": ratio >= GOAL, "sense": ">="}]


if __name__ == "__main__":
    for result in run("--quick" in sys.argv):
        print(result)
