"""A sequence that was cut short goes on exactly where it was: from JSON, in another process, mid-mirostat, however it was cut."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed import HashLM, SampledSequence, Sampler, generate, open_generation
from seedbed.errors import InvalidSampler, UsageError
from seedbed.generation import GenerationResult
from seedbed.testing import ScriptedLLM, cancel_at_each_step, schedules

LENGTH = 9
PROMPTS = [[3, 1, 4], [1, 5]]
MIROSTAT = Sampler(mirostat=2, mirostat_tau=1.0, mirostat_eta=1.0)
SAMPLERS = [
    Sampler(temperature=0.7),
    MIROSTAT,
    Sampler(mirostat=1, mirostat_tau=3.0, order="llama.cpp"),
    Sampler(xtc_probability=0.5, repetition_penalty=1.3, no_repeat_ngram_size=2),
    Sampler(top_k=20, draw="vllm"),
]


class Slow(HashLM):
    """A second a row, so that after t seconds a sequence has floor(t) tokens; for prompts that begin with 1, half a second more."""

    async def next_token_logits(self, prev_token_ids):
        await trio.sleep(1.5 if prev_token_ids[0] == 1 else 1.0)
        return await super().next_token_logits(prev_token_ids)


async def sampled(**changes: object) -> GenerationResult:
    arguments = {"n": 2, "seed": 7, "sampler": MIROSTAT, "max_new_tokens": LENGTH} | changes
    return await generate(PROMPTS, Slow(60), **arguments)


def through_json(result: GenerationResult) -> GenerationResult:
    return GenerationResult.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(SAMPLERS), st.lists(st.sampled_from([0, 0.5, 1, 2, 3.5, 5, 20]), min_size=1, max_size=3))
def test_cut_by_deadlines_however_often_it_is_as_if_never_cut(schedule: int, sampler: Sampler, timeouts: list[float]) -> None:
    (run,) = schedules(1, first=schedule)
    whole = run(lambda: sampled(sampler=sampler))
    result = run(lambda: sampled(sampler=sampler, timeout=timeouts[0]))
    for timeout in timeouts[1:]:
        result = run(lambda: sampled(sampler=sampler, timeout=timeout, resume=through_json(result)))  # noqa: B023
    result = run(lambda: sampled(sampler=sampler, seed=None, resume=through_json(result)))

    assert result == whole


def test_cancelled_at_any_step_and_resumed_it_is_as_if_never_cut() -> None:
    kept: tuple[SampledSequence, ...] = ()

    async def main() -> None:
        nonlocal kept
        async with open_generation(PROMPTS, Slow(60), 2, seed=7, sampler=MIROSTAT, max_new_tokens=3) as generation:
            try:
                await generation.wait()
            finally:
                kept = generation.sequences

    def check() -> None:
        nonlocal cut
        result = trio.run(lambda: generate(PROMPTS, HashLM(60), n=2, seed=7, sampler=MIROSTAT, max_new_tokens=3, resume=kept))
        assert result == whole
        cut += 0 < sum(len(sequence.token_ids) for sequence in kept) < 12

    cut = 0
    whole = trio.run(lambda: generate(PROMPTS, HashLM(60), n=2, seed=7, sampler=MIROSTAT, max_new_tokens=3))

    assert cancel_at_each_step(main, check) > 20
    assert cut > 5


def test_mirostats_state_matters_and_is_carried() -> None:
    """Without it the rest is another: what this file tests is not vacuous."""
    whole = trio.run(longer(MIROSTAT))
    partial = trio.run(longer(MIROSTAT, max_new_tokens=4))
    forgetful = [replace(sequence, resume=replace(sequence.resume, sampler_state=None)) for sequence in partial.sequences]

    assert all(sequence.resume.sampler_state is not None for sequence in partial.sequences)
    assert trio.run(longer(MIROSTAT, resume=partial)) == whole
    assert trio.run(longer(MIROSTAT, resume=forgetful)).token_ids != whole.token_ids


def longer(sampler: Sampler, **changes: object):
    arguments = {"n": 6, "seed": 7, "sampler": sampler, "max_new_tokens": 24} | changes
    return lambda: generate([3], HashLM(60), **arguments)


def test_another_process_goes_on_with_it() -> None:
    code = """
import json, sys, trio
from seedbed import GenerationResult, HashLM, Sampler, generate
partial = GenerationResult.from_dict(json.load(sys.stdin))
sampler = Sampler(mirostat=2, mirostat_tau=1.0, mirostat_eta=1.0)
async def main():
    return await generate([3], HashLM(60), n=6, sampler=sampler, max_new_tokens=24, resume=partial)
print(trio.run(main).sha256)
"""
    partial = json.dumps(trio.run(longer(MIROSTAT, max_new_tokens=5)).to_dict())
    there = subprocess.run([sys.executable, "-c", code], input=partial, capture_output=True, text=True, check=True).stdout.strip()

    assert there == trio.run(longer(MIROSTAT)).sha256


def test_more_room_lets_a_sequence_that_was_full_go_on() -> None:
    short = trio.run(longer(MIROSTAT, max_new_tokens=5))

    assert trio.run(longer(MIROSTAT, resume=short)) == trio.run(longer(MIROSTAT))


async def test_a_sequence_that_failed_tries_its_step_again() -> None:
    class FailsOnce(HashLM):
        failed = False

        async def next_token_logits(self, prev_token_ids):
            if len(prev_token_ids) == 4 and not self.failed:
                self.failed = True
                raise OSError("gone")
            return await super().next_token_logits(prev_token_ids)

    llm = FailsOnce(60)
    partial = await generate([3], llm, n=3, seed=7, max_new_tokens=6, on_error="keep")
    assert [s.finish_reason for s in partial.sequences].count("error") == 1

    assert await generate([3], llm, n=3, max_new_tokens=6, resume=partial) == await generate([3], HashLM(60), n=3, seed=7, max_new_tokens=6)


async def test_what_would_not_be_the_same_continuation_is_refused() -> None:
    llm = ScriptedLLM({}, default=[0.0, 3.0, 3.0])
    partial = await generate([1], llm, n=2, seed=7, sampler=MIROSTAT, max_new_tokens=6, stop_sequences=())
    llm.asked.clear()
    same = {"n": 2, "sampler": MIROSTAT, "max_new_tokens": 8, "resume": partial}
    for change, why in (
        ({"sampler": None}, r"begun with Sampler\(chain=\[MirostatV2\(tau=1.0, eta=1.0\)\]\), not Sampler\(chain=\[\]\)"),
        ({"seed": 8}, "begun with another seed"),
        ({"n": 1}, "sequence 1 of prompt 0, to be resumed, is none of the 1 asked for"),
        ({"max_new_tokens": 3}, "has 6 tokens already; max_new_tokens is 3"),
        ({"stop_token_ids": [1, 2]}, "went on where these stop rules would have ended it"),
        ({"stop_sequences": [partial.sequences[0].token_ids[1:3]]}, "went on where these stop rules would have ended it"),
        ({"resume": [partial.sequences[0]] * 2}, "to be resumed twice"),
        ({"resume": partial.sequences[0]}, "resume takes"),
        ({"resume": ["x"]}, "resume takes"),
        ({"resume": [replace(partial.sequences[0], token_ids=("x",))]}, "sequence 0 of prompt 0, to be resumed, holds 'x' at place 0"),
        ({"resume": None}, "resume takes"),
    ):
        with pytest.raises(UsageError, match=why):
            await generate([1], llm, **(same | change))
    with pytest.raises(UsageError, match="does not continue prompt 0"):
        await generate([2], llm, **same)
    assert llm.asked == []


def mask(prefix, logits):
    logits[prefix[-1]] = -np.inf
    return logits


async def test_a_function_of_the_users_own_is_the_same_sampler_wherever_it_lies_in_memory() -> None:
    partial = await generate([3], HashLM(60), seed=7, max_new_tokens=3, sampler=Sampler(processors=[mask]))

    assert " at 0x" not in partial.sampler
    assert partial.sampler == partial.sequences[0].resume.sampler
    elsewhere = replace(partial, sequences=tuple(SampledSequence.from_dict(s.to_dict()) for s in partial.sequences))
    await generate([3], HashLM(60), max_new_tokens=6, sampler=Sampler(processors=[mask]), resume=elsewhere)
    with pytest.raises(UsageError, match="begun with"):
        await generate([3], HashLM(60), max_new_tokens=6, resume=elsewhere)


async def test_a_sampler_is_a_sampler() -> None:
    with pytest.raises(InvalidSampler, match="must be a Sampler, .* not 'greedy'"):
        await generate([3], HashLM(60), sampler="greedy")
