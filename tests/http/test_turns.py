"""Turns: never more than there are, in the order they were asked for, none lost to a cancellation."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from seedbed.errors import UsageError
from seedbed.http.turns import AT_FIRST, KEPT, Turns
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


async def test_who_is_turned_away_has_no_turn_and_who_was_handed_one_before_has_it() -> None:
    turns = Turns(1)
    turns.take_nowait()
    had: list[tuple[int, bool]] = []

    async def wait(k: int) -> None:
        had.append((k, await turns.take()))

    async with trio.open_nursery() as nursery:
        for k in range(3):
            nursery.start_soon(wait, k)
            await trio.testing.wait_all_tasks_blocked()
        turns.give_back()
        turns.turn_away()

    assert sorted(had) == [(0, True), (1, False), (2, False)]
    assert (turns.taken, turns.waiting) == (1, 0)


# How many there are.


def all_taken(turns: Turns) -> int:
    """How many can be taken besides those that are."""
    count = 0
    while turns.take_nowait():
        count += 1
    return count


def test_there_are_few_at_first_and_one_more_for_each_answer() -> None:
    turns = Turns(100)
    assert all_taken(turns) == AT_FIRST
    for answers in range(1, 50):
        turns.grow()
        assert all_taken(turns) == 1
        assert turns.taken == AT_FIRST + answers


def test_there_are_never_more_than_said_and_with_no_limit_any_number() -> None:
    few, any_number = Turns(20), Turns(math.inf)
    for turns in (few, any_number):
        all_taken(turns)
        for _ in range(1000):
            turns.grow()
            all_taken(turns)

    assert (few.taken, any_number.taken) == (20, AT_FIRST + 1000)


def test_answers_to_few_at_a_time_say_nothing_about_more() -> None:
    turns = Turns(100)
    for _ in range(50):
        turns.take_nowait()
        turns.grow()
        turns.give_back()

    assert turns.allowed == AT_FIRST


def test_refusals_of_what_was_sent_together_take_three_tenths_away_once() -> None:
    turns = Turns(100)
    for number in range(1, AT_FIRST + 1):
        turns.shrink(number, latest=AT_FIRST)
    assert turns.allowed == AT_FIRST * KEPT
    turns.shrink(AT_FIRST + 1, latest=AT_FIRST + 1)

    assert turns.allowed == AT_FIRST * KEPT * KEPT


def test_after_a_refusal_as_many_answers_as_there_are_turns_add_one() -> None:
    turns = Turns(100)
    turns.shrink(1, latest=1)
    all_taken(turns)
    before = turns.allowed
    for _ in range(12):
        turns.grow()
        all_taken(turns)

    assert before + 0.95 < turns.allowed < before + 1.1


def test_it_can_start_over() -> None:
    turns = Turns(100)
    turns.shrink(1, latest=1)
    turns.start_over()
    assert all_taken(turns) == AT_FIRST
    turns.grow()

    assert turns.allowed == AT_FIRST + 1


def test_one_is_always_left() -> None:
    turns = Turns(100)
    for number in range(1, 50):
        turns.shrink(number, latest=number)

    assert turns.allowed == 1
    assert turns.take_nowait()


@pytest.mark.parametrize("total", [0, -1, 1.5, True, math.nan, None, "3"])
def test_a_number_that_is_none_is_refused(total: float) -> None:
    with pytest.raises(UsageError):
        Turns(total)
