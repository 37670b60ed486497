"""Sequences in a nursery: arguments, deadlines, errors, cancellation. All waiting is on a virtual clock."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import trio
import trio.testing

from seedbed import (
    DeadlineExceeded,
    ModelInfo,
    PrefixCache,
    Sampler,
    generate,
    generate_token_ids,
    generate_token_ids_multiple,
    open_generation,
)
from seedbed.errors import InvalidPrompt, InvalidSeed, MalformedRow, NonFiniteLogits, UsageError
from seedbed.generation import nursery as nursery_module
from seedbed.testing import ScriptedLLM, cancel_at_each_step

FLAT = np.array([-np.inf, 0.0, 0.0, 0.0], dtype=np.float32)
STOP = np.array([0.0, -np.inf, -np.inf, -np.inf], dtype=np.float32)
HANDFUL = np.array([0.0, 0.0, 0.0, 0.0], dtype=np.float32)


class TestArguments:
    async def test_nothing_to_do_is_legal_sends_nothing_and_is_a_checkpoint(self) -> None:
        llm = ScriptedLLM({})
        for prompts, n, length in (([1], 0, None), ([], 4, None), ([[1], [2]], 3, 0)):
            with trio.testing.assert_checkpoints():
                result = await generate(prompts, llm, n=n, max_new_tokens=length)
            assert len(result.sequences) == (6 if length == 0 else 0)
        with trio.testing.assert_checkpoints():
            assert await generate_token_ids_multiple([1], llm, 0) == []
        assert llm.asked == []

    async def test_one_prompt_or_several(self) -> None:
        llm = ScriptedLLM({}, default=STOP)
        one = await generate([1, 2], llm, n=2, seed=7)
        several = await generate([[1, 2], [3]], llm, n=2, seed=7)
        array = await generate(np.array([1, 2]), llm, n=2, seed=7)

        assert [s.prompt_token_ids for s in one.sequences] == [(1, 2)] * 2
        assert [(s.prompt_index, s.index, s.prompt_token_ids) for s in several.sequences] == [
            (0, 0, (1, 2)), (0, 1, (1, 2)), (1, 0, (3,)), (1, 1, (3,)),
        ]  # fmt: skip
        assert array == one

    @pytest.mark.parametrize(
        "prompts", ["text", b"text", [["a"]], [[1.5]], [[True]], [[-1]], [[]], [[1], []], [[1], "x"], [[1], 5], 5, None]
    )
    async def test_what_is_no_prompt_is_refused_before_anything_is_sent(self, prompts: object) -> None:
        llm = ScriptedLLM({})
        with pytest.raises(InvalidPrompt):
            await generate(prompts, llm)
        assert llm.asked == []

    @pytest.mark.parametrize(
        "wrong",
        [
            {"n": -1}, {"n": True}, {"n": 1.5}, {"max_new_tokens": -1}, {"max_new_tokens": 1.5}, {"timeout": -1}, {"timeout": math.nan},
            {"sequence_timeout": -0.1}, {"on_error": "ignore"}, {"stop_sequences": [[]]}, {"stop_token_ids": ["x"]},
        ],
    )  # fmt: skip
    async def test_wrong_arguments_are_refused_before_anything_is_sent(self, wrong: dict[str, object]) -> None:
        llm = ScriptedLLM({})
        with pytest.raises(UsageError):
            await generate([1], llm, **wrong)
        assert llm.asked == []

    @pytest.mark.parametrize("seed", [-1, 2**128, True, 1.0, "7"])
    async def test_a_seed_is_an_int_below_2_to_the_128(self, seed: object) -> None:
        with pytest.raises(InvalidSeed):
            await generate([1], ScriptedLLM({}), seed=seed)

    async def test_a_fresh_seed_is_named_and_repeats_the_run(self) -> None:
        llm = ScriptedLLM({}, default=HANDFUL)
        first = await generate([1], llm, n=4)

        assert await generate([1], llm, n=4, seed=first.seed) == first
        assert (await generate([1], llm, n=4)).seed != first.seed

    async def test_ids_outside_a_known_vocabulary_are_named(self) -> None:
        llm = ScriptedLLM({}, info=ModelInfo(vocab_size=4))
        with pytest.raises(InvalidPrompt, match="prompt 1 holds token id 4 at place 2; the model's vocabulary has ids 0 to 3"):
            await generate([[1], [1, 2, 4]], llm)
        with pytest.raises(InvalidPrompt, match="stop_token_ids holds token id 4 at place 1; the model's vocabulary has ids 0 to 3"):
            await generate([1], llm, stop_token_ids=[3, 4])
        with pytest.raises(InvalidPrompt, match="a stop sequence holds token id 9 at place 0; the model's vocabulary has ids 0 to 3"):
            await generate([1], llm, stop_sequences=[[1], [9, 1]])

    async def test_a_known_context_bounds_prompt_and_continuation(self) -> None:
        llm = ScriptedLLM({}, default=FLAT, info=ModelInfo(vocab_size=4, context_length=5))

        assert len((await generate([1, 2], llm)).sequences[0].token_ids) == 3
        assert len((await generate([1, 2], llm, max_new_tokens=9)).sequences[0].token_ids) == 3
        with pytest.raises(InvalidPrompt, match="prompt 0 has 5 tokens; the model's context holds 5"):
            await generate([1] * 5, llm)

    async def test_stop_tokens_come_besides_the_models_own(self) -> None:
        ones = np.array([-np.inf, 0.0, -np.inf, -np.inf], dtype=np.float32)
        result = await generate([1], ScriptedLLM({}, default=ones), stop_token_ids=[1])
        stopped = await generate([1], ScriptedLLM({}, default=STOP), stop_token_ids=[1])
        sequence = await generate([1], ScriptedLLM({}, default=ones), stop_sequences=[[1, 1, 1]])

        assert result.sequences[0].stop_match == (1,)
        assert stopped.sequences[0].stop_match == (0,)
        assert sequence.sequences[0].token_ids == (1, 1, 1)

    async def test_a_row_of_the_wrong_length_is_an_error_with_its_place(self) -> None:
        llm = ScriptedLLM({}, default=[0.0, 0.0], info=ModelInfo(vocab_size=4))
        with pytest.raises(MalformedRow, match=r"2 tokens, the model's has 4 \[prompt 0, sequence 0, step 0\]"):
            await generate([1], llm)


class TestDeadlines:
    """A row takes 1 s, so after t seconds a sequence has floor(t) tokens."""

    async def test_the_total_deadline_returns_what_there_is(self, autojump_clock: trio.testing.MockClock) -> None:
        llm = ScriptedLLM({}, default=FLAT, delay=lambda prefix: prefix[0])
        result = await generate([[1], [2]], llm, seed=7, timeout=5.5)

        assert [(len(s.token_ids), s.finish_reason, s.finished) for s in result.sequences] == [(5, "deadline", 5.5), (2, "deadline", 5.5)]
        assert trio.current_time() == 5.5

    async def test_a_sequence_deadline_ends_that_sequence_only(self, autojump_clock: trio.testing.MockClock) -> None:
        llm = ScriptedLLM({}, default=FLAT, delay=lambda prefix: prefix[0])
        result = await generate([[1], [3]], llm, seed=7, max_new_tokens=3, sequence_timeout=4)

        assert [(len(s.token_ids), s.finish_reason, s.finished) for s in result.sequences] == [(3, "length", 3.0), (1, "deadline", 4.0)]

    async def test_sequences_that_had_no_time_to_begin_are_there_too(
        self, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nursery_module, "MAX_FOLLOWED", 2)
        llm = ScriptedLLM({}, default=FLAT, delay=1)
        result = await generate([1], llm, 5, seed=7, max_new_tokens=3, timeout=4, prefix_cache_bytes=0)

        assert [len(s.token_ids) for s in result.sequences] == [3, 3, 0, 0, 0]
        assert [s.finish_reason for s in result.sequences] == ["length", "length"] + ["deadline"] * 3

    async def test_the_seed_functions_raise_with_the_result(self, autojump_clock: trio.testing.MockClock) -> None:
        llm = ScriptedLLM({}, default=FLAT, delay=1)
        with pytest.raises(DeadlineExceeded) as one:
            await generate_token_ids([1], llm, seed=7, timeout=2.5)
        with pytest.raises(DeadlineExceeded) as several:
            await generate_token_ids_multiple([1], llm, 3, seed=7, timeout=2.5)

        assert [len(s.token_ids) for s in one.value.result.sequences] == [2]
        assert [len(s.token_ids) for s in several.value.result.sequences] == [2, 2, 2]
        assert isinstance(one.value, TimeoutError)

    async def test_a_sequences_own_time_counts_from_its_own_start(
        self, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two at a time, three seconds each, a row a second; everything ends at 7.75."""
        monkeypatch.setattr(nursery_module, "MAX_FOLLOWED", 2)
        llm = ScriptedLLM({}, default=FLAT, delay=1)
        result = await generate([1], llm, 6, seed=7, sequence_timeout=3.25, timeout=7.75, prefix_cache_bytes=0)

        assert [(s.started, s.finished) for s in result.sequences] == [(0.0, 3.25)] * 2 + [(3.25, 6.5)] * 2 + [(6.5, 7.75)] * 2
        assert [len(s.token_ids) for s in result.sequences] == [3, 3, 3, 3, 1, 1]
        assert {s.finish_reason for s in result.sequences} == {"deadline"}

    async def test_who_shares_a_request_waits_no_longer_than_its_own_deadline(self, autojump_clock: trio.testing.MockClock) -> None:
        """All three ask for the same first row, which takes 2 s and survives; where they part, each waits for itself."""
        llm = ScriptedLLM({}, default=FLAT, delay=2)
        async with open_generation([1], llm, 3, seed=7, sequence_timeout=5) as generation:
            finished = [(len(s.token_ids), s.finished) async for s in generation]

        assert finished == [(2, 5.0)] * 3
        assert llm.asked.count((1,)) == 1

    async def test_a_deadline_of_zero_is_legal(self, autojump_clock: trio.testing.MockClock) -> None:
        result = await generate([1], ScriptedLLM({}, default=FLAT), n=2, seed=7, timeout=0)

        assert [s.finish_reason for s in result.sequences] == ["deadline"] * 2

    def test_a_model_that_never_waits_does_not_outrun_a_deadline(self) -> None:
        """It computes a second a row, without a checkpoint of its own."""
        clock = trio.testing.MockClock()

        class NeverWaits(ScriptedLLM):
            async def next_token_logits(self, prev_token_ids):
                clock.jump(1.0)
                return FLAT

        result = trio.run(lambda: generate([1], NeverWaits({}), seed=7, timeout=10, max_new_tokens=1000), clock=clock)

        assert (len(result.sequences[0].token_ids), result.sequences[0].finish_reason) == (10, "deadline")

    async def test_an_outer_deadline_propagates_as_trio_demands(self, autojump_clock: trio.testing.MockClock) -> None:
        with trio.move_on_after(2.5) as scope:
            async with open_generation([1], ScriptedLLM({}, default=FLAT, delay=1), n=2, seed=7) as generation:
                await generation.wait()

        assert scope.cancelled_caught
        assert [(len(s.token_ids), s.finish_reason) for s in generation.sequences] == [(2, "cancelled")] * 2


class Flaky(ScriptedLLM):
    """Prompt [3] fails at its third row."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(lambda prefix: error if prefix[0] == 3 and len(prefix) == 3 else FLAT, delay=1)


class TestErrors:
    async def test_the_first_failure_comes_out_bare_with_its_cause_place_and_partial_result(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        error = NonFiniteLogits("NaN")
        error.__cause__ = OSError("below")
        with pytest.raises(NonFiniteLogits) as caught:
            await generate([[1], [3]], Flaky(error), seed=7, max_new_tokens=50)

        assert caught.value is error
        assert isinstance(caught.value.__cause__, OSError)
        assert (error.prompt_index, error.index, error.step) == (1, 0, 2)
        assert str(error) == "NaN [prompt 1, sequence 0, step 2]"
        assert [(len(s.token_ids), s.finish_reason) for s in error.result.sequences] in (
            [(2, "cancelled"), (2, "error")],
            [(3, "cancelled"), (2, "error")],
        )
        assert len(caught.traceback) < 12

    async def test_a_failure_that_is_not_ours_comes_out_unchanged_with_a_note_of_its_place(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        error = ConnectionResetError("gone")
        with pytest.raises(ConnectionResetError) as caught:
            await generate([[1], [3]], Flaky(error), seed=7, max_new_tokens=50)

        assert caught.value is error
        assert error.__notes__ == ["in prompt 1, sequence 0, step 2"]

    async def test_kept_errors_end_their_sequence_only(self, autojump_clock: trio.testing.MockClock) -> None:
        result = await generate([[1], [3]], Flaky(OSError("gone")), seed=7, max_new_tokens=5, on_error="keep")

        assert [(len(s.token_ids), s.finish_reason, s.error) for s in result.sequences] == [
            (5, "length", None), (2, "error", "OSError: gone"),
        ]  # fmt: skip

    @pytest.mark.parametrize("shared", [True, False])
    async def test_one_error_raised_again_and_again_has_its_own_place_each_time(self, shared: bool, autojump_clock) -> None:
        """Whether several sequences wait for one answer, or each for its own."""
        only = NonFiniteLogits("NaN")
        prompts = [[1]] * 3 if shared else [[1], [2], [3]]
        for _ in range(2):
            kept = await generate(prompts, ScriptedLLM({}, default=only, delay=1), seed=7, on_error="keep")

            assert [s.error for s in kept.sequences] == [f"NonFiniteLogits: NaN [prompt {place}, sequence 0, step 0]" for place in range(3)]

    async def test_one_error_raised_in_two_generations_is_two(self) -> None:
        """What the first caught stays as it is."""
        ours, theirs = NonFiniteLogits("NaN"), OSError("gone")
        theirs.add_note("a note")
        for only in (ours, theirs):
            caught = []
            for prompts in ([[5]], [[1], [6]], [[1], [6], [1]]):
                with pytest.raises(type(only)) as told:
                    await generate(prompts, ScriptedLLM({(1,): [9.0, 0.0], (5,): only, (6,): only}), seed=7, max_new_tokens=1)
                caught.append(told.value)

            assert caught[0] is only
            assert [error.args for error in caught] == [only.args] * 3
            if only is ours:
                assert [str(error) for error in caught] == [f"NaN [prompt {place}, sequence 0, step 0]" for place in (0, 1, 1)]
                assert [len(error.result.sequences) for error in caught] == [1, 2, 3]
            else:
                assert [error.__notes__ for error in caught] == [
                    ["a note", f"in prompt {place}, sequence 0, step 0"] for place in (0, 1, 1)
                ]

    async def test_siblings_of_a_failed_sequence_are_the_same_as_without_it(self, autojump_clock: trio.testing.MockClock) -> None:
        kept = await generate([[1], [3], [1]], Flaky(OSError("gone")), seed=7, max_new_tokens=5, on_error="keep")
        undisturbed = await generate([[1], [2], [1]], Flaky(OSError("gone")), seed=7, max_new_tokens=5)

        assert [kept.sequences[i] for i in (0, 2)] == [undisturbed.sequences[i] for i in (0, 2)]

    async def test_two_failures_in_one_moment_give_one_error(self, autojump_clock: trio.testing.MockClock) -> None:
        with pytest.raises(OSError, match="gone"):
            await generate([[3], [3], [3]], Flaky(OSError("gone")), seed=7)

    async def test_an_error_of_the_block_comes_out_bare(self) -> None:
        with pytest.raises(LookupError, match="mine"):
            async with open_generation([1], ScriptedLLM({}, default=FLAT), seed=7):
                raise LookupError("mine")

    async def test_a_failure_reaches_whoever_iterates(self, autojump_clock: trio.testing.MockClock) -> None:
        seen = []
        with pytest.raises(OSError, match="gone"):
            async with open_generation([[1], [3]], Flaky(OSError("gone")), seed=7) as generation:
                async for sequence in generation:
                    seen.append(sequence.finish_reason)
        assert seen == ["error"]

    async def test_a_failure_nobody_waits_for_comes_out_at_the_end_of_the_block(self, autojump_clock: trio.testing.MockClock) -> None:
        with pytest.raises(OSError, match="gone"):
            async with open_generation([[1], [3]], Flaky(OSError("gone")), seed=7):
                await trio.sleep(60)

    async def test_a_failure_reaches_everybody_who_waits_and_the_end_of_the_block_not_again(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        told = []
        async with open_generation([[1], [3]], Flaky(OSError("gone")), seed=7) as generation, trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(OSError, match="gone"):
                    await generation.wait()
                told.append(True)

            nursery.start_soon(wait)
            nursery.start_soon(wait)

        assert told == [True, True]

    async def test_nothing_of_the_machinery_is_its_context(self, autojump_clock: trio.testing.MockClock) -> None:
        for met_by in ("iterating", "waiting", "leaving"):
            error = OSError("gone")
            with pytest.raises(OSError, match="gone") as caught:
                async with open_generation([[1], [3]], Flaky(error), seed=7) as generation:
                    if met_by == "iterating":
                        async for _ in generation:
                            pass
                    elif met_by == "waiting":
                        await generation.wait()
                    else:
                        await trio.sleep(60)
            assert caught.value is error
            assert (error.__cause__, error.__context__) == (None, None)
            assert len(caught.traceback) < 12

    async def test_a_failure_beside_an_error_of_the_block_is_noted_on_it(self, autojump_clock: trio.testing.MockClock) -> None:
        with pytest.raises(LookupError, match="mine") as caught:
            async with open_generation([[1], [3]], Flaky(OSError("gone")), seed=7):
                await trio.sleep(60)
                raise LookupError("mine")

        assert caught.value.__notes__ == ["the generation had failed already: OSError: gone"]

    async def test_waiters_of_one_request_that_failed_each_say_their_own_place(self, autojump_clock: trio.testing.MockClock) -> None:
        llm = ScriptedLLM({}, default=NonFiniteLogits("NaN"), delay=1)
        result = await generate([1], llm, n=3, seed=7, on_error="keep")

        assert llm.asked == [(1,)]
        assert [s.error for s in result.sequences] == [f"NonFiniteLogits: NaN [prompt 0, sequence {index}, step 0]" for index in range(3)]


class TestIteration:
    async def test_sequences_come_as_they_finish_and_the_result_is_in_order(self, autojump_clock: trio.testing.MockClock) -> None:
        llm = ScriptedLLM({}, default=STOP, delay=lambda prefix: 10 - prefix[0])
        async with open_generation([[1], [2], [3]], llm, seed=7) as generation:
            order = [sequence.prompt_index async for sequence in generation]

        assert order == [2, 1, 0]
        assert [s.prompt_index for s in generation.result().sequences] == [0, 1, 2]

    async def test_leaving_early_cancels_the_rest_and_keeps_what_they_have(self, autojump_clock: trio.testing.MockClock) -> None:
        llm = ScriptedLLM({}, default=FLAT, delay=lambda prefix: prefix[0])
        async with open_generation([[1], [2]], llm, seed=7, max_new_tokens=5) as generation:
            async for first in generation:
                assert (first.prompt_index, trio.current_time()) == (0, 5.0)
                break

        assert [(len(s.token_ids), s.finish_reason) for s in generation.sequences] == [(5, "length"), (2, "cancelled")]
        assert trio.current_time() == 5.0

    async def test_a_slow_consumer_holds_nobody_up(self, autojump_clock: trio.testing.MockClock) -> None:
        async with open_generation([1], ScriptedLLM({}, default=STOP, delay=1), n=10, seed=7) as generation:
            finished = []
            async for sequence in generation:
                await trio.sleep(100)
                finished.append(sequence.finished)

        assert finished == [1.0] * 10

    async def test_the_deadline_ends_the_sequences_not_the_block(self, autojump_clock: trio.testing.MockClock) -> None:
        async with open_generation([1], ScriptedLLM({}, default=FLAT, delay=1), n=2, seed=7, timeout=2.5) as generation:
            reasons = [sequence.finish_reason async for sequence in generation]
            await trio.sleep(60)

        assert reasons == ["deadline"] * 2
        assert trio.current_time() == 62.5

    async def test_progress_can_be_read_at_any_time(self, autojump_clock: trio.testing.MockClock) -> None:
        async with open_generation([1], ScriptedLLM({}, default=FLAT, delay=1), n=2, seed=7, max_new_tokens=3) as generation:
            await trio.sleep(1.5)
            assert repr(generation) == "<Generation: 0 of 2 sequences finished, 2 tokens>"
            assert generation.progress == (0, 2, 2)
            await generation.wait()
            assert repr(generation) == "<Generation: 2 of 2 sequences finished, 6 tokens>"
        stats = generation.result().stats
        assert (stats.tokens, stats.rows, stats.waited) == (6, 6, 6.0)


class TestBoundedAdmission:
    async def test_sequences_begin_in_order_and_no_more_than_the_bound_at_once(
        self, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nursery_module, "MAX_FOLLOWED", 3)
        llm = ScriptedLLM({}, default=STOP, delay=1)
        result = await generate([1], llm, n=9, seed=7, prefix_cache_bytes=0)

        assert [s.started for s in result.sequences] == [0.0] * 3 + [1.0] * 3 + [2.0] * 3

    async def test_the_bound_changes_no_result(self, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
        llm = ScriptedLLM({}, default=HANDFUL)
        free = await generate([1], llm, n=20, seed=7)
        monkeypatch.setattr(nursery_module, "MAX_FOLLOWED", 2)

        assert await generate([1], llm, n=20, seed=7) == free


class TestManySequences:
    async def test_a_hundred_thousand_wait_their_turn_without_a_task_each(self) -> None:
        tracemalloc.start()
        async with open_generation([1], ScriptedLLM({}, delay=math.inf), n=100_000, seed=7) as generation:
            await trio.testing.wait_all_tasks_blocked()
            tasks = trio.lowlevel.current_statistics().tasks_living
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()

            assert tasks < nursery_module.MAX_FOLLOWED + 20  # and one for the request they share
            assert held < 20e6
            assert len(generation.sequences) == 100_000

    async def test_a_finished_sequence_is_cheap_and_made_once(self) -> None:
        async with open_generation([1], ScriptedLLM({}, default=STOP), n=500, seed=7) as generation:
            tracemalloc.start()
            await generation.wait()
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            first, second = generation.sequences, generation.sequences

        assert held / 500 < 1500  # bytes
        assert all(one is other for one, other in zip(first, second, strict=True))

    async def test_what_is_not_begun_is_made_once_too(self) -> None:
        async with open_generation([1], ScriptedLLM({}, delay=math.inf), n=5000, seed=7) as generation:
            await trio.testing.wait_all_tasks_blocked()
            first, second = generation.sequences, generation.sequences

        assert all(one is other for one, other in zip(first[2000:], second[2000:], strict=True))
        assert {s.finish_reason for s in first} == {"cancelled"}

    async def test_far_more_than_will_be_wanted_cost_nothing_before_they_begin(self) -> None:
        """A thousand million: the first to finish is there at once, whoever fails comes out, and what was begun can be read."""
        tracemalloc.start()
        async with open_generation([1], ScriptedLLM({}, default=STOP), n=10**9, seed=7) as generation:
            async for sequence in generation:
                assert sequence.finish_reason == "stop"
                break
        assert generation.progress.total == 10**9
        assert 1 <= len(generation.sequences) <= nursery_module.MAX_FOLLOWED
        with pytest.raises(OSError, match="gone"):
            await generate([1], ScriptedLLM({}, default=OSError("gone")), n=10**9)
        with pytest.raises(NonFiniteLogits) as caught:
            await generate([1], ScriptedLLM({}, default=NonFiniteLogits("NaN")), n=10**9)
        assert 1 <= len(caught.value.result.sequences) <= nursery_module.MAX_FOLLOWED
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert most < 30e6

    async def test_a_deadline_ends_those_that_were_begun(self, autojump_clock: trio.testing.MockClock) -> None:
        result = await generate([1], ScriptedLLM({}, default=FLAT, delay=1), n=10**9, seed=7, timeout=1.5)

        assert [s.finish_reason for s in result.sequences] == ["deadline"] * nursery_module.MAX_FOLLOWED
        assert [len(s.token_ids) for s in result.sequences] == [1] * nursery_module.MAX_FOLLOWED


class TestSharing:
    async def test_the_first_step_of_n_siblings_is_one_request(self, autojump_clock: trio.testing.MockClock) -> None:
        llm = ScriptedLLM({}, default=FLAT, delay=1)
        result = await generate([[1], [2]], llm, n=50, seed=7, max_new_tokens=1)

        assert sorted(llm.asked) == [(1,), (2,)]
        assert (result.stats.round_trips, result.stats.cache_hits, result.stats.rows) == (2, 98, 100)
        assert (result.stats.cache_rows, result.stats.cache_evictions) == (2, 0)

    async def test_also_of_those_that_begin_later(self, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nursery_module, "MAX_FOLLOWED", 4)
        llm = ScriptedLLM({}, default=FLAT, delay=lambda prefix: prefix[-1])
        await generate([1], llm, n=50, seed=7, max_new_tokens=3)

        assert llm.asked.count((1,)) == 1

    async def test_off_each_asks_for_itself(self) -> None:
        llm = ScriptedLLM({}, default=FLAT)
        result = await generate([1], llm, n=50, seed=7, max_new_tokens=1, prefix_cache_bytes=0)

        assert llm.asked == [(1,)] * 50
        assert (result.stats.round_trips, result.stats.cache_hits) == (50, 0)

    async def test_a_cache_of_the_callers_is_used_and_stays_open(self) -> None:
        llm = ScriptedLLM({}, default=FLAT)
        async with PrefixCache(llm) as cached:
            first = await generate([1], cached, n=4, seed=7, max_new_tokens=2)
            asked = len(llm.asked)
            second = await generate([1], cached, n=4, seed=7, max_new_tokens=2)
            await cached.next_token_logits([1])

        assert first == second
        assert len(llm.asked) == asked
        assert (second.stats.round_trips, second.stats.cache_hits) == (0, 8)

    async def test_counters_of_the_models_own_that_are_no_stats_do_no_harm(self) -> None:
        class Counts(ScriptedLLM):
            def counters(self):
                return {"requests": len(self.asked), "mine": 3}

        result = await generate([1], Counts({}, default=FLAT), n=4, seed=7, max_new_tokens=1)

        assert result.stats.requests == 1

    @pytest.mark.parametrize("wrong", [-1, 1.5, True])
    async def test_the_bound_is_a_number_of_bytes(self, wrong: object) -> None:
        with pytest.raises(UsageError, match="bytes"):
            await generate([1], ScriptedLLM({}), prefix_cache_bytes=wrong)


class TestCancellation:
    def test_cancelled_at_any_step_nothing_leaks_and_a_rerun_is_undisturbed(self) -> None:
        """Counted inside the model: every question begun was ended, and the tokens there are begin the undisturbed ones."""
        waiting = 0
        kept: list[tuple[int, ...]] = []

        class Counting(ScriptedLLM):
            async def next_token_logits(self, prev_token_ids):
                nonlocal waiting
                waiting += 1
                try:
                    return await super().next_token_logits(prev_token_ids)
                finally:
                    waiting -= 1

        async def main() -> None:
            async with open_generation([1], Counting({}, default=HANDFUL, delay=1), n=3, seed=7, max_new_tokens=4) as generation:
                try:
                    await generation.wait()
                finally:
                    kept[:] = [s.token_ids for s in generation.sequences]

        def check() -> None:
            assert waiting == 0
            assert all(whole[: len(part)] == part for part, whole in zip(kept, undisturbed, strict=False))

        result = trio.run(lambda: generate([1], ScriptedLLM({}, default=HANDFUL), n=3, seed=7, max_new_tokens=4))
        undisturbed = [s.token_ids for s in result.sequences]
        steps = cancel_at_each_step(main, check)

        assert steps > 20
        assert kept == undisturbed

    async def test_keyboard_interrupt_is_not_swallowed(self) -> None:
        with pytest.raises(BaseExceptionGroup) as caught:
            await generate([1], ScriptedLLM({}, default=KeyboardInterrupt()), seed=7)
        assert caught.group_contains(KeyboardInterrupt)


class TestResuming:
    async def test_a_partial_result_goes_on_exactly(self, autojump_clock: trio.testing.MockClock) -> None:
        sampler = Sampler(temperature=0.7)
        llm = ScriptedLLM({}, default=[0.0, 1.0, 2.0, 0.5], delay=1)
        whole = await generate([[1], [2]], llm, n=3, seed=7, sampler=sampler, max_new_tokens=20)
        partial = await generate([[1], [2]], llm, n=3, seed=7, sampler=sampler, max_new_tokens=20, timeout=2.5)
        llm.asked.clear()
        resumed = await generate([[1], [2]], llm, n=3, sampler=sampler, max_new_tokens=20, resume=partial, prefix_cache_bytes=0)

        assert {s.finish_reason for s in partial.sequences} >= {"deadline"}
        assert resumed == whole
        assert len(llm.asked) == sum(len(s.token_ids) for s in whole.sequences) - sum(len(s.token_ids) for s in partial.sequences)

    async def test_under_another_seed_or_prompt_it_is_refused(self) -> None:
        partial = await generate([1], ScriptedLLM({}, default=FLAT), seed=7, max_new_tokens=2)
        with pytest.raises(UsageError, match="seed"):
            await generate([1], ScriptedLLM({}, default=FLAT), seed=8, resume=partial)
        with pytest.raises(UsageError, match="does not continue prompt 0"):
            await generate([2], ScriptedLLM({}, default=FLAT), resume=partial)
