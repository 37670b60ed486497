"""P6: how many questions does a token cost when rows are asked for ahead, and how many the first step of many siblings?

Counts, not times, so they are the same on every machine; the tokens are asserted to be those of the plain loop. A server of the
native protocol draws with the client's own noise, so all it proposes is accepted; a real llama.cpp server (``make demo-llama`` installs it)
goes on greedily, and is walked along while the draws agree. Run: ``python -m tests.benchmarks lookahead``.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from seedbed import LLM, Sampler, TinyLM, connect, generate, serve

if TYPE_CHECKING:
    from types import ModuleType

GOAL = 0.5
SAMPLER = Sampler(temperature=0.7)
TEXT = "The quick brown fox jumps over"


def llama_example() -> ModuleType:
    """``tests/examples/llama_server.py``, which is a program first."""
    path = Path(__file__).parents[1] / "examples" / "llama_server.py"
    spec = importlib.util.spec_from_file_location("llama_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def questions_a_token(model: LLM, n: int, tokens: int) -> float:
    """Of n sequences with lookahead, which must have the tokens they have without."""
    prompt = await model.tokenize(TEXT)
    ahead = await generate(prompt, model, n, seed=7, sampler=SAMPLER, max_new_tokens=tokens, lookahead="auto")
    plain = await generate(prompt, model, n, seed=7, sampler=SAMPLER, max_new_tokens=tokens)
    # Rows of decoding and of prefilling may differ in their last bits, and so, seldom, a token.
    same = sum(one == other for one, other in zip(ahead.token_ids, plain.token_ids, strict=True))
    assert same >= 0.8 * n, f"{same} of {n} sequences have the tokens of the plain loop"
    return ahead.stats.round_trips / ahead.stats.tokens


async def first_step_of_siblings(n: int) -> int:
    """Questions for the first token of n sequences of one prompt."""
    result = await generate(list(b"The "), TinyLM(), n, seed=7, max_new_tokens=1)
    assert result.stats.tokens == n
    return result.stats.round_trips


async def over_http(n: int, tokens: int) -> float:
    async with serve(TinyLM()) as server, connect(server.url) as model:
        return await questions_a_token(model, n, tokens)


async def over_llama(n: int, tokens: int) -> float:
    async with llama_example().llama_server() as url, connect(url) as model:
        return await questions_a_token(model, n, tokens)


def _result(name: str, what: str, value: float, goal: float | None) -> dict[str, object]:
    return {
        "id": name,
        "what": what,
        "ratio": value,
        "low": value,
        "high": value,
        "goal": goal,
        "ok": None if goal is None else value <= goal,
    }


def run(quick: bool) -> list[dict[str, object]]:
    n, tokens = (4, 24) if quick else (8, 48)
    results = [
        _result("P6 siblings", "questions for the first step of 64 sequences of one prompt", trio.run(first_step_of_siblings, 64), 1),
        _result("P6 native", "questions a token, T = 0.7, lookahead auto, the client's noise", trio.run(over_http, n, tokens), GOAL),
    ]
    if not quick and llama_example().is_installed():  # the model itself takes a minute or two
        what = "questions a token, T = 0.7, lookahead auto, llama.cpp with a real 135M model"
        results.append(_result("P6", what, trio.run(over_llama, n, tokens), GOAL))
    return results


if __name__ == "__main__":
    for result in run("--quick" in sys.argv):
        print(result)
