"""What token ids, texts, numbers and time limits are, wherever one is given, and what is said of an argument that is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from numbers import Real
from operator import index
from typing import Any, TypeGuard

import numpy as np

from seedbed.errors import InvalidPrompt, UsageError

__all__ = [
    "check_end_token_ids",
    "check_seconds",
    "check_text",
    "check_token_ids",
    "check_whole_number",
    "is_iterable",
    "shown",
    "whole_number",
]

MOST = 2**63 - 1  # a prefix is hashed, and sent in binary, as int64


def check_token_ids(ids: object, what: str, *, vocab_size: int | None = None, may_be_empty: bool = False) -> tuple[int, ...]:
    """``ids`` as plain ints.

    Args:
        ids: ints of Python's or numpy's, in order.
        what: what they are, for the message.
        vocab_size: what they must be below; None is not known.
        may_be_empty: whether none at all will do.

    Raises:
        InvalidPrompt: they are no such list; names the first that is wrong, and its place.

    Example:
        >>> check_token_ids([3, 2.5], "the prompt")
        Traceback (most recent call last):
        ...
        seedbed.errors.InvalidPrompt: the prompt holds 2.5 at place 1, which is no token id
    """
    if isinstance(ids, (str, bytes)):
        raise InvalidPrompt(f"{what} must be token ids, not text: tokenize it first, for instance with HTTPModel.tokenize()")
    if isinstance(ids, (Mapping, AbstractSet)) or not is_iterable(ids) or getattr(ids, "ndim", 1) != 1:
        raise InvalidPrompt(f"{what} must be a list of token ids, not {shown(ids)}")
    checked = []
    for place, token_id in enumerate(ids):
        value = whole_number(token_id)
        if value is None:
            raise InvalidPrompt(f"{what} holds {shown(token_id)} at place {place}, which is no token id")
        if not 0 <= value <= MOST or (vocab_size is not None and value >= vocab_size):
            bound = "ids are 0 to 2**63 - 1" if vocab_size is None else f"the model's vocabulary has ids 0 to {vocab_size - 1}"
            raise InvalidPrompt(f"{what} holds token id {shown(value)} at place {place}; {bound}")
        checked.append(value)
    if not checked and not may_be_empty:
        raise InvalidPrompt(f"{what} is empty: at least one token id is needed, for instance the model's BOS token")
    return tuple(checked)


def check_end_token_ids(ids: object) -> tuple[int, ...]:
    """What a model says ends a sequence, as plain ints; ids outside its vocabulary never come, and do no harm.

    Raises:
        UsageError: they are no such numbers.

    Example:
        >>> check_end_token_ids([None])
        Traceback (most recent call last):
        ...
        seedbed.errors.UsageError: what ends a sequence, the model must tell in ints, not [None]; without an end its eos_token_ids are ()
    """
    numbers = [whole_number(token_id) for token_id in ids] if is_iterable(ids) else [None]
    if None in numbers:
        raise UsageError(f"what ends a sequence, the model must tell in ints, not {shown(ids)}; without an end its eos_token_ids are ()")
    return tuple(number for number in numbers if number is not None)


def check_whole_number(name: str, value: object, *, least: int = 0) -> int:
    """``value`` as a plain int.

    Args:
        name: what it is called where it was given.
        value: an int of Python's or numpy's.
        least: what it must be, or more.

    Raises:
        UsageError: it is no such number.

    Example:
        >>> check_whole_number("window", 0, least=1)
        Traceback (most recent call last):
        ...
        seedbed.errors.UsageError: window must be an int of 1 or more, not 0
    """
    number = whole_number(value)
    if number is None or number < least:
        raise UsageError(f"{name} must be an int of {least} or more, not {shown(value)}")
    return number


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


def check_text(text: object) -> str:
    """``text``, when it is one.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(text, str):
        raise UsageError(f"what is to be tokenized must be text, not {shown(text)}")
    return text


def whole_number(value: object) -> int | None:
    """``value`` as a plain int, if it is an int of Python's or numpy's, and no bool; else None.

    Example:
        >>> whole_number(np.uint16(3)), whole_number(3.0), whole_number(True)
        (3, None, None)
    """
    try:
        return None if isinstance(value, (bool, np.bool_)) else index(value)  # type: ignore[arg-type]  # asked here
    except TypeError:
        return None


def is_iterable(value: object) -> TypeGuard[Iterable[Any]]:
    """Whether it has items; numpy's arrays without a dimension only look so."""
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0


def shown(value: object) -> str:
    """A wrong argument in a message of one line."""
    try:
        words = " ".join(repr(value).split())
    except ValueError:  # Python does not write out an int of 4,300 digits
        return f"a {type(value).__name__} too long to show"
    return words if len(words) <= 80 else f"{words[:77]}..."


def _is_duration(seconds: object) -> bool:
    try:
        return isinstance(seconds, Real) and not isinstance(seconds, bool) and float(seconds) >= 0
    except OverflowError:  # an int that no clock can be told
        return False
