"""How things are spelled: tokens whose text nobody knows, for protocols that name them by it (``<|7|>`` is token 7); counts for people."""

from __future__ import annotations

import re

__all__ = ["counted", "ids_spelled", "spelled"]

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


def counted(count: int, noun: str) -> str:
    """A number of things, in words that fit it.

    Example:
        >>> counted(1, "sequence"), counted(0, "token"), counted(2, "prefix")
        ('1 sequence', '0 tokens', '2 prefixes')
    """
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith('x') else 's'}"
