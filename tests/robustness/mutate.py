"""``make mutate ROOM=sampling``: does a test fail when a line of a pure room is changed?

mutmut changes one operator, constant or argument at a time and runs the tests that reach it. It works in ``build/mutate``, on a copy:
first with few examples of each property and without the tests that draw by the ten thousand, then, what nobody noticed, with all of them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

MUTMUT = Path(sys.executable).with_name("mutmut")
ROOT = Path(__file__).parents[2]
HERE = ROOT / "build" / "mutate"
# What is changed, and which tests must notice.
ROOMS = {
    "metrics": (["regression/metrics.py"], ["regression/test_metrics.py", "regression/test_drift.py"]),
    "sequence": (["generation/sequence.py"], ["generation/test_sequence.py", "generation/test_resume.py", "generation/test_result.py"]),
    "sampling": (["sampling/*"], ["sampling"]),
    "protocols": (["protocols/*"], ["protocols"]),
}

SLOW = ["sampling/test_distributions.py", "sampling/test_dispatch_levels.py", "sampling/test_flip_rates.py"]

# mutmut calls a test again and again in one process, which hypothesis takes for a mistake.
PROFILE = """
from hypothesis import HealthCheck
settings.register_profile("mutation", derandomize=True, deadline=None, max_examples={}, suppress_health_check=list(HealthCheck))
settings.load_profile("mutation")
"""


def prepare(room: str, only: list[str], *, is_quick: bool) -> Path:
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
        conftest.write(PROFILE.format(12 if is_quick else 100))
    for name in SLOW if is_quick else []:
        (where / "tests" / name).unlink()
    return where


def run(where: Path, *names: str) -> dict[str, str]:
    """Try the changes of these names, or all; {name: what became of it}."""
    subprocess.run([MUTMUT, "run", "--max-children", "2", *names], cwd=where, check=False)
    results = subprocess.run([MUTMUT, "results", "--all", "true"], cwd=where, capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^\s*(\S+): (.+)$", results, re.MULTILINE))


def unnoticed(outcomes: dict[str, str]) -> list[str]:
    """The names of changes that no test noticed; one that never ends is noticed."""
    return [name for name, outcome in outcomes.items() if outcome not in ("killed", "timeout")]


def main() -> None:
    """Run mutmut, print the survivors as diffs and the count of each outcome."""
    if len(sys.argv) < 2 or sys.argv[1] not in ROOMS:
        sys.exit(f"which room? ROOM={'|'.join(ROOMS)}; files of it may follow, such as sampling/draw.py")
    room, only = sys.argv[1], sys.argv[2:]
    outcomes = run(prepare(room, only, is_quick=True))
    if left := unnoticed(outcomes):
        where = prepare(room, only, is_quick=False)
        again = run(where, *left)
        outcomes |= {name: again[name] for name in left}
    for name in unnoticed(outcomes):
        shown = subprocess.run([MUTMUT, "show", name], cwd=where, capture_output=True, text=True, check=False).stdout
        print(f"\n{outcomes[name]}: {shown}")
    print(dict(Counter(outcomes.values())))


if __name__ == "__main__":
    main()
