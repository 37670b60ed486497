"""One error for each who waits, equal in everything; and of a group what is to be said of it."""

from __future__ import annotations

import pytest
import trio

from seedbed.errors import RecordingMiss, TruncatedRow
from seedbed.llm.failures import copy_of, met_in


@pytest.mark.parametrize(
    "error",
    [
        TruncatedRow("cut", needed=5).at(prompt_index=1, step=2),
        RecordingMiss("never asked", prev_token_ids=(1, 2), known=1),
        OSError(2, "gone", "name"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        ExceptionGroup("g", [OSError(), OSError()]),
        ValueError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_copies_are_complete_whatever_the_class(error: Exception) -> None:
    error.add_note("first")
    error.__cause__ = OSError("below")
    twin = copy_of(error)
    twin.add_note("mine")

    assert twin is not error
    assert (type(twin), str(twin), twin.args) == (type(error), str(error), error.args)
    assert {**vars(twin), "__notes__": ["first"]} == vars(error)
    assert (error.__notes__, twin.__notes__) == (["first"], ["first", "mine"])
    assert twin.__cause__ is error.__cause__


def test_an_error_that_cannot_be_copied_is_the_same_for_all() -> None:
    class Single(Exception):
        made = False

        def __new__(cls, *args):
            if cls.made:
                raise RuntimeError("there can be only one")
            cls.made = True
            return super().__new__(cls, *args)

    only = Single("x")

    assert copy_of(only) is only


async def test_of_a_group_one_error_alone_is_itself_and_several_stay_a_group() -> None:
    one, several = OSError("one"), ExceptionGroup("two", [OSError("one"), OSError("other")])
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            cancelled = error
    beside = BaseExceptionGroup("g", [cancelled, one])
    interrupted = BaseExceptionGroup("g", [KeyboardInterrupt()])

    assert met_in(ExceptionGroup("g", [ExceptionGroup("h", [one])])) is one
    assert met_in(several) is several
    assert met_in(interrupted) is interrupted
    assert met_in(beside).exceptions == (cancelled,)  # nobody waits any more for what failed while it was cancelled
