"""Cancelled before any of its steps, under any schedule: nothing is left behind, counts add up, a rerun gives the undisturbed result."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.http.fakes import INFO, FakeHost, model_behind

from seedbed import (
    BlockingLLM,
    HashLM,
    PrefixCache,
    RecordingLLM,
    ReplayLLM,
    SampledSequence,
    Sampler,
    as_llm,
    generate,
    open_generation,
    open_recording,
)
from seedbed.generation import Generation
from seedbed.testing import ScriptedLLM, cancel_at_each_step, schedules

PROMPTS, PROMPTS_OF_FOUR = [[3, 1], [1, 5]], [[3, 1], [1]]
ARGUMENTS = {"n": 3, "seed": 7, "max_new_tokens": 4, "sampler": Sampler(temperature=0.6)}


class Counting(HashLM):
    """Proposes greedily, answers after a delay from the prefix, and counts what is under way."""

    def __init__(self) -> None:
        super().__init__(6)
        self.begun = self.under_way = 0

    async def next_token_logits(self, prev_token_ids):
        (_, rows) = await self.logits_ahead(prev_token_ids, 1)
        return rows[0]

    async def logits_ahead(self, prev_token_ids, count):
        self.begun += 1
        self.under_way += 1
        try:
            await trio.sleep(sum(prev_token_ids) % 3)
            prefix, rows = list(prev_token_ids), []
            for _ in range(count):
                rows.append(await super().next_token_logits(prefix))
                prefix.append(int(rows[-1].argmax()))
            return prefix[len(prev_token_ids) :], rows
        finally:
            self.under_way -= 1


def living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def begins(part: tuple[SampledSequence, ...], whole: tuple[SampledSequence, ...]) -> bool:
    return all(w.token_ids[: len(p.token_ids)] == p.token_ids for p, w in zip(part, whole, strict=True))


class Run:
    """One cancelled run: what it used, and what it left."""

    def __init__(self, **changes: object) -> None:
        self.changes = changes
        self.undisturbed = trio.run(self.rerun).sequences
        self.generation: Generation | None = None

    async def rerun(self, resume=()):
        return await generate(PROMPTS, HashLM(6), **ARGUMENTS, resume=resume)

    async def iterate(self) -> None:
        self.llm, self.generation, self.seen = Counting(), None, []
        before = living()
        try:
            async with open_generation(PROMPTS, self.llm, **(ARGUMENTS | self.changes)) as self.generation:
                async for sequence in self.generation:
                    self.seen.append(sequence)
        finally:
            assert living() == before

    def check(self) -> None:
        assert self.llm.under_way == 0
        if self.generation is None:  # cancelled before it was open
            return
        result = self.generation.result()
        assert begins(result.sequences, self.undisturbed)
        assert set(self.seen) <= set(result.sequences)
        assert self.generation.progress.tokens == result.stats.tokens
        assert result.stats.round_trips == self.llm.begun
        assert result.stats.round_trips + result.stats.cache_hits <= result.stats.rows
        assert sum(s.finished is not None for s in result.sequences) == self.generation.progress.finished
        for have, want in zip(result.sequences, self.undisturbed, strict=True):
            assert have == want or have.finish_reason in ("cancelled", "deadline")
        assert trio.run(self.rerun, result).sequences == self.undisturbed


@pytest.mark.parametrize(
    "changes", [{}, {"prefix_cache_bytes": 0}, {"lookahead": 3}, {"lookahead": "auto", "prefix_cache_bytes": 1000}], ids=str
)
def test_cancelled_at_any_step(changes: dict[str, object]) -> None:
    run = Run(**changes)
    steps = cancel_at_each_step(run.iterate, run.check)
    run.check()

    assert steps > 30
    assert run.generation.sequences == run.undisturbed


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([0, 1, 2, 3, 4, 5, 7]),
    st.sampled_from([0, 1, 3, 9]),
    st.sampled_from([1, 3, "auto"]),
    st.sampled_from([0, 2**28]),
)
def test_any_deadlines_under_any_schedule_leave_the_beginnings_of_the_undisturbed_sequences(
    schedule: int, total: float, own: float, lookahead: object, cache: int
) -> None:
    run = Run(lookahead=lookahead, timeout=total, sequence_timeout=own, prefix_cache_bytes=cache)
    runs = [*schedules(2, first=schedule)]
    kept = []
    for scheduled in runs:
        scheduled(run.iterate)
        run.check()
        kept.append(run.generation.sequences)
        assert all(
            (s.finish_reason == "deadline") == (s.finished in (total, own) and s != u)
            for s, u in zip(kept[-1], run.undisturbed, strict=True)
        )

    assert kept[0] == kept[1]  # a deadline in the very moment of an answer is decided by rule, not by whose turn it is


def test_a_cache_shared_by_generations_survives_the_cancellation_of_one_of_them() -> None:
    llm = Counting()
    results = {}

    async def main() -> None:
        llm.begun = 0
        results.clear()
        async with PrefixCache(llm) as cached, trio.open_nursery() as nursery:

            async def follow(name: str, **changes: object) -> None:
                results[name] = await generate(PROMPTS, cached, **(ARGUMENTS | changes))

            nursery.start_soon(follow, "whole")
            nursery.start_soon(lambda: follow("cut", timeout=1))
            nursery.start_soon(lambda: follow("again"))

    def check() -> None:
        assert llm.under_way == 0

    undisturbed = trio.run(lambda: generate(PROMPTS, HashLM(6), **ARGUMENTS))
    cancel_at_each_step(main, check)

    assert results["whole"] == results["again"] == undisturbed
    assert begins(results["cut"].sequences, undisturbed.sequences)
    assert llm.begun == len({(s.prompt_index, s.token_ids[:k]) for s in undisturbed.sequences for k in range(len(s.token_ids))})


def test_a_blocking_model_gives_every_thread_back() -> None:
    """No deadlines here, so the virtual clock has nothing to jump to while threads run."""
    limiter = trio.CapacityLimiter(2)
    running = threading.Semaphore(0)

    class Blocking(BlockingLLM):
        def next_token_logits(self, prev_token_ids):
            running.release()
            return [0.0, float(len(prev_token_ids)), 1.0]

        def get_stop_token_id(self) -> int:
            return 0

    async def main() -> None:
        try:
            await generate([1], as_llm(Blocking(), limiter=limiter), n=3, seed=7, max_new_tokens=2)
        finally:
            with trio.CancelScope(shield=True):
                while limiter.borrowed_tokens:  # abandoned threads give theirs back when they end
                    await trio.lowlevel.checkpoint()

    def check() -> None:
        statistics = limiter.statistics()
        assert (statistics.borrowed_tokens, statistics.tasks_waiting) == (0, 0)

    assert cancel_at_each_step(main, check) > 10


class TestInterrupts:
    """KeyboardInterrupt wins over everything that fails in the same moment."""

    class AtOnce(ScriptedLLM):
        """All answers come in one moment: of tasks woken by one event each runs, even when another has had everything cancelled."""

        def __init__(self, script, asking: int) -> None:
            super().__init__(script)
            self.asking, self.moment = asking, trio.Event()

        async def arrive(self) -> None:
            self.asking -= 1
            if self.asking:
                await self.moment.wait()
            else:
                self.moment.set()

        async def next_token_logits(self, prev_token_ids):
            await self.arrive()
            raise self._answer(tuple(prev_token_ids))

    @pytest.mark.parametrize("cache", [0, 2**20])
    @pytest.mark.parametrize("on_error", ["raise", "keep"])
    def test_over_a_sequence_that_fails_with_it(self, cache: int, on_error: str) -> None:
        answers = {(1,): KeyboardInterrupt(), (2,): OSError("gone"), (3,): OSError("gone too")}

        for run in schedules(20):
            llm = self.AtOnce(answers, 3)
            with pytest.raises(BaseExceptionGroup) as caught:
                run(lambda: generate([[2], [1], [3]], llm, on_error=on_error, prefix_cache_bytes=cache))  # noqa: B023
            assert caught.group_contains(KeyboardInterrupt)
            assert not caught.group_contains(OSError)

    def test_over_an_error_of_the_block(self) -> None:
        async def main(llm: ScriptedLLM) -> None:
            async with open_generation([1], llm):
                await llm.arrive()
                raise LookupError("mine")

        for run in schedules(20):
            with pytest.raises(BaseExceptionGroup) as caught:
                run(main, self.AtOnce({(1,): KeyboardInterrupt()}, 2))
            assert caught.group_contains(KeyboardInterrupt)

    def test_what_there_was_can_still_be_read(self) -> None:
        generation: Generation

        async def main() -> None:
            nonlocal generation
            llm = ScriptedLLM(lambda prefix: KeyboardInterrupt() if len(prefix) == 4 else [-9e9, 0.0, 0.0], delay=1)
            async with open_generation([1], llm, n=2, seed=7) as generation:
                await generation.wait()

        (run,) = schedules(1)
        with pytest.raises(BaseExceptionGroup):
            run(main)
        assert {len(s.token_ids) for s in generation.sequences} == {3}

    @pytest.mark.parametrize("lookahead", [1, 3])
    def test_an_interrupt_is_no_error_of_a_sequence(self, lookahead: int) -> None:
        """Wherever it strikes, in the middle of a request that several wait for: who was not done is cancelled, none has failed."""
        generation: Generation
        answers = {(3, 1): KeyboardInterrupt(), (3, 2): [0.0, 0.0, 9e9]}
        llm = ScriptedLLM(
            lambda prefix: answers.get(prefix[:2], [-9e9, 0.0, 0.0]), delay=lambda prefix: 2.0 if prefix[:2] == (3, 1) else 1.0
        )

        async def main() -> None:
            nonlocal generation
            async with open_generation([[3], [3, 1], [4]], llm, n=4, seed=7, max_new_tokens=5, lookahead=lookahead) as generation:
                await generation.wait()

        for run in schedules(5):
            with pytest.raises(BaseExceptionGroup) as caught:
                run(main)
            assert caught.group_contains(KeyboardInterrupt)
            assert {s.finish_reason for s in generation.sequences} == {"cancelled"}
            assert {s.error for s in generation.sequences} == {None}


class TestModelsWithTasksOfTheirOwn:
    """A model may fail while it cleans up after being cancelled: Cancelled and the error in one group."""

    class FailsToCleanUp(ScriptedLLM):
        async def next_token_logits(self, prev_token_ids):
            if prev_token_ids[0] == 2:
                raise ConnectionResetError("the first error")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                try:
                    await trio.sleep_forever()
                finally:
                    raise OSError("while cleaning up")

    @pytest.mark.parametrize("cache", [0, 2**20])
    def test_the_first_error_comes_out_bare(self, cache: int) -> None:
        for run in schedules(10):
            with pytest.raises(ConnectionResetError, match="the first error"):
                run(lambda: generate([[1], [2]], self.FailsToCleanUp({}), prefix_cache_bytes=cache))

    @pytest.mark.parametrize("cache", [0, 2**20])
    def test_a_deadline_is_still_a_deadline(self, cache: int) -> None:
        (run,) = schedules(1)
        result = run(lambda: generate([1], self.FailsToCleanUp({}), sequence_timeout=5, prefix_cache_bytes=cache))

        assert [s.finish_reason for s in result.sequences] == ["deadline"]


def test_cancelled_at_any_step_of_the_whole_stack(tmp_path: Path) -> None:
    """Sequences over a prefix cache over a recorder over HTTP with two places: no place, waiter or half an answer is left behind."""
    models, kept = [], []
    arguments = {"n": 2, "seed": 7, "max_new_tokens": 4, "lookahead": 2, "sampler": Sampler(temperature=1.5)}
    server = ScriptedLLM({}, default=[0.0, 0.5, 1.0, 0.5], info=INFO, delay=lambda prefix: sum(prefix) % 3)

    async def main() -> None:
        kept.clear()
        before = living()
        try:
            async with (
                model_behind(FakeHost(server), max_connections=2) as model,
                RecordingLLM(model, tmp_path / "r", top_k=4, extend=True) as recorded,
                open_generation(PROMPTS_OF_FOUR, recorded, **arguments) as generation,
            ):
                models.append(model)
                try:
                    await generation.wait()
                finally:
                    kept[:] = generation.sequences
        finally:
            assert living() == before

    def check() -> None:
        assert all((model.statistics().under_way, model.statistics().waiting) == (0, 0) for model in models)
        assert not kept or begins(tuple(kept), undisturbed.sequences)
        if (tmp_path / "r" / "manifest.json").exists():
            open_recording(tmp_path / "r").verify()

    undisturbed = trio.run(lambda: generate(PROMPTS_OF_FOUR, ScriptedLLM({}, default=[0.0, 0.5, 1.0, 0.5], info=INFO), **arguments))

    assert cancel_at_each_step(main, check) > 30
    assert [s.token_ids for s in kept] == [s.token_ids for s in undisturbed.sequences]
    replayed = trio.run(lambda: generate(PROMPTS_OF_FOUR, ReplayLLM(tmp_path / "r"), **arguments))
    assert replayed.token_ids == undisturbed.token_ids
