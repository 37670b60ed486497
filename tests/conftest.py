"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = ["pytester"]
collect_ignore = ["examples/trio_app"]  # a project of its own: see examples/test_trio_app.py

# The same examples on every run: a failure is a change.
settings.register_profile("seedbed", derandomize=True, deadline=None)
settings.load_profile("seedbed")
