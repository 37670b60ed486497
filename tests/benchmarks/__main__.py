"""Run every benchmark, print one table, write build/bench.json. ``--quick`` takes fewer rounds; names pick files: ``draw http``."""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
OUT = Path("build") / "bench.json"


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # every process that is measured would compile all it imports
    quick, picked = "--quick" in sys.argv, [word for word in sys.argv[1:] if not word.startswith("-")]
    names = [path.stem for path in sorted(HERE.glob("bench_*.py")) if not picked or path.stem.removeprefix("bench_") in picked]
    console = Console() if sys.stdout.isatty() else Console(width=160)
    results: list[dict[str, object]] = []
    for name in names:
        console.print(f"[dim]{name} ...[/dim]", end="")
        began = time.monotonic()
        results += import_module(f"tests.benchmarks.{name}").run(quick)
        console.print(f"[dim] {time.monotonic() - began:.0f} s[/dim]")
    table = Table("goal", "what", "ratio", "quartiles", "wanted", "", box=None)
    for result in results:
        verdict = {True: "[green]met[/green]", False: "[red]missed[/red]", None: ""}[result.get("ok")]
        wanted = "" if result.get("goal") is None else f"{result.get('sense', '<=')} {result['goal']:g}"
        table.add_row(
            str(result["id"]), str(result["what"]), f"{result['ratio']:.3g}", f"{result['low']:.3g} - {result['high']:.3g}", wanted, verdict
        )
    console.print(table)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(results, indent=1) + "\n")
    console.print(f"[dim]medians; the same figures are in {OUT}[/dim]")


if __name__ == "__main__":
    main()
