"""What every real server must keep, whichever it is: tokens, probes, refusals, and that a request given up leaves nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import trio

from seedbed import RecordingLLM, ReplayLLM, Sampler, connect, generate
from seedbed.errors import BadRequest, ContextOverflow, InvalidPrompt
from seedbed.testing import check_llm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

LONG = 100  # tokens; llama.cpp notices that its client has gone when it has read the prompt and answers
PATIENCE = 120


async def check_contract(url: str, prompt: Sequence[int], busy: Callable[[], Awaitable[int]], path: Path, **options: object) -> None:
    """All of it, over one connection's worth of a server.

    Args:
        url: the server.
        prompt: token ids it knows.
        busy: how many requests the server itself says it works on.
        path: where a recording may go.
        options: of ``connect``.
    """
    await check_rows(url, prompt, **options)
    await check_refusals(url, prompt, **options)
    await check_tokens(url, prompt, path, **options)
    await check_giving_up(url, prompt, busy, **options)


async def check_rows(url: str, prompt: Sequence[int], **options: object) -> None:
    """The same question twice, and the k best of the full row."""
    async with connect(url, **options) as model:
        await check_llm(model)
        row = await model.next_token_logits(prompt)
        assert row == await model.next_token_logits(prompt)
    async with connect(url, **{**options, "top_k": "all"}) as model:
        full = await model.next_token_logits(prompt)
        assert full.shape == (model.info.vocab_size,)
        logprobs = full - np.logaddexp.reduce(full, dtype=np.float64)
        np.testing.assert_allclose(logprobs[row.token_ids], row.logprobs, atol=3e-4)
        assert np.partition(full, -len(row))[-len(row)] == full[row.token_ids].min()


async def check_refusals(url: str, prompt: Sequence[int], **options: object) -> None:
    async with connect(url, **options) as model:
        assert model.info.context_length is not None
        assert model.info.vocab_size is not None
        with pytest.raises(BadRequest):
            await model.next_token_logits([*prompt, model.info.vocab_size])
        for length in (model.info.context_length, model.info.context_length + 50):
            with pytest.raises(ContextOverflow):
                await model.next_token_logits([prompt[0]] * length)
        with pytest.raises(InvalidPrompt):
            await generate([*prompt, model.info.vocab_size], model)


async def check_tokens(url: str, prompt: Sequence[int], path: Path, **options: object) -> None:
    """Live, again, through two replicas and replayed: the same, for a server that answers the same."""
    arguments = {"n": 3, "seed": 7, "sampler": Sampler(temperature=0.8, top_k=10), "max_new_tokens": 8}
    async with connect(url, max_connections=1, **options) as model, RecordingLLM(model, path) as recorded:
        live = await generate(prompt, recorded, **arguments)
        again = await generate(prompt, model, **{**arguments, "n": 1})
    async with connect([url, url.replace("127.0.0.1", "localhost")], max_connections=1, **options) as replicas:
        shared = await generate(prompt, replicas, **{**arguments, "n": 1})

    assert (await generate(prompt, ReplayLLM(path), **arguments)).sha256 == live.sha256
    assert again.sequences[0] == live.sequences[0]
    assert shared.sequences[0] == live.sequences[0]


async def check_giving_up(url: str, prompt: Sequence[int], busy: Callable[[], Awaitable[int]], **options: object) -> None:
    """Requests cancelled at all stages: the server has stopped working on them, and answers as before."""
    async with connect(url, **options) as model:
        row = await model.next_token_logits(prompt)
        long = [prompt[0]] * min(LONG, (model.info.context_length or LONG) - 10)
        for k in range(6):
            with trio.move_on_after(0.002 * 2**k):
                async with trio.open_nursery() as nursery:
                    for _ in range(2):
                        nursery.start_soon(model.next_token_logits, long)
        state = model.statistics()
        assert (state.under_way, state.waiting, state.pool.active) == (0, 0, 0)
        with trio.fail_after(PATIENCE):
            while await busy():  # noqa: ASYNC110, it is another process that is waited for
                await trio.sleep(0.05)
            assert await model.next_token_logits(prompt) == row
