"""How a server's "no" is understood: one table for all protocols, since proxies and servers mix their envelopes.

Bodies seen in the wild: ``{"error": {"message", "type", "code"}}``, ``{"error": "text"}``, ``{"object": "error", "message"}``,
``{"detail": ...}``, ``{"error", "error_type"}``, nothing, and a proxy's HTML.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import orjson

from seedbed.errors import (
    BadRequest,
    ContextOverflow,
    EngineFailed,
    FeatureOff,
    NonFiniteAtServer,
    NotReady,
    Overloaded,
    RequestRefused,
    Unauthorized,
    UnknownModel,
)

if TYPE_CHECKING:
    from seedbed.protocols.exchange import HttpResponse

__all__ = ["error_text", "refusal"]

_OVERFLOW_WORDS = (
    "maximum context length",
    "maximum model length",
    "max_tokens must be at least 1, got 0",
    "longer than the model's context length",
    "exceeds the available context size",
)
_OVERFLOW_TYPES = ("exceed_context_size_error", "context_overflow")
_NON_FINITE_WORDS = ("out of range float values", "non_finite_logits")
_LOADING_WORDS = ("loading model", "unavailable_error")


def error_text(response: HttpResponse) -> tuple[str, str]:
    """Type and message out of an error's body, whichever envelope it came in; the type is "" when it has none."""
    try:
        data: Any = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        text = " ".join(bytes(response.body[:200]).decode("utf-8", "replace").split())
        return "", text
    if not isinstance(data, dict):
        return "", str(data)[:200]
    inner = data.get("error", data)
    if isinstance(inner, dict):
        kind = inner.get("type") or inner.get("param") or ""
        return str(kind), str(inner.get("message") or inner.get("detail") or inner)
    return str(data.get("error_type", "")), str(inner)


def refusal(response: HttpResponse) -> RequestRefused:
    """The error a response with a status of 400 or more means; any other status that is not 200 is one too."""
    status = response.status
    kind, text = error_text(response)
    message = f"the server answered {status}: {text or 'no reason given'}"
    said = f"{kind} {text}".lower()
    if any(words in said for words in _NON_FINITE_WORDS):
        return NonFiniteAtServer(f"{message}; its model gave NaN for this prefix", status=status)
    if status in (400, 413, 422) and (kind in _OVERFLOW_TYPES or kind == "input_tokens" or any(words in said for words in _OVERFLOW_WORDS)):
        return ContextOverflow(message, status=status)
    if status in (401, 407) or (status == 403 and "scale-out" not in said):
        return Unauthorized(f"{message}; give the server's key with api_key=", status=status)
    if status in (501, 403):
        return FeatureOff(message, status=status, flag=text)
    if status == 404:
        return UnknownModel(message, status=status)
    if status == 503 and any(words in said for words in _LOADING_WORDS):
        return NotReady(message, status=status)
    if status in (429, 503):
        return Overloaded(message, status=status, retry_after=_retry_after(response))
    if status >= 500:
        return EngineFailed(message, status=status)
    if 300 <= status < 400:
        target = (response.header("location") or "nowhere").split("?")[0]
        return RequestRefused(f"the server redirects to {target}; redirects are not followed, connect there directly", status=status)
    if 400 <= status < 500:
        return BadRequest(message, status=status)
    return RequestRefused(message, status=status)


def _retry_after(response: HttpResponse) -> float | None:
    """Seconds only: the date form would need a wall clock, and no model server sends it."""
    try:
        seconds = float(response.header("retry-after") or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
