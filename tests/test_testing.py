"""The tools for testing are tested: each finds what it is for, and nothing where there is nothing."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import seedbed.testing
from seedbed import HashLM, ModelInfo, TinyLM, TopLogprobs
from seedbed.errors import UsageError
from seedbed.llm import LLM
from seedbed.testing import ScriptedLLM, assert_same_distribution, cancel_at_each_step, check_llm, schedules


def test_what_is_public() -> None:
    assert seedbed.testing.__all__ == sorted(seedbed.testing.__all__)
    assert all(getattr(seedbed.testing, name).__doc__ for name in seedbed.testing.__all__)


class TestScriptedLLM:
    async def test_it_answers_by_prefix_by_default_or_not_at_all(self) -> None:
        llm = ScriptedLLM({(1,): [0.0, 1.0], (1, 2): TopLogprobs([1], [-0.5], 9)}, default=[5.0])
        assert await llm.next_token_logits([1]) == [0.0, 1.0]
        assert await llm.next_token_logits((1, 2)) == TopLogprobs([1], [-0.5], 9)
        assert await llm.next_token_logits(np.array([3])) == [5.0]
        assert llm.asked == [(1,), (1, 2), (3,)]
        with pytest.raises(LookupError, match=r"no answer for \[7, 8\]"):
            await ScriptedLLM({}).next_token_logits([7, 8])

    async def test_it_answers_by_a_function_and_raises_what_it_is_told_to(self) -> None:
        llm = ScriptedLLM(lambda prefix: OSError("gone") if len(prefix) > 1 else [float(prefix[0])])
        assert await llm.next_token_logits([4]) == [4.0]
        with pytest.raises(OSError, match="gone"):
            await llm.next_token_logits([4, 4])

    async def test_it_takes_the_time_it_is_told_to(self, autojump_clock: trio.testing.MockClock) -> None:
        await ScriptedLLM({}, default=[0.0], delay=2.5).next_token_logits([1])
        assert trio.current_time() == 2.5
        await ScriptedLLM({}, default=[0.0], delay=lambda prefix: prefix[0]).next_token_logits([7])
        assert trio.current_time() == 9.5

    def test_it_tells_what_it_is_told(self) -> None:
        llm = ScriptedLLM({}, stop_token_id=5, info=ModelInfo(model="mine"))
        assert (llm.get_stop_token_id(), llm.eos_token_ids, llm.info) == (5, (5,), ModelInfo(model="mine"))


class Broken(LLM):
    """A right model, to be broken in one way by a subclass."""

    def __init__(self) -> None:
        self.calls = 0

    async def next_token_logits(self, prev_token_ids):
        self.calls += 1
        await trio.lowlevel.checkpoint()
        return self.row(prev_token_ids)

    def row(self, prefix):
        return [float(prefix[-1]), float(len(prefix)), 0.0]

    def get_stop_token_id(self) -> int:
        return 2


class NoCheckpoint(Broken):
    async def next_token_logits(self, prev_token_ids):
        return self.row(prev_token_ids)


class SwallowsCancelled(Broken):
    async def next_token_logits(self, prev_token_ids):
        with trio.CancelScope(shield=True):
            return await super().next_token_logits(prev_token_ids)


class ModifiesThePrefix(Broken):
    def row(self, prefix):
        prefix.append(1)
        return super().row(prefix)


class TwoLengths(Broken):
    def row(self, prefix):
        return [0.0] * (2 + len(prefix))


class NoRow(Broken):
    def row(self, prefix):
        return [[0.0, 1.0, 2.0]]


class OnceThisOnceThat(Broken):
    def row(self, prefix):
        return [float(self.calls % 2), 0.0, 0.0]


class OnePartAlone(Broken):
    """Alone right; with others in flight, everybody has the last one's row."""

    async def next_token_logits(self, prev_token_ids):
        self.latest = list(prev_token_ids)
        await super().next_token_logits(prev_token_ids)
        return self.row(self.latest)


class LosesItsLimiter(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.limiter = trio.Semaphore(1)

    async def next_token_logits(self, prev_token_ids):
        await self.limiter.acquire()
        await trio.sleep(0.001)
        row = await super().next_token_logits(prev_token_ids)
        self.limiter.release()
        return row


class NoRowInCompany(Broken):
    """The first answers, and those to cancelled calls, are right."""

    count = 0

    async def next_token_logits(self, prev_token_ids):
        self.count += 1
        row = await super().next_token_logits(prev_token_ids)
        return row if self.count <= 5 else [row]


class StopsOutside(Broken):
    def get_stop_token_id(self) -> int:
        return 3


class StopsOutsideToo(Broken):
    eos_token_ids = (2, 99)


class TooMuchAhead(Broken):
    async def logits_ahead(self, prev_token_ids, count):
        return [0] * 9, [await self.next_token_logits(prev_token_ids)] * (count + 1)


class ProposesTooLittle(Broken):
    async def logits_ahead(self, prev_token_ids, count):
        return [], [await self.next_token_logits(prev_token_ids)] * count


class RowsOfOthersAhead(Broken):
    async def logits_ahead(self, prev_token_ids, count):
        return [2] * count, [await self.next_token_logits(prev_token_ids)] * count


class ShiftedAhead(Broken):
    async def logits_ahead(self, prev_token_ids, count):
        return [], [await self.next_token_logits([*prev_token_ids, 2])]


class TestCheckLLM:
    @pytest.mark.parametrize(
        "llm",
        [Broken(), TinyLM(), HashLM(50), ScriptedLLM({}, default=TopLogprobs([1, 2], [-1.0, -1.0], 9))],
        ids=lambda llm: type(llm).__name__,
    )
    async def test_a_right_model_passes(self, llm: LLM) -> None:
        await check_llm(llm)

    async def test_anybodys_object_of_that_shape_is_held_to_it(self) -> None:
        class Blocking:
            def next_token_logits(self, prev_token_ids):
                return [0.0, float(len(prev_token_ids))]

            def get_stop_token_id(self):
                return 1

        await check_llm(Blocking())
        with pytest.raises(UsageError, match="3 is no language model: it has no method next_token_logits"):
            await check_llm(3)

    async def test_a_model_that_looks_ahead_rightly_passes(self) -> None:
        class Ahead(Broken):
            async def logits_ahead(self, prev_token_ids, count):
                longer = [[*prev_token_ids, *[2] * j] for j in range(count)]
                return [2] * count, [await self.next_token_logits(prefix) for prefix in longer]

        await check_llm(Ahead())

    @pytest.mark.parametrize(
        ("broken", "says"),
        [
            (NoCheckpoint, "next_token_logits has no checkpoint"),
            (SwallowsCancelled, "must raise Cancelled"),
            (ModifiesThePrefix, r"modified its argument: want \[1\], have \[1, 1\]"),
            (TwoLengths, r"rows of several lengths: \[3, 4\]"),
            (NoRowInCompany, r"must have shape \(vocab_size,\)"),
            (NoRow, r"must have shape \(vocab_size,\)"),
            (OnceThisOnceThat, r"asked twice|alone and with others"),
            (OnePartAlone, r"prefix \[1, 2\] alone and with others in flight|prefix \[1\] alone and with others in flight"),
            (LosesItsLimiter, "no answer 60 s after a cancelled call"),
            (StopsOutside, "stop token 3 is outside the vocabulary of 3"),
            (StopsOutsideToo, "stop token 99 is outside"),
            (TooMuchAhead, "asked for 1 to 1 rows and returned 2"),
            (ProposesTooLittle, "3 rows along 0 proposed tokens"),
            (RowsOfOthersAhead, r"prefix \[1, 2\] alone and as row 1 ahead"),
            (ShiftedAhead, r"prefix \[1\] alone and as row 0 of 1 ahead"),
        ],
    )
    def test_every_way_to_be_broken_is_found_and_named(self, broken: type[Broken], says: str) -> None:
        for run in schedules(5):
            with pytest.raises(AssertionError, match=says):
                run(check_llm, broken())


class TestCancelAtEachStep:
    def test_every_step_is_struck_once(self) -> None:
        reached: list[int] = []

        async def main() -> None:
            reached.append(0)
            for _ in range(4):
                await trio.lowlevel.checkpoint()
                reached[-1] += 1

        runs = cancel_at_each_step(main)

        assert reached[-1] == 4
        assert len(reached) == runs
        assert set(reached) == {0, 1, 2, 3, 4}
        assert reached == sorted(reached)

    def test_steps_of_children_count_too(self) -> None:
        struck = Counter()

        async def child(name: str) -> None:
            try:
                await trio.sleep(1)
                await trio.sleep(1)
            except trio.Cancelled:
                struck[name] += 1
                raise

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child, "a")
                nursery.start_soon(child, "b")

        cancel_at_each_step(main)

        assert struck["a"] >= 3
        assert struck["b"] >= 3

    def test_a_leak_is_found_with_the_step_at_which_it_happens(self) -> None:
        limiter = trio.CapacityLimiter(1)

        async def main() -> None:
            await limiter.acquire_on_behalf_of("me")
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            limiter.release_on_behalf_of("me")

        def check() -> None:
            assert limiter.borrowed_tokens == 0

        with pytest.raises(AssertionError) as caught:
            cancel_at_each_step(main, check)
        (note,) = caught.value.__notes__
        assert note.startswith("when cancelled before step ")

    def test_an_error_of_the_undisturbed_run_says_that(self) -> None:
        async def main() -> None:
            raise OSError("gone")

        with pytest.raises(OSError, match="gone") as caught:
            cancel_at_each_step(main)
        assert caught.value.__notes__[0].startswith("when ")

    def test_a_clock_of_the_callers_is_used(self) -> None:
        clocks = []

        def clock() -> trio.testing.MockClock:
            clocks.append(trio.testing.MockClock(autojump_threshold=0))
            return clocks[-1]

        async def main() -> None:
            await trio.sleep(3)

        assert cancel_at_each_step(main, clock=clock) == len(clocks)
        assert clocks[-1].current_time() == 3.0


async def order_of(tasks: int) -> tuple[int, ...]:
    order: list[int] = []

    async def note(number: int) -> None:
        await trio.lowlevel.checkpoint()
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(tasks):
            nursery.start_soon(note, number)
    return tuple(order)


class TestSchedules:
    def test_they_are_varied_and_each_is_always_the_same(self) -> None:
        first = [run(order_of, 6) for run in schedules(50)]

        assert len(set(first)) > 40
        assert [run(order_of, 6) for run in schedules(50)] == first

    def test_the_seed_of_the_first_can_be_given(self) -> None:
        assert [run(order_of, 6) for run in schedules(3, first=7)] == [run(order_of, 6) for run in schedules(10)][7:]

    @given(st.integers(0, 2**64))
    def test_drawn_by_hypothesis_they_are_the_same_outside_it(self, seed: int) -> None:
        (one,), (other,) = schedules(1, first=seed), schedules(1, first=seed)
        trio.run(order_of, 3)

        assert one(order_of, 6) == other(order_of, 6)

    def test_time_is_virtual(self) -> None:
        (run,) = schedules(1)
        run(trio.sleep, 1e6)

    def test_other_runs_are_left_as_they_were(self) -> None:
        from trio._core import _run

        state, allowed = _run._r.getstate(), _run._ALLOW_DETERMINISTIC_SCHEDULING
        (run,) = schedules(1)
        with pytest.raises(BaseExceptionGroup):
            run(ScriptedLLMFails)

        assert (_run._r.getstate(), _run._ALLOW_DETERMINISTIC_SCHEDULING) == (state, allowed)

    def test_a_trio_that_schedules_in_another_way_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from trio._core import _run

        monkeypatch.delattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING")
        (run,) = schedules(1)
        with pytest.raises(RuntimeError, match="does not know how to fix it"):
            run(order_of, 2)


async def ScriptedLLMFails() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ScriptedLLM({}).next_token_logits, [1])


class TestAssertSameDistribution:
    """Chi-square tails against their closed forms: e^(-x/2) for two degrees, erfc for one, a Poisson sum for even ones."""

    @given(st.floats(0.0, 300.0))
    def test_the_tail_for_two_degrees_and_for_one(self, x: float) -> None:
        assert math.isclose(tail(x, 2), math.exp(-x / 2), rel_tol=1e-10, abs_tol=1e-15)
        assert math.isclose(tail(x, 1), math.erfc(math.sqrt(x / 2)), rel_tol=1e-10, abs_tol=1e-15)

    @given(st.floats(1e-300, 400.0), st.integers(1, 100))
    def test_the_tail_for_even_degrees(self, x: float, half: int) -> None:
        poisson = math.fsum(math.exp(k * math.log(x / 2) - x / 2 - math.lgamma(k + 1)) for k in range(half))

        assert math.isclose(tail(x, 2 * half), poisson, rel_tol=1e-9, abs_tol=1e-14)

    @pytest.mark.parametrize(
        ("x", "degrees", "p"), [(3.841459, 1, 0.05), (18.307038, 10, 0.05), (124.342113, 100, 0.05), (29.588298, 10, 0.001)]
    )
    def test_values_from_printed_tables(self, x: float, degrees: int, p: float) -> None:
        assert tail(x, degrees) == pytest.approx(p, rel=1e-6)

    def test_a_statistic_by_hand(self) -> None:
        """(60 - 50)^2 / 50 + (40 - 50)^2 / 50 = 4, one degree."""
        assert assert_same_distribution([60, 40], [0.5, 0.5]) == pytest.approx(math.erfc(math.sqrt(2)))

    def test_with_no_difference_the_p_values_are_uniform(self) -> None:
        rng, p = np.random.default_rng(1), np.array([0.5, 0.3, 0.15, 0.04, 0.0099, 0.0001])
        values = np.array([assert_same_distribution(rng.multinomial(2000, p), p, alpha=0) for _ in range(2000)])
        tenths, _ = np.histogram(values, bins=10, range=(0, 1))

        assert assert_same_distribution(tenths, np.full(10, 0.1)) > 1e-3

    @pytest.mark.parametrize("off", [0.02, 0.05])
    def test_a_difference_is_found(self, off: float) -> None:
        """20,000 draws, one cell of 0.3 too large by ``off``: the noncentrality is 20,000 off^2 (1/0.3 + 1/0.7), 38 and 238."""
        rng, p = np.random.default_rng(1), np.array([0.3, 0.7])
        with pytest.raises(AssertionError, match=r"p = .* < 0.001 over 2 cells; cell 0: want 6000.0, have "):
            assert_same_distribution(rng.multinomial(20_000, [0.3 + off, 0.7 - off]), p, alpha=1e-3)

    def test_rare_cells_alone_raise_no_alarm(self) -> None:
        """A cell expected 0.2 times and seen twice would by itself give (2 - 0.2)^2 / 0.2 = 16."""
        p = np.array([0.5, 0.4997, 0.0002, 0.0001])

        assert assert_same_distribution([500, 498, 2, 0], p) > 0.5

    def test_what_cannot_happen_must_not(self) -> None:
        with pytest.raises(AssertionError, match=r"outcomes of probability 0 were seen: \[1\]"):
            assert_same_distribution([9, 1], [1.0, 0.0])
        assert assert_same_distribution([9, 0], [1.0, 0.0]) == 1.0

    @pytest.mark.parametrize(
        ("counts", "p", "says"), [([1, 2], [1.0], "2,"), ([1, 2], [0.5, 0.6], "sum to 1.1"), ([0, 0], [0.5, 0.5], "nothing")]
    )
    def test_wrong_arguments_are_named(self, counts: list[int], p: list[float], says: str) -> None:
        with pytest.raises(AssertionError, match=says):
            assert_same_distribution(counts, p)


def tail(x: float, degrees: int) -> float:
    return seedbed.testing._chi_square_tail(x, degrees)
