"""Lines that know when they are damaged: JSON objects whose last member is a checksum of all that stands before it.

A checksum (CRC-32) finds every change of up to 32 neighbouring bits, so that one changed bit is never believed. It says nothing about
who wrote the line, and it covers the text, so two recorders that note different latencies write different ones; what is equal in two
recordings is said by the SHA-256 of a row (``steps.row_sha256``), into which no computed number enters.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["checked", "parse"]

_MARK = b',"crc32":"'
_INDENTED_MARK = b',\n  "crc32": "'


def checked(data: Mapping[str, Any], *, indent: bool = False) -> bytes:
    """One JSON object as a line (or, with ``indent``, as several) that ends with its checksum and a line feed.

    numpy arrays are lists, float32 in the shortest decimal form that gives the same float32 back, -inf null.

    Example:
        >>> checked({"step": 0})
        b'{"step":0,"crc32":"60cb8d16"}\\n'
    """
    option = orjson.OPT_SERIALIZE_NUMPY | (orjson.OPT_INDENT_2 if indent else 0)
    text = orjson.dumps(dict(data), option=option)
    body = text[:-2] if indent else text[:-1]
    end = b'"\n}\n' if indent else b'"}\n'
    return body + (_INDENTED_MARK if indent else _MARK) + b"%08x" % zlib.crc32(body) + end


def parse(line: bytes, *, indent: bool = False) -> dict[str, Any]:
    """What ``checked`` wrote.

    Raises:
        ValueError: damaged, or nothing that ``checked`` writes.

    Example:
        >>> parse(b'{"step":0,"crc32":"60cb8d16"}\\n')
        {'step': 0, 'crc32': '60cb8d16'}
        >>> parse(b'{"step":1,"crc32":"60cb8d16"}\\n')
        Traceback (most recent call last):
            ...
        ValueError: its checksum does not match
    """
    mark, end = (_INDENTED_MARK, b'"\n}\n') if indent else (_MARK, b'"}\n')
    cut = len(line) - len(end) - 8 - len(mark)
    if cut < 0 or line[cut : cut + len(mark)] != mark or not line.endswith(end):
        raise ValueError("it does not end with its checksum")
    if line[cut + len(mark) : -len(end)] != b"%08x" % zlib.crc32(line[:cut]):
        raise ValueError("its checksum does not match")
    data = orjson.loads(line)
    if not isinstance(data, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - damage, whatever its kind, is a ValueError here
    return data
