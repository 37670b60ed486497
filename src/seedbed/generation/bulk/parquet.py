"""The finished rows as one parquet file, for pandas, polars, datasets and everything else that reads columns."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import orjson

from seedbed.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["require_pyarrow", "table_of", "write_parquet"]

GROUP = 4_096  # rows in memory at a time


def require_pyarrow() -> Any:
    """The module.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra(
            "writing parquet needs pyarrow: pip install 'seedbed[parquet]'; or write to a file that ends in .jsonl"
        ) from error
    return pyarrow


def write_parquet(lines: Path, path: Path) -> None:
    """Read rows as JSON lines, write them as parquet, zstd-compressed, and put the file in its place whole.

    Raises:
        MissingExtra: pyarrow is not installed.
        OSError: it could not be written; nothing of it is left, and the lines are as they were.
    """
    pyarrow = require_pyarrow()
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
    pyarrow = require_pyarrow()
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
