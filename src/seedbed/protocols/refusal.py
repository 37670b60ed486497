"""How a server's "no" is said and understood: one table for all protocols, since proxies and servers mix their envelopes.

Bodies seen in the wild: ``{"error": {"message", "type", "code"}}``, ``{"error": "text"}``, ``{"object": "error", "message"}``,
``{"detail": ...}``, ``{"error", "error_type"}``, nothing, and a proxy's HTML.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import orjson

from seedbed.errors import (
    BadRequest,
    ContextOverflow,
    DeadlineExceeded,
    EngineFailed,
    FeatureOff,
    NonFiniteAtServer,
    NonFiniteLogits,
    NotReady,
    Overloaded,
    RecordingMiss,
    RequestRefused,
    RequestTimeout,
    ServerError,
    TruncatedRow,
    Unauthorized,
    UnknownModel,
    UsageError,
)

if TYPE_CHECKING:
    from seedbed.errors import SeedbedError
    from seedbed.protocols.exchange import HttpResponse

__all__ = ["error_text", "error_type", "one_line", "refusal", "retry_after", "retry_after_header", "status_for", "told"]

_OVERFLOW_WORDS = (
    "maximum context length",
    "maximum model length",
    "max_tokens must be at least 1, got 0",
    "longer than the model's context length",
    "exceeds the available context size",
    "exceed_context_size_error",
    "parameter=input_tokens",
)
_NON_FINITE_WORDS = ("out of range float values", "non-finite logits")
_LOADING_WORDS = ("loading model", "unavailable_error", "not ready")
_FLAG = re.compile(r"--[a-z][a-z0-9-]*(?: -?[0-9]+)?")
# What a refusal may mean although its text names no flag.
_FLAGS = (
    ("greater than max allowed", "--max-logprobs -1"),
    ("scale-out", "--enable-scale-out"),
)
MESSAGE_LENGTH = 600  # characters of a server's own words that are shown


def error_type(error: SeedbedError | type[SeedbedError]) -> str:
    """The name of an error as the native protocol writes it.

    Example:
        >>> error_type(ContextOverflow)
        'context_overflow'
    """
    name = error.__name__ if isinstance(error, type) else type(error).__name__
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


# NonFiniteLogits is what the server found in its own model; to the client it is the server's.
_REFUSALS: tuple[type[RequestRefused], ...] = (
    BadRequest,
    ContextOverflow,
    Unauthorized,
    UnknownModel,
    FeatureOff,
    NonFiniteAtServer,
    NotReady,
    Overloaded,
    EngineFailed,
)
_TYPES = {error_type(kind): kind for kind in _REFUSALS} | {error_type(NonFiniteLogits): NonFiniteAtServer}


def error_text(response: HttpResponse) -> tuple[str, str]:
    """Type and message out of an error's body, whichever envelope it came in; either is "" when it has none."""
    kind, text, _ = _envelope(response)
    return kind, text


def refusal(response: HttpResponse) -> RequestRefused:
    """The error a response with a status of 400 or more means; any other status that is not 200 is one too."""
    status = response.status
    kind, text, flag = _envelope(response)
    message = f"the server answered {status}: {text or 'no reason given'}"
    if 300 <= status < 400:
        target = one_line((response.header("location") or "nowhere").split("?")[0])
        return RequestRefused(f"the server redirects to {target}; redirects are not followed, connect there directly", status=status)
    if status < 400:
        return RequestRefused(message, status=status)
    meant = _meaning(status, kind, f"{kind} {text}".lower(), flag)
    if meant is FeatureOff:
        return FeatureOff(message, status=status, flag=flag)
    if meant is Overloaded:
        return Overloaded(message, status=status, retry_after=retry_after(response))
    if meant is Unauthorized:
        message += "; give the server's key with api_key="
    if meant is NonFiniteAtServer:
        message += "; its model gave NaN for this prefix"
    return meant(message, status=status)


def _meaning(status: int, kind: str, said: str, flag: str) -> type[RequestRefused]:
    if kind in _TYPES:
        return _TYPES[kind]
    if any(words in said for words in _NON_FINITE_WORDS):
        return NonFiniteAtServer
    if status in (400, 413, 422):
        if any(words in said for words in _OVERFLOW_WORDS):
            return ContextOverflow
        return FeatureOff if flag else BadRequest
    if status == 501 or (status == 403 and flag):
        return FeatureOff
    if status == 503 and any(words in said for words in _LOADING_WORDS):
        return NotReady
    by_status = {401: Unauthorized, 403: Unauthorized, 407: Unauthorized, 404: UnknownModel, 429: Overloaded, 503: Overloaded}
    return by_status.get(status, EngineFailed if status >= 500 else BadRequest)


def _envelope(response: HttpResponse) -> tuple[str, str, str]:
    """Type, message and the server's flag that would lift it; each "" when there is none."""
    try:
        data: Any = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        data = bytes(response.body[:MESSAGE_LENGTH]).decode("utf-8", "replace")
    kind: object = ""
    text: object = data
    flag: object = None
    if isinstance(data, dict):
        inner = data.get("error", data)
        kind, text = data.get("error_type"), inner
        if isinstance(inner, dict):
            kind = inner.get("type") or inner.get("param")
            text = inner.get("message") or inner.get("detail") or inner or ""
            flag = inner.get("flag")
    line = one_line(text)
    if not isinstance(flag, str):
        flag = next((lifts for words, lifts in _FLAGS if words in line.lower()), "") or "".join(_FLAG.findall(line)[:1])
    return one_line(kind), line, flag[:MESSAGE_LENGTH]


def one_line(text: object) -> str:
    """A server's words fit for a terminal: one line, nothing unprintable, not endless."""
    if text is None:
        return ""
    words = " ".join((text if isinstance(text, str) else str(text))[: 4 * MESSAGE_LENGTH].split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)[:MESSAGE_LENGTH]


def retry_after(response: HttpResponse) -> float | None:
    """Seconds to wait, if the server says so. Seconds only: the date form would need a wall clock, and no model server sends it."""
    try:
        seconds = float(response.header("retry-after") or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


# The server's half.


def status_for(error: SeedbedError) -> int:
    """The HTTP status that tells a client how an error of ours is meant.

    500 is "the engine broke, trying again may help"; what trying again cannot help has another status.
    """
    match error:
        case RequestRefused() if 400 <= error.status < 600:
            return error.status
        case FeatureOff():
            return 501
        case UsageError() | TruncatedRow() | RecordingMiss():
            return 400
        case RequestTimeout() | DeadlineExceeded():
            return 504
        case ServerError():  # we are a proxy, and what is behind us failed
            return 502
    return 500


def told(error: SeedbedError) -> str:
    """What a client is told in envelopes that have no type for it: the message, and the words by which its meaning is recognised."""
    if isinstance(error, NonFiniteLogits | NonFiniteAtServer) and not any(words in str(error).lower() for words in _NON_FINITE_WORDS):
        return f"non-finite logits: {error}"
    if isinstance(error, NotReady) and not any(words in str(error).lower() for words in _LOADING_WORDS):
        return f"not ready: {error}"
    if isinstance(error, FeatureOff) and error.flag and error.flag not in str(error):
        return f"{error}; start the server with {error.flag}"
    return str(error)


def retry_after_header(error: SeedbedError) -> tuple[tuple[str, str], ...]:
    """``Retry-After`` in whole seconds, when the error says how long to wait."""
    if isinstance(error, Overloaded) and error.retry_after is not None:
        return (("retry-after", str(math.ceil(error.retry_after))),)
    return ()
