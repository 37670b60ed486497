"""Settings of the whole suite."""

from __future__ import annotations

import signal

from hypothesis import settings

pytest_plugins = ["pytester"]
collect_ignore = ["examples/trio_app"]  # a project of its own: see examples/test_trio_app.py

# The same examples on every run: a failure is a change.
settings.register_profile("seedbed", derandomize=True, deadline=None)
settings.load_profile("seedbed")

# What a shell starts in the background ignores Ctrl-C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
