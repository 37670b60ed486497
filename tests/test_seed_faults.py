"""The faults of the sketch this library began as, each by name: what it did wrong, and that it is right here."""

from __future__ import annotations

import numpy as np
import trio
import trio.testing

from seedbed import Sampler, generate, generate_token_ids, generate_token_ids_multiple
from seedbed.testing import ScriptedLLM

FLAT = np.zeros(64, dtype=np.float32)
FLAT[0] = -np.inf  # the stop token: never, unless a test says so


async def test_reseeding_at_every_step() -> None:
    """Seeding inside the loop gave every step the same noise, so a constant row gave one token for ever."""
    tokens = await generate_token_ids([1], ScriptedLLM({}, default=FLAT), seed=7, max_new_tokens=64)

    assert len(set(tokens)) > 30


async def test_seeding_by_position_in_the_list_of_unfinished() -> None:
    """A sequence's noise depended on how many before it had finished; here it is its own index's."""

    llm = ScriptedLLM({}, default=np.zeros(16, dtype=np.float32))
    together = await generate_token_ids_multiple([1], llm, 8, seed=7)
    alone = [await generate_token_ids([1], llm, seed=7, index=i) for i in range(8)]

    assert together == alone
    assert len({len(tokens) for tokens in together}) > 1


async def test_removing_from_a_list_while_iterating_it() -> None:
    """Two neighbours finishing in the same round left the second one in the list, to be asked again after its stop token."""
    llm = ScriptedLLM({}, default=[0.0, -np.inf])

    result = await generate([1], llm, n=16, seed=7, prefix_cache_bytes=0)  # off: each of the 16 asks for itself

    assert [sequence.token_ids for sequence in result.sequences] == [(0,)] * 16
    assert llm.asked == [(1,)] * 16


async def test_indexing_logits_by_sequence_id() -> None:
    """After one sequence had finished, the others were given each other's rows."""
    rows = {(p,): np.where(np.arange(8) == p, 0.0, -np.inf) for p in (3, 4, 5)}
    rows |= {(3, 3): np.where(np.arange(8) == 0, 0.0, -np.inf)}
    rows |= {(p, p): np.where(np.arange(8) == p + 2, 0.0, -np.inf) for p in (4, 5)}

    result = await generate([[3], [4], [5]], ScriptedLLM(rows), seed=7, max_new_tokens=2)

    assert result.token_ids == [[3, 0], [4, 6], [5, 7]]


async def test_mutating_the_callers_prompt() -> None:
    prompt = [1, 2, 3]

    await generate_token_ids(prompt, ScriptedLLM({}, default=FLAT), seed=7, max_new_tokens=5)
    await generate_token_ids_multiple(prompt, ScriptedLLM({}, default=FLAT), 3, seed=7, max_new_tokens=5)

    assert prompt == [1, 2, 3]


async def test_stopping_at_once_when_the_prompt_ends_with_the_stop_token() -> None:
    """Only generated tokens count."""
    tokens = await generate_token_ids([5, 0], ScriptedLLM({}, default=FLAT), seed=7, max_new_tokens=3)

    assert len(tokens) == 3


async def test_no_bound_on_length(autojump_clock: trio.testing.MockClock) -> None:
    """A model that never stops is bounded without being told to."""
    llm = ScriptedLLM({}, default=np.array([-np.inf, 0.0], dtype=np.float32))

    result = await generate([1], llm)

    assert result.sequences[0].finish_reason == "length"
    assert len(result.sequences[0].token_ids) == 2048


async def test_a_barrier_that_makes_every_step_wait_for_the_slowest(autojump_clock: trio.testing.MockClock) -> None:
    """Sequence 1 waits 100 s for each row, sequence 0 only 1 s: four rows take it 4 s, whatever its sibling does."""
    llm = ScriptedLLM({}, default=FLAT, delay=lambda prefix: 100.0 if prefix[0] == 2 else 1.0)

    result = await generate([[1], [2]], llm, seed=7, max_new_tokens=4)

    assert [sequence.finished for sequence in result.sequences] == [4.0, 400.0]


async def test_gathering_a_list_of_coroutines() -> None:
    """One failure left its siblings running unattended; here they are cancelled before it comes out."""
    cancelled: list[int] = []

    class Failing(ScriptedLLM):
        async def next_token_logits(self, prev_token_ids):
            if prev_token_ids[0] == 3:
                raise ConnectionResetError("gone")
            try:
                await trio.sleep_forever()
            finally:
                cancelled.append(prev_token_ids[0])

    try:
        await generate([[1], [2], [3]], Failing({}), seed=7)
    except ConnectionResetError:
        pass

    assert sorted(cancelled) == [1, 2]


async def test_global_numpy_state() -> None:
    """Sampling neither reads nor writes numpy's global generator."""
    before = np.random.get_state(legacy=True)
    first = await generate_token_ids([1], ScriptedLLM({}, default=FLAT), seed=7, max_new_tokens=8)
    np.random.seed(1)
    second = await generate_token_ids([1], ScriptedLLM({}, default=FLAT), seed=7, max_new_tokens=8)
    np.random.set_state(before)
    await generate_token_ids([1], ScriptedLLM({}, default=FLAT), sampler=Sampler(top_p=0.5), max_new_tokens=8)
    after = np.random.get_state(legacy=True)

    assert first == second
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))
