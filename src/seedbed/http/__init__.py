"""Over the wire: a transport fast enough to wait only for the server, and the model behind a URL.

Names are imported when they are first used: the listener shares ``message`` with the client, and must not load httpx for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seedbed.http.endpoint import HTTPStatistics
    from seedbed.http.model import HTTPModel, connect
    from seedbed.http.pool import PoolStatistics
    from seedbed.http.retry import Retry
    from seedbed.http.transport import TrioTransport

__all__ = ["HTTPModel", "HTTPStatistics", "PoolStatistics", "Retry", "TrioTransport", "connect"]

_FILES = {
    "HTTPModel": "model",
    "HTTPStatistics": "endpoint",
    "PoolStatistics": "pool",
    "Retry": "retry",
    "TrioTransport": "transport",
    "connect": "model",
}


def __getattr__(name: str) -> object:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
