"""What runs beside a block, and ends with it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["open_beside"]


@asynccontextmanager
async def open_beside() -> AsyncIterator[trio.Nursery]:
    """A nursery for what runs beside a block: cancelled when that is left, and an error of the block comes out as itself, not in a group.

    Concurrency:
        Waits, as every nursery, until its tasks have ended; cancelled from outside, the cancellation propagates.

    Example:
        >>> async def main():
        ...     async with open_beside() as nursery:
        ...         nursery.start_soon(trio.sleep_forever)
        ...         raise LookupError("mine")
        >>> trio.run(main)
        Traceback (most recent call last):
        ...
        LookupError: mine
    """
    failed: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as error:
            failed = error
        nursery.cancel_scope.cancel()
    try:
        if failed is not None:
            raise failed
    finally:
        del failed  # no cycle between the error's traceback and this frame
