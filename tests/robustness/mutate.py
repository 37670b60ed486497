"""``make mutate ROOM=sampling``: does a test fail when a line of a pure room is changed?

mutmut changes one operator, constant or argument at a time and runs the tests that reach it. It works in ``build/mutate``, on a copy.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = ROOT / "build" / "mutate"
# What is changed, and which tests must notice.
ROOMS = {
    "metrics": (["regression/metrics.py"], ["regression/test_metrics.py", "regression/test_drift.py"]),
    "sequence": (["generation/sequence.py"], ["generation/test_sequence.py", "generation/test_resume.py", "generation/test_result.py"]),
    "sampling": (["sampling/*"], ["sampling"]),
    "protocols": (["protocols/*"], ["protocols"]),
}

# mutmut calls a test again and again in one process, which hypothesis takes for a mistake.
FEWER_EXAMPLES = """
from hypothesis import HealthCheck
settings.register_profile("mutation", derandomize=True, deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
settings.load_profile("mutation")
"""


def prepare(room: str, only: list[str]) -> Path:
    """A copy of the repository that mutmut is told what to do in."""
    where = HERE / room
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    for name in ("src", "tests", "fixtures"):
        shutil.copytree(ROOT / name, where / name, ignore=shutil.ignore_patterns("__pycache__"))
    files, tests = ROOMS[room]
    settings = {
        "source_paths": ["src"],
        "only_mutate": [f"src/seedbed/{name}" for name in only or files],
        "also_copy": ["tests", "fixtures", "README.md"],
        "pytest_add_cli_args_test_selection": [f"tests/{name}" for name in tests],
        "pytest_add_cli_args": ["-p", "no:randomly", "-p", "no:xdist", "-p", "no:cacheprovider"],
    }
    lines = "\n".join(f"{key} = {value!r}" for key, value in settings.items())
    (where / "pyproject.toml").write_text(f"{(ROOT / 'pyproject.toml').read_text()}\n[tool.mutmut]\n{lines}\n")
    shutil.copy(ROOT / "README.md", where)
    with (where / "tests" / "conftest.py").open("a") as conftest:
        conftest.write(FEWER_EXAMPLES)
    return where


def main() -> None:
    """Run mutmut, print the survivors as diffs and the count of each outcome."""
    if len(sys.argv) < 2 or sys.argv[1] not in ROOMS:
        sys.exit(f"which room? ROOM={'|'.join(ROOMS)}; files of it may follow, such as sampling/draw.py")
    where = prepare(sys.argv[1], sys.argv[2:])
    mutmut = Path(sys.executable).with_name("mutmut")
    subprocess.run([mutmut, "run", "--max-children", "2"], cwd=where, check=False)
    results = subprocess.run([mutmut, "results", "--all", "true"], cwd=where, capture_output=True, text=True, check=True).stdout
    outcomes = dict(re.findall(r"^\s*(\S+): (.+)$", results, re.MULTILINE))
    for name, outcome in outcomes.items():
        if outcome != "killed":
            shown = subprocess.run([mutmut, "show", name], cwd=where, capture_output=True, text=True, check=False).stdout
            print(f"\n{outcome}: {shown}")
    print(dict(Counter(outcomes.values())))


if __name__ == "__main__":
    main()
