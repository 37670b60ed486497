"""The finished rows as one parquet file, for pandas, polars, datasets and everything else that reads columns."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import orjson

from seedbed.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["require_parquet", "table_of", "write_parquet"]

GROUP = 4_096  # rows in memory at a time


def _require_pyarrow(what_needs_it: str, instead: str = "") -> Any:
    """The module.

    Args:
        what_needs_it: the error says so first.
        instead: what can be done without it.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        advice = f"pip install 'seedbed[parquet]'{instead and f'; or {instead}'}"
        raise MissingExtra(f"{what_needs_it} needs pyarrow: {advice}") from error
    return pyarrow


def require_parquet() -> Any:
    """The module, to write a file with.

    Raises:
        MissingExtra: it is not installed.
    """
    return _require_pyarrow("writing parquet", instead="write to a file that ends in .jsonl")


def write_parquet(lines: Path, path: Path) -> None:
    """Read rows as JSON lines, write them as parquet, zstd-compressed, and put the file in its place whole.

    Raises:
        MissingExtra: pyarrow is not installed.
        OSError: it could not be written; nothing of it is left, and the lines are as they were.
    """
    pyarrow = require_parquet()
    temporary = path.with_name(f".{path.name}")
    try:
        with temporary.open("wb") as file:
            with pyarrow.parquet.ParquetWriter(file, _schema(pyarrow), compression="zstd") as writer:
                for rows in _groups(lines):
                    writer.write_table(table_of(rows))
            file.flush()
            os.fsync(file.fileno())  # the lines are deleted next
    except BaseException:
        temporary.unlink(missing_ok=True)  # the disk may be full
        raise
    temporary.replace(path)


def table_of(rows: list[dict[str, Any]]) -> Any:
    """Rows as a pyarrow table.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    pyarrow = _require_pyarrow("a table of rows, as Ray Data takes it,")
    return pyarrow.Table.from_pylist(rows, schema=_schema(pyarrow))


def _schema(pyarrow: Any) -> Any:
    ids, floats = pyarrow.list_(pyarrow.int32()), pyarrow.list_(pyarrow.float64())
    return pyarrow.schema(
        {
            "prompt_index": pyarrow.int64(),
            "index": pyarrow.int32(),
            "id": pyarrow.string(),
            "prompt_token_ids": ids,
            "token_ids": ids,
            "text": pyarrow.string(),
            "logprobs": floats,
            "processed_logprobs": floats,
            "finish_reason": pyarrow.string(),
            "stop_match": ids,
            "seed": pyarrow.string(),
        }
    )


def _groups(lines: Path) -> Iterator[list[dict[str, Any]]]:
    if not lines.exists():  # every prompt was skipped, or there was none
        return
    rows: list[dict[str, Any]] = []
    with lines.open("rb") as file:
        for line in file:
            rows.append(orjson.loads(line))
            if len(rows) == GROUP:
                yield rows
                rows = []
    if rows:
        yield rows
