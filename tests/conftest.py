"""Settings of the whole suite."""

from __future__ import annotations

import gc
import os
import signal
import sys

from hypothesis import settings

pytest_plugins = ["pytester"]
collect_ignore = ["examples/trio_app"]  # a project of its own: see examples/test_trio_app.py

# The same examples on every run: a failure is a change.
settings.register_profile("seedbed", derandomize=True, deadline=None)
settings.load_profile("seedbed")

# A hundred tests start processes, and where bytecode is not kept each of these compiles all of seedbed anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What a shell starts in the background ignores Ctrl-C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Modules and collected tests stay: a collector that looks at them again and again finds nothing.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
