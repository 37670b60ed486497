"""Full rows in files any safetensors reader can open: one tensor ``logits`` of shape (rows, vocab_size) a file.

::

    logits-00001.safetensors
      octets 0..7          4088, little-endian: the length of the header
      octets 8..4095       {"logits": {"dtype": "BF16", "shape": [2, 50], "data_offsets": [0, 200]}}, then blanks
      octets 4096..        the rows, one behind the other, little-endian

Rule 1: dtype, number of rows and vocabulary leave one possible header, and it is compared octet by octet: so no holes, no second tensor,
no file that is also something else, and no shape that promises more than the file holds.
Rule 2: a shard is found by its number, never by a name that stands in a file, so no name can lead out of the directory.
Rule 3: a shard that still grows has a header that promises fewer rows than there are; what lies behind is believed as far as
``steps.jsonl`` refers to it, and cut off when a killed recording is continued.
Rule 4: a row that is exactly bfloat16 or float16 is stored as such, bit for bit float32 again when read; each dtype has shards of its own.
Rule 5: a row is handed out only if its SHA-256 is the one its step names.
"""

from __future__ import annotations

import errno
import os
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import orjson

from seedbed.errors import RecordingBroken
from seedbed.files import sync_directory, write_whole
from seedbed.recording.files import open_regular

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["DTYPES", "HEADER", "MAX_SHARD", "MAX_SHARDS", "Shard", "Shards", "narrowed", "shard_header", "shard_name", "widened"]

Dtype: TypeAlias = Literal["BF16", "F16", "F32"]
DTYPES: dict[Dtype, int] = {"BF16": 2, "F16": 2, "F32": 4}
"""Octets of an entry. bfloat16 first: a row that fits both is stored as what servers compute in."""

HEADER = 4096
"""Octets before the first row: a page, so that rows are aligned."""

MAX_SHARD = 268_435_456
"""Octets of rows after which a new shard is begun: 441 rows of 151,936 float32."""

MAX_SHARDS = 99_999


def shard_name(number: int) -> str:
    """The file of a shard, counted from 1."""
    return f"logits-{number:05d}.safetensors"


def shard_header(dtype: Dtype, rows: int, vocab_size: int) -> bytes:
    """The only header such a shard can have."""
    tensor = {"dtype": dtype, "shape": [rows, vocab_size], "data_offsets": [0, rows * vocab_size * DTYPES[dtype]]}
    text = orjson.dumps({"logits": tensor})
    return struct.pack("<Q", HEADER - 8) + text.ljust(HEADER - 8)


def narrowed(row: NDArray[np.float32]) -> tuple[Dtype, bytes]:
    """A row as few octets as hold it bit for bit.

    Example:
        >>> narrowed(np.float32([1.0, -0.0, 3.140625]))[0], narrowed(np.float32([0.1]))[0]
        ('BF16', 'F32')
    """
    bits = np.ascontiguousarray(row, dtype="<f4").view("<u4")
    if not (bits & 0xFFFF).any():
        return "BF16", (bits >> 16).astype("<u2").tobytes()
    with np.errstate(all="ignore"):
        half = row.astype("<f2")
        if np.array_equal(half.astype("<f4").view("<u4"), bits):
            return "F16", half.tobytes()
    return "F32", bits.tobytes()


def widened(dtype: Dtype, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stored octets as float32, bit for bit what ``narrowed`` was given; without a copy where they are float32 already."""
    if dtype == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype == "F16":
        return data.view("<f2").astype(np.float32)
    return data.view("<f4").astype(np.float32, copy=False)


@dataclass(slots=True)
class Shard:
    """One file.

    Attributes:
        dtype: of its entries.
        rows: how many steps refer to it.
        is_finished: whether its header promises just these.
    """

    dtype: Dtype
    rows: int
    is_finished: bool = False
    mapped: NDArray[np.uint8] | None = field(default=None, repr=False)
    descriptor: int | None = field(default=None, repr=False)


class Shards:
    """All full rows of a recording, read through memory maps that are made when a row is first asked for.

    Args:
        path: the recording's directory.
        vocab_size: entries of a row.
    """

    def __init__(self, path: Path, vocab_size: int, *, max_shard: int = MAX_SHARD) -> None:
        self._path, self._vocab_size, self._max_shard = path, vocab_size, max_shard
        self._shards: list[Shard] = []
        self._growing: dict[Dtype, int] = {}  # {dtype: number of the shard that has room}

    def __len__(self) -> int:
        return len(self._shards)

    def shard(self, number: int) -> Shard:
        """The shard of that number, counted from 1."""
        return self._shards[number - 1]

    def admit(self, rows: list[int], sealed: object) -> None:
        """Believe in the shards that steps refer to, after looking at their headers and lengths; no row is read.

        Args:
            rows: how many rows of each shard the steps refer to, in the shards' order.
            sealed: what the manifest says of them, or None while the recording grows.

        Raises:
            RecordingBroken: one is missing, too short, too long, or is not what its name says; names it.
        """
        for number, count in enumerate(rows, 1):
            self._shards.append(self._examined(number, count, is_sealed=sealed is not None))
        if sealed is not None and sealed != self.described():
            raise RecordingBroken(f"{self._path}: the shards are {self.described()}, the manifest says {sealed}")

    def described(self) -> list[dict[str, object]]:
        """What a manifest says of the shards."""
        return [{"dtype": shard.dtype, "rows": shard.rows} for shard in self._shards]

    def _examined(self, number: int, rows: int, *, is_sealed: bool) -> Shard:
        name = shard_name(number)
        try:
            descriptor = open_regular(self._path / name)
        except OSError as error:
            raise RecordingBroken(f"{self._path}: {name} cannot be read: {error.strerror}") from error
        try:
            head, size = os.read(descriptor, HEADER), os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        dtype, promised = self._header_of(head, name)
        there = (size - HEADER) // self._row_size(dtype)
        if promised > there or rows > there:
            raise RecordingBroken(f"{self._path}: {name} was cut off: it holds {there} rows of {max(rows, promised)}")
        is_finished = promised == rows and size == HEADER + rows * self._row_size(dtype)
        if is_sealed and not is_finished:
            raise RecordingBroken(f"{self._path}: {name} is not what was sealed: {rows} rows of {dtype}")
        return Shard(dtype, rows, is_finished)

    def _header_of(self, head: bytes, name: str) -> tuple[Dtype, int]:
        try:
            tensor = orjson.loads(head[8:])["logits"]
            dtype, rows = tensor["dtype"], tensor["shape"][0]
            if type(rows) is not int or not 0 <= rows < 2**40 or head != shard_header(dtype, rows, self._vocab_size):
                raise ValueError("it is not the one such a file has")
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise RecordingBroken(f"{self._path}: the header of {name} is damaged: {error!r}") from error
        return dtype, rows

    def row(self, number: int, row: int) -> NDArray[np.float32]:
        """A row as it was given, float32, read-only.

        Raises:
            RecordingBroken: the shard is gone or shorter than it was.
        """
        shard = self.shard(number)
        size = self._row_size(shard.dtype)
        begin = HEADER + row * size
        if shard.mapped is None or shard.mapped.size < begin + size:
            shard.mapped = self._map(number)
        octets = shard.mapped[begin : begin + size]
        if octets.size != size:
            raise RecordingBroken(f"{self._path}: {shard_name(number)} was cut off before row {row}")
        values = widened(shard.dtype, octets)
        values.flags.writeable = False
        return values

    def _map(self, number: int) -> NDArray[np.uint8]:
        path = self._path / shard_name(number)
        try:
            with os.fdopen(open_regular(path), "rb") as file:
                return np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise RecordingBroken(f"{path} cannot be read: {error}") from error

    # The writer's half.

    def resume(self) -> None:
        """Cut off what no step refers to, and remove the shards of which that is all; the next row is appended after the rest."""
        for number, shard in enumerate(self._shards, 1):
            if self._has_room(shard):
                self._growing[shard.dtype] = number
            elif not shard.is_finished:  # killed when it was full, before it was finished
                self._cut(shard, number)
        for number in self._growing.values():
            self._cut(self.shard(number), number)
        number = len(self._shards) + 1
        while (self._path / shard_name(number)).is_file():
            (self._path / shard_name(number)).unlink()
            number += 1

    def _cut(self, shard: Shard, number: int) -> None:
        os.ftruncate(self._opened(number), HEADER + shard.rows * self._row_size(shard.dtype))

    def append(self, row: NDArray[np.float32]) -> tuple[int, int]:
        """Write a row; returns its shard and its place there.

        Raises:
            OSError: the disk is full or gone; nothing of the row is left.
        """
        dtype, data = narrowed(row)
        number = self._growing.get(dtype)
        if number is not None and not self._has_room(self.shard(number)):
            self._finish(number)
            del self._growing[dtype]
            number = None
        if number is None:
            number = self._begin(dtype)
        shard = self.shard(number)
        write_whole(self._opened(number), data, HEADER + shard.rows * len(data))
        shard.rows += 1
        return number, shard.rows - 1

    def take_back(self, number: int) -> None:
        """Forget the last row of a shard, whose step could not be written."""
        shard = self.shard(number)
        shard.rows -= 1
        with suppress(OSError):  # then the next row is written over it
            self._cut(shard, number)

    def finish(self) -> list[dict[str, object]]:
        """Write every header and force everything to the disk; returns what the manifest is to say."""
        for number in range(1, len(self._shards) + 1):
            if self.shard(number).descriptor is not None:
                self._finish(number)
        self._growing.clear()
        return self.described()

    def close(self) -> None:
        """Close what is open for writing, leaving everything as it is."""
        for shard in self._shards:
            if shard.descriptor is not None:
                os.close(shard.descriptor)
                shard.descriptor = None

    def _begin(self, dtype: Dtype) -> int:
        number = len(self._shards) + 1
        if number > MAX_SHARDS:
            raise OSError(errno.EFBIG, f"a recording holds at most {MAX_SHARDS} shards")
        descriptor = open_regular(self._path / shard_name(number), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            write_whole(descriptor, shard_header(dtype, 0, self._vocab_size), 0)
        except OSError:
            os.close(descriptor)
            (self._path / shard_name(number)).unlink()
            raise
        self._shards.append(Shard(dtype, 0, descriptor=descriptor))
        self._growing[dtype] = number
        return number

    def _opened(self, number: int) -> int:
        shard = self.shard(number)
        if shard.descriptor is None:
            shard.descriptor = open_regular(self._path / shard_name(number), os.O_RDWR)
        return shard.descriptor

    def _finish(self, number: int) -> None:
        shard = self.shard(number)
        descriptor = self._opened(number)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, shard_header(shard.dtype, shard.rows, self._vocab_size))
        os.fsync(descriptor)
        sync_directory(self._path)
        os.close(descriptor)
        shard.descriptor, shard.is_finished = None, True

    def _has_room(self, shard: Shard) -> bool:
        return shard.rows == 0 or (shard.rows + 1) * self._row_size(shard.dtype) <= self._max_shard

    def _row_size(self, dtype: Dtype) -> int:
        return self._vocab_size * DTYPES[dtype]

    def __repr__(self) -> str:
        return f"<Shards: {', '.join(f'{shard.rows} rows of {shard.dtype}' for shard in self._shards) or 'none'}>"
