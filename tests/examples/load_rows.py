"""Rows of ``seedbed generate --prompts`` in the hands of others: pandas, polars, datasets.

Run: ``python tests/examples/load_rows.py``. It samples from the model in the box first; libraries that are not installed are passed over.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio

from seedbed import TinyLM
from seedbed.generation.bulk import generate_file


def with_pandas(path: Path) -> dict[int, float]:
    """How many tokens a prompt's sequences have on average."""
    import pandas as pd

    rows = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_json(path, lines=True)
    return rows.assign(tokens=rows.token_ids.map(len)).groupby("prompt_index").tokens.mean().to_dict()


def with_polars(path: Path) -> dict[int, float]:
    import polars as pl

    rows = pl.scan_parquet(path) if path.suffix == ".parquet" else pl.scan_ndjson(path)
    means = rows.group_by("prompt_index").agg(pl.col("token_ids").list.len().mean().alias("tokens")).collect()
    return dict(means.select("prompt_index", "tokens").iter_rows())


def with_datasets(path: Path) -> dict[int, float]:
    from datasets import load_dataset

    kind = "parquet" if path.suffix == ".parquet" else "json"
    rows = load_dataset(kind, data_files=str(path), split="train", cache_dir=str(path.parent / "cache"))
    lengths: dict[int, list[int]] = {}
    for row in rows:
        lengths.setdefault(row["prompt_index"], []).append(len(row["token_ids"]))
    return {index: sum(counts) / len(counts) for index, counts in lengths.items()}


WAYS = {"pandas": with_pandas, "polars": with_polars, "datasets": with_datasets}


def make(directory: Path, suffix: str) -> Path:
    """Four sequences from each of five prompts."""
    prompts, out = directory / "prompts.jsonl", directory / f"rows{suffix}"
    prompts.write_text("".join(f'{{"prompt": "The {word}", "id": "{word}"}}\n' for word in ("seed", "bed", "rain", "row", "garden")))
    trio.run(lambda: generate_file(prompts, out, TinyLM(), n=4, seed=7, max_new_tokens=20))
    return out


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = make(Path(directory), ".jsonl")
        for name, load in WAYS.items():
            try:
                print(f"{name:<9} mean tokens of each prompt: {load(path)}")
            except ImportError:
                print(f"{name:<9} is not installed")


if __name__ == "__main__":
    main()
