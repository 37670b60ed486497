"""Long tests that are make targets, each with its own duration."""

from __future__ import annotations

import sys


def minutes_from(arguments: list[str]) -> float:
    """The first argument, 10 without one; ends with a line when it is no number above 0."""
    try:
        minutes = float(arguments[1]) if len(arguments) > 1 else 10.0
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 10_000:
        sys.exit(f"MINUTES must be a number above 0, not {arguments[1]!r}")
    return minutes
