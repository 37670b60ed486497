"""A sequence is a pure function of the answers, the seed, its prompt's index and its own index: everything else changes nothing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed import GenerationResult, HashLM, Sampler, TinyLM, generate, generate_token_ids
from seedbed.llm import LLM
from seedbed.testing import ScriptedLLM, schedules

PROMPTS = [[3, 1, 4], [1, 5]]
LENGTH = 12


def hash_lm() -> HashLM:
    return HashLM(240)


async def sampled(llm: object = None, **changes):
    arguments = {"n": 6, "seed": 7, "sampler": Sampler(temperature=1.3), "max_new_tokens": LENGTH} | changes
    return await generate(PROMPTS, llm or hash_lm(), **arguments)


async def test_fewer_sequences_are_a_prefix_of_more() -> None:
    few, many = await sampled(n=8), await sampled(n=64)

    for prompt in range(2):
        assert few.token_ids[prompt * 8 : prompt * 8 + 8] == many.token_ids[prompt * 64 : prompt * 64 + 8]


async def test_alone_it_is_what_it_is_among_siblings() -> None:
    together = await generate(PROMPTS[0], hash_lm(), n=6, seed=7, max_new_tokens=LENGTH)

    for index in range(6):
        alone = await generate_token_ids(PROMPTS[0], hash_lm(), seed=7, index=index, max_new_tokens=LENGTH)
        assert together.token_ids[index] == alone


async def test_a_shorter_run_is_a_prefix_of_a_longer_one() -> None:
    short, long = await sampled(max_new_tokens=4), await sampled()

    assert short.token_ids == [tokens[:4] for tokens in long.token_ids]


async def test_a_failed_sibling_changes_nothing() -> None:
    undisturbed = await sampled()
    victim = undisturbed.sequences[2]

    class Failing(ScriptedLLM):
        def __init__(self) -> None:
            super().__init__({})
            self.inner = hash_lm()

        async def next_token_logits(self, prev_token_ids):
            if tuple(prev_token_ids) == (*victim.prompt_token_ids, *victim.token_ids[:3]):
                raise OSError("gone")
            return await self.inner.next_token_logits(prev_token_ids)

    disturbed = await sampled(Failing(), on_error="keep")

    assert [s.finish_reason == "error" for s in disturbed.sequences] == [i == 2 for i in range(12)]
    for have, want in zip(disturbed.sequences, undisturbed.sequences, strict=True):
        assert have.token_ids == want.token_ids[: len(have.token_ids)]
        assert have.index == 2 or have.token_ids == want.token_ids


def test_any_of_50_schedules_gives_the_same_tokens() -> None:
    """Delays drawn from the prefix make tasks overtake each other; the scheduler shuffles those that wake together."""

    class Overtaking(HashLM):
        async def next_token_logits(self, prev_token_ids):
            await trio.sleep(hash(tuple(prev_token_ids)) % 3)
            return await super().next_token_logits(prev_token_ids)

    results = [run(lambda: sampled(Overtaking(240), n=3, max_new_tokens=8)) for run in schedules(50)]

    assert {result.sha256 for result in results} == {results[0].sha256}
    assert len({tuple(s.finished for s in result.sequences) for result in results}) == 1


@pytest.fixture(scope="module")
def undisturbed() -> GenerationResult:
    return trio.run(lambda: sampled(n=3))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 4), min_size=8, max_size=8))
def test_any_delays_give_the_same_tokens(undisturbed: GenerationResult, schedule: int, delays: list[int]) -> None:
    class Delayed(HashLM):
        async def next_token_logits(self, prev_token_ids):
            await trio.sleep(delays[sum(prev_token_ids) % 8])
            return await super().next_token_logits(prev_token_ids)

    (run,) = schedules(1, first=schedule)

    assert run(lambda: sampled(Delayed(240), n=3)) == undisturbed


async def test_a_model_that_answers_at_the_second_try_gives_the_same_tokens() -> None:
    class Retried(HashLM):
        async def next_token_logits(self, prev_token_ids):
            await super().next_token_logits(prev_token_ids)
            return await super().next_token_logits(prev_token_ids)

    assert (await sampled(Retried(240))).sha256 == (await sampled()).sha256


def test_another_process_gives_the_same_tokens() -> None:
    code = """
import trio
from seedbed import HashLM, Sampler, generate
async def main():
    return await generate([[3, 1, 4], [1, 5]], HashLM(240), n=6, seed=7, sampler=Sampler(temperature=1.3), max_new_tokens=12)
print(trio.run(main).sha256)
"""
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    assert there == trio.run(sampled).sha256


async def test_these_very_tokens_for_ever() -> None:
    """Pinned: a change here breaks every recorded run of every user."""
    result = await sampled()

    assert result.sha256 == "2d055f13234349538088cd9fe34cc71e60a30de40fe759cbc8cfe01dfa2e6784"


async def test_neighbouring_seeds_share_no_sequence() -> None:
    """With seed + index as a seed, 5 of 6 would be shared."""
    mine = {tuple(tokens) for tokens in (await sampled(seed=7)).token_ids}
    other = {tuple(tokens) for tokens in (await sampled(seed=8)).token_ids}

    assert len(mine) == len(other) == 12
    assert not mine & other


@pytest.mark.parametrize("llm", [TinyLM(), HashLM(50)], ids=repr)
async def test_rows_depend_on_the_prefix_alone(llm: LLM) -> None:
    for prefix in ([1], [1, 2, 3], list(range(40))):
        first = await llm.next_token_logits(prefix)
        await llm.next_token_logits([9, 9])
        assert np.array_equal(first, await llm.next_token_logits(tuple(prefix)))
