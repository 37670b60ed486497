"""How tokens whose text nobody knows are spelled, for protocols that name them by it: ``<|7|>`` is token 7."""

from __future__ import annotations

import re

__all__ = ["ids_spelled", "spelled"]

_SPELLED = re.compile(r"(?:<\|\d{1,18}\|>)+")


def spelled(token_id: int) -> bytes:
    """A token's spelling.

    Example:
        >>> spelled(7)
        b'<|7|>'
    """
    return f"<|{token_id}|>".encode()


def ids_spelled(text: str) -> list[int] | None:
    """The token ids of a text that consists of such spellings alone; None for any other.

    Example:
        >>> ids_spelled("<|7|><|0|>"), ids_spelled("seven")
        ([7, 0], None)
    """
    if not _SPELLED.fullmatch(text):
        return None
    return [int(token_id) for token_id in re.findall(r"\d+", text)]
