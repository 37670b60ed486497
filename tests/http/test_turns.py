"""Turns: never more than there are, in the order they were asked for, none lost to a cancellation."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from seedbed.errors import UsageError
from seedbed.http.turns import Turns
from seedbed.testing import cancel_at_each_step, schedules


def test_never_more_than_there_are_and_in_order_under_any_schedule() -> None:
    async def main() -> None:
        turns, order, most = Turns(3), [], 0

        async def work(k: int) -> None:
            nonlocal most
            await trio.sleep(k / 1000)
            await turns.take()
            most = max(most, turns.taken)
            order.append(k)
            await trio.sleep(1)
            turns.give_back()

        async with trio.open_nursery() as nursery:
            for k in range(10):
                nursery.start_soon(work, k)

        assert order == list(range(10))
        assert (most, turns.taken, turns.waiting) == (3, 0, 0)
        assert trio.current_time() == pytest.approx(4, abs=0.01)

    for run in schedules(20):
        run(main)


def test_cancelled_at_any_step_no_turn_is_lost() -> None:
    made = []

    async def main() -> None:
        turns = Turns(1)
        made.append(turns)

        async def work() -> None:
            await turns.take()
            try:
                await trio.lowlevel.checkpoint()
            finally:
                turns.give_back()

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(work)

    def check() -> None:
        assert (made[-1].taken, made[-1].waiting) == (0, 0)

    assert cancel_at_each_step(main, check) > 8
    check()


async def test_a_turn_handed_over_to_a_task_that_is_cancelled_then_is_its_own() -> None:
    turns = Turns(1)
    assert turns.take_nowait()
    had = False

    async def wait() -> None:
        nonlocal had
        await turns.take()
        had = True
        turns.give_back()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        turns.give_back()
        nursery.cancel_scope.cancel()

    assert had
    assert (turns.taken, turns.waiting) == (0, 0)


async def test_nobody_is_overtaken_by_one_who_does_not_wait() -> None:
    turns = Turns(1)
    turns.take_nowait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.take)
        await trio.testing.wait_all_tasks_blocked()
        turns.give_back()
        assert not turns.take_nowait()


def test_no_limit_is_a_limit_too() -> None:
    turns = Turns(math.inf)

    assert all(turns.take_nowait() for _ in range(10_000))


@pytest.mark.parametrize("total", [0, -1, 1.5, True, math.nan])
def test_a_number_that_is_none_is_refused(total: float) -> None:
    with pytest.raises(UsageError):
        Turns(total)
