"""What a model's failure is to those who wait for it: one error, bare, and each with one of its own to write on."""

from __future__ import annotations

import copy
from typing import TypeVar

import trio

__all__ = ["copy_of", "met_in"]

E = TypeVar("E", bound=Exception)


def met_in(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What to raise for a group that comes out of a model with tasks of its own.

    One error alone comes out as itself. And of a task that failed to clean up while it was cancelled, nobody waits for the error any more;
    together with Cancelled it would get past every ``except Exception`` and come out of all nurseries as a group.
    """
    cancelled, others = group.split(trio.Cancelled)
    if cancelled is not None and isinstance(others, Exception):
        return cancelled
    alone: BaseException = group
    while isinstance(alone, BaseExceptionGroup) and len(alone.exceptions) == 1:
        (alone,) = alone.exceptions
    return alone if isinstance(alone, Exception) else group


def copy_of(error: E) -> E:
    """An equal error with the same cause, context and traceback; the error itself if its class cannot be copied."""
    for copied in (copy.copy, _without_init):
        try:
            twin = copied(error)
        except Exception:  # noqa: S112  a class may do anything in its constructor
            continue
        if hasattr(error, "__notes__"):
            twin.__notes__ = list(error.__notes__)
        twin.__cause__, twin.__context__, twin.__suppress_context__ = error.__cause__, error.__context__, error.__suppress_context__
        return twin.with_traceback(error.__traceback__)
    return error


def _without_init(error: E) -> E:
    """For constructors that take other arguments than ``args`` tells."""
    twin = type(error).__new__(type(error), *error.args)
    twin.__dict__.update(error.__dict__)
    return twin
