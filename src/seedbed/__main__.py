"""``python -m seedbed``, and the ``seedbed`` command: what must hold before anything that takes long to import is imported."""

from __future__ import annotations

import os
import signal

__all__ = ["run"]


def run() -> None:
    """Run the command; Ctrl-C ends it with one line and 130 from the first moment to the last."""
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a shell ignores it for what runs in the background
    if is_ours:
        signal.signal(signal.SIGINT, _end_at_once)
    from seedbed.cli import run as run_command

    def when_imported() -> None:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # which trio looks for

    try:
        run_command(when_imported)
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, _end_at_once)


def _end_at_once(*_: object) -> None:
    """No exception can be relied on while modules are half imported, or the interpreter is ending."""
    os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    run()
