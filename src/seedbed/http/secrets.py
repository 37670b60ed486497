"""What must never be shown: keys, user info and queries are taken out of whatever a server sends back before it can enter a message."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import unquote

import orjson

from seedbed.errors import UsageError
from seedbed.protocols.exchange import HttpResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    import httpx

    from seedbed.protocols.exchange import Headers

__all__ = ["Secrets", "secret_headers"]

SHOWN = "***"
SHORTEST = 4  # taking shorter ones out would tear messages apart, and they are no secrets
_SCHEMES = ("basic", "bearer", "token")
_PLAIN_NAMES = ("accept", "accept-encoding", "connection", "user-agent")  # headers that every client of httpx has


class Secrets:
    """Texts that must not be shown.

    Args:
        texts: the secrets; those shorter than 4 characters are not looked for.

    Example:
        >>> Secrets(["hunter22"]).hide("the key hunter22 is wrong")
        'the key *** is wrong'
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        # The longest first: one may contain another.
        self._texts = sorted({text for text in texts if len(text) >= SHORTEST}, key=len, reverse=True)
        # As octets, and as JSON writes what it must write otherwise.
        self._octets = [octets for text in self._texts for octets in dict.fromkeys((text.encode("utf-8"), _in_json(text)))]

    @classmethod
    def of(cls, url: httpx.URL, headers: Headers, client: httpx.AsyncClient | None = None) -> Secrets:
        """Everything given with a URL, headers and somebody's client that nobody else should read; what the client's ``auth`` adds is
        not known."""
        values = [value for _, value in headers]
        if client is not None:
            values += [value for name, value in client.headers.items() if name.lower() not in _PLAIN_NAMES]
            values += [*client.params.values(), *client.cookies.values()]
        words = [word for value in values for word in value.split() if word.lower() not in _SCHEMES]
        query = url.query.decode("ascii", "replace")
        parts = [part.partition("=")[2] or part for part in query.split("&")]
        user = url.userinfo.decode("ascii", "replace")
        raw = [*values, *words, *parts, query, user, *user.split(":", 1)]
        return cls([*raw, *map(unquote, raw)])

    def hide(self, text: str) -> str:
        """The text with every secret replaced."""
        for secret in self._texts:
            text = text.replace(secret, SHOWN)
        return text

    def hide_in(self, response: HttpResponse) -> HttpResponse:
        """The response likewise: some servers repeat a wrong key in their refusal."""
        body = self._hide_octets(bytes(response.body))
        with suppress(orjson.JSONDecodeError, orjson.JSONEncodeError):
            plain = orjson.dumps(orjson.loads(body))  # JSON may escape any character; written anew, only those it must
            hidden = self._hide_octets(plain)
            body = hidden if hidden != plain else body
        return HttpResponse(response.status, tuple((name, self.hide(value)) for name, value in response.headers), body)

    def _hide_octets(self, octets: bytes) -> bytes:
        for secret in self._octets:
            octets = octets.replace(secret, SHOWN.encode())
        return octets

    def hide_in_error(self, error: BaseException | None) -> None:
        """An error likewise, its notes and all that led to it."""
        seen: set[int] = set()
        chain = [error]
        while chain:
            at = chain.pop()
            if at is None or id(at) in seen:
                continue
            seen.add(id(at))
            args = tuple(self.hide(arg) if isinstance(arg, str) else arg for arg in at.args)
            if args != at.args:
                at.args = args
            for place, note in enumerate(getattr(at, "__notes__", ())):
                at.__notes__[place] = self.hide(note)
            chain += [at.__cause__, at.__context__]
            if isinstance(at, BaseExceptionGroup):
                chain += at.exceptions

    def __repr__(self) -> str:
        return f"<{len(self._texts)} secrets>"


def _in_json(text: str) -> bytes:
    try:
        return orjson.dumps(text)[1:-1]
    except orjson.JSONEncodeError:  # half a character
        return text.encode("utf-8", "replace")


def secret_headers(url: httpx.URL, headers: Headers, api_key: str | None) -> Headers:
    """The headers a model is asked with: the caller's, and the key or else the URL's user info as an authorization.

    Raises:
        UsageError: the caller's have an authorization already.
    """
    added = "api_key=" if api_key is not None else "the URL's user info" if url.userinfo else ""
    if added and any(name.lower() == "authorization" for name, _ in headers):
        raise UsageError(f"{added} is sent as an Authorization header, and headers= has another; give one of the two")
    if api_key is not None:
        return (*headers, ("authorization", f"Bearer {api_key}"))
    if url.userinfo:
        basic = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
        return (*headers, ("authorization", f"Basic {basic}"))
    return headers
