"""What ``connect`` is given: checked before anything is sent, each with one line that says what it must be."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import httpx

from seedbed.errors import DishonestAnswer, UnknownModel, UsageError
from seedbed.http.pool import check_headers
from seedbed.http.retry import Retry
from seedbed.llm.arguments import is_iterable, shown, whole_number
from seedbed.protocols import PROTOCOLS, protocol_named
from seedbed.protocols.base import Protocol

if TYPE_CHECKING:
    from seedbed.llm.base import ModelInfo
    from seedbed.protocols.exchange import Headers

__all__ = ["Wanted", "check_count", "check_kinds", "checked_headers", "checked_urls"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a server is to have and to be asked for.

    Args:
        protocol: "auto", the name of one, or one itself.
        model: the name of the model; None is the server's own choice.
        top_k: tokens of a row; "all" is the full row; None is what suits the protocol.
        eos_token_ids, vocab_size: what overrides what the server tells; None does not.

    Raises:
        UsageError: a value that can be none of these.
    """

    protocol: str | Protocol
    model: str | None
    top_k: int | Literal["all"] | None
    eos_token_ids: Sequence[int] | None
    vocab_size: int | None

    def __post_init__(self) -> None:
        if not isinstance(self.protocol, str | Protocol):
            raise UsageError(f"protocol must be 'auto', a protocol's name or a protocol, not {self.protocol!r:.80}")
        if self.model is not None and not isinstance(self.model, str):
            raise UsageError(f"model must be a name, not {self.model!r:.80}")
        # As plain ints, whosesoever ints they were.
        if self.top_k is not None and not (isinstance(self.top_k, str) and self.top_k == "all"):
            object.__setattr__(self, "top_k", check_count("top_k", self.top_k, ", or 'all'"))
        if self.vocab_size is not None:
            object.__setattr__(self, "vocab_size", check_count("vocab_size", self.vocab_size))
        if self.eos_token_ids is not None:
            object.__setattr__(self, "eos_token_ids", _end_token_ids(self.eos_token_ids))

    def protocols(self) -> list[Protocol]:
        """Which to try, in order."""
        return list(PROTOCOLS.values()) if self.protocol == "auto" else [protocol_named(self.protocol)]

    def given(self, info: ModelInfo) -> ModelInfo:
        """What a server tells of its model, with what the caller knows better.

        Raises:
            UnknownModel: it is another model.
            DishonestAnswer: it tells of end tokens that cannot be.
            UsageError: so does the caller; or something is missing that must be known.
        """
        if self.model is not None and info.model and self.model != info.model:
            raise UnknownModel(f"the server has the model {info.model!r}, not {self.model!r}", status=404)
        info = replace(
            info,
            eos_token_ids=info.eos_token_ids if self.eos_token_ids is None else tuple(self.eos_token_ids),
            vocab_size=info.vocab_size if self.vocab_size is None else self.vocab_size,
        )
        for name, value in (("eos_token_ids", info.eos_token_ids), ("vocab_size", info.vocab_size)):
            if not value:
                raise UsageError(f"the server does not tell its {name}: give {name}= to connect()")
        assert info.vocab_size is not None
        for token_id in info.eos_token_ids:
            if not 0 <= token_id < info.vocab_size:
                text = f"the end token {token_id} is not in the vocabulary of {info.vocab_size}: ids are 0 to {info.vocab_size - 1}"
                is_told = self.eos_token_ids is None and self.vocab_size is None
                raise DishonestAnswer(f"the server says so itself: {text}") if is_told else UsageError(text)
        return info

    def entries(self, info: ModelInfo, default: int | None) -> int | None:
        """How many tokens to ask for, None for all: what the caller says, else the protocol's default or what less the server has.

        Raises:
            UsageError: the server does not give as many.
        """
        if self.top_k is None:
            default = default if info.kind == "logprobs" else None  # of a list of logits nothing could be drawn
            return min((k for k in (info.max_top_k, default) if k is not None), default=None)
        asked = None if self.top_k == "all" else self.top_k
        if info.max_top_k is not None and (asked is None or asked > info.max_top_k):
            raise UsageError(f"the server gives the {info.max_top_k} best tokens at most, not {self.top_k}")
        return asked


def checked_urls(base_url: str | httpx.URL | Sequence[str]) -> list[httpx.URL]:
    """One URL, or those of several replicas.

    Raises:
        UsageError: none, one that is none, or one twice; what was given is not shown, it may hold a password.
    """
    several = [base_url] if isinstance(base_url, str | httpx.URL) or not isinstance(base_url, Iterable) else list(base_url)
    urls = [_checked_url(one) for one in several]
    if not urls:
        raise UsageError("give at least one URL")
    if len(set(urls)) < len(urls):
        raise UsageError("the URL of a replica stands twice; give each once, and more max_connections for more requests at once")
    return urls


def _checked_url(base_url: Any) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError, UnicodeError):
        url = None
    if (
        url is None
        or url.scheme not in ("http", "https")
        or not url.host
        or "%" in url.host
        or not (url.port is None or 0 < url.port < 65_536)
    ):
        has_scheme = str(base_url).lower().startswith(("http://", "https://"))
        wrong = "this one's host or port is none" if has_scheme else "this one does not begin with http:// or https://"
        raise UsageError(f"the server's URL must look like http://host:port; {wrong}")
    return url


def checked_headers(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> Headers:
    """Headers as pairs.

    Raises:
        UsageError: they are none, or cannot be sent; values are not shown, they may be secret.
    """
    try:
        pairs = tuple((name, value) for name, value in (headers.items() if isinstance(headers, Mapping) else headers))
    except (TypeError, ValueError):
        raise UsageError("headers must be a mapping of names to values, or (name, value) pairs") from None
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, str):
            raise UsageError(f"a header's name and value must be strings, not {type(name).__name__} and {type(value).__name__}")
    check_headers(pairs)
    return pairs


def check_kinds(
    *, retry: object, api_key: object, transport: object, client: object, ssl_context: object, decode_in_thread_above: object
) -> None:
    """Whether these are of the kind they must be, or None.

    Raises:
        UsageError: one is not; a key is not shown.
    """
    kinds: list[tuple[str, object, type, str]] = [
        ("retry", retry, Retry, "a Retry, such as Retry(attempts=3)"),
        ("transport", transport, httpx.AsyncBaseTransport, "an httpx.AsyncBaseTransport"),
        ("client", client, httpx.AsyncClient, "an httpx.AsyncClient"),
        ("ssl_context", ssl_context, ssl.SSLContext, "an ssl.SSLContext"),
    ]
    for name, value, kind, words in kinds:
        if value is not None and not isinstance(value, kind):
            raise UsageError(f"{name} must be {words}, not {value!r:.80}")
    if api_key is not None and not isinstance(api_key, str):
        raise UsageError(f"api_key must be a string, not {type(api_key).__name__}")
    if api_key == "":
        raise UsageError("api_key is empty, as a variable is that was never set: fill it in, or leave it out where the server wants no key")
    if transport is not None and client is not None:
        raise UsageError("give either a transport or a client, not both")
    above = decode_in_thread_above
    if isinstance(above, bool) or not isinstance(above, int | float) or not above >= 0:
        raise UsageError(f"decode_in_thread_above must be a number of octets, or math.inf for never, not {above!r:.80}")


def _end_token_ids(ids: object) -> tuple[int, ...]:
    """Raises UsageError: no list of ints, or an empty one. Whether the vocabulary has them is not known yet."""
    if isinstance(ids, str | bytes | Mapping) or not is_iterable(ids):
        raise UsageError(f"eos_token_ids must be a list of token ids, not {shown(ids)}")
    checked = []
    for token_id in ids:
        if (number := whole_number(token_id)) is None:
            raise UsageError(f"eos_token_ids holds {shown(token_id)}, which is no token id")
        checked.append(number)
    if not checked:
        raise UsageError("eos_token_ids is empty, and nothing would end a sequence: give at least one token id, or None for the server's")
    return tuple(checked)


def check_count(name: str, value: object, otherwise: str = "") -> int:
    """An argument that is a number of things, as a plain int.

    Args:
        otherwise: what else it may be, for the message.

    Raises:
        UsageError: it is none, or less than 1.
    """
    number = whole_number(value)
    if number is None or number < 1:
        raise UsageError(f"{name} must be an int of 1 or more{otherwise}, not {shown(value)}")
    return number
