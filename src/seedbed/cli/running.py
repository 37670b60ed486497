"""How a command runs, and when it must be over."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from seedbed.errors import DeadlineExceeded, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["deadline_of", "run_trio", "within"]

T = TypeVar("T")


def run_trio(main: Callable[[], Awaitable[T]]) -> T:
    """``trio.run``, where Ctrl-C strikes at checkpoints only: in the middle of a statement it can break trio's own bookkeeping."""
    return trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)


def deadline_of(options: dict[str, Any]) -> float:
    """When everything must be over, on trio's clock; inf when ``--timeout`` was not given."""
    seconds: float = options["timeout"]
    if not seconds >= 0:
        raise UsageError(f"--timeout must be seconds >= 0, not {seconds}")
    return trio.current_time() + seconds


@contextmanager
def within(deadline: float, what: str) -> Iterator[trio.CancelScope]:
    """What must be done by then, or there is nothing to keep; push the scope's deadline away once it is done.

    Raises:
        DeadlineExceeded: it was not.
    """
    with trio.CancelScope(deadline=deadline) as scope:
        yield scope
    if scope.cancelled_caught:
        raise DeadlineExceeded(f"the deadline came before {what}: nothing was sampled; give a longer --timeout, or look after the server")
