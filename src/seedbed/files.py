"""Writing that survives: what is appended is whole or not there, and one writer at a time holds a file."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["hold", "sync_directory", "write_whole"]

# File systems that have no such locks: writing works, only the second writer is not noticed.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def write_whole(descriptor: int, data: bytes, end: int) -> None:
    """Write all of ``data`` at ``end``, or nothing of it; what stands behind ``end`` is cut off first.

    Raises:
        OSError: the disk is full or gone. What was written of ``data`` is taken back, at the latest by the next write.
    """
    if os.fstat(descriptor).st_size != end:
        os.ftruncate(descriptor, end)
    os.lseek(descriptor, end, os.SEEK_SET)
    left = memoryview(data)
    try:
        while left:
            written = os.write(descriptor, left)
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left = left[written:]
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, end)
        raise


def sync_directory(path: Path) -> None:
    """Force a directory's list of names to the disk, where the system can."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hold(descriptor: int) -> bool:
    """Hold a file for this writer until its descriptor is closed, however the process ends; False when another one holds it.

    Raises:
        OSError: it cannot be locked.
    """
    try:
        _lock(descriptor)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        # Windows locks forbid reading what is locked, so take an octet far behind the end, which it allows.
        os.lseek(descriptor, 2**40, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        # flock, not lockf: the latter's are lost when any other descriptor of the file is closed in this process.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
