"""Where rows go: appended in the order of the prompts, so that what is on the disk is always the beginning of the whole.

A run that was killed goes on from what is there: the last prompt whose rows are complete. Rule 1: a prompt's rows are one write. Rule 2:
what is torn, or incomplete, at the end of the output is cut off before anything is added. Rule 3: beside the output lies what decides it,
and a run that would decide otherwise is refused.

| ``out`` | rows | what decides them | what was skipped |
|---|---|---|---|
| ``X.jsonl`` | ``X.jsonl`` | ``X.jsonl.run.json`` | ``X.jsonl.skipped.jsonl`` |
| ``X.parquet`` | ``X.parquet.partial.jsonl``, and in the end ``X.parquet`` | ``X.parquet.run.json`` | ``X.parquet.skipped.jsonl`` |
| ``X/`` | ``X/part-00000.jsonl`` and so on, 10,000 prompts each | ``X/_run.json`` | ``X/_skipped.jsonl`` |
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import orjson

from seedbed.errors import UsageError
from seedbed.files import hold, sync_directory, write_whole
from seedbed.generation.bulk.parquet import require_parquet, write_parquet
from seedbed.llm.arguments import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from seedbed.errors import RecordingMiss

__all__ = ["Finished", "Output"]

PART = 10_000  # prompts a file, where the output is a directory
SYNC = 16_777_216  # octets between two moments at which what was written is forced to the disk
BLOCK = 65_536
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Finished(NamedTuple):
    """A prompt, done.

    Attributes:
        prompt_index: its number.
        lines: its rows, encoded; b"" when it was skipped.
        tokens: how many its sequences have.
        problem: why it was skipped, or "".
        miss: the miss, where it was skipped because a recording does not know it.
    """

    prompt_index: int
    lines: bytes
    tokens: int = 0
    problem: str = ""
    miss: RecordingMiss | None = None


class Output:
    """The files of one run, held by one writer.

    Args:
        path: where to; its suffix says what: ``.jsonl``, ``.parquet``, or none for a directory.
        decides: what decides the rows, as JSON values; an earlier run's must be equal.
        if_new: what decides them, too, unless an earlier run has chosen already.
        rows: how many rows a prompt has.
        prompts: the file of prompts, for the error that says it is another than it was.

    Attributes:
        decides: all of it, as written down.
        next_index: the first prompt that is not in the output yet.
        run_path: where what decides them is written down.
        skipped_path: where skipped prompts are listed, if there are any.
        is_complete: whether all of it is there.

    Raises:
        UsageError: an earlier run was decided otherwise, by what is named; something else lies there; somebody else writes to it.
    """

    def __init__(self, path: Path, decides: Mapping[str, Any], if_new: Mapping[str, Any], rows: int, prompts: Path) -> None:
        self.path, self._rows, self._prompts = path, rows, prompts
        self._kind = _kind_of(path)
        beside = f"{path}/_" if self._kind == "directory" else f"{path}."
        self.run_path, self.skipped_path = Path(f"{beside}run.json"), Path(f"{beside}skipped.jsonl")
        self._file: _Appended | None = None
        self._skipped: _Appended | None = None
        self._part = -1
        self._run = self._open_run()
        try:
            if not hold(self._run):
                raise UsageError(f"another run is writing to {path}: wait until it is done, or write elsewhere")
            self.decides = self._agree(decides, if_new)
            self.is_complete = self._kind == "parquet" and path.exists()
            self.next_index = 0 if self.is_complete else self._recover()
        except BaseException:
            os.close(self._run)
            raise

    def append(self, finished: Finished) -> None:
        """Add the next prompt; the ones before it are there, or were skipped."""
        if finished.problem:
            if self._skipped is None:
                self._skipped = _Appended(self.skipped_path)
            place = {"line": finished.prompt_index + 1, "prompt_index": finished.prompt_index}
            self._skipped.add(orjson.dumps(place | {"problem": finished.problem}) + b"\n")
        elif finished.lines:
            self._file_for(finished.prompt_index).add(finished.lines)
        self.next_index = finished.prompt_index + 1

    def complete(self) -> None:
        """All prompts are there: make it what was asked for."""
        self.close_files()
        if self._kind == "parquet":
            if not self.is_complete:
                write_parquet(self._part_path(0), self.path)
                sync_directory(self.path.parent)
            self._part_path(0).unlink(missing_ok=True)
        elif self._kind == "lines":
            self.path.touch()  # a run without a row leaves a file that can be read, too
        self.is_complete = True

    def close_files(self) -> None:
        """Force what was written to the disk; the run is still held."""
        for file in (self._file, self._skipped):
            if file is not None:
                file.close()
        self._file = self._skipped = None
        self._part = -1

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        self.close_files()
        if self._run >= 0:
            os.close(self._run)
        self._run = -1

    def _open_run(self) -> int:
        if self._kind == "parquet":
            require_parquet()  # now, and not after hours
        try:
            if self._kind == "directory":
                self.path.mkdir(parents=True, exist_ok=True)
            return os.open(self.run_path, _FLAGS, 0o666)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror}") from error

    def _agree(self, decides: Mapping[str, Any], if_new: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the rows: that of the earlier run, which must be the same, or this one's, written down."""
        before = self._decided_before()
        if before is None:
            if self._parts() or (self._kind != "directory" and self.path.exists()):
                self.run_path.unlink()
                raise UsageError(f"{self.path} is there already, and was not made by such a run: delete it, or write elsewhere")
            return self._decide(decides, if_new)
        changed = [name for name, value in decides.items() if before.get(name) != value]
        if not changed:
            return before
        if not any(path.stat().st_size for path in self._results()):  # it failed before its first row: nothing was decided by it
            return self._decide(decides, if_new)
        if changed == ["prompts"]:
            raise UsageError(self._other_prompts(before, decides))
        told = "; ".join(f"{name} was {shown(before.get(name))} and is {shown(decides[name])}" for name in changed)
        raise UsageError(f"{self.path} was begun otherwise: {told}. Give the same again to go on, or write elsewhere")

    def _decide(self, decides: Mapping[str, Any], if_new: Mapping[str, Any]) -> dict[str, Any]:
        """Write down what decides the rows of a run that begins; of an earlier one there is nothing but empty files."""
        decided = dict(decides) | dict(if_new)
        for path in self._results():
            path.unlink()
        os.ftruncate(self._run, 0)
        # What a model tells of itself may be numpy's.
        write_whole(self._run, orjson.dumps(decided, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n", 0)
        os.fsync(self._run)
        sync_directory(self.run_path.parent)
        return decided

    def _other_prompts(self, before: Mapping[str, Any], decides: Mapping[str, Any]) -> str:
        then, now = (str(decided.get("prompts")).partition(",")[0] for decided in (before, decides))
        made = [self.path] if self._kind == "directory" else [*self._results(), self.run_path]
        *first, last = map(str, made)
        named = f"{', '.join(first)} and {last}" if first else last
        what = f"{self._prompts} is not the file {self.path} was begun with ({then} then, {now.partition(' ')[0]} now)"
        return f"{what}; go on with the old file, write elsewhere, or delete {named}"

    def _results(self) -> list[Path]:
        """The files that a run has made, besides what decides it."""
        whole = [] if self._kind == "directory" else [self.path]
        return [path for path in dict.fromkeys([*whole, *self._parts(), self.skipped_path]) if path.exists()]

    def _decided_before(self) -> dict[str, Any] | None:
        data = _read_at(self._run, 0, os.fstat(self._run).st_size)
        try:
            before = orjson.loads(data)
            if not isinstance(before, dict):
                raise TypeError(f"it holds {shown(before)}")
        except (orjson.JSONDecodeError, TypeError) as error:
            if not data or not data.endswith(b"}\n"):  # killed while it was written, so nothing else was
                return None
            raise UsageError(f"{self.run_path} is not what a run writes: {error}") from error
        return before

    def _recover(self) -> int:
        """Cut off what is incomplete; the number of the first prompt that is missing."""
        next_index = 0
        for path in reversed(self._parts()):
            last = _cut_after_last(path, lambda row: row.get("index") == self._rows - 1)
            if last is not None:
                next_index = last["prompt_index"] + 1
                break
        _cut_after_last(self.skipped_path, lambda row: row["prompt_index"] < next_index)
        return next_index

    def _parts(self) -> list[Path]:
        if self._kind == "directory":
            return sorted(self.path.glob("part-*.jsonl"))
        return [path for path in [self._part_path(0)] if path.exists()]

    def _file_for(self, index: int) -> _Appended:
        part = index // PART if self._kind == "directory" else 0
        if self._file is None or part != self._part:
            if self._file is not None:
                self._file.close()
            self._file, self._part = _Appended(self._part_path(part)), part
        return self._file

    def _part_path(self, part: int) -> Path:
        match self._kind:
            case "directory":
                return self.path / f"part-{part:05}.jsonl"
            case "parquet":
                return Path(f"{self.path}.partial.jsonl")
            case _:
                return self.path


class _Appended:
    """A file of JSON lines that is added to at its end."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, _FLAGS, 0o666)
        self._end = self._synced = os.fstat(self._descriptor).st_size

    def add(self, data: bytes) -> None:
        write_whole(self._descriptor, data, self._end)
        self._end += len(data)
        if self._end - self._synced >= SYNC:
            os.fsync(self._descriptor)
            self._synced = self._end

    def cut_after_last(self, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """Cut lines off the end until the last one is whole and wanted; that one, or None when none is left."""
        while self._end:
            start = self._start_of_last_line()
            line = _read_at(self._descriptor, start, self._end - start)
            row = _row_or_none(line)
            if row is not None and is_wanted(row):
                os.ftruncate(self._descriptor, self._end)
                return row
            self._end = start
        os.ftruncate(self._descriptor, 0)
        return None

    def _start_of_last_line(self) -> int:
        upto = self._end - 1  # the line's own end, if it has one, is not looked for
        while upto > 0:
            begin = max(0, upto - BLOCK)
            place = _read_at(self._descriptor, begin, upto - begin).rfind(b"\n")
            if place >= 0:
                return begin + place + 1
            upto = begin
        return 0

    def close(self) -> None:
        os.fsync(self._descriptor)
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cut_after_last(path: Path, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """The last wanted line of a file, which then ends with it; a file that has none is taken away."""
    if not path.exists():
        return None
    with _Appended(path) as file:
        last = file.cut_after_last(is_wanted)
    if last is None:
        path.unlink()
    return last


def _read_at(descriptor: int, start: int, count: int) -> bytes:
    os.lseek(descriptor, start, os.SEEK_SET)
    data = b""
    while len(data) < count and (more := os.read(descriptor, count - len(data))):
        data += more
    return data


def _row_or_none(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("prompt_index"), int) else None


def _kind_of(path: Path) -> str:
    kinds = {".jsonl": "lines", ".parquet": "parquet"}
    if path.is_dir() or not path.suffix:
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file without a suffix: rows go to a .jsonl or .parquet file, or to a directory")
        return "directory"
    if path.suffix not in kinds:
        raise UsageError(f"rows go to a .jsonl or .parquet file, or to a directory, not to {path.name!r}")
    return kinds[path.suffix]
