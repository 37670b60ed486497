"""Over the wire: a transport fast enough to wait only for the server, and the model behind a URL."""

from seedbed.http.model import HTTPModel, connect
from seedbed.http.retry import Retry
from seedbed.http.transport import TrioTransport

__all__ = ["HTTPModel", "Retry", "TrioTransport", "connect"]
