"""The model behind a URL, or behind the URLs of its replicas: found out, verified, then asked one row a request."""

from __future__ import annotations

import ssl
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol

import trio

from seedbed.errors import NonFiniteAtServer, RowError, RowWithheld
from seedbed.http.arguments import Wanted, check_kinds, checked_headers, checked_urls
from seedbed.http.endpoint import Endpoint, HTTPStatistics, Sender
from seedbed.http.pool import CONNECT_TIMEOUT, Pool
from seedbed.http.replicas import open_replicas
from seedbed.http.retry import Retry
from seedbed.http.secrets import Secrets, secret_headers
from seedbed.http.transport import HttpxSender, origin_of
from seedbed.llm.arguments import check_seconds, check_text, check_token_ids
from seedbed.llm.base import LLM, Ahead, ModelInfo, Row
from seedbed.llm.running import require_trio
from seedbed.protocols.exchange import MAX_AHEAD, Answer, Ask, Sample, Score

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    import httpx

    from seedbed.protocols.base import Protocol as ServerProtocol
    from seedbed.protocols.exchange import Headers
    from seedbed.sampling.drawing import Drawing
    from seedbed.sampling.presets import Order

__all__ = ["HTTPModel", "connect"]

# A thread hop costs 56 us, decoding 1 MB of octets 0.1 ms and of JSON 10 ms.
DECODE_IN_THREAD_ABOVE = 1_000_000.0


@asynccontextmanager
async def connect(
    base_url: str | Sequence[str],
    protocol: str | ServerProtocol = "auto",
    *,
    model: str | None = None,
    top_k: int | Literal["all"] | None = None,
    max_connections: int = 64,
    request_timeout: float = 60.0,
    retry: Retry | None = None,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    api_key: str | None = None,
    eos_token_ids: Sequence[int] | None = None,
    vocab_size: int | None = None,
    replicas_may_differ: bool = False,
    transport: httpx.AsyncBaseTransport | None = None,
    client: httpx.AsyncClient | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    decode_in_thread_above: float = DECODE_IN_THREAD_ABOVE,
) -> AsyncIterator[HTTPModel]:
    """Find out what model a server has, check with one probe that its answers can be believed, and hand it on as an ``LLM``.

    Args:
        base_url: where the server is, as ``http://host:port``, with a path in front of the protocol's own if it has one. User info is
            sent as basic authorization, a query with every request; neither is ever shown. Or several: replicas of one model, see
            ``http.replicas``.
        protocol: "auto" asks; or the name of one, or one itself, such as ``KServeV2(layout=...)``.
        model: for servers with several; also refused at once when the server has another.
        top_k: how many tokens of a row to ask for; "all" is the full row; None is what suits the protocol ("all" natively, else 50).
        max_connections: the most requests under way at once, with each replica; more wait in turn. Fewer at the beginning, and while the
            server refuses for having too much to do.
        request_timeout: seconds for one attempt, once it is its turn; ``math.inf`` for none.
        retry: when to try again; the default is ``Retry()``.
        headers: sent with every request, for instance for a gateway; never shown.
        api_key: sent as ``Authorization: Bearer``; never shown.
        eos_token_ids: the tokens that end a sequence, for servers that do not tell; overrides what they tell.
        vocab_size: likewise.
        replicas_may_differ: whether replicas may tell of different models, programs or fingerprints; which tokens are drawn then depends
            on which of them answers.
        transport: any httpx transport instead of our own, such as ``httpx.MockTransport``; closed at the end.
        client: any ``httpx.AsyncClient`` instead; not closed. The log of httpx has, at level INFO, the URL of each request a client sends:
            a key belongs into a header there, not into the query.
        ssl_context: for https; the default verifies against the system's certificates.
        connect_timeout: seconds for opening a connection; of ``request_timeout``, not besides.
        decode_in_thread_above: answers of more octets are decoded in a worker thread; ``math.inf`` never, for virtual clocks.

    Raises:
        UsageError: a wrong argument, or something the server does not tell and that must be given.
        ServerUnreachable, NotAModelServer, UnknownModel, Unauthorized: as they say.
        DishonestAnswer: the probe's answer contradicts the question, or itself.
        ReplicasDiffer: they are not replicas of one model.

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
    require_trio()
    urls = checked_urls(base_url)
    wanted = Wanted(protocol, model, top_k, eos_token_ids, vocab_size)
    wanted.protocols()  # so that an unknown name is refused now
    check_seconds(request_timeout=request_timeout, connect_timeout=connect_timeout)
    check_kinds(
        retry=retry,
        api_key=api_key,
        transport=transport,
        client=client,
        ssl_context=ssl_context,
        decode_in_thread_above=decode_in_thread_above,
    )
    retry, given = retry or Retry(), checked_headers(headers)
    if ssl_context is None and transport is None and client is None and any(url.scheme == "https" for url in urls):
        ssl_context = ssl.create_default_context()
    async with AsyncExitStack() as stack:
        endpoints = []
        for url in urls:
            sent = secret_headers(url, given, api_key)
            endpoint = Endpoint(
                _sender(url, sent, transport, client, ssl_context, connect_timeout, request_timeout),
                url,
                Secrets.of(url, sent, client),
                wanted,
                max_connections=max_connections,
                time_limit=request_timeout,
                retry=retry if len(urls) == 1 else Retry(attempts=1),
                decode_in_thread_above=decode_in_thread_above,
            )
            stack.push_async_callback(endpoint.aclose)
            endpoints.append(endpoint)
        if len(endpoints) == 1:
            await endpoints[0].find_out()
            yield HTTPModel(endpoints[0], model)
        else:
            async with open_replicas(endpoints, retry, patience=connect_timeout, may_differ=replicas_may_differ) as replicas:
                yield HTTPModel(replicas, model)


class Answering(Protocol):
    """Who answers: one server, or several as one. See ``Endpoint``."""

    @property
    def where(self) -> str: ...
    @property
    def protocol(self) -> ServerProtocol: ...
    @property
    def info(self) -> ModelInfo: ...
    @property
    def top_k(self) -> int | None: ...
    async def ask(self, ask: Ask) -> Answer: ...
    async def score(self, question: Score) -> tuple[Row, ...]: ...
    async def sample(self, question: Sample) -> tuple[tuple[int, ...], ...]: ...
    async def tokenize(self, text: str) -> list[int]: ...
    async def detokenize(self, token_ids: Sequence[int]) -> str: ...
    def statistics(self) -> HTTPStatistics: ...


class HTTPModel(LLM):
    """A model behind a URL; made by ``connect``.

    Attributes:
        protocol: the name of the protocol spoken.
        top_k: how many tokens of each row are asked for; None is all of them.

    Concurrency:
        Any number of tasks, within the ``connect`` block that made it; afterwards calls raise ``UsageError``. Cancelled, the answer is
        dropped and its connection closed; no other request is touched, and the server may go on computing. Always a checkpoint.

    Example:
        >>> import trio
        >>> from seedbed import TinyLM, connect, serve
        >>> async def main():
        ...     async with serve(TinyLM()) as server, connect(server.url) as model:
        ...         return await model.next_token_logits(list(b"The ")), await model.detokenize([71, 111])
        >>> row, text = trio.run(main)
        >>> row.shape, text
        ((257,), 'Go')
    """

    def __init__(self, servers: Answering, model: str | None, *, reuse: bool = False) -> None:
        self.protocol = servers.protocol.name
        self.top_k = servers.top_k
        self._servers, self._model, self._reuse = servers, model, reuse
        self._info = servers.info

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> Row:
        """The server's row for a prefix.

        Raises:
            InvalidPrompt: it is no list of token ids.
            ServerError: after the last attempt.
            RowError: what it gave cannot be drawn from.

        Concurrency:
            Any number of tasks; as many as ``max_connections`` are under way, the others wait in turn. Cancelled: its connection is
            closed, nothing else is touched; the server may still do the work. Always a checkpoint.
        """
        try:
            ask = Ask(tuple(prev_token_ids), self.top_k, self._model, self._info.eos_token_ids[0], reuse=self._reuse)
            return (await self._servers.ask(ask)).row
        except (TypeError, ValueError):
            check_token_ids(prev_token_ids, "the prefix")  # says which of them is none; to look first would cost every request
            raise

    async def logits_ahead(self, prev_token_ids: Sequence[int], count: int) -> Ahead:
        """Up to ``count`` rows in one answer, along the tokens the server would take itself; one where its protocol has no way to ask,
        and never more than 64, which every server in the box answers.

        Raises:
            ServerError, RowError: as ``next_token_logits``.

        Concurrency:
            As ``next_token_logits``.
        """
        return await self._rows_ahead(prev_token_ids, count, None)

    async def logits_along(self, prev_token_ids: Sequence[int], count: int, drawing: Drawing) -> Ahead:
        """Likewise; over the native protocol along the tokens that ``drawing`` is going to draw, unless its sampler cannot be told."""
        return await self._rows_ahead(prev_token_ids, count, drawing)

    async def _rows_ahead(self, prev_token_ids: Sequence[int], count: int, drawing: Drawing | None) -> Ahead:
        if count > 1 and self._servers.protocol.looks_ahead:
            # What is wrong with one of them may be wrong with a later one only, which nobody may get to.
            with suppress(RowWithheld, RowError, NonFiniteAtServer):
                prefix = check_token_ids(prev_token_ids, "the prefix")
                ahead = min(count, MAX_AHEAD)
                answer = await self._servers.ask(Ask(prefix, self.top_k, self._model, None, ahead, self._reuse, drawing))
                return Ahead(answer.proposed, (answer.row, *answer.beyond))
        return Ahead((), (await self.next_token_logits(prev_token_ids),))

    def reusing_cache(self) -> HTTPModel:
        """The same model over the same connections, asked so that its server may answer from its prefix cache.

        Where a protocol can forbid that, it is forbidden, since an answer from the cache may differ; where it cannot, this is the model
        itself.
        """
        return HTTPModel(self._servers, self._model, reuse=True) if self._servers.protocol.can_bypass_cache else self

    @property
    def can_score(self) -> bool:
        """Whether ``score`` works here."""
        return self._servers.protocol.scores

    async def score(self, token_ids: Sequence[int]) -> tuple[Row, ...]:
        """The row after each beginning of a prefix, the shortest first, all in one request: of as many tokens as the prefix has.

        Servers compute them together, so they may differ in the last bits from rows asked for one by one.

        Raises:
            UsageError: its protocol has no such question.
            ServerError, RowError: as ``next_token_logits``.

        Concurrency:
            As ``next_token_logits``.
        """
        return await self._servers.score(Score(check_token_ids(token_ids, "the prefix"), self.top_k, self._model))

    @property
    def samples_as(self) -> Order | None:
        """Whose order and rules the server's own sampler follows; None where its protocol has no way to ask for draws."""
        return self._servers.protocol.samples_as

    async def sample(self, question: Sample) -> tuple[tuple[int, ...], ...]:
        """Tokens that the server drew itself, of each of ``question.n`` samples.

        Raises:
            UsageError: its protocol has no way to ask for them.
            ServerError: as ``next_token_logits``.

        Concurrency:
            As ``next_token_logits``.
        """
        return await self._servers.sample(replace(question, model=self._model))

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
            UsageError: it is no text.
            ServerError: the server has no tokenizer, or what else went wrong.
        """
        return await self._servers.tokenize(check_text(text))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The server's text of token ids.

        Raises:
            InvalidPrompt: they are none.
            ServerError: the server has no tokenizer, or what else went wrong.
        """
        ids = check_token_ids(token_ids, "what is to be detokenized", may_be_empty=True)
        if not ids:
            await trio.lowlevel.checkpoint()
            return ""
        return await self._servers.detokenize(ids)

    def counters(self) -> dict[str, int]:
        state = self.statistics()
        return {"requests": state.requests, "retries": state.retries, "bytes_received": state.bytes_received}

    def statistics(self) -> HTTPStatistics:
        """The state now."""
        return self._servers.statistics()

    def __repr__(self) -> str:
        rows = "full rows" if self.top_k is None else f"top {self.top_k}"
        state = self.statistics()
        what = f"{self._info.model} at {state.where}, {self.protocol}, {rows}"
        return f"<HTTPModel {what}: {state.under_way} under way, {state.waiting} waiting>"


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
    return Pool(origin_of(url), ssl_context, headers=headers, connect_timeout=connect_timeout, time_limit=time_limit)
