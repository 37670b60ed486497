"""Which rows are kept for whoever asks again, and which go when room is short."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from seedbed.llm.base import Row, TopLogprobs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["KeptRows", "size_of", "unspoilable"]

# Of the bound, what rows that were asked for only once may take. Most prefixes are never asked for twice: they must not push out those
# that are, nor fill the memory for nothing.
SHARE_OF_ONCE = 1 / 4
# What a row costs besides its numbers: key, dictionary entries, array objects. (Measured with CPython 3.11.)
OVERHEAD = 400


class KeptRows:
    """Rows by key, within a bound of bytes: the least recently used go first, and those asked for only once may take but a quarter.

    Args:
        max_bytes: the bound, with everything a row costs; a row that alone is larger is not kept.

    Attributes:
        taken: rows taken in so far.
        bytes_taken: their size.
        evictions: how many of them went again.

    Example:
        >>> import numpy as np
        >>> kept = KeptRows(10_000)
        >>> kept.put(b"a", np.zeros(500, dtype=np.float32))
        >>> kept.get(b"a").shape, kept.get(b"b"), kept
        ((500,), None, <KeptRows: 1 rows, 2400 of 10000 bytes>)
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._once, self._again = _Aged(), _Aged()
        self.taken = self.bytes_taken = self.evictions = 0

    def get(self, key: bytes) -> Row | None:
        """The row kept under ``key``, or None. It counts as asked for again."""
        row = self._once.rows.get(key)
        if row is None:
            row = self._again.rows.get(key)
            if row is not None:
                self._again.rows.move_to_end(key)
            return row
        self._again.add(key, self._once.take(key))
        return row

    def put(self, key: bytes, row: Row, *, again: bool = False) -> None:
        """Keep a row; ``again``: several wanted it already. A key that is there keeps the row it has: the first answer counts."""
        if key in self._once.rows or key in self._again.rows or size_of(row) > self._max_bytes:
            return
        self.taken += 1
        self.bytes_taken += size_of(row)
        (self._again if again else self._once).add(key, row)
        self._make_room()

    def clear(self) -> None:
        """Drop everything."""
        self._once, self._again = _Aged(), _Aged()

    @property
    def bytes(self) -> int:
        """What all rows cost now."""
        return self._once.bytes + self._again.bytes

    def __len__(self) -> int:
        return len(self._once.rows) + len(self._again.rows)

    def __repr__(self) -> str:
        return f"<KeptRows: {len(self)} rows, {self.bytes} of {self._max_bytes} bytes>"

    def _make_room(self) -> None:
        # The newest row may be larger than the share: it is what a sibling that is just behind asks for next.
        while len(self._once.rows) > 1 and self._once.bytes > self._max_bytes * SHARE_OF_ONCE:
            self._evict(self._once)
        while self.bytes > self._max_bytes:
            self._evict(self._again if self._again.rows else self._once)

    def _evict(self, aged: _Aged) -> None:
        aged.take(next(iter(aged.rows)))
        self.evictions += 1


class _Aged:
    """Rows, oldest first, and what they cost."""

    __slots__ = ("bytes", "rows")

    def __init__(self) -> None:
        self.rows: OrderedDict[bytes, Row] = OrderedDict()
        self.bytes = 0

    def add(self, key: bytes, row: Row) -> None:
        self.rows[key] = row
        self.bytes += size_of(row)

    def take(self, key: bytes) -> Row:
        row = self.rows.pop(key)
        self.bytes -= size_of(row)
        return row


def size_of(row: Row) -> int:
    """What keeping a row costs, in bytes."""
    numbers = row.token_ids.nbytes + row.logprobs.nbytes if isinstance(row, TopLogprobs) else row.nbytes
    return numbers + OVERHEAD


def unspoilable(row: Row) -> Row:
    """The row itself if nobody can change it, else a read-only copy.

    A copy also when it is a view: of a buffer that its owner may use again, or of an answer with more in it than this row.
    """
    if isinstance(row, TopLogprobs) or (row.flags.owndata and not row.flags.writeable):
        return row
    copy: NDArray[np.float32] = row.copy()
    copy.flags.writeable = False
    return copy
