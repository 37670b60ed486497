"""One server: found out, verified, asked in turn and again where that may help; and no secret in whatever comes back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar

import trio

from seedbed.errors import (
    BrokenAnswer,
    ConnectionLost,
    NotAModelServer,
    NotReady,
    Overloaded,
    RowWithheld,
    SeedbedError,
    ServerError,
    UsageError,
)
from seedbed.http.pool import Pool, PoolStatistics
from seedbed.http.transport import origin_of
from seedbed.http.turns import Turns
from seedbed.observing.observer import RequestBegan, RequestEnded, RequestRepeated, observers
from seedbed.protocols.exchange import Answer, Ask, HttpRequest, HttpResponse, Sample, Score
from seedbed.protocols.refusal import one_line, refusal, retry_after
from seedbed.protocols.rows import check_logits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import httpx

    from seedbed.http.arguments import Wanted
    from seedbed.http.retry import Retry
    from seedbed.http.secrets import Secrets
    from seedbed.llm.base import ModelInfo, Row
    from seedbed.protocols.base import Protocol as ServerProtocol

__all__ = ["Endpoint", "HTTPStatistics", "Sender", "is_not_ready"]

T = TypeVar("T")

DISCOVERY_BOUND = 4_194_304  # llama.cpp's /props carries the chat template, some of which are 20 kB
TEXT_BOUND = 67_108_864
SAMPLES_BOUND = 65_536  # octets a token drawn, with whatever a server says beside it
# Statuses that are refusals and may pass by themselves; what any other means is the protocol's to say.
_MAY_PASS = frozenset({429, 500, 502, 503, 504})
_NOT_NOW = frozenset({429, 503})
# An answer that takes more of its time limit is no reason to ask for more at once.
IN_GOOD_TIME = 0.5


class Sender(Protocol):
    """A way for a request to reach the server."""

    async def send(self, request: HttpRequest, bound: int) -> HttpResponse:
        """One attempt, within its time limit. Always a checkpoint."""

    async def aclose(self) -> None:
        """Free what it holds."""


@dataclass(frozen=True, slots=True)
class HTTPStatistics:
    """The state of the way to a model, or to one of its replicas.

    Attributes:
        where: the server, or the servers.
        under_way: requests sent and not answered.
        waiting: requests waiting for their turn.
        allowed: how many requests may be under way now; grows to ``max_connections`` while the server answers, shrinks when it refuses.
        requests: requests sent since the beginning, repeated ones counted each time.
        retries: how many of them were repetitions after a failure.
        bytes_received: octets of answers' bodies.
        pool: the connections; None when they are another transport's, or several servers'.
        trouble: why it is not asked at present; "" when it is.
        replicas: the same for each replica, in the order they were given; () when there is one server.
    """

    where: str
    under_way: int
    waiting: int
    allowed: float
    requests: int
    retries: int
    bytes_received: int
    pool: PoolStatistics | None = None
    trouble: str = ""
    replicas: tuple[HTTPStatistics, ...] = ()


class Endpoint:
    """One server.

    Args:
        sender: the way to it; closed with the endpoint.
        url: where it is; the path goes in front of every request's, the query behind it.
        secrets: what must not be shown.
        wanted: what it is to have, and to be asked for.
        max_connections: the most requests under way at once.
        time_limit: seconds the sender gives one request.
        retry: when to ask again.
        decode_in_thread_above: answers of more octets are decoded in a worker thread.

    Attributes:
        where: the server, without anything secret.
        protocol, info, top_k: what it speaks, what it has and how much of a row it is asked for, from ``find_out`` on.

    Concurrency:
        Any number of tasks.
    """

    protocol: ServerProtocol
    info: ModelInfo
    top_k: int | None

    def __init__(
        self,
        sender: Sender,
        url: httpx.URL,
        secrets: Secrets,
        wanted: Wanted,
        *,
        max_connections: int,
        time_limit: float,
        retry: Retry,
        decode_in_thread_above: float,
    ) -> None:
        path, _, query = url.raw_path.decode("ascii").partition("?")
        self._prefix, self._suffix = path.rstrip("/"), f"?{query}" if query else ""
        self.where = secrets.hide(f"{origin_of(url)}{self._prefix}")
        self.secrets = secrets
        self._sender, self._wanted, self._retry = sender, wanted, retry
        self._turns = Turns(max_connections)
        self._in_good_time = time_limit * IN_GOOD_TIME
        self._decode_in_thread_above = decode_in_thread_above
        self._requests = self._retries = self._bytes_received = 0
        self._not_before = -math.inf  # it asked not to be asked until then, on trio's clock

    async def find_out(self) -> None:
        """Ask what it speaks and has, and check with one probe that its answers can be believed.

        Raises:
            ServerError: it cannot be asked, or not be believed.
            UsageError: it does not tell something that must be known, or has not what is wanted.
        """
        protocol, info = await self._discover()
        info = self._wanted.given(info)
        self.protocol, self.info, self.top_k = protocol, info, self._wanted.entries(info, protocol.default_top_k)
        await self._verify()
        self._turns.start_over()

    async def ask(self, ask: Ask) -> Answer:
        """The answer to one question.

        Raises:
            ServerError, RowError: as ``HTTPModel.next_token_logits``.
        """
        protocol, info = self.protocol, self.info  # which may be found out anew meanwhile
        response = await self._send(protocol.encode_request(ask, info), protocol.answer_bound(ask, info))
        decode = protocol.decode_response
        if len(response.body) <= self._decode_in_thread_above:  # as _decode asks again: awaiting it would cost every request
            return self._decoded(response, decode, ask, info)
        return await self._decode(response, decode, ask, info)

    async def score(self, question: Score) -> tuple[Row, ...]:
        """As ``HTTPModel.score``."""
        protocol, info = self.protocol, self.info
        bound = protocol.answer_bound(Ask(question.token_ids, question.top_k), info) * (1 + len(question.token_ids))
        response = await self._send(protocol.encode_score(question, info), bound)
        return await self._decode(response, protocol.decode_scores, question, info)

    async def sample(self, question: Sample) -> tuple[tuple[int, ...], ...]:
        """As ``HTTPModel.sample``."""
        protocol, info = self.protocol, self.info
        bound = SAMPLES_BOUND * question.n * max(1, question.tokens)
        response = await self._send(protocol.encode_sample(question, info), bound)
        return await self._decode(response, protocol.decode_samples, question, info)

    async def tokenize(self, text: str) -> list[int]:
        """As ``HTTPModel.tokenize``."""
        protocol = self.protocol
        return await self._decode(await self._send(protocol.encode_tokenize(text), TEXT_BOUND), protocol.decode_tokens)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """As ``HTTPModel.detokenize``."""
        protocol = self.protocol
        response = await self._send(protocol.encode_detokenize(list(token_ids)), TEXT_BOUND)
        return await self._decode(response, protocol.decode_text)

    def turn_away(self) -> None:
        """Let those who wait for their turn fail at once, as if the connection were lost."""
        self._turns.turn_away()

    @property
    def load(self) -> int:
        """Requests under way and waiting."""
        return self._turns.taken + self._turns.waiting

    def statistics(self) -> HTTPStatistics:
        """The state now."""
        return HTTPStatistics(
            where=self.where,
            under_way=self._turns.taken,
            waiting=self._turns.waiting,
            allowed=self._turns.allowed,
            requests=self._requests,
            retries=self._retries,
            bytes_received=self._bytes_received,
            pool=self._sender.statistics() if isinstance(self._sender, Pool) else None,
        )

    async def aclose(self) -> None:
        """Close every connection; requests under way then fail. Not longer than a second, also when cancelled."""
        with trio.CancelScope(shield=True), trio.move_on_after(1):
            await self._sender.aclose()

    async def _verify(self) -> None:
        """Ask for one row after one token: its length, its kind, the greedy choice, the prompt's length are as they should be, or raise."""
        end = self.info.eos_token_ids[0]
        try:
            answer = await self.ask(Ask((end,), self.top_k, self._wanted.model))
        except RowWithheld:
            answer = await self.ask(Ask((end,), self.top_k, self._wanted.model, end))
        if self.info.kind == "logits":
            check_logits(answer.row)

    async def _decode(self, response: HttpResponse, decode: Callable[..., T], *question: object) -> T:
        """What an answer says, found out in a worker thread if it is long."""
        if len(response.body) <= self._decode_in_thread_above:
            return self._decoded(response, decode, *question)
        return await trio.to_thread.run_sync(self._decoded, response, decode, *question, abandon_on_cancel=True)

    def _decoded(self, response: HttpResponse, decode: Callable[..., T], *question: object) -> T:
        """What an answer says; or why it says nothing, without a secret that it may repeat."""
        try:
            return decode(*question, response)
        except SeedbedError:
            hidden = self.secrets.hide_in(response)
            if hidden == response:
                raise
        return decode(*question, hidden)  # raises again, and quotes no part of a secret

    async def _discover(self) -> tuple[ServerProtocol, ModelInfo]:
        seen: list[HttpResponse] = []
        protocols = self._wanted.protocols()
        for protocol in protocols:
            discovery = protocol.discover(self._wanted.model)
            request = next(discovery)
            try:
                while True:
                    response = await self._probe(request)
                    seen.append(response)
                    request = discovery.send(response)
            except StopIteration as learnt:
                if learnt.value is not None:
                    narrowed, info = learnt.value  # the protocol, knowing what the server has
                    return narrowed, info
            except SeedbedError as error:
                error.add_note(f"while asking {self.where} whether it speaks {protocol.name}")
                self.secrets.hide_in_error(error)
                raise
        raise self._not_recognised(seen, " or ".join(protocol.name for protocol in protocols))

    def _not_recognised(self, seen: list[HttpResponse], names: str) -> ServerError:
        # A gateway that wants a key, moved or broke hides what is behind it; that is worth more than that nobody was recognised.
        for response in seen:
            if response.status in (401, 403, 407) or 300 <= response.status < 400 or response.status >= 500:
                return refusal(self.secrets.hide_in(response))
        last = self.secrets.hide_in(seen[-1])
        server = f", server {one_line(last.header('server'))[:60]}" if last.header("server") else ""
        is_api = self._prefix.rstrip("/").endswith(("/v1", "/v1/completions", "/v1/chat/completions"))
        advice = "give the server's address without /v1" if is_api else "is the URL right?"
        return NotAModelServer(f"{self.where} answers HTTP (status {last.status}{server}), but does not speak {names}; {advice}")

    def _send(self, request: HttpRequest, bound: int) -> Awaitable[HttpResponse]:
        """Send it until it is answered; a refusal that may pass is tried again."""
        return self._persist(request, bound, _MAY_PASS, request.body)

    def _probe(self, request: HttpRequest) -> Awaitable[HttpResponse]:
        """Send it; the answer, whatever its status. A server that is loading is waited for, one that is not there is not."""
        return self._persist(request, DISCOVERY_BOUND, _NOT_NOW, request.path.encode(), is_not_ready)

    async def _persist(
        self,
        request: HttpRequest,
        bound: int,
        refusals: frozenset[int],
        seed: bytes,
        may_help: Callable[[ServerError], bool] | None = None,
    ) -> HttpResponse:
        if self._prefix or self._suffix:
            request = replace(request, path=self._prefix + request.path + self._suffix)
        try:
            try:
                return await self._attempt(request, bound, refusals)
            except ServerError as error:
                failed = error
            again = partial(self._attempt, request, bound, refusals)
            return await self._retry.call(again, seed, failed=failed, on_retry=self._count_retry, may_help=may_help)
        except trio.ClosedResourceError as error:
            raise UsageError(f"the connections to {self.where} are closed: a model is used after its connect() block has ended") from error
        except SeedbedError as error:
            self.secrets.hide_in_error(error)
            raise

    def _count_retry(self) -> None:
        self._retries += 1
        for observer in observers():
            observer.notice(RequestRepeated(self.where))

    async def _attempt(self, request: HttpRequest, bound: int, refusals: frozenset[int]) -> HttpResponse:
        """Send it once, in turn. Statuses among ``refusals`` are raised."""
        turns = self._turns
        # No checkpoint of its own: what follows is one, and two would cost a tenth of a request.
        if not (turns.take_nowait() or await turns.take()):
            raise ConnectionLost(f"{self.where} failed before this request's turn came", answer_begun=False)
        number, began = self._requests + 1, trio.current_time()
        try:
            if began < self._not_before:
                await _refuse(self.where, self._not_before - began)
            self._requests += 1
            send = self._send_observed if observers() else self._sender.send
            response = await send(request, bound)
            if response.status in _NOT_NOW:
                turns.shrink(number, self._requests)
                self._not_before = max(self._not_before, trio.current_time() + (retry_after(response) or 0.0))
            elif turns.allowed < turns.most and trio.current_time() - began < self._in_good_time:
                turns.grow()
        finally:
            turns.give_back()
        self._bytes_received += len(response.body)
        if (response.header("content-encoding") or "identity") != "identity":
            raise BrokenAnswer(f"{self.where} compressed its answer, though it was asked not to")
        if response.status == 200:
            return response
        response = self.secrets.hide_in(response)
        if response.status in refusals:
            raise refusal(response)
        return response

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


async def _refuse(where: str, seconds: float) -> NoReturn:
    await trio.lowlevel.checkpoint()
    raise Overloaded(f"{where} asked not to be asked for another {seconds:.3g} s", status=503, retry_after=seconds)


def is_not_ready(error: ServerError) -> bool:
    """Whether a server is there, and may be ready to be asked soon."""
    return isinstance(error, (NotReady, Overloaded, ConnectionLost))
