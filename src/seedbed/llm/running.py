"""Whether trio runs here: said before anything of ours waits, or blocks, since what happens otherwise explains nothing."""

from __future__ import annotations

import trio

from seedbed.errors import WrongRunner

__all__ = ["require_no_trio", "require_trio"]


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


def require_no_trio(what: str) -> None:
    """Check that the caller may block this thread, and run trio in it.

    Args:
        what: what would.

    Raises:
        WrongRunner: trio runs in this thread already.
    """
    if trio.lowlevel.in_trio_run():
        raise WrongRunner(f"{what} blocks, and trio runs here already: call it from a thread, by await trio.to_thread.run_sync(...)")
