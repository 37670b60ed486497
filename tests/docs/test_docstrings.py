"""Every public name says what it means, what it raises, who may call it at once, and shows an example."""

from __future__ import annotations

import inspect
import re
from dataclasses import is_dataclass
from enum import Enum
from importlib import import_module
from typing import Any

import pytest

ROOMS = ["errors", "llm", "sampling", "generation", "protocols", "http", "server", "recording", "regression", "testing"]


def public_names() -> list[tuple[str, Any]]:
    """Each once: a name that comes through several rooms is that of the first."""
    found: dict[int, tuple[str, Any]] = {}
    for room in (*ROOMS, ""):
        module = import_module(f"seedbed.{room}".rstrip("."))
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found.setdefault(id(value), (f"{room}.{name}", value))
    return list(found.values())


PUBLIC = public_names()
everything = pytest.mark.parametrize(("name", "value"), PUBLIC, ids=[name for name, _ in PUBLIC])


def said_of(value: object) -> str:
    return inspect.getdoc(value) or ""


def is_error(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, BaseException)


def is_record(value: object) -> bool:
    """A value that says what its fields mean: its example is that of who makes it."""
    return inspect.isclass(value) and (is_dataclass(value) or issubclass(value, (tuple, Enum)))


def awaits(function: object) -> bool:
    unwrapped = inspect.unwrap(function) if callable(function) else function
    return inspect.iscoroutinefunction(unwrapped) or inspect.isasyncgenfunction(unwrapped)


def members_of(value: type) -> list[tuple[str, object]]:
    return [(name, getattr(value, name)) for name in vars(value) if not name.startswith("_") or name == "__aenter__"]


@everything
def test_it_says_what_it_means_and_so_does_each_of_its_members(name: str, value: Any) -> None:
    assert re.match(r"\S.*[.:]( |$|\n)", said_of(value)), f"{name} has no first sentence"
    assert said_of(value) != said_of(object)
    for member, function in members_of(value) if inspect.isclass(value) else []:
        if callable(function) and member != "__aenter__":
            assert said_of(function), f"{name}.{member} has no docstring"


@everything
def test_it_has_an_example_or_names_who_makes_it(name: str, value: Any) -> None:
    said = said_of(value)

    assert ">>> " in said or is_error(value) or is_record(value) or re.search(r"Made by ``\w+``", said), name


@everything
def test_a_function_that_can_be_called_wrongly_says_what_it_raises(name: str, value: Any) -> None:
    if inspect.isfunction(value) and inspect.signature(value).parameters:
        assert re.search(r"Raises:|[Ee]rrors|raises|comes out", said_of(value)), name


@everything
def test_what_awaits_says_who_may_call_it_at_once_and_what_cancelling_does(name: str, value: Any) -> None:
    if awaits(value):
        assert "Concurrency:" in said_of(value), name
    if inspect.isclass(value) and "Concurrency:" not in said_of(value):
        for member, function in members_of(value):
            if awaits(function):
                inherited = [said_of(vars(kind).get(member)) for kind in value.__mro__ if member in vars(kind)]
                assert any("Concurrency:" in said for said in inherited), f"{name}.{member}"


@everything
def test_a_record_says_what_each_of_its_fields_is(name: str, value: Any) -> None:
    if is_record(value) and "Args:" not in said_of(value) and not issubclass(value, Enum):
        fields = getattr(value, "__dataclass_fields__", None) or getattr(value, "_fields", ())
        for field in fields:
            assert re.search(rf"\b{field}\b", said_of(value)), f"{name} does not say what {field} is"
