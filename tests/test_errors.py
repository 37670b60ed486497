"""The tree of errors is the tree that is drawn, and errors say where, keep their cause and fit the exit codes."""

from __future__ import annotations

import re

import pytest

from seedbed import errors
from seedbed.errors import ContextOverflow, MissingExtra, RecordingMiss, SeedbedError, UsageError

CLASSES = {name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, BaseException)}


def drawn() -> dict[str, str]:
    """{class: parent} as the module docstring draws it."""
    tree, path = {}, ["SeedbedError"]
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([│ ]*)[├└]── (\w+)", line)
        if match:
            depth = len(match[1]) // 4 + 1
            path[depth:] = [match[2]]
            tree[match[2]] = path[depth - 1]
    return tree


def test_the_drawing_is_the_tree() -> None:
    real = {name: value.__mro__[1].__name__ for name, value in CLASSES.items() if name != "SeedbedError"}

    assert drawn() == real


def test_all_of_them_are_public_sorted_and_documented() -> None:
    assert errors.__all__ == sorted(CLASSES)
    assert all(value.__doc__ for value in CLASSES.values())


def test_usage_errors_are_value_errors_and_timeouts_are_timeouts() -> None:
    assert issubclass(UsageError, ValueError)
    assert issubclass(MissingExtra, ImportError)
    assert issubclass(errors.DeadlineExceeded, TimeoutError)
    assert issubclass(errors.RequestTimeout, TimeoutError)


def test_the_place_is_said_once_by_whoever_knew_it_first() -> None:
    error = SeedbedError("what").at(step=3).at(prompt_index=1, index=2, step=99)

    assert str(error) == "what [prompt 1, sequence 2, step 3]"
    assert error.message == "what"
    assert str(SeedbedError("what")) == "what"


@pytest.mark.parametrize(
    ("error", "code"),
    [(SeedbedError(""), 3), (UsageError(""), 2), (ContextOverflow("", status=400), 2), (RecordingMiss("", prev_token_ids=[1], known=0), 5)],
)
def test_exit_codes(error: SeedbedError, code: int) -> None:
    assert error.exit_code == code
