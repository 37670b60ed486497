"""How counts are put into words for people, wherever a message holds one."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, noun: str) -> str:
    """A number of things, in words that fit it.

    Example:
        >>> counted(1, "sequence"), counted(0, "token"), counted(2, "prefix")
        ('1 sequence', '0 tokens', '2 prefixes')
    """
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith('x') else 's'}"
