"""Files of a recording: never read through a link, replaced whole or not at all, held by one writer at a time.

Rule 1: a file of a recording is a regular file; a link, a pipe or a device in its place is refused before a byte is read or written.
Rule 2: the lock is the operating system's own, on ``steps.jsonl`` itself, so a process that was killed leaves none behind.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from seedbed.errors import RecordingBroken, RecordingError, RecordingLocked
from seedbed.files import hold, sync_directory

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["lock", "open_regular", "read_file", "replace_file"]

# 0 where the system has none (Windows): fstat then still refuses what is no regular file.
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file.

    Raises:
        RecordingBroken: a link, a pipe, a directory or a device stands there.
        OSError: as ``os.open``.
    """
    try:
        descriptor = os.open(path, flags | _NO_LINKS, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise RecordingBroken(f"{path} is a link; a recording's files are read and written only where they stand") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RecordingBroken(f"{path} is no regular file")
    return descriptor


def read_file(path: Path) -> bytes:
    """A file, whole.

    Raises:
        RecordingBroken: no regular file, or it cannot be read.
        FileNotFoundError, NotADirectoryError: it is not there.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise RecordingBroken(f"{path} cannot be read: {error.strerror}") from error


def replace_file(path: Path, data: bytes) -> None:
    """Put ``data`` in the place of a file: whoever reads meanwhile, or after a kill, finds the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}")
    with os.fdopen(open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def lock(descriptor: int, path: Path) -> None:
    """Hold a file for this writer until its descriptor is closed, however the process ends.

    Raises:
        RecordingLocked: another one holds it.
        RecordingError: the system cannot lock it.
    """
    try:
        if hold(descriptor):
            return
    except OSError as error:
        raise RecordingError(f"{path} cannot be locked: {error.strerror}") from error
    raise RecordingLocked(
        f"another recorder is writing to {path.parent}: it holds the lock on {path.name}; wait until it is done, or give another path"
    )
