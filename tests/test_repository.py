"""The repository keeps its own rules: what lies at the top, what may not be said, what the Makefile offers."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import seedbed

ROOT = Path(__file__).parents[1]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.skipif(not TRACKED, reason="not a git checkout")


def test_the_top_level_holds_these_and_dot_files_and_nothing_else() -> None:
    top = {name.split("/")[0] for name in TRACKED}

    assert {name for name in top if not name.startswith(".")} == {
        "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "fixtures", "pyproject.toml", "src", "tests",
    }  # fmt: skip


def test_no_file_carries_a_path_of_somebodys_machine_or_a_registrys_address() -> None:
    """Written in pieces here, so that this file does not carry them either."""
    forbidden = re.compile("|".join(["/ho" + "me/", "/Us" + "ers/", "/wo" + "rk/", "/ro" + "ot/", "site" + "-packages/", "simp" + "le/?$"]))
    for name in TRACKED:
        text = (ROOT / name).read_bytes().decode("utf-8", "replace")
        found = forbidden.search(text)
        assert not found, f"{name}: {found[0]}"


def test_the_lock_pins_every_package_by_hash_and_names_no_address() -> None:
    lock = (ROOT / ".requirements-dev.lock").read_text()
    pins = re.findall(r"^[\w.-]+==\S+", lock, re.MULTILINE)

    assert len(pins) > 40
    assert lock.count("--hash=sha256:") >= len(pins)
    assert "://" not in lock


def test_bare_make_lists_the_targets() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^  make (\S+)", listed, re.MULTILINE))

    assert targets >= {"setup", "demo", "demo-llama", "test", "check", "fix", "bench", "docs"}


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_make_says_which_package_brings_a_missing_venv(tmp_path: Path, missing: str) -> None:
    """With a python3 that lacks a part, as Debian ships it."""
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\ncase "$*" in *{missing}*) exit 1 ;; esac\nexit 0\n')
    python.chmod(0o755)
    ran = subprocess.run(
        ["make", f"PYTHON={python}", f"VENV={tmp_path}/venv", "setup"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ran.returncode != 0
    assert "apt install python3-venv python3-pip" in ran.stdout


def test_an_old_python_is_refused_with_what_to_do(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    ran = subprocess.run(
        ["make", f"PYTHON={python}", f"VENV={tmp_path}/venv", "setup"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert "needs Python 3.11 or newer" in ran.stdout


def test_the_package_is_typed_licensed_and_versioned_once() -> None:
    assert (Path(seedbed.__file__).parent / "py.typed").exists()
    assert PROJECT["license"] == "MIT"
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()
