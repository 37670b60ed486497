"""What a time limit is, wherever one is given."""

from __future__ import annotations

from numbers import Real

from seedbed.errors import UsageError
from seedbed.llm.token_ids import shown

__all__ = ["check_seconds"]


def check_seconds(*, above_zero: bool = True, **given: object) -> None:
    """Check that all of these are seconds, ``math.inf`` for no limit.

    Args:
        above_zero: whether 0 is refused; a limit of 0 on what can be cut short and kept is fine.
        given: the values by the names they have for the caller.

    Raises:
        UsageError: one is not.

    Example:
        >>> check_seconds(timeout=2.5, connect_timeout="3")
        Traceback (most recent call last):
        ...
        seedbed.errors.UsageError: connect_timeout must be more than 0 seconds, or math.inf for no limit, not '3'
    """
    for name, value in given.items():
        if not _is_duration(value) or (above_zero and value == 0):
            least = "more than 0 seconds" if above_zero else "seconds >= 0"
            raise UsageError(f"{name} must be {least}, or math.inf for no limit, not {shown(value)}")


def _is_duration(seconds: object) -> bool:
    try:
        return isinstance(seconds, Real) and not isinstance(seconds, bool) and float(seconds) >= 0
    except OverflowError:  # an int that no clock can be told
        return False
