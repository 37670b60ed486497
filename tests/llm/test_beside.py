"""What runs beside a block ends with it, and the block's own error is not wrapped for it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from seedbed.llm.beside import open_beside


async def test_leaving_the_block_ends_what_runs_beside_it(autojump_clock: trio.testing.MockClock) -> None:
    async with open_beside() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await trio.sleep(1)

    assert trio.current_time() == 1


async def test_an_error_of_the_block_comes_out_as_itself_with_nothing_around_it() -> None:
    mine = LookupError("mine")
    with pytest.raises(LookupError) as caught:
        async with open_beside() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise mine

    assert caught.value is mine
    assert (mine.__cause__, mine.__context__) == (None, None)


async def test_what_fails_beside_it_and_who_interrupts_it_come_out_as_of_any_nursery() -> None:
    async def fail() -> None:
        raise OSError("gone")

    with pytest.raises(ExceptionGroup) as caught:
        async with open_beside() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()
    assert [str(error) for error in caught.value.exceptions] == ["gone"]

    with pytest.raises(BaseExceptionGroup) as interrupted:
        async with open_beside():
            raise KeyboardInterrupt
    assert [type(error) for error in interrupted.value.exceptions] == [KeyboardInterrupt]


async def test_a_cancellation_from_outside_goes_through() -> None:
    with trio.CancelScope() as scope:
        async with open_beside() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
            await trio.sleep_forever()

    assert scope.cancelled_caught
