"""``make fixtures``: record fixtures/recordings anew, and what was sampled meanwhile as the known answer. Nothing else writes there."""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from llama_server import llama_server

from seedbed import RecordingLLM, Sampler, TinyLM, connect, generate, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FIXTURES = Path(__file__).parents[2] / "fixtures"
TOP_K = 20


@asynccontextmanager
async def tiny_server() -> AsyncIterator[str]:
    async with serve(TinyLM()) as server:
        yield server.url


async def record(
    name: str, server: AbstractAsyncContextManager[str], prompts: list[str], n: int, sampler: Sampler, max_new_tokens: int
) -> dict[str, object]:
    path = FIXTURES / "recordings" / name
    shutil.rmtree(path, ignore_errors=True)
    async with server as url, connect(url, top_k=TOP_K) as model, RecordingLLM(model, path, top_k=TOP_K) as recorded:
        ids = [await recorded.tokenize(prompt) for prompt in prompts]
        result = await generate(ids, recorded, n, seed=7, sampler=sampler, max_new_tokens=max_new_tokens)
        recorded.note(result)
        texts = [await recorded.detokenize(sequence.token_ids) for sequence in result.sequences]
    print(f"{name}: {result.stats.tokens} tokens, sha256 {result.sha256}")
    return {
        "prompts": ids,
        "n": n,
        "seed": 7,
        "temperature": 0.9,
        "top_k": 10,
        "max_new_tokens": max_new_tokens,
        "sha256": result.sha256,
        "token_ids": result.token_ids,
        "texts": texts,
    }


async def main() -> None:
    sampler = Sampler(temperature=0.9, top_k=10)
    known = {
        "tiny-lm": await record("tiny-lm", tiny_server(), ["The seed", "In spring"], 8, sampler, 40),
        "smollm2": await record("smollm2", llama_server(), ["The capital of France is", "Once upon a time"], 4, sampler, 16),
    }
    (FIXTURES / "known_answers" / "recordings.json").write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    trio.run(main)
