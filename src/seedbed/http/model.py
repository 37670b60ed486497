"""The model behind a URL: discovered, verified with one probe, then asked one row a request."""

from __future__ import annotations

import base64
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol

import httpx
import trio

from seedbed.errors import (
    BrokenAnswer,
    NotAModelServer,
    NotReady,
    Overloaded,
    RequestTimeout,
    SeedbedError,
    ServerError,
    UnknownModel,
    UsageError,
)
from seedbed.http.pool import Pool
from seedbed.http.retry import Retry
from seedbed.http.transport import HttpxSender, origin_of
from seedbed.llm.base import LLM, ModelInfo, Row
from seedbed.protocols import PROTOCOLS, protocol_named
from seedbed.protocols.exchange import Answer, Ask, HttpRequest, HttpResponse
from seedbed.protocols.refusal import refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from seedbed.protocols.base import Protocol as ServerProtocol

__all__ = ["HTTPModel", "connect"]

DISCOVERY_BOUND = 4_194_304  # llama.cpp's /props carries the chat template, some of which are 20 kB
TEXT_BOUND = 67_108_864
# Statuses that may pass by themselves; what any other means is the protocol's to say.
_TRIED_AGAIN = frozenset({429, 500, 503})
# A thread hop costs 56 us, decoding 1 MB of octets 0.1 ms and of JSON 10 ms.
DECODE_IN_THREAD_ABOVE = 1_000_000.0


class Sender(Protocol):
    """A way for a request to reach the server."""

    async def send(self, request: HttpRequest, bound: int) -> HttpResponse:
        """One attempt."""

    async def aclose(self) -> None:
        """Free what it holds."""


@asynccontextmanager
async def connect(
    base_url: str,
    protocol: str | ServerProtocol = "auto",
    *,
    model: str | None = None,
    top_k: int | Literal["all"] | None = None,
    max_connections: int = 64,
    request_timeout: float = 60.0,
    retry: Retry | None = None,
    headers: Sequence[tuple[str, str]] = (),
    api_key: str | None = None,
    eos_token_ids: Sequence[int] | None = None,
    vocab_size: int | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    client: httpx.AsyncClient | None = None,
    ssl_context: ssl.SSLContext | None = None,
    decode_in_thread_above: float = DECODE_IN_THREAD_ABOVE,
) -> AsyncIterator[HTTPModel]:
    """Find out what model a server has, check with one probe that its answers can be believed, and hand it on as an ``LLM``.

    Args:
        base_url: where the server is, as ``http://host:port``, with a path in front of the protocol's own if it has one.
        protocol: "auto" asks; or the name of one, or one itself, such as ``KServeV2(layout=...)``.
        model: for servers with several; also refused at once when the server has another.
        top_k: how many tokens of a row to ask for; "all" is the full row; None is what suits the protocol ("all" natively, else 50).
        max_connections: requests under way at once; more wait in turn.
        request_timeout: seconds for one attempt, once it has a connection; ``math.inf`` for none.
        retry: when to try again; the default is ``Retry()``.
        headers: sent with every request, for instance for a gateway; never shown.
        api_key: sent as ``Authorization: Bearer``; never shown.
        eos_token_ids: the tokens that end a sequence, for servers that do not tell; overrides what they tell.
        vocab_size: likewise.
        transport: any httpx transport instead of our own, such as ``httpx.MockTransport``; closed at the end.
        client: any ``httpx.AsyncClient`` instead; not closed.
        ssl_context: for https; the default verifies against the system's certificates.
        decode_in_thread_above: answers of more octets are decoded in a worker thread; ``math.inf`` never, for virtual clocks.

    Raises:
        UsageError: a wrong argument, or something the server does not tell and that must be given.
        ServerUnreachable, NotAModelServer, UnknownModel, Unauthorized: as they say.
        DishonestAnswer: the probe's answer contradicts the question, or itself.

    Concurrency:
        The model may be used by any number of tasks. Leaving the block closes every connection; requests under way then fail.

    Example:
        >>> async def main():
        ...     from seedbed.server import TinyLM, serve
        ...     async with serve(TinyLM()) as server, connect(server.url) as model:
        ...         return model.info.model, model.info.protocol
        >>> trio.run(main)
        ('tiny-lm', 'native')
    """
    url = _checked_url(base_url)
    if transport is not None and client is not None:
        raise UsageError("give either a transport or a client, not both")
    if top_k is not None and top_k != "all" and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise UsageError(f"top_k must be an int of 1 or more, or 'all', not {top_k!r}")
    if max_connections < 1 or not request_timeout > 0:
        raise UsageError("max_connections must be 1 or more, and request_timeout more than 0 seconds")
    speaks = list(PROTOCOLS.values()) if protocol == "auto" else [protocol_named(protocol)]
    sender = _sender(url, _secret_headers(url, headers, api_key), transport, client, ssl_context)
    wire = _Wire(sender, url, max_connections, request_timeout, retry or Retry())
    try:
        spoken, info = await _discover(wire, speaks, model)
        info = _with_overrides(info, model, eos_token_ids, vocab_size)
        asked = top_k or _most_of(info, spoken.default_top_k)
        connected = HTTPModel(wire, spoken, info, asked, model, decode_in_thread_above)
        await connected.verify()
        yield connected
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(1):
            await sender.aclose()


class HTTPModel(LLM):
    """A model behind a URL; made by ``connect``.

    Attributes:
        protocol: the name of the protocol spoken.
        top_k: how many tokens of each row are asked for; None is all of them.
    """

    def __init__(
        self,
        wire: _Wire,
        protocol: ServerProtocol,
        info: ModelInfo,
        top_k: int | Literal["all"],
        model: str | None,
        decode_in_thread_above: float,
    ) -> None:
        self.protocol = protocol.name
        self.top_k = None if top_k == "all" else top_k
        self._wire, self._protocol, self._info, self._model = wire, protocol, info, model
        self._decode_in_thread_above = decode_in_thread_above

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> Row:
        """The server's row for a prefix.

        Raises:
            ServerError: after the last attempt.
            RowError: what it gave cannot be drawn from.

        Concurrency:
            Any number of tasks; as many as ``max_connections`` are under way, the others wait in turn. Cancelled: its connection is
            closed, nothing else is touched; the server may still do the work. Always a checkpoint.
        """
        return (await self._ask(Ask(tuple(prev_token_ids), self.top_k, self._model))).row

    async def verify(self) -> Answer:
        """Ask for one row after one token, and check whatever can be checked about the answer.

        Raises:
            DishonestAnswer: the row's length, its greedy choice or its prompt length is not what it should be.
        """
        return await self._ask(Ask((self._info.eos_token_ids[0],), self.top_k, self._model))

    def get_stop_token_id(self) -> int:
        return self._info.eos_token_ids[0]

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self._info.eos_token_ids

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def tokenize(self, text: str) -> list[int]:
        """The server's token ids of a text, without any it would add in front.

        Raises:
            ServerError: the server has no tokenizer, or what else went wrong.
        """
        response = await self._wire.send(self._protocol.encode_tokenize(text), TEXT_BOUND)
        return self._protocol.decode_tokens(response)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The server's text of token ids.

        Raises:
            ServerError: the server has no tokenizer, or what else went wrong.
        """
        if not token_ids:
            await trio.lowlevel.checkpoint()
            return ""
        response = await self._wire.send(self._protocol.encode_detokenize(list(token_ids)), TEXT_BOUND)
        return self._protocol.decode_text(response)

    def counters(self) -> dict[str, int]:
        return self._wire.counters()

    async def _ask(self, ask: Ask) -> Answer:
        request = self._protocol.encode_request(ask, self._info)
        response = await self._wire.send(request, self._protocol.answer_bound(ask, self._info))
        if len(response.body) <= self._decode_in_thread_above:
            return self._protocol.decode_response(ask, self._info, response)
        return await trio.to_thread.run_sync(self._protocol.decode_response, ask, self._info, response, abandon_on_cancel=True)

    def __repr__(self) -> str:
        rows = "full rows" if self.top_k is None else f"top {self.top_k}"
        return f"<HTTPModel {self._info.model} at {self._wire.where}, {self.protocol}, {rows}>"


class _Wire:
    """Requests to one server: a place in the queue, a time limit an attempt, further attempts."""

    def __init__(self, sender: Sender, url: httpx.URL, max_connections: int, request_timeout: float, retry: Retry) -> None:
        self.where = f"{origin_of(url)}{url.path.rstrip('/')}"
        self._sender, self._prefix = sender, url.path.rstrip("/")
        self._limiter = trio.CapacityLimiter(max_connections)
        self._request_timeout, self._retry = request_timeout, retry
        self._requests = self._retries = self._bytes_received = 0

    async def send(self, request: HttpRequest, bound: int) -> HttpResponse:
        """Send it until it is answered; a refusal that may pass is tried again."""
        request = replace(request, path=self._prefix + request.path)
        return await self._retry.call(lambda: self._attempt(request, bound), request.body, on_retry=self._count_retry)

    async def probe(self, request: HttpRequest) -> HttpResponse:
        """Send it; the answer, whatever its status. A server that is loading is waited for, one that is not there is not."""
        request = replace(request, path=self._prefix + request.path)

        async def attempt() -> HttpResponse:
            response = await self._timed(request, DISCOVERY_BOUND)
            if response.status in (429, 503):
                raise refusal(response)
            return response

        return await self._retry.call(attempt, request.path.encode(), on_retry=self._count_retry, may_help=_is_not_ready)

    def counters(self) -> dict[str, int]:
        return {"requests": self._requests, "retries": self._retries, "bytes_received": self._bytes_received}

    def _count_retry(self) -> None:
        self._retries += 1

    async def _attempt(self, request: HttpRequest, bound: int) -> HttpResponse:
        response = await self._timed(request, bound)
        if response.status in _TRIED_AGAIN:
            raise refusal(response)
        return response

    async def _timed(self, request: HttpRequest, bound: int) -> HttpResponse:
        ticket = object()  # one task may have several requests under way, on behalf of others
        await self._limiter.acquire_on_behalf_of(ticket)
        try:
            self._requests += 1
            with trio.move_on_after(self._request_timeout):
                response = await self._sender.send(request, bound)
                self._bytes_received += len(response.body)
                if (response.header("content-encoding") or "identity") != "identity":
                    raise BrokenAnswer(f"{self.where} compressed its answer, though it was asked not to")
                return response
            raise RequestTimeout(f"{self.where} gave no whole answer within {self._request_timeout:g} s")
        finally:
            self._limiter.release_on_behalf_of(ticket)


def _is_not_ready(error: ServerError, attempt: int) -> bool:
    return isinstance(error, (NotReady, Overloaded))


async def _discover(wire: _Wire, protocols: list[ServerProtocol], model: str | None) -> tuple[ServerProtocol, ModelInfo]:
    seen = "nothing that says what it is"
    for protocol in protocols:
        discovery = protocol.discover(model)
        request = next(discovery)
        try:
            while True:
                response = await wire.probe(request)
                seen = f"status {response.status}" + (f", server {server}" if (server := response.header("server")) else "")
                request = discovery.send(response)
        except StopIteration as learnt:
            if learnt.value is not None:
                narrowed, info = learnt.value  # the protocol, knowing what the server has
                return narrowed, info
        except SeedbedError as error:
            error.add_note(f"while asking {wire.where} whether it speaks {protocol.name}")
            raise
    names = " or ".join(protocol.name for protocol in protocols)
    raise NotAModelServer(f"{wire.where} answers HTTP ({seen}), but does not speak {names}; is the URL right?")


def _with_overrides(info: ModelInfo, model: str | None, eos_token_ids: Sequence[int] | None, vocab_size: int | None) -> ModelInfo:
    if model is not None and info.model and model != info.model:
        raise UnknownModel(f"the server has the model {info.model!r}, not {model!r}", status=404)
    info = replace(
        info,
        eos_token_ids=info.eos_token_ids if eos_token_ids is None else tuple(eos_token_ids),
        vocab_size=info.vocab_size if vocab_size is None else vocab_size,
    )
    for name, value in (("eos_token_ids", info.eos_token_ids), ("vocab_size", info.vocab_size)):
        if not value:
            raise UsageError(f"the server does not tell its {name}: give {name}= to connect()")
    return info


def _most_of(info: ModelInfo, default: int | None) -> int | Literal["all"]:
    """What to ask for when the caller does not say: the protocol's default, or less when the server has less."""
    known = [k for k in (info.max_top_k, default if info.kind == "logprobs" else None) if k is not None]
    return min(known) if known else "all"


def _checked_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise UsageError(f"this is no URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError("the server's URL must look like http://host:port")
    return url


def _secret_headers(url: httpx.URL, headers: Sequence[tuple[str, str]], api_key: str | None) -> tuple[tuple[str, str], ...]:
    secret = list(headers)
    if api_key is not None:
        secret.append(("authorization", f"Bearer {api_key}"))
    elif url.userinfo:
        secret.append(("authorization", "Basic " + base64.b64encode(f"{url.username}:{url.password}".encode()).decode()))
    return tuple(secret)


def _sender(
    url: httpx.URL,
    headers: tuple[tuple[str, str], ...],
    transport: httpx.AsyncBaseTransport | None,
    client: httpx.AsyncClient | None,
    ssl_context: ssl.SSLContext | None,
) -> Sender:
    if transport is not None or client is not None:
        return HttpxSender(url, transport=transport, client=client, headers=headers)
    if url.scheme == "https":
        ssl_context = ssl_context or ssl.create_default_context()
    try:
        return Pool(origin_of(url), ssl_context if url.scheme == "https" else None, headers=headers)
    except ValueError as error:
        raise UsageError(str(error)) from None
