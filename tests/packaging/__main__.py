"""``make package``, ``make lowest``, ``make pythons``: does what is published install and work, with which versions of what?

::

    package   build wheel and sdist, twine check, install the wheel in an empty environment with each extra, use it there
    lowest    the suite's core on the oldest Python and the lowest versions that pyproject.toml allows
    pythons   the suite's core on every Python from 3.11 up that is on this machine

Environments are made by uv in ``build/package`` and hold the wheel, never the source tree.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = ROOT / "build" / "package"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UV = Path(sys.executable).with_name("uv")
TOOLS = ("build", "twine")
# What the tests need besides the extra "test".
FOR_TESTS = ("hypothesis", "trustme", "pytest-xdist")
CORE = ("llm", "sampling", "generation", "protocols", "http", "server", "recording")
NEWEST_LOOKED_FOR = 16
SMOKE = """
import seedbed, sys
assert "tests" not in sys.modules and "site" + "-packages" in seedbed.__file__, seedbed.__file__
for name in seedbed.__all__:
    getattr(seedbed, name)
import trio
result = trio.run(seedbed.generate, list(b"The seed"), seedbed.TinyLM(), 2)
assert len(result.sequences) == 2
from importlib.resources import files
assert (files("seedbed") / "guide" / "tutorial.md").is_file()
"""


def run(*command: object, where: Path = HERE) -> str:
    """What a command prints; ends everything with what it said if it fails."""
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    ran = subprocess.run(
        list(map(str, command)), cwd=where, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if ran.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{ran.stdout[-4000:]}\nfailed with {ran.returncode}")
    return ran.stdout.strip()


def environment(name: str, python: str, *requirements: object, constraints: Path | None = None) -> Path:
    """The interpreter of a new environment with these requirements in it."""
    where = HERE / "env" / name
    shutil.rmtree(where, ignore_errors=True)
    run(UV, "venv", "--quiet", "--no-python-downloads", "--python", python, where)
    interpreter = where / "bin" / "python"
    limits = () if constraints is None else ("--constraint", constraints)
    if requirements:
        run(UV, "pip", "install", "--quiet", "--python", interpreter, *limits, *requirements)
    return interpreter


def built() -> Path:
    """The wheel, built and checked; the sdist lies beside it."""
    HERE.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(HERE / "dist", ignore_errors=True)
    tools = environment("tools", sys.executable, *TOOLS)
    run(tools, "-m", "build", "--outdir", HERE / "dist", ROOT)
    print(run(tools, "-m", "twine", "check", "--strict", *(HERE / "dist").iterdir()))
    (wheel,) = (HERE / "dist").glob("*.whl")
    return wheel


def with_extra(wheel: Path, extra: str) -> Path:
    """The interpreter of an environment with the wheel and one extra, in which it was used."""
    wanted = f"seedbed[{extra}] @ {wheel.as_uri()}" if extra else f"seedbed @ {wheel.as_uri()}"
    python = environment(f"extra-{extra or 'none'}", sys.executable, wanted)
    run(python, "-c", SMOKE)
    run(UV, "pip", "check", "--python", python)
    assert PROJECT["version"] in run(python.with_name("seedbed"), "--version")
    run(python.with_name("seedbed"), "--help")
    installed = len(run(UV, "pip", "freeze", "--python", python).splitlines())
    print(f"{extra or 'no extra':<10} {installed} packages; imports, samples, has its command and its guide")
    return python


def package() -> None:
    """See the module."""
    wheel = built()
    for extra in ("", *PROJECT["optional-dependencies"]):
        with_extra(wheel, extra)


def core(python: Path) -> str:
    """The last line of the suite's core, run by an interpreter."""
    rooms = (f"tests/{room}" for room in CORE)
    said = run(python, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", "-vv", "-x", *rooms, where=ROOT)
    return said.splitlines()[-1].strip("= ")


def lowest() -> None:
    """See the module."""
    wheel = built()
    oldest = PROJECT["requires-python"].removeprefix(">=")
    versions = HERE / "lowest.txt"
    extras = [word for extra in ("test", "server") for word in ("--extra", extra)]
    options = ["--quiet", "--resolution", "lowest-direct", "--python-version", oldest, "--no-header", "--no-annotate"]
    run(UV, "pip", "compile", *options, *extras, "--output-file", versions, ROOT / "pyproject.toml")
    python = environment("lowest", oldest, f"seedbed[test,server] @ {wheel.as_uri()}", *FOR_TESTS, constraints=versions)
    own = {re.split(r"[\[<>=!~ ]", requirement)[0] for requirement in PROJECT["dependencies"]}
    print(*(line for line in versions.read_text().splitlines() if line.split("==")[0] in own))
    print(f"Python {oldest}: {core(python)}")


def interpreter_of(version: str) -> str | None:
    """A Python of that version on this machine: one that uv finds, or pyenv has; none is downloaded."""
    found = subprocess.run([UV, "python", "find", "--no-python-downloads", version], capture_output=True, text=True, check=False)
    if not found.returncode:
        return found.stdout.strip()
    return next((str(path) for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))), None)


def pythons() -> None:
    """See the module."""
    wheel = built()
    oldest = int(PROJECT["requires-python"].rpartition(".")[2])
    for minor in range(oldest, NEWEST_LOOKED_FOR + 1):
        version = f"3.{minor}"
        found = interpreter_of(version)
        if found is None:
            print(f"Python {version}: not on this machine")
            continue
        python = environment(f"python-{version}", found, f"seedbed[test,server] @ {wheel.as_uri()}", *FOR_TESTS)
        print(f"{run(python, '-VV').split('(')[0].strip()}: {core(python)}", flush=True)


if __name__ == "__main__":
    {"package": package, "lowest": lowest, "pythons": pythons}[sys.argv[1]]()
