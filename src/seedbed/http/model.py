"""The model behind a URL: discovered, verified with one probe, then asked one row a request."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import httpx
import trio

from seedbed.errors import (
    BrokenAnswer,
    ConnectionLost,
    DishonestAnswer,
    NotAModelServer,
    NotReady,
    Overloaded,
    RowWithheld,
    SeedbedError,
    ServerError,
    UnknownModel,
    UsageError,
)
from seedbed.http.pool import CONNECT_TIMEOUT, Pool, PoolStatistics
from seedbed.http.retry import Retry
from seedbed.http.secrets import Secrets, secret_headers
from seedbed.http.transport import HttpxSender, origin_of
from seedbed.http.turns import Turns
from seedbed.llm.base import LLM, Ahead, ModelInfo, Row
from seedbed.observing.observer import RequestBegan, RequestEnded, RequestRepeated, observers
from seedbed.protocols import PROTOCOLS, protocol_named
from seedbed.protocols.exchange import Answer, Ask, HttpRequest, HttpResponse
from seedbed.protocols.refusal import refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from seedbed.protocols.base import Protocol as ServerProtocol
    from seedbed.protocols.exchange import Headers

__all__ = ["HTTPModel", "HTTPStatistics", "connect"]

DISCOVERY_BOUND = 4_194_304  # llama.cpp's /props carries the chat template, some of which are 20 kB
TEXT_BOUND = 67_108_864
# Statuses that may pass by themselves; what any other means is the protocol's to say.
_TRIED_AGAIN = frozenset({429, 500, 502, 503, 504})
# A thread hop costs 56 us, decoding 1 MB of octets 0.1 ms and of JSON 10 ms.
DECODE_IN_THREAD_ABOVE = 1_000_000.0


class Sender(Protocol):
    """A way for a request to reach the server."""

    async def send(self, request: HttpRequest, bound: int) -> HttpResponse:
        """One attempt, within its time limit. Always a checkpoint."""

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
    connect_timeout: float = CONNECT_TIMEOUT,
    decode_in_thread_above: float = DECODE_IN_THREAD_ABOVE,
) -> AsyncIterator[HTTPModel]:
    """Find out what model a server has, check with one probe that its answers can be believed, and hand it on as an ``LLM``.

    Args:
        base_url: where the server is, as ``http://host:port``, with a path in front of the protocol's own if it has one. User info is
            sent as basic authorization, a query with every request; neither is ever shown.
        protocol: "auto" asks; or the name of one, or one itself, such as ``KServeV2(layout=...)``.
        model: for servers with several; also refused at once when the server has another.
        top_k: how many tokens of a row to ask for; "all" is the full row; None is what suits the protocol ("all" natively, else 50).
        max_connections: requests under way at once; more wait in turn.
        request_timeout: seconds for one attempt, once it is its turn; ``math.inf`` for none.
        retry: when to try again; the default is ``Retry()``.
        headers: sent with every request, for instance for a gateway; never shown.
        api_key: sent as ``Authorization: Bearer``; never shown.
        eos_token_ids: the tokens that end a sequence, for servers that do not tell; overrides what they tell.
        vocab_size: likewise.
        transport: any httpx transport instead of our own, such as ``httpx.MockTransport``; closed at the end.
        client: any ``httpx.AsyncClient`` instead; not closed.
        ssl_context: for https; the default verifies against the system's certificates.
        connect_timeout: seconds for opening a connection; of ``request_timeout``, not besides.
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
    if not request_timeout > 0 or not connect_timeout > 0:
        raise UsageError("request_timeout and connect_timeout must be more than 0 seconds")
    speaks = list(PROTOCOLS.values()) if protocol == "auto" else [protocol_named(protocol)]
    sent = secret_headers(url, tuple(headers), api_key)
    sender = _sender(url, sent, transport, client, ssl_context, connect_timeout, request_timeout)
    wire = _Wire(sender, url, Secrets.of(url, sent, client), max_connections, retry or Retry())
    try:
        spoken, info = await _discover(wire, speaks, model)
        info = _with_overrides(info, model, eos_token_ids, vocab_size)
        asked = _asked(info, spoken.default_top_k, top_k)
        connected = HTTPModel(wire, spoken, info, asked, model, decode_in_thread_above)
        await connected.verify()
        yield connected
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(1):
            await sender.aclose()


@dataclass(frozen=True, slots=True)
class HTTPStatistics:
    """The state of the way to a model.

    Attributes:
        under_way: requests sent and not answered.
        waiting: requests waiting for their turn.
        requests: requests sent since the beginning, repeated ones counted each time.
        retries: how many of them were repetitions after a failure.
        bytes_received: octets of answers' bodies.
        pool: the connections; None when they are another transport's.
    """

    under_way: int
    waiting: int
    requests: int
    retries: int
    bytes_received: int
    pool: PoolStatistics | None


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
        top_k: int | None,
        model: str | None,
        decode_in_thread_above: float,
    ) -> None:
        self.protocol = protocol.name
        self.top_k = top_k
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
        return (await self._ask(Ask(tuple(prev_token_ids), self.top_k, self._model, self._info.eos_token_ids[0]))).row

    async def logits_ahead(self, prev_token_ids: Sequence[int], count: int) -> Ahead:
        """Up to ``count`` rows in one answer, along the tokens the server would take itself; one where its protocol has no way to ask.

        Raises:
            ServerError, RowError: as ``next_token_logits``.

        Concurrency:
            As ``next_token_logits``.
        """
        if count > 1 and self._protocol.looks_ahead:
            with suppress(RowWithheld):  # of one of them; the first alone can be had by force
                answer = await self._ask(Ask(tuple(prev_token_ids), self.top_k, self._model, ahead=count))
                return Ahead(answer.proposed, (answer.row, *answer.beyond))
        return Ahead((), (await self.next_token_logits(prev_token_ids),))

    async def verify(self) -> Answer:
        """Ask for one row after one token, and check whatever can be checked about the answer.

        Raises:
            DishonestAnswer: the row's length, its greedy choice or its prompt length is not what it should be.
        """
        end = self._info.eos_token_ids[0]
        try:
            return await self._ask(Ask((end,), self.top_k, self._model))
        except RowWithheld:
            return await self._ask(Ask((end,), self.top_k, self._model, end))

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
        state = self.statistics()
        return {"requests": state.requests, "retries": state.retries, "bytes_received": state.bytes_received}

    def statistics(self) -> HTTPStatistics:
        """The state now."""
        return self._wire.statistics()

    async def _ask(self, ask: Ask) -> Answer:
        request = self._protocol.encode_request(ask, self._info)
        response = await self._wire.send(request, self._protocol.answer_bound(ask, self._info))
        if len(response.body) <= self._decode_in_thread_above:
            return self._decode(ask, response)
        return await trio.to_thread.run_sync(self._decode, ask, response, abandon_on_cancel=True)

    def _decode(self, ask: Ask, response: HttpResponse) -> Answer:
        try:
            return self._protocol.decode_response(ask, self._info, response)
        except SeedbedError:
            hidden = self._wire.secrets.hide_in(response)
            if hidden.body == response.body:
                raise
        return self._protocol.decode_response(ask, self._info, hidden)  # raises again, and quotes no part of a secret

    def __repr__(self) -> str:
        rows = "full rows" if self.top_k is None else f"top {self.top_k}"
        state = self.statistics()
        what = f"{self._info.model} at {self._wire.where}, {self.protocol}, {rows}"
        return f"<HTTPModel {what}: {state.under_way} under way, {state.waiting} waiting>"


class _Wire:
    """Requests to one server: a place in the queue, further attempts, and no secret in what comes back."""

    def __init__(self, sender: Sender, url: httpx.URL, secrets: Secrets, max_connections: int, retry: Retry) -> None:
        path, _, query = url.raw_path.decode("ascii").partition("?")
        self._prefix, self._suffix = path.rstrip("/"), f"?{query}" if query else ""
        self.where = secrets.hide(f"{origin_of(url)}{self._prefix}")
        self.secrets = secrets
        self._sender, self._retry = sender, retry
        self._turns = Turns(max_connections)
        self._requests = self._retries = self._bytes_received = 0

    async def send(self, request: HttpRequest, bound: int) -> HttpResponse:
        """Send it until it is answered; a refusal that may pass is tried again."""
        return await self._persist(self._attempt, request, bound, request.body)

    async def probe(self, request: HttpRequest) -> HttpResponse:
        """Send it; the answer, whatever its status. A server that is loading is waited for, one that is not there is not."""
        return await self._persist(self._probe_once, request, DISCOVERY_BOUND, request.path.encode(), _is_not_ready)

    def statistics(self) -> HTTPStatistics:
        return HTTPStatistics(
            under_way=self._turns.taken,
            waiting=self._turns.waiting,
            requests=self._requests,
            retries=self._retries,
            bytes_received=self._bytes_received,
            pool=self._sender.statistics() if isinstance(self._sender, Pool) else None,
        )

    async def _persist(
        self,
        attempt: Callable[[HttpRequest, int], Awaitable[HttpResponse]],
        request: HttpRequest,
        bound: int,
        seed: bytes,
        may_help: Callable[[ServerError], bool] | None = None,
    ) -> HttpResponse:
        if self._prefix or self._suffix:
            request = replace(request, path=self._prefix + request.path + self._suffix)
        try:
            return await self._retry.call(partial(attempt, request, bound), seed, on_retry=self._count_retry, may_help=may_help)
        except trio.ClosedResourceError as error:
            raise UsageError(f"the connections to {self.where} are closed: a model is used after its connect() block has ended") from error
        except SeedbedError as error:
            self.secrets.hide_in_error(error)
            raise

    def _count_retry(self) -> None:
        self._retries += 1
        for observer in observers():
            observer.notice(RequestRepeated(self.where))

    async def _attempt(self, request: HttpRequest, bound: int) -> HttpResponse:
        response = await self._timed(request, bound)
        if response.status in _TRIED_AGAIN:
            raise refusal(response)
        return response

    async def _probe_once(self, request: HttpRequest, bound: int) -> HttpResponse:
        response = await self._timed(request, bound)
        if response.status in (429, 503):
            raise refusal(response)
        return response

    async def _timed(self, request: HttpRequest, bound: int) -> HttpResponse:
        await self._turns.take()  # no checkpoint of its own: what follows is one, and two would cost a tenth of a request
        try:
            self._requests += 1
            send = self._send_observed if observers() else self._sender.send
            response = await send(request, bound)
        finally:
            self._turns.give_back()
        self._bytes_received += len(response.body)
        if (response.header("content-encoding") or "identity") != "identity":
            raise BrokenAnswer(f"{self.where} compressed its answer, though it was asked not to")
        return response if response.status == 200 else self.secrets.hide_in(response)

    async def _send_observed(self, request: HttpRequest, bound: int) -> HttpResponse:
        listening, began = observers(), trio.current_time()
        for observer in listening:
            observer.notice(RequestBegan(self.where))
        status, octets, error = None, 0, ""
        try:
            response = await self._sender.send(request, bound)
            status, octets = response.status, len(response.body)
        except BaseException as problem:
            error = type(problem).__name__
            raise
        finally:
            for observer in listening:
                observer.notice(RequestEnded(self.where, status, octets, trio.current_time() - began, error))
        return response


def _is_not_ready(error: ServerError) -> bool:
    return isinstance(error, (NotReady, Overloaded, ConnectionLost))


async def _discover(wire: _Wire, protocols: list[ServerProtocol], model: str | None) -> tuple[ServerProtocol, ModelInfo]:
    seen: list[HttpResponse] = []
    for protocol in protocols:
        discovery = protocol.discover(model)
        request = next(discovery)
        try:
            while True:
                response = await wire.probe(request)
                seen.append(response)
                request = discovery.send(response)
        except StopIteration as learnt:
            if learnt.value is not None:
                narrowed, info = learnt.value  # the protocol, knowing what the server has
                return narrowed, info
        except SeedbedError as error:
            error.add_note(f"while asking {wire.where} whether it speaks {protocol.name}")
            wire.secrets.hide_in_error(error)
            raise
    # A gateway that wants a key, moved or broke hides what is behind it; that is worth more than that nobody was recognised.
    for response in seen:
        if response.status in (401, 403, 407) or 300 <= response.status < 400 or response.status >= 500:
            raise refusal(wire.secrets.hide_in(response))
    last = wire.secrets.hide_in(seen[-1])
    server = f", server {(last.header('server') or '')[:60]}" if last.header("server") else ""
    names = " or ".join(protocol.name for protocol in protocols)
    raise NotAModelServer(f"{wire.where} answers HTTP (status {last.status}{server}), but does not speak {names}; is the URL right?")


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
    assert info.vocab_size is not None
    for token_id in info.eos_token_ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < info.vocab_size:
            text = f"the end token {token_id!r} is not in the vocabulary of {info.vocab_size}"
            raise DishonestAnswer(f"the server says so itself: {text}") if eos_token_ids is None else UsageError(text)
    return info


def _asked(info: ModelInfo, default: int | None, top_k: int | Literal["all"] | None) -> int | None:
    """How many tokens to ask for, None for all: what the caller says, else the protocol's default or what less the server has."""
    if top_k is None:
        default = default if info.kind == "logprobs" else None  # of a list of logits nothing could be drawn
        return min((k for k in (info.max_top_k, default) if k is not None), default=None)
    asked = None if top_k == "all" else top_k
    if info.max_top_k is not None and (asked is None or asked > info.max_top_k):
        raise UsageError(f"the server gives the {info.max_top_k} best tokens at most, not {top_k}")
    return asked


def _checked_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError, UnicodeError):
        url = None
    # What was given is not shown: it may hold a password.
    if (
        url is None
        or url.scheme not in ("http", "https")
        or not url.host
        or "%" in url.host
        or not (url.port is None or 0 < url.port < 65_536)
    ):
        raise UsageError("the server's URL must look like http://host:port")
    return url


def _sender(
    url: httpx.URL,
    headers: Headers,
    transport: httpx.AsyncBaseTransport | None,
    client: httpx.AsyncClient | None,
    ssl_context: ssl.SSLContext | None,
    connect_timeout: float,
    time_limit: float,
) -> Sender:
    if transport is not None or client is not None:
        return HttpxSender(url, transport=transport, client=client, headers=headers, time_limit=time_limit)
    if url.scheme != "https":
        ssl_context = None
    elif ssl_context is None:
        ssl_context = ssl.create_default_context()
    return Pool(origin_of(url), ssl_context, headers=headers, connect_timeout=connect_timeout, time_limit=time_limit)
