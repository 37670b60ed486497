"""P10: what does ``import seedbed`` cost, beside an interpreter that imports nothing, and one that imports an empty package?"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL = 1.1


def seconds(code: str, path: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})
    return time.perf_counter() - began


def run(quick: bool) -> list[dict[str, object]]:
    loaded = subprocess.run([sys.executable, "-c", "import seedbed; print(seedbed.__all__)"], capture_output=True, text=True, check=True)
    assert "generate" in loaded.stdout
    ours, floor = [], []
    with tempfile.TemporaryDirectory() as path:
        (Path(path) / "empty").mkdir()
        (Path(path) / "empty" / "__init__.py").touch()
        for _ in range(9 if quick else 25):
            bare = seconds("pass", path)
            ours.append(seconds("import seedbed", path) / bare)
            floor.append(seconds("import empty", path) / bare)
    return [
        _result("P10", "import seedbed / bare interpreter", ours, GOAL),
        _result("P10 floor", "import an empty package / bare interpreter", floor, None),
    ]


def _result(name: str, what: str, ratios: list[float], goal: float | None) -> dict[str, object]:
    low, ratio, high = statistics.quantiles(ratios, n=4)
    return {"id": name, "what": what, "ratio": ratio, "low": low, "high": high, "goal": goal, "ok": None if goal is None else ratio <= goal}
