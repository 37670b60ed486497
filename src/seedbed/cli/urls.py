"""Sources that are URLs: shown without what may be secret in them, and refused, or nothing else taken, where only one kind will do."""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit, urlunsplit

from seedbed.errors import UsageError

__all__ = ["require_recording", "require_url", "shown_source"]


def shown_source(source: str) -> str:
    """A URL or path to print, quoted for the shell, without user info and query, which may be secret."""
    if "://" in source:
        parts = urlsplit(source)
        source = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return shlex.quote(source)


def require_url(source: str, otherwise: str) -> None:
    """Refuse what is no server where only one will do.

    Raises:
        UsageError: it has no scheme; says ``otherwise``.
    """
    if "://" not in source:
        raise UsageError(f"{source} is no URL; {otherwise}")


def require_recording(path: str) -> None:
    """Refuse a URL where only a recording will do.

    Raises:
        UsageError: it is one.
    """
    if "://" in path:
        raise UsageError(f"{shown_source(path)} is a URL, and a recording is wanted: seedbed record makes one of it")
