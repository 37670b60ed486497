"""One request for equal prefixes, whoever asks and whoever goes away; nothing of it shows in an answer. Time is virtual."""

from __future__ import annotations

import gc
import weakref
from array import array

import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed import HashLM, ModelInfo, Sampler
from seedbed.errors import InvalidPrompt, MalformedRow, NonFiniteLogits, UsageError
from seedbed.llm import LLM, PrefixCache
from seedbed.llm.prefix_cache import _Flight
from seedbed.sampling.drawing import Drawing
from seedbed.sampling.randomness import Address
from seedbed.testing import ScriptedLLM, cancel_at_each_step, check_llm, schedules

ROW = [0.0, 1.0, 2.0]


class Slow(LLM):
    """HashLM's rows after ``delay`` seconds; knows what was asked, what was cancelled, and how much is under way."""

    def __init__(self, delay=1.0, *, may_overlap: bool = False) -> None:
        self.inner, self.delay, self.may_overlap = HashLM(8), delay, may_overlap
        self.asked: list[tuple[int, ...]] = []
        self.cancelled: list[tuple[tuple[int, ...], float]] = []
        self.under_way: list[tuple[int, ...]] = []

    async def next_token_logits(self, prev_token_ids):
        prefix = tuple(prev_token_ids)
        assert self.may_overlap or prefix not in self.under_way, f"{prefix} is in flight twice"
        self.asked.append(prefix)
        self.under_way.append(prefix)
        try:
            await trio.sleep(self.delay(prefix) if callable(self.delay) else self.delay)
            return await self.inner.next_token_logits(prev_token_ids)
        except trio.Cancelled:
            self.cancelled.append((prefix, trio.current_time()))
            raise
        finally:
            self.under_way.remove(prefix)

    def get_stop_token_id(self) -> int:
        return 0


class TestSingleFlight:
    async def test_equal_prefixes_in_flight_are_one_request_and_one_answer(self, autojump_clock: trio.testing.MockClock) -> None:
        llm, rows = Slow(), {}
        async with PrefixCache(llm) as cached, trio.open_nursery() as nursery:

            async def ask(start: float) -> None:
                await trio.sleep(start)
                rows[start] = await cached.next_token_logits([1, 2])
                assert trio.current_time() == 1.0

            for start in (0.0, 0.25, 0.5, 0.75):
                nursery.start_soon(ask, start)

        assert llm.asked == [(1, 2)]
        assert len({id(row) for row in rows.values()}) == 1
        assert np.array_equal(rows[0.0], await llm.inner.next_token_logits([1, 2]))
        assert cached.counters()["cache_hits"] == 3

    async def test_different_prefixes_wait_for_each_other_in_nothing(self, autojump_clock: trio.testing.MockClock) -> None:
        llm = Slow(lambda prefix: prefix[0])
        async with PrefixCache(llm) as cached, trio.open_nursery() as nursery:
            for token_id in (1, 2, 3):
                nursery.start_soon(cached.next_token_logits, [token_id])

        assert trio.current_time() == 3.0

    async def test_a_request_survives_the_cancellation_of_the_task_that_began_it(self, autojump_clock: trio.testing.MockClock) -> None:
        llm = Slow()
        async with PrefixCache(llm) as cached, trio.open_nursery() as nursery:

            async def first() -> None:
                with trio.move_on_after(0.5) as scope:
                    await cached.next_token_logits([1])
                assert scope.cancelled_caught
                assert trio.current_time() == 0.5

            async def second() -> None:
                await trio.sleep(0.25)
                await cached.next_token_logits([1])
                assert trio.current_time() == 1.0

            nursery.start_soon(first)
            nursery.start_soon(second)

        assert (llm.asked, llm.cancelled) == ([(1,)], [])

    async def test_it_ends_with_its_last_waiter_and_the_next_to_ask_asks_anew(self, autojump_clock: trio.testing.MockClock) -> None:
        llm = Slow()
        async with PrefixCache(llm) as cached:
            async with trio.open_nursery() as nursery:
                for patience in (0.25, 0.5, 0.5):

                    async def impatient(patience: float = patience) -> None:
                        with trio.move_on_after(patience):
                            await cached.next_token_logits([1])

                    nursery.start_soon(impatient)
            await cached.next_token_logits([1])
            assert trio.current_time() == 1.5

        assert llm.asked == [(1,)] * 2
        assert llm.cancelled == [((1,), 0.5)]

    def test_a_question_given_up_before_it_was_sent_is_never_sent(self) -> None:
        async def main() -> list[tuple[int, ...]]:
            llm = Slow()
            async with PrefixCache(llm) as cached:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await cached.next_token_logits([1])
                assert cached.counters()["round_trips"] == 0
            return llm.asked

        assert [run(main) for run in schedules(20)] == [[]] * 20

    async def test_who_asks_while_the_cancelled_request_still_cleans_up_gets_one_of_its_own(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        class CleansUpSlowly(ScriptedLLM):
            async def next_token_logits(self, prev_token_ids):
                try:
                    return await super().next_token_logits(prev_token_ids)
                except trio.Cancelled:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(10)
                    raise

        async with PrefixCache(CleansUpSlowly({}, default=ROW, delay=1)) as cached:
            with trio.move_on_after(0.5):
                await cached.next_token_logits([1])
            assert (await cached.next_token_logits([1])).tolist() == ROW
            assert trio.current_time() == 1.5

        assert trio.current_time() == 10.5  # it leaves nothing behind

    def test_a_deadline_in_the_moment_of_the_answer_comes_first_under_any_schedule(self) -> None:
        seen = []

        async def main() -> bool:
            async with PrefixCache(Slow()) as cached:
                with trio.move_on_after(1.0) as scope:
                    await cached.read([1], 1, seen.append)
                return scope.cancelled_caught

        assert [run(main) for run in schedules(50)] == [True] * 50
        assert seen == []

    async def test_the_callers_list_is_its_own_as_soon_as_it_goes(self, autojump_clock: trio.testing.MockClock) -> None:
        class Echo(ScriptedLLM):
            async def next_token_logits(self, prev_token_ids):
                await trio.sleep(1)
                return [float(prev_token_ids[0]), 0.0]

        prefix = [5]
        async with PrefixCache(Echo({})) as cached, trio.open_nursery() as nursery:

            async def first() -> None:
                with trio.move_on_after(0.5):
                    await cached.next_token_logits(prefix)
                prefix[0] = 6

            async def second() -> None:
                await trio.sleep(0.25)
                assert (await cached.next_token_logits([5])).tolist() == [5.0, 0.0]

            nursery.start_soon(first)
            nursery.start_soon(second)


class TestReading:
    async def test_rows_that_land_in_one_moment_are_never_in_memory_together(self, autojump_clock: trio.testing.MockClock) -> None:
        """Each is read as it lands. Woken first and reading later, 200 tasks would hold 200 rows."""
        landed: list[weakref.ref[np.ndarray]] = []
        most = 0

        def alive() -> int:
            return sum(row() is not None for row in landed)

        class Watched(ScriptedLLM):
            async def next_token_logits(self, prev_token_ids):
                nonlocal most
                await trio.sleep(1)
                row = np.zeros(100, dtype=np.float32)
                landed.append(weakref.ref(row))
                most = max(most, alive())
                return row

        async with PrefixCache(Watched({}), max_bytes=1) as cached, trio.open_nursery() as nursery:  # too small to keep a row
            for token_id in range(200):
                nursery.start_soon(cached.read, [token_id], 1, lambda ahead: float(ahead.rows[0].sum()))
        gc.collect()

        assert most <= 2
        assert (len(landed), alive()) == (200, 0)

    async def test_what_a_reader_raises_comes_out_at_its_own_place_only(self, autojump_clock: trio.testing.MockClock) -> None:
        async with PrefixCache(Slow()) as cached, trio.open_nursery() as nursery:

            async def failing() -> None:
                with pytest.raises(ZeroDivisionError):
                    await cached.read([1], 1, lambda ahead: 1 // 0)

            async def fine() -> None:
                assert await cached.read([1], 1, lambda ahead: len(ahead.rows)) == 1

            nursery.start_soon(failing)
            nursery.start_soon(fine)

    async def test_readers_take_turns_with_everything_else(self, autojump_clock: trio.testing.MockClock) -> None:
        order = []
        async with PrefixCache(Slow()) as cached, trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(cached.read, [1], 1, lambda ahead, number=number: order.append(number))

            async def other() -> None:
                await trio.sleep(1)
                while len(order) < 3:
                    await trio.lowlevel.checkpoint()
                    order.append("other")

            nursery.start_soon(other)

        assert sorted(who for who in order if who != "other") == [0, 1, 2]
        assert order[-1] == "other" or order.index("other") < len(order) - 2

    async def test_nobody_can_spoil_a_row(self) -> None:
        class ReusesItsBuffer(ScriptedLLM):
            buffer = np.zeros(3, dtype=np.float32)

            async def next_token_logits(self, prev_token_ids):
                await trio.lowlevel.checkpoint()
                self.buffer[:] = prev_token_ids[0]
                return self.buffer

        async with PrefixCache(ReusesItsBuffer({})) as cached:
            one, two = await cached.next_token_logits([1]), await cached.next_token_logits([2])
            assert (one.tolist(), two.tolist()) == ([1.0] * 3, [2.0] * 3)
            with pytest.raises(ValueError, match="read-only"):
                one[0] = 9
            assert (await cached.next_token_logits([1])).tolist() == [1.0] * 3
        assert ReusesItsBuffer.buffer.flags.writeable


class TestErrors:
    async def test_every_waiter_gets_one_and_the_next_to_ask_asks_again(self, autojump_clock: trio.testing.MockClock) -> None:
        original = NonFiniteLogits("NaN")
        original.__cause__ = OSError("below")
        llm = ScriptedLLM({}, default=original, delay=1)
        caught: list[NonFiniteLogits] = []
        async with PrefixCache(llm) as cached:

            async def ask(index: int) -> None:
                try:
                    await cached.next_token_logits([1])
                except NonFiniteLogits as error:
                    caught.append(error.at(index=index))

            async with trio.open_nursery() as nursery:
                for index in range(3):
                    nursery.start_soon(ask, index)
            assert llm.asked == [(1,)]
            await ask(9)
            assert llm.asked == [(1,)] * 2

        assert sum(error is original for error in caught) == 2  # the first waiter of each request has the very one
        assert sorted(error.index for error in caught[:3]) == [0, 1, 2]
        assert all(error.__cause__ is original.__cause__ and error.args == ("NaN",) for error in caught)

    @pytest.mark.parametrize("bound", [0, 2**20])
    async def test_one_error_in_a_group_of_the_models_own_comes_out_as_itself(self, bound: int) -> None:
        """A model with a nursery: what failed in it is what failed, with its cause, and the group is not even its context."""
        error = NonFiniteLogits("NaN")
        error.__cause__ = OSError("below")

        async def fail() -> None:
            raise error

        class WithTasks(ScriptedLLM):
            async def next_token_logits(self, prev_token_ids):
                async with trio.open_nursery() as outer, trio.open_nursery() as inner:
                    outer.start_soon(trio.sleep_forever)
                    inner.start_soon(fail)

        async with PrefixCache(WithTasks({}), bound) as cached:
            with pytest.raises(NonFiniteLogits) as caught:
                await cached.next_token_logits([1])

        assert caught.value is error
        assert isinstance(error.__cause__, OSError)
        assert error.__context__ is None

    @pytest.mark.parametrize("bound", [0, 2**20])
    async def test_several_errors_of_a_model_stay_a_group(self, bound: int) -> None:
        llm = ScriptedLLM({}, default=ExceptionGroup("two", [OSError("one"), OSError("other")]))
        async with PrefixCache(llm, bound) as cached:
            with pytest.raises(ExceptionGroup, match="two"):
                await cached.next_token_logits([1])

    @pytest.mark.parametrize("bound", [0, 2**20])
    async def test_an_llm_that_is_not_async_is_told(self, bound: int) -> None:
        class Blocks(LLM):
            def next_token_logits(self, prev_token_ids):
                return ROW

            def get_stop_token_id(self):
                return 0

            def tokenize(self, text):
                return [1]

            def detokenize(self, token_ids):
                return "a"

        class BlocksAhead(ScriptedLLM):
            def logits_ahead(self, prev_token_ids, count):
                return (), [ROW]

        class BlocksAlong(ScriptedLLM):
            def logits_along(self, prev_token_ids, count, drawing):
                return (), [ROW]

        drawing = Drawing(Sampler(), Address(7))
        for model, method, ask in (
            (Blocks(), "next_token_logits", lambda cached: cached.next_token_logits([1])),
            (Blocks(), "next_token_logits", lambda cached: cached.logits_ahead([1], 2)),
            (Blocks(), "tokenize", lambda cached: cached.tokenize("a")),
            (Blocks(), "detokenize", lambda cached: cached.detokenize([1])),
            (BlocksAhead({}), "logits_ahead", lambda cached: cached.logits_ahead([1], 2)),
            (BlocksAhead({}), "logits_ahead", lambda cached: cached.logits_along([1], 2, drawing)),
            (BlocksAlong({}), "logits_along", lambda cached: cached.logits_along([1], 2, drawing)),
        ):
            async with PrefixCache(model, bound) as cached:
                with pytest.raises(UsageError, match=f"^{method} of .* is not async, as an LLM's must be: inherit BlockingLLM instead"):
                    await ask(cached)

    @pytest.mark.parametrize("bound", [0, 2**20])
    @pytest.mark.parametrize(
        "prefix",
        [5, None, "ab", b"abc", b"12345678", [1.5], [-1], (1, -1), [2**63], ["x"], [[1]], [], (), {}, {1}, {1: 2}, iter([]),
         np.array([1.5]), np.array([-1]), np.zeros((1, 1), int), np.array(1)],
        ids=lambda prefix: repr(prefix).split(" at 0x")[0],
    )  # fmt: skip
    async def test_what_is_no_prefix_is_named_and_not_asked(self, prefix: object, bound: int) -> None:
        llm = ScriptedLLM({}, default=ROW)
        async with PrefixCache(llm, bound) as cached:
            with pytest.raises(InvalidPrompt, match="the prefix"):
                await cached.next_token_logits(prefix)
        assert llm.asked == []

    @pytest.mark.parametrize("bound", [0, 2**20])
    async def test_whatever_a_prefix_comes_as_it_is_the_same_prefix(self, bound: int) -> None:
        """Also what can be read only once: the row kept must be that of what was read."""
        llm = ScriptedLLM({(1, 2): [0.0, 9.0], (3, 4): [9.0, 0.0]})
        async with PrefixCache(llm, bound) as cached:
            for same in (lambda *ids: iter(ids), lambda *ids: np.array(ids), lambda *ids: range(ids[0], ids[1] + 1),
                         lambda *ids: array("q", ids), lambda *ids: [*map(np.uint8, ids)], lambda *ids: ids):  # fmt: skip
                for first, row in ((1, [0.0, 9.0]), (3, [9.0, 0.0])):
                    assert (await cached.next_token_logits(same(first, first + 1))).tolist() == row
        assert llm.asked == [(1, 2), (3, 4)] * (1 if bound else 6)

    @pytest.mark.parametrize("answer", [((), ()), ((), (ROW, ROW)), ((1, 2), (ROW,) * 3), (("x",), (ROW, ROW)), ROW, None, ((), ([0.0],))])
    async def test_answers_ahead_that_break_the_contract_are_refused(self, answer: object) -> None:
        class Broken(ScriptedLLM):
            async def logits_ahead(self, prev_token_ids, count):
                await trio.lowlevel.checkpoint()
                return answer

        async with PrefixCache(Broken({}, info=ModelInfo(vocab_size=3))) as cached:
            with pytest.raises(MalformedRow):
                await cached.logits_ahead([1], 2)

    async def test_a_row_of_the_wrong_length_is_not_kept(self) -> None:
        llm = ScriptedLLM({}, default=[0.0], info=ModelInfo(vocab_size=3))
        async with PrefixCache(llm) as cached:
            for _ in range(2):
                with pytest.raises(MalformedRow):
                    await cached.next_token_logits([1])
        assert len(llm.asked) == 2


class TestKeeping:
    async def test_a_known_row_costs_no_request_and_is_still_a_checkpoint(self) -> None:
        llm = ScriptedLLM({}, default=ROW)
        async with PrefixCache(llm) as cached:
            for _ in range(3):
                with trio.testing.assert_checkpoints():
                    assert (await cached.next_token_logits([1])).tolist() == ROW
            with trio.CancelScope() as scope:
                scope.cancel()
                await cached.next_token_logits([1])
            assert scope.cancelled_caught

        assert llm.asked == [(1,)]
        assert cached.counters() == {"round_trips": 1, "cache_hits": 3, "cache_rows": 1, "cache_bytes": 412, "cache_evictions": 0}

    async def test_rows_ahead_are_known_afterwards(self) -> None:
        class Greedy(ScriptedLLM):
            async def logits_ahead(self, prev_token_ids, count):
                await trio.lowlevel.checkpoint()
                return [7, 8, 9], [[float(j), 0.0] for j in range(count)]

        llm = Greedy({}, default=ROW)
        async with PrefixCache(llm) as cached:
            proposed, rows = await cached.logits_ahead([1], 3)
            assert (proposed, len(rows)) == ((7, 8, 9), 3)
            for place in range(3):
                assert (await cached.next_token_logits([1, 7, 8][: place + 1])).tolist() == [float(place), 0.0]
            assert await cached.logits_ahead([1, 7], 3) == ((), (rows[1],))
        assert llm.asked == []

    async def test_the_bound_holds_and_evictions_are_counted(self) -> None:
        llm = ScriptedLLM({}, default=np.zeros(1000, dtype=np.float32))
        async with PrefixCache(llm, max_bytes=10_000) as cached:
            for token_id in range(20):
                await cached.next_token_logits([token_id])
            assert cached.counters()["cache_evictions"] == 19
            await cached.next_token_logits([19])
        assert len(llm.asked) == 20

    async def test_off_passes_everything_on(self, autojump_clock: trio.testing.MockClock) -> None:
        llm = ScriptedLLM({}, default=ROW, delay=1)
        async with PrefixCache(llm, max_bytes=0) as cached:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cached.next_token_logits, [1])
                nursery.start_soon(cached.next_token_logits, [1])
            await cached.next_token_logits([1])

        assert llm.asked == [(1,)] * 3
        assert cached.counters()["cache_hits"] == 0


class TestLifetime:
    async def test_it_must_be_entered_once_and_first(self) -> None:
        cached = PrefixCache(ScriptedLLM({}, default=ROW))
        with pytest.raises(UsageError, match="async with PrefixCache"):
            await cached.next_token_logits([1])
        async with cached:
            with pytest.raises(UsageError, match="once"):
                await cached.__aenter__()
        with pytest.raises(trio.ClosedResourceError):
            await cached.next_token_logits([1])

    @pytest.mark.parametrize("wrong", [-1, True, 1.5, None])
    def test_its_bound_is_a_number_of_bytes(self, wrong: object) -> None:
        with pytest.raises(UsageError, match="bytes"):
            PrefixCache(ScriptedLLM({}), wrong)

    async def test_who_waits_when_it_closes_is_told(self, autojump_clock: trio.testing.MockClock) -> None:
        llm = Slow()
        async with trio.open_nursery() as outside, PrefixCache(llm) as cached:

            async def ask() -> None:
                with pytest.raises(trio.ClosedResourceError, match="before the answer came"):
                    await cached.next_token_logits([1])
                assert trio.current_time() == 0.5

            outside.start_soon(ask)
            outside.start_soon(ask)
            await trio.sleep(0.5)
        assert llm.cancelled == [((1,), 0.5)]

    async def test_an_error_of_the_block_comes_out_bare(self, autojump_clock: trio.testing.MockClock) -> None:
        with pytest.raises(LookupError, match="mine") as caught:
            async with PrefixCache(Slow()) as cached, trio.open_nursery() as nursery:
                nursery.cancel_scope.shield = True
                with trio.move_on_after(0.5):
                    await cached.next_token_logits([1])
                nursery.cancel_scope.cancel()
            async with PrefixCache(Slow()):
                raise LookupError("mine")
        assert caught.value.__context__ is None

    async def test_cancellation_from_outside_propagates(self, autojump_clock: trio.testing.MockClock) -> None:
        with trio.move_on_after(0.5) as scope:
            async with PrefixCache(Slow()) as cached:
                await cached.next_token_logits([1])
        assert scope.cancelled_caught
        assert trio.current_time() == 0.5

    async def test_keyboard_interrupt_in_a_request_ends_the_block(self) -> None:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with PrefixCache(ScriptedLLM({}, default=KeyboardInterrupt())) as cached:
                await cached.next_token_logits([1])
        assert caught.group_contains(KeyboardInterrupt)

    async def test_it_passes_on_what_the_model_can_and_shows_its_state(self, autojump_clock: trio.testing.MockClock) -> None:
        from seedbed import TinyLM

        async with PrefixCache(TinyLM(), 1000) as cached:
            assert await cached.detokenize(await cached.tokenize("The")) == "The"
            assert cached.token_bytes(65) == b"A"
            assert (cached.get_stop_token_id(), cached.eos_token_ids) == (256, (256,))
            assert cached.info is TinyLM().info or cached.info == TinyLM().info
            assert repr(cached) == "<PrefixCache of TinyLM(order=6): <KeptRows: 0 rows, 0 of 1000 bytes>, 0 in flight for 0 waiting>"

    async def test_it_keeps_the_contract_of_a_model(self) -> None:
        async with PrefixCache(HashLM(50)) as cached:
            await check_llm(cached)


def test_cancelled_at_any_step_nothing_is_left_under_way() -> None:
    llm = Slow(delay=lambda prefix: prefix[0])
    cached: PrefixCache
    rows: dict[int, np.ndarray] = {}

    async def main() -> None:
        nonlocal cached
        async with PrefixCache(llm) as cached, trio.open_nursery() as nursery:

            async def ask(number: int) -> None:
                with trio.move_on_after(2.5 if number == 3 else 9):
                    rows[number] = await cached.next_token_logits([1 + number % 3])

            for number in range(6):
                nursery.start_soon(ask, number)

    def check() -> None:
        assert llm.under_way == []
        assert cached._flights == {}
        for number, row in rows.items():
            assert np.array_equal(row, want[1 + number % 3])
        rows.clear()

    want = {n: trio.run(llm.inner.next_token_logits, [n]) for n in (1, 2, 3)}
    steps = cancel_at_each_step(main, check)
    check()

    assert steps > 20


times = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
asks = st.tuples(times, times, st.integers(0, 3))  # when, patience, prefix


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(asks, max_size=12), st.integers(0, 2000), st.lists(times, min_size=4, max_size=4))
def test_any_program_gets_the_models_rows_in_at_most_the_models_time(schedule: int, program: list, bound: int, delays: list) -> None:
    """Who is not cancelled has the model's row, no later than by asking for itself. A request given up may end while the next begins."""
    llm = Slow(delay=lambda prefix: delays[prefix[0]], may_overlap=True)

    async def main() -> None:
        async with PrefixCache(llm, bound) as cached, trio.open_nursery() as nursery:

            async def ask(when: float, patience: float, prefix: int) -> None:
                await trio.sleep(when)
                with trio.move_on_after(patience) as scope:
                    row = await cached.next_token_logits([prefix])
                    assert np.array_equal(row, await llm.inner.next_token_logits([prefix]))
                    assert trio.current_time() <= when + delays[prefix]
                assert not scope.cancelled_caught or trio.current_time() == when + patience

            for arguments in program:
                nursery.start_soon(ask, *arguments)
        assert llm.under_way == []
        assert cached._flights == {}
        assert len(llm.asked) + cached.counters()["cache_hits"] <= len(program)

    (run,) = schedules(1, first=schedule)
    run(main)


def test_a_flight_without_anyone_waiting_serves_nobody() -> None:
    flight = _Flight()
    trio.run(flight.serve, None)
    flight.fail(OSError())
