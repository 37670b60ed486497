"""The wheel holds what users need, and nothing else."""

from __future__ import annotations

import subprocess
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src"], cwd=ROOT, capture_output=True, text=True, check=False
).stdout.split()

pytestmark = pytest.mark.skipif(not TRACKED, reason="not a git checkout")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory):
    from hatchling.builders.wheel import WheelBuilder

    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_it_holds_every_file_of_the_package_and_no_other(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert names == {name.removeprefix("src/") for name in TRACKED}
    assert {"seedbed/py.typed", "seedbed/server/tiny_lm.txt", "seedbed/guide/tutorial.md"} <= names


def test_its_metadata_are_those_of_the_project(wheel: zipfile.ZipFile) -> None:
    info = f"seedbed-{PROJECT['version']}.dist-info"
    metadata = message_from_bytes(wheel.read(f"{info}/METADATA"))

    assert metadata["Version"] == PROJECT["version"]
    assert metadata["License-Expression"] == "MIT"
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert wheel.read(f"{info}/entry_points.txt").decode().count(" = ") == 2
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
