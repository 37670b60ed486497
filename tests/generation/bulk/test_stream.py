"""Many prompts as one stream: in order, a bounded number held, as many followed as there may be."""

from __future__ import annotations

import gc
import json
from collections import Counter

import numpy as np
import pytest
import trio

from seedbed import HashLM, Sampler, TinyLM, generate
from seedbed.errors import Overloaded, UsageError
from seedbed.generation import SampledSequence
from seedbed.generation.bulk import BadLine, Pace, Prompt, Recipe, open_stream
from seedbed.llm import ModelInfo
from seedbed.testing import ScriptedLLM


class Slow(ScriptedLLM):
    """Answers after a while that the first token of the prefix says; counts what is under way."""

    def __init__(self, seconds=lambda prefix: 1.0) -> None:
        super().__init__({}, default=[0.0, 1.0, 2.0], delay=seconds)
        self.under_way = self.most = 0
        self.busy = Counter()  # {questions under way: seconds}
        self._since = 0.0

    async def next_token_logits(self, prev_token_ids):
        self._count(+1)
        try:
            return await super().next_token_logits(prev_token_ids)
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        now = trio.current_time()
        self.busy[self.under_way] += now - self._since
        self._since, self.under_way = now, self.under_way + more
        self.most = max(self.most, self.under_way)


async def collected(prompts, llm, recipe, pace=None):
    async with open_stream(prompts, llm, recipe, pace) as stream:
        return [finished async for finished in stream], stream


async def test_rows_are_what_generate_gives_in_the_order_of_the_prompts(autojump_clock) -> None:
    """The later a prompt stands, the sooner it is done."""
    prompts = [[3 + place] for place in range(8)]
    want = await generate(prompts, Slow(), 3, seed=7, sampler=Sampler(0.8), max_new_tokens=5)
    finished, _ = await collected(
        (Prompt(place, (3 + place,), f"line {place}") for place in range(8)),
        Slow(lambda prefix: 20.0 - prefix[0]),
        Recipe(7, 3, Sampler(0.8), 5, text=False),
    )
    rows = [json.loads(line) for prompt in finished for line in prompt.lines.splitlines()]

    assert [prompt.prompt_index for prompt in finished] == list(range(8))
    assert [(r["prompt_index"], r["index"], r["token_ids"], r["logprobs"]) for r in rows] == [
        (s.prompt_index, s.index, list(s.token_ids), list(s.logprobs)) for s in want.sequences
    ]
    assert {(r["id"], r["seed"], r["text"]) for r in rows} == {(f"line {place}", "7", None) for place in range(8)}
    assert sum(prompt.tokens for prompt in finished) == want.stats.tokens


async def test_as_many_are_followed_as_may_be_until_the_prompts_run_out(autojump_clock) -> None:
    """Lengths from 1 to 40 tokens: without a window much wider than what is followed, the longest would hold up the others."""
    llm = Slow(lambda prefix: 1.0)
    llm._answer = lambda prefix: [9.0, 0.0] if len(prefix) > prefix[0] else [-9.0, 0.0]
    prompts = [Prompt(place, (2 + place * place % 40, 1 + place)) for place in range(150)]
    finished, stream = await collected(prompts, llm, Recipe(7, max_new_tokens=50, text=False), Pace(concurrency=10))

    assert len(finished) == 150
    assert llm.most == 10
    at_most, less = llm.busy[10], sum(llm.busy.values()) - llm.busy[10]
    assert less <= 40  # the last ones, at a second a token
    assert at_most > 5 * less
    assert stream.most_held <= 16 * 10


def count_alive() -> int:
    return sum(isinstance(thing, SampledSequence) for thing in gc.get_objects())


@pytest.mark.parametrize("n", [1, 3])
async def test_what_is_held_does_not_depend_on_how_many_prompts_there_are(n: int) -> None:
    """Counted exactly: prompts read and not handed on, and sequences that exist anywhere in this process."""
    pace = Pace(concurrency=8, window=32)
    gc.collect()
    alive, others = [], count_alive()  # those that other tests keep

    async def run(total: int) -> int:
        count = 0
        async with open_stream(
            (Prompt(p, (1, p % 16)) for p in range(total)), HashLM(16), Recipe(7, n, max_new_tokens=1, text=False), pace
        ) as stream:
            async for finished in stream:
                count += finished.tokens
                if finished.prompt_index % 100 == 99:
                    alive.append(count_alive() - others)
        assert stream.held == 0
        assert stream.most_held <= 32
        return count

    for total in (200, 600):
        assert await run(total) == total * n
    assert max(alive) <= 32 * n


async def test_a_slow_reader_holds_up_what_is_behind_the_window(autojump_clock) -> None:
    llm = Slow()
    read = []

    def prompts():
        for place in range(100):
            read.append(place)
            yield Prompt(place, (1, place))

    async with open_stream(prompts(), llm, Recipe(7, max_new_tokens=1, text=False), Pace(window=10)) as stream:
        await trio.sleep(1000)
        assert (stream.held, len(read)) == (10, 11)  # the eleventh is read, and waits outside
        await stream.__anext__()
        await trio.sleep(1000)
        assert (stream.held, len(read)) == (10, 12)


async def test_a_fault_of_a_prompt_skips_that_prompt_and_a_fault_of_the_server_ends_the_run(autojump_clock) -> None:
    info = ModelInfo(vocab_size=3, eos_token_ids=(0,), context_length=4)
    llm = ScriptedLLM({(2, 2): [float("nan")] * 3, (1, 1): Overloaded("too much", status=503)}, default=[0.0, 1.0, 2.0], info=info)
    prompts = [Prompt(0, (1,)), BadLine(1, "is no JSON"), Prompt(2, (1, 2, 3)), Prompt(3, (2, 2)), Prompt(4, (1,) * 4), Prompt(5, "a")]
    finished, _ = await collected(prompts, llm, Recipe(7, max_new_tokens=1, text=False))

    assert [(f.prompt_index, f.problem) for f in finished] == [
        (0, ""),
        (1, "is no JSON"),
        (2, "prompt 2 holds token id 3 at place 2; the model's vocabulary has ids 0 to 2"),
        (3, "the model's row holds nan for token 0 [prompt 3, sequence 0, step 0]"),
        (4, "prompt 4 has 4 tokens; the model's context holds 4, the continuation included"),
        (5, "this model has no tokenizer: give token ids instead of text"),
    ]
    before = []
    with pytest.raises(Overloaded, match=r"too much \[prompt 7, sequence 0, step 0\]"):
        async with open_stream([Prompt(6, (1,)), Prompt(7, (1, 1)), *(Prompt(p, (1,)) for p in range(8, 2000))], llm,
                               Recipe(7, max_new_tokens=1, text=False), Pace(window=8)) as stream:  # fmt: skip
            async for prompt in stream:
                before.append(prompt.prompt_index)

    assert before == [6]
    assert len(llm.asked) < 20


async def test_an_error_of_the_prompts_themselves_comes_out_as_itself_after_those_before_it() -> None:
    def prompts():
        yield Prompt(0, (1,))
        yield Prompt(1, (1, 2))
        raise error

    got = []
    for error in (OSError("the disk is gone"), UsageError("there is no file")):
        with pytest.raises(type(error)) as caught:
            async with open_stream(prompts(), HashLM(9), Recipe(7, max_new_tokens=1, text=False), Pace(window=1)) as stream:
                async for prompt in stream:
                    got.append(prompt.prompt_index)
        assert caught.value is error
    assert got == [0, 1, 0, 1]


async def test_any_partition_any_concurrency_any_schedule_gives_the_same_rows(autojump_clock) -> None:
    prompts = [Prompt(place, "The seed in spring"[: 3 + place], None) for place in range(6)]
    recipe = Recipe(7, 2, Sampler(0.9, top_k=10), 12, text=True)
    want = b"".join(f.lines for f in (await collected(prompts, TinyLM(), recipe))[0])
    for pace in (Pace(concurrency=1, window=1), Pace(prefix_cache_bytes=0), Pace(lookahead=4)):
        halves = [await collected(part, TinyLM(), recipe, pace) for part in (prompts[3:], prompts[:3])]

        assert b"".join(f.lines for half, _ in reversed(halves) for f in half) == want


async def test_wrong_arguments_are_refused() -> None:
    for make in (
        lambda: Pace(concurrency=0), lambda: Pace(concurrency=True), lambda: Pace(window=0), lambda: Pace(window=-(10**5000)),
        lambda: Pace(lookahead=0), lambda: Pace(prefix_cache_bytes=-1), lambda: Recipe(seed=-1), lambda: Recipe(n=-1),
        lambda: Recipe(n=1.0), lambda: Recipe(sampler=5), lambda: Recipe(max_new_tokens="8"), lambda: Recipe(stop_token_ids=5),
        lambda: Recipe(stop_sequences=[1, 2]), lambda: Recipe(stop_sequences=[[]]), lambda: Recipe(text="yes"),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            make()
    with pytest.raises(UsageError, match="needs a seed"):
        await collected([], TinyLM(), Recipe())


def test_whatever_ints_are_given_they_are_held_as_plain_ones() -> None:
    given = Recipe(np.uint64(7), np.int64(2), None, np.int32(5), {np.int64(9), 3}, [np.array([1, 2])], text=False)
    pace = Pace(np.int64(8), np.int64(4), np.int64(2), np.int64(0))

    assert repr(given) == repr(Recipe(7, 2, None, 5, (3, 9), ((1, 2),), text=False))
    assert repr(pace) == repr(Pace(8, 4, 2, 0))
