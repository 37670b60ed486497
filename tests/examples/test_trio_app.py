"""A user's project, run as a stranger runs it: seedbed from its wheel in a fresh environment, no network, all plugins there are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APP = Path(__file__).parent / "trio_app"


def ran(*command: object, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COV", "VIRTUAL_ENV"))}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the wheel in it. What the wheel needs is taken from where the suite has it, as the last place looked at:
    an editable installation there is no longer one, since it hangs on a .pth file, and those are read at home only."""
    at = tmp_path_factory.mktemp("fresh")
    ran(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", at, cwd=ROOT)
    ran(sys.executable, "-m", "venv", "--without-pip", at / "env", cwd=at)
    python = at / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    ran(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", *at.glob("*.whl"), cwd=at)
    own = ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=at).strip()
    Path(own, "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_its_own_tests_pass_on_the_wheel_offline_and_in_two_processes(python: Path, tmp_path: Path) -> None:
    """With pytest-trio, xdist, pytest-asyncio and anyio's plugin all active."""
    app = Path(shutil.copytree(APP, tmp_path / "app"))
    before = {file: file.read_bytes() for file in app.rglob("*") if file.is_file()}
    said = ran(python, "-m", "pytest", "-v", "-n", "2", "-p", "no:cacheprovider", cwd=app)
    after = {file: file.read_bytes() for file in app.rglob("*") if file.is_file() and "__pycache__" not in file.parts}

    assert "11 passed" in said
    assert all(f"{name}-" in said for name in ("asyncio", "trio", "xdist", "seedbed", "anyio"))
    assert "steps were asked for" in said
    assert "unused" not in said
    assert after == before


def test_what_is_imported_there_is_the_wheel_and_the_command_is_there(python: Path, tmp_path: Path) -> None:
    where = ran(python, "-c", "import seedbed, seedbed.cli; print(seedbed.__file__, seedbed.__version__)", cwd=tmp_path)

    assert where.startswith(str(python.parents[1]))
    assert ran(python.with_name("seedbed"), "--version", cwd=tmp_path) == f"seedbed, version {where.split()[1]}\n"
