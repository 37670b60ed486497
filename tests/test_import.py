"""Importing seedbed costs nothing until a name is used; the public names are what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import seedbed

ROOT = Path(__file__).parents[1]
HEAVY = ["trio", "httpx", "numpy", "rich", "click", "respx", "httptools", "orjson", "safetensors"]
ROOMS = ["errors", "observing", "http", "llm", "recording", "sampling", "server", "regression", "generation", "testing", "protocols", "cli"]


def modules_after(code: str) -> set[str]:
    """What a fresh interpreter has loaded after running ``code``, which may print what it likes."""
    program = f"{code}\nimport sys\nprint()\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def loaded_after(code: str) -> set[str]:
    """Which of the heavy packages that is."""
    return modules_after(code) & {*HEAVY, "pytest"}


def test_import_seedbed_loads_nothing() -> None:
    assert loaded_after("import seedbed") == set()


def test_the_pytest_plugin_loads_pytest_and_nothing_else() -> None:
    assert loaded_after("import seedbed.pytest_plugin") == {"pytest"}


def test_the_sampler_needs_no_http() -> None:
    assert not loaded_after("from seedbed import Sampler, generate") & {"httpx", "respx", "rich", "click", "pytest"}


def test_replaying_needs_respx_only_for_the_transport() -> None:
    assert not loaded_after("from seedbed import ReplayLLM") & {"httpx", "respx", "pytest"}
    assert not loaded_after("from seedbed import ReplayLLM, connect") & {"respx", "pytest"}


# After a command of the command line, which ends the process.
AFTER = """
import sys
from contextlib import suppress
sys.argv = ["seedbed", *{words}]
from seedbed.cli import run
with suppress(SystemExit):
    run()
"""


@pytest.mark.parametrize(
    ("words", "not_needed"),
    [
        (["--version"], {"trio", "numpy", "httpx", "rich", "seedbed.cli.generate"}),
        (["generate", "--help"], {"seedbed.generation.bulk", "seedbed.regression", "seedbed.cli.serve"}),
        (["serve", "--help"], {"httpx", "seedbed.regression", "seedbed.cli.generate"}),
    ],
    ids=["--version", "generate", "serve"],
)
def test_a_command_loads_nothing_that_only_others_need(words: list[str], not_needed: set[str]) -> None:
    assert not modules_after(AFTER.format(words=words)) & not_needed


def test_every_public_name_is_there_sorted_and_listed_by_dir() -> None:
    assert set(seedbed.__all__) <= set(dir(seedbed))
    for name in seedbed.__all__:
        assert getattr(seedbed, name).__doc__


@pytest.mark.parametrize("room", ROOMS)
def test_every_rooms_names_are_there_and_documented(room: str) -> None:
    module = import_module(f"seedbed.{room}")

    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        assert value.__doc__ or isinstance(value, dict), name


def test_what_the_guide_teaches_to_import_is_said_to_be_public() -> None:
    pages = [ROOT / "README.md", *(ROOT / "src" / "seedbed" / "guide").glob("*.md")]
    taught = {module for page in pages for module in re.findall(r"^from (seedbed\.[\w.]+) import", page.read_text("utf-8"), re.MULTILINE)}

    assert taught
    assert taught <= set(re.findall(r"``(seedbed\.[\w.]+)``", seedbed.__doc__))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        seedbed.nonsense  # noqa: B018
