"""What other libraries read from our files is what we wrote."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("load_rows", Path(__file__).parent / "load_rows.py")
load_rows = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(load_rows)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", load_rows.WAYS)
def test_it_loads(tmp_path: Path, name: str, suffix: str) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed: make test-ray")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = load_rows.make(tmp_path, suffix)
    lengths: dict[int, list[int]] = {}
    for line in load_rows.make(tmp_path, ".jsonl").read_text().splitlines():
        row = json.loads(line)
        lengths.setdefault(row["prompt_index"], []).append(len(row["token_ids"]))

    assert load_rows.WAYS[name](path) == {index: sum(counts) / 4 for index, counts in lengths.items()}
