"""Many questions at once: all of them, and when one fails its error and nothing else."""

from functools import partial

import pytest
import trio

from seedbed.errors import ServerError
from seedbed.llm.running import together


async def test_all_are_asked_at_once(autojump_clock):
    begun = trio.current_time()
    await together(partial(trio.sleep, seconds) for seconds in (1.0, 3.0, 2.0))

    assert trio.current_time() - begun == 3.0


async def test_none_is_no_mistake():
    await together([])


async def test_the_first_error_comes_out_as_itself_and_the_others_are_cancelled(autojump_clock):
    cancelled = []

    async def fail(seconds):
        await trio.sleep(seconds)
        raise ServerError(f"after {seconds} s")

    async def wait():
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(True)

    with pytest.raises(ServerError, match=r"after 1\.0 s"):
        await together([wait, partial(fail, 2.0), partial(fail, 1.0), wait])

    assert cancelled == [True, True]


async def test_two_errors_at_once_are_one(autojump_clock):
    async def fail():
        await trio.sleep(1.0)
        raise ServerError("both")

    with pytest.raises(ServerError, match="both"):
        await together([fail, fail])


async def test_cancelled_all_are(autojump_clock):
    with trio.move_on_after(1.0) as scope:
        await together([trio.sleep_forever, trio.sleep_forever])

    assert scope.cancelled_caught
