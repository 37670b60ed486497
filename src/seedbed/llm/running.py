"""Running under trio: whether it is trio that runs us, said before anything of ours waits, and many questions at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from seedbed.errors import WrongRunner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

__all__ = ["require_trio", "together"]


def require_trio() -> None:
    """Check that the caller is a trio task.

    Raises:
        WrongRunner: it is awaited by something else, such as asyncio.
    """
    if not trio.lowlevel.in_trio_task():
        raise WrongRunner(
            "this runs under trio, and something else awaits it. In a program: trio.run(main). From asyncio: "
            "await asyncio.to_thread(trio.run, main). In IPython and Jupyter: trio.run(main), or %autoawait trio and then await"
        )


async def together(questions: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Ask all at once; the first error cancels the others and comes out as itself, in no group.

    Concurrency:
        A task a question. Cancelled, all are.

    Example:
        >>> from functools import partial
        >>> from seedbed.errors import ServerError
        >>> async def ask(seconds, error=None):
        ...     await trio.sleep(seconds)
        ...     if error is not None:
        ...         raise error
        >>> async def main():
        ...     await together([partial(ask, 0.0, ServerError("overloaded")), partial(ask, 3600.0)])
        >>> trio.run(main)
        Traceback (most recent call last):
        seedbed.errors.ServerError: overloaded
    """
    errors: list[Exception] = []

    async def ask(question: Callable[[], Awaitable[object]]) -> None:
        try:
            await question()
        except Exception as error:
            errors.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for question in questions:
            nursery.start_soon(ask, question)
    if errors:
        raise errors[0]
