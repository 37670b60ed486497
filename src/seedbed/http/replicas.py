"""Several servers of one model, as one.

A question goes to the replica that has been asked the longest part of its prefix, which may then still be in its cache; unless that one is
busier than the least busy, which is asked instead. A replica that fails is left out, and the question goes to the next one at once. In the
background it is asked again who it is, more and more seldom; when it is well, and still the same, it is one of them again.

No result depends on which replica answers, as long as equal questions have equal answers: so replicas must tell the same of themselves,
when they are connected and whenever they come back.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import trio

from seedbed.errors import (
    BrokenAnswer,
    ConnectionLost,
    DishonestAnswer,
    EngineFailed,
    NotReady,
    Overloaded,
    ReplicasDiffer,
    RequestTimeout,
    RowWithheld,
    SeedbedError,
    ServerError,
    ServerUnreachable,
)
from seedbed.http.endpoint import Endpoint, HTTPStatistics, is_not_ready
from seedbed.http.retry import Retry
from seedbed.llm.base import ModelInfo
from seedbed.observing.observer import RequestRepeated, observers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from seedbed.llm.base import Row
    from seedbed.protocols.exchange import Answer, Ask, Sample, Score

__all__ = ["SLACK", "Replicas", "blocks_of", "open_replicas", "whom"]

T = TypeVar("T")

BLOCK = 16  # tokens; vLLM and SGLang keep prefixes in blocks, of 16 by default
SLACK = 4  # requests by which a replica may be busier than another and still be asked for its cache's sake
MAX_KEPT = 65_536  # blocks of which it is known who was asked
AGAIN = Retry(base=0.5, cap=30.0)  # when one that failed is asked who it is
# What says something about the server, and nothing about the question.
_SICKENING = (ConnectionLost, ServerUnreachable, RequestTimeout, NotReady, EngineFailed, BrokenAnswer)
_NOT_SICKENING = (DishonestAnswer, RowWithheld)
# Without these in common not even the caller can want them mixed.
_COMMON = frozenset({"vocab_size", "eos_token_ids", "kind", "max_top_k"})


@asynccontextmanager
async def open_replicas(endpoints: Sequence[Endpoint], retry: Retry, *, patience: float, may_differ: bool) -> AsyncIterator[Replicas]:
    """Find out what they are, and have those that fail looked after until the block ends.

    Args:
        endpoints: at least one; each asks once, asking again is done here.
        retry: when a question that no replica answered is asked again.
        patience: seconds in which the others must say what they are once one has.
        may_differ: whether they may tell different things of themselves.

    Raises:
        ReplicasDiffer: they do, and may not.
        ServerError: none of them can be asked, or one is none of ours.
    """
    failed: Exception | None = None
    async with trio.open_nursery() as nursery:
        replicas = Replicas(endpoints, retry, nursery, may_differ=may_differ)
        try:
            await replicas.find_out(patience)
            yield replicas
        except Exception as error:
            failed = error
        replicas.is_closing = True
        nursery.cancel_scope.cancel()
    try:
        if failed is not None:
            raise failed  # bare, not as a group of one
    finally:
        del failed


@dataclass(eq=False, slots=True)
class _Replica:
    """One of them.

    Attributes:
        trouble: why it is left out, until it has been looked after; "" when it is well.
        busy_until: it asked not to be asked before, on trio's clock.
        asked: how many questions it was given.
    """

    endpoint: Endpoint
    trouble: str = ""
    busy_until: float = 0.0
    asked: int = 0

    def state(self) -> HTTPStatistics:
        said = self.trouble
        patience = self.busy_until - trio.current_time() if trio.lowlevel.in_trio_run() else 0.0
        if not said and patience > 0:
            said = f"it asked for patience for {patience:.3g} s"
        return replace(self.endpoint.statistics(), trouble=said)


class Replicas:
    """See the module; the rest is as in ``Endpoint``.

    Attributes:
        is_closing: nothing is looked after any more.
    """

    def __init__(self, endpoints: Sequence[Endpoint], retry: Retry, nursery: trio.Nursery, *, may_differ: bool) -> None:
        self._replicas = [_Replica(endpoint) for endpoint in endpoints]
        self._retry, self._nursery, self._may_differ = retry, nursery, may_differ
        self._asked_of: dict[int, _Replica] = {}  # by block of a prefix, see blocks_of
        self._repeated = 0
        self.is_closing = False
        self.where = ", ".join(endpoint.where for endpoint in endpoints)

    async def find_out(self, patience: float) -> None:
        """Ask all of them at the same time; at least one must be well.

        Raises:
            ReplicasDiffer, ServerError, UsageError: see ``open_replicas``.
        """
        await self._retry.call(partial(self._find_out_once, patience), self.where.encode(), may_help=is_not_ready)
        well = [replica for replica in self._replicas if not replica.trouble]
        first = well[0].endpoint
        self._first_where, self.protocol, self.info, self.top_k = first.where, first.protocol, first.info, first.top_k
        differing: list[str] = []
        for replica in well[1:]:
            differing += self._differences(replica.endpoint)
        if differing:
            self.info = replace(
                self.info, notes=(*self.info.notes, f"its replicas differ in {', '.join(dict.fromkeys(differing))}: so may their rows")
            )
        for replica in self._replicas:
            if replica.trouble:
                self._nursery.start_soon(self._look_after, replica)

    async def ask(self, ask: Ask) -> Answer:
        """The answer of one of them.

        Raises:
            ServerError: of the last one asked, after the last attempt; or at once, when it is about the question.
            RowError: as ``HTTPModel.next_token_logits``.

        Concurrency:
            As ``Endpoint.ask``.
        """
        about = repr((len(ask.token_ids), ask.token_ids[-8:])).encode()
        return await self._persist(lambda endpoint: endpoint.ask(ask), about, blocks_of(ask.token_ids))

    async def score(self, question: Score) -> tuple[Row, ...]:
        """As ``HTTPModel.score``."""
        return await self._persist(lambda endpoint: endpoint.score(question), b"score", blocks_of(question.token_ids))

    async def sample(self, question: Sample) -> tuple[tuple[int, ...], ...]:
        """As ``HTTPModel.sample``."""
        return await self._persist(lambda endpoint: endpoint.sample(question), repr(question.seed).encode(), blocks_of(question.token_ids))

    async def tokenize(self, text: str) -> list[int]:
        """As ``HTTPModel.tokenize``."""
        return await self._persist(lambda endpoint: endpoint.tokenize(text), text.encode("utf-8", "replace"))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """As ``HTTPModel.detokenize``."""
        return await self._persist(lambda endpoint: endpoint.detokenize(token_ids), b"detokenize")

    def statistics(self) -> HTTPStatistics:
        """The state now, of all together and of each."""
        states = tuple(replica.state() for replica in self._replicas)
        return HTTPStatistics(
            where=self.where,
            under_way=sum(state.under_way for state in states),
            waiting=sum(state.waiting for state in states),
            allowed=sum(state.allowed for state in states),
            requests=sum(state.requests for state in states),
            retries=self._repeated,
            bytes_received=sum(state.bytes_received for state in states),
            replicas=states,
        )

    # Who is asked.

    async def _persist(self, send: Callable[[Endpoint], Awaitable[T]], about: bytes, blocks: Sequence[int] = ()) -> T:
        return await self._retry.call(partial(self._one_after_the_other, send, blocks), about, on_retry=self._count_repetition)

    def _count_repetition(self) -> None:
        self._repeated += 1
        for observer in observers():
            observer.notice(RequestRepeated(self.where))

    async def _one_after_the_other(self, send: Callable[[Endpoint], Awaitable[T]], blocks: Sequence[int]) -> T:
        """Ask until one answers, each once."""
        tried: list[_Replica] = []
        failed: ServerError | None = None
        try:
            while (replica := self._choose(blocks, tried)) is not None:
                if tried:
                    self._count_repetition()
                tried.append(replica)
                replica.asked += 1
                try:
                    return await send(replica.endpoint)
                except ServerError as error:
                    # Whatever broke an engine may be in the question: it is not taken to all the others.
                    if not self._is_to_blame(replica, error) or isinstance(error, EngineFailed):
                        raise
                    failed = error
            raise failed or self._nobody()
        finally:
            del failed  # a cycle, by its traceback

    def _choose(self, blocks: Sequence[int], tried: list[_Replica]) -> _Replica | None:
        now = trio.current_time()
        fit = [r for r in self._replicas if not r.trouble and r.busy_until <= now and r not in tried]
        if not fit:
            return None
        known = next((self._asked_of[block] for block in reversed(blocks) if block in self._asked_of), None)
        states = {number: (r.endpoint.load, r.asked) for number, r in enumerate(self._replicas) if r in fit}
        chosen = self._replicas[whom(states, blocks, self._replicas.index(known) if known is not None else None)]
        for block in blocks:
            self._asked_of.setdefault(block, chosen)
        if blocks:  # as the youngest of all; the oldest are forgotten
            self._asked_of.pop(blocks[-1])
            self._asked_of[blocks[-1]] = chosen
        while len(self._asked_of) > MAX_KEPT:
            del self._asked_of[next(iter(self._asked_of))]
        return chosen

    def _nobody(self) -> ServerError:
        """Why nobody is asked."""
        busy = [replica.busy_until for replica in self._replicas if not replica.trouble]
        if busy:
            wait = max(0.0, min(busy) - trio.current_time())
            return Overloaded(f"every replica that is well asked for patience, for {wait:.3g} s at least", status=503, retry_after=wait)
        troubles = "; ".join(f"{replica.endpoint.where}: {replica.trouble}" for replica in self._replicas)
        return ServerUnreachable(f"none of the {len(self._replicas)} replicas can be asked: {troubles}")

    # Who is well.

    async def _find_out_once(self, patience: float) -> None:
        failed: dict[_Replica, SeedbedError] = {}
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for replica in self._replicas:
                    replica.trouble = f"{replica.endpoint.where} had not said what it is {patience:g} s after another had"
                    nursery.start_soon(self._find_out_one, replica, failed, scope, patience)
        errors = [failed[replica] for replica in self._replicas if replica in failed]
        for error in errors:
            if not isinstance(error, (*_SICKENING, Overloaded)) or isinstance(error, _NOT_SICKENING):
                raise error
        if len(errors) == len(self._replicas):
            error = next((error for error in errors if isinstance(error, ServerError) and is_not_ready(error)), errors[0])
            error.add_note(f"none of the {len(self._replicas)} replicas can be asked")
            raise error

    async def _find_out_one(
        self, replica: _Replica, failed: dict[_Replica, SeedbedError], scope: trio.CancelScope, patience: float
    ) -> None:
        try:
            await replica.endpoint.find_out()
        except SeedbedError as error:
            failed[replica], replica.trouble = error, str(error)
        else:
            replica.trouble = ""
            scope.deadline = min(scope.deadline, trio.current_time() + patience)

    def _is_to_blame(self, replica: _Replica, error: ServerError) -> bool:
        """Whether an error is about the replica and not about the question; it is then left out."""
        if isinstance(error, Overloaded):
            replica.busy_until = max(replica.busy_until, trio.current_time() + (error.retry_after or 0.0))
            return True
        if not isinstance(error, _SICKENING) or isinstance(error, _NOT_SICKENING):
            return False
        if not replica.trouble:
            replica.trouble = str(error)  # not itself: whoever it goes to may add to it
            replica.endpoint.turn_away()
            if not self.is_closing:
                self._nursery.start_soon(self._look_after, replica)
        return True

    async def _look_after(self, replica: _Replica) -> None:
        """Ask it who it is until it is well, and still the same."""
        for attempt in count():
            await trio.sleep(AGAIN.delay(replica.endpoint.where.encode(), attempt))
            try:
                await replica.endpoint.find_out()
                self._differences(replica.endpoint)
            except SeedbedError as error:
                replica.trouble = str(error)
            else:
                replica.trouble = ""
                return

    def _differences(self, endpoint: Endpoint) -> list[str]:
        """What it tells of itself that the first one does not.

        Raises:
            ReplicasDiffer: it may not.
        """
        names = [field.name for field in fields(ModelInfo) if field.compare]
        differing = [name for name in names if getattr(endpoint.info, name) != getattr(self.info, name)]
        if not differing or (self._may_differ and not _COMMON & set(differing)):
            return differing
        told = "; ".join(f"{name} {getattr(endpoint.info, name)!r:.80} and {getattr(self.info, name)!r:.80}" for name in differing)
        remedy = "" if _COMMON & set(differing) else ", or replicas_may_differ=True if any of them will do"
        raise ReplicasDiffer(
            f"{endpoint.where} and {self._first_where} are no replicas of one model: they tell {told}; give servers that are{remedy}"
        )


def whom(states: Mapping[int, tuple[int, int]], blocks: Sequence[int], known: int | None) -> int:
    """Which replica is asked: the one that knows the longest part of the prefix, unless it is busier than the least busy one by more than
    SLACK; then that one. Of equally busy ones it is the one asked least, and of those one that the prefix picks: many clients that know
    nothing of each other would crowd the first of a list, and the caches would keep them there.

    Args:
        states: {replica: (requests under way, questions it was given)}, as this client knows; at least one.
        blocks: of the prefix.
        known: who was asked for the longest known beginning of the prefix, or None.

    Example:
        >>> whom({0: (1, 5), 1: (0, 2)}, [7], known=0), whom({0: (9, 9), 1: (0, 2)}, [7], known=0)
        (0, 1)
        >>> len({whom({0: (0, 0), 1: (0, 0), 2: (0, 0)}, [prompt], None) for prompt in range(9)})
        3
    """
    picks, count = blocks[-1] if blocks else 0, 1 + max(states)
    least = min(states, key=lambda replica: (*states[replica], (replica - picks) % count))
    return known if known is not None and known in states and states[known][0] <= states[least][0] + SLACK else least


def blocks_of(token_ids: tuple[int, ...]) -> list[int]:
    """A number for each whole block of a prefix, which stands for it and all before it; two may share one, which costs no more than time.

    Example:
        >>> blocks_of((7,) * 40) == blocks_of((7,) * 33 + (1,)), len(blocks_of((7,) * 40))
        (True, 2)
    """
    keys: list[int] = []
    key = 0
    for end in range(BLOCK, len(token_ids) + 1, BLOCK):
        key = hash((key, token_ids[end - BLOCK : end]))
        keys.append(key)
    return keys
