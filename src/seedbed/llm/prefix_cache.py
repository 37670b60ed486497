"""One answer for everybody who asks the same: a model around a model.

Rule 1: a prefix is in flight at most once. Who asks for it meanwhile waits for the same answer.
Rule 2: a flight belongs to the cache, not to the task that began it, and ends early only when nobody waits for it any more.
Rule 3: what lands is read by each who waits for it, there and then, before the next row can land. So a thousand rows that arrive in one
        moment are never in memory together.
Rule 4: rows are kept within a bound of bytes, and nobody can change one. Errors are delivered, never kept.

What is kept is found by a 128-bit hash of the whole prefix, not by walking a trie: nobody asks the cache for the nearest prefix, and a
trie costs 270 bytes a token where the hash costs 16 a prefix.
"""

from __future__ import annotations

import hashlib
from array import array
from contextlib import nullcontext
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
import outcome
import trio

from seedbed.errors import UsageError
from seedbed.llm.arguments import check_token_ids, shown, whole_number
from seedbed.llm.base import LLM, Ahead, ModelInfo, Row, as_ahead, as_row, check_awaitable
from seedbed.llm.failures import copy_of, met_in
from seedbed.llm.kept_rows import KeptRows, unspoilable
from seedbed.llm.running import require_trio
from seedbed.llm.threads import as_llm
from seedbed.observing.observer import QuestionTaken, observers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from seedbed.sampling.drawing import Drawing

__all__ = ["DEFAULT_BYTES", "PrefixCache", "cache_around"]

DEFAULT_BYTES = 268_435_456  # 441 full rows of a vocabulary of 151,936, or 250,000 top-50 rows

T = TypeVar("T")


class PrefixCache(LLM):
    """A model that is asked once for each prefix, however many ask at the same time, and soon after.

    ``generate`` and ``open_generation`` put one around their model by themselves, for as long as they run. Open one yourself to share
    answers between several calls; a generation over a ``PrefixCache`` uses that one.

    Args:
        llm: the model to ask: an ``LLM``, ``BlockingLLM`` or look-alike.
        max_bytes: how much the rows kept may take; 0 passes every question on, also equal ones in flight.

    Used as an async context manager: leaving it ends what is still in flight.

    Raises:
        UsageError: ``max_bytes`` is no int of 0 or more; or it is used before it was entered.

    Concurrency:
        Any number of tasks. Equal prefixes in flight share one request, cancelled when its last waiter goes; a waiter that is cancelled
        goes at once and touches nobody else. On cancel the server may still compute; an error it then makes is dropped. Any other error
        comes to every waiter, each with a copy of its own, and the next to ask asks again. Always a checkpoint, also on a cache hit.
        After closing, and for whoever waits then: ``trio.ClosedResourceError``.

    Example:
        >>> from seedbed.testing import ScriptedLLM
        >>> llm = ScriptedLLM({}, default=[0.0, 1.0])
        >>> async def main():
        ...     async with PrefixCache(llm) as cached:
        ...         await cached.next_token_logits([1, 2])
        ...         return await cached.next_token_logits([1, 2])
        >>> trio.run(main), llm.asked
        (array([0., 1.], dtype=float32), [(1, 2)])
    """

    def __init__(self, llm: object, max_bytes: int = DEFAULT_BYTES) -> None:
        bound = whole_number(max_bytes)
        if bound is None or bound < 0:
            raise UsageError(f"a prefix cache holds an int of 0 bytes or more, not {shown(max_bytes)}")
        self._model, self._max_bytes = as_llm(llm), bound
        self.top_k = self._model.top_k
        self._kept = KeptRows(bound)
        self._flights: dict[bytes, _Flight] = {}
        self._hits = self._round_trips = 0
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        require_trio()
        if self._nursery is not None:
            raise UsageError("a prefix cache can be entered once")
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        assert self._manager is not None
        assert self._nursery is not None
        self._is_closed = True
        self._kept.clear()
        self._nursery.cancel_scope.cancel()
        # The block's own error is not told to the nursery, which would wrap it in a group; it goes on by itself when this returns.
        try:
            await self._manager.__aexit__(None, None, None)  # noqa: ASYNC102  a nursery waits for its tasks even when cancelled
        finally:
            # Only now: whoever waits inside the block is cancelled with it, and not to be told of a failure that is none.
            for flight in self._flights.values():
                flight.fail(trio.ClosedResourceError("the prefix cache was closed before the answer came"))
            self._flights.clear()

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> Row:
        """The model's row for a prefix; read-only, unless the cache is off.

        Raises:
            InvalidPrompt: the prefix is no list of token ids, or an empty one.
        """
        return await self.read(prev_token_ids, 1, lambda ahead: ahead.rows[0])

    async def logits_ahead(self, prev_token_ids: Sequence[int], count: int) -> Ahead:
        """The model's rows ahead, read-only likewise; just the first, and no proposal, when that one is known already."""
        return await self.read(prev_token_ids, count, lambda ahead: ahead)

    async def logits_along(self, prev_token_ids: Sequence[int], count: int, drawing: Drawing) -> Ahead:
        """Likewise, along what whoever asks first is going to draw."""
        return await self.read(prev_token_ids, count, lambda ahead: ahead, drawing)

    async def read(self, prev_token_ids: Sequence[int], count: int, reader: Callable[[Ahead], T], drawing: Drawing | None = None) -> T:
        """What ``reader`` makes of the answer; it is called when that lands, so that no row waits in memory for its turn to be read.

        Args:
            prev_token_ids: the prefix.
            count: how many rows ahead to ask for, if the model has to be asked.
            reader: synchronous; what it raises comes out here, and nowhere else.
            drawing: what the tokens are going to be drawn with, for the model to propose by.

        Raises:
            InvalidPrompt: the prefix is no list of token ids, or an empty one; nobody was asked.

        Concurrency:
            As the class says. Cancelled: ``reader`` was not called. When a deadline fires in the very moment the answer lands, the
            deadline has come first.
        """
        nursery = self._open_nursery()
        prefix = prev_token_ids if isinstance(prev_token_ids, (list, tuple)) else check_token_ids(prev_token_ids, "the prefix")
        passed = _hash_of(prefix)
        if not self._max_bytes:
            for observer in observers():
                observer.notice(QuestionTaken("asked"))
            await trio.lowlevel.checkpoint()
            return reader(await self._ask(prefix, count, drawing))
        key = passed.digest()
        row = self._kept.get(key)
        flight = self._flights.get(key)
        for observer in observers():
            observer.notice(QuestionTaken("known" if row is not None else "asked" if flight is None else "shared"))
        if row is not None:
            self._hits += 1
            await trio.lowlevel.checkpoint()
            return reader(Ahead((), (row,)))
        if flight is None:
            flight = self._flights[key] = _Flight()
            # A copy: the caller may go before the flight ends.
            nursery.start_soon(self._fly, flight, passed, [*prefix], count, drawing)
        else:
            self._hits += 1
        try:
            read = await flight.wait(reader)
        except trio.Cancelled:
            if not flight.waiting:
                self._forget(flight, key)
                flight.scope.cancel()
            raise
        return read.unwrap()

    async def _fly(self, flight: _Flight, passed: hashlib.blake2b, prefix: list[int], count: int, drawing: Drawing | None) -> None:
        """``passed``: the hash of the prefix, which goes on over what is proposed."""
        key = passed.digest()
        with flight.scope:
            try:
                if not flight.waiting:  # given up before it was sent
                    return
                ahead = await self._ask(prefix, count, drawing)
                ahead = Ahead(ahead.proposed, tuple(map(unspoilable, ahead.rows)))
                self._keep(ahead, passed, again=len(flight.waiting) > 1)
                await flight.serve(ahead)
            except Exception as error:
                flight.fail(error)
            finally:
                if not flight.waiting:  # otherwise the cache is closing, or a KeyboardInterrupt closes it
                    self._forget(flight, key)

    async def _ask(self, prefix: Sequence[int], count: int, drawing: Drawing | None) -> Ahead:
        info = self._model.info
        vocab_size = info.vocab_size if info else None
        self._round_trips += 1
        try:
            model = self._model
            if count == 1:
                return Ahead((), (as_row(await check_awaitable(model.next_token_logits(prefix), model, "next_token_logits"), vocab_size),))
            if drawing is None:
                answer = check_awaitable(model.logits_ahead(prefix, count), model, "logits_ahead")
            else:
                answer = check_awaitable(model.logits_along(prefix, count, drawing), model, "logits_along")
            return as_ahead(await answer, count, vocab_size)
        except BaseExceptionGroup as group:
            error = met_in(group)
        try:
            raise error  # not where the group would become its context
        finally:
            del error  # no cycle between the error's traceback and this frame

    def _keep(self, ahead: Ahead, passed: hashlib.blake2b, *, again: bool) -> None:
        for place, row in enumerate(ahead.rows):
            self._kept.put(passed.digest(), row, again=again)
            passed.update(array("q", ahead.proposed[place : place + 1]))

    def _forget(self, flight: _Flight, key: bytes) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _open_nursery(self) -> trio.Nursery:
        if self._is_closed:
            raise trio.ClosedResourceError("the prefix cache is closed")
        if self._nursery is None:
            raise UsageError("enter the cache first: async with PrefixCache(...) as model")
        return self._nursery

    def get_stop_token_id(self) -> int:
        return self._model.get_stop_token_id()

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self._model.eos_token_ids

    @property
    def info(self) -> ModelInfo | None:
        return self._model.info

    async def tokenize(self, text: str) -> list[int]:
        return await check_awaitable(self._model.tokenize(text), self._model, "tokenize")

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return await check_awaitable(self._model.detokenize(token_ids), self._model, "detokenize")

    def token_bytes(self, token_id: int) -> bytes:
        return self._model.token_bytes(token_id)

    def counters(self) -> dict[str, int]:
        """The model's own, and: "round_trips", questions passed on to it; "cache_hits", questions that took no request of their own;
        "cache_rows" and "cache_bytes" kept for later, and "cache_evictions", how many rows of those went again.
        """
        return self._model.counters() | {
            "round_trips": self._round_trips,
            "cache_hits": self._hits,
            "cache_rows": self._kept.taken,
            "cache_bytes": self._kept.bytes_taken,
            "cache_evictions": self._kept.evictions,
        }

    def __repr__(self) -> str:
        waiting = sum(len(flight.waiting) for flight in self._flights.values())
        return f"<PrefixCache of {self._model!r}: {self._kept!r}, {len(self._flights)} in flight for {waiting} waiting>"


def cache_around(model: LLM, max_bytes: int) -> tuple[PrefixCache, AbstractAsyncContextManager[object]]:
    """The cache that a model is asked through, and what is to be entered to use it.

    Args:
        model: one that is a ``PrefixCache`` itself was opened by the caller: it is taken as it is, stays open, and keeps its own bound.
        max_bytes: the bound of a new one.
    """
    if isinstance(model, PrefixCache):
        return model, nullcontext()
    cache = PrefixCache(model, max_bytes)
    return cache, cache


def _hash_of(prefix: list[int] | tuple[int, ...]) -> hashlib.blake2b:
    """Of the whole prefix; goes on over what follows it. A bool counts as the int it equals: to look for one would double the time.

    Raises:
        InvalidPrompt: it is no list of token ids, or an empty one.
    """
    try:
        ids = array("Q", prefix)  # refuses what is no int, or negative, in half the time of a "q"
    except (TypeError, ValueError, OverflowError):
        ids = None
    if not ids or np.frombuffer(ids, np.int64).min() < 0:
        ids = array("Q", check_token_ids(prefix, "the prefix"))  # says which of them is none
    return hashlib.blake2b(ids, digest_size=16)


class _Flight:
    """A question under way, and who waits for the answer."""

    __slots__ = ("scope", "waiting")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.waiting: dict[trio.lowlevel.Task, Callable[[Ahead], object]] = {}  # {who: what they do with it}, first come first

    async def wait(self, reader: Callable[[Ahead], T]) -> outcome.Outcome[T]:
        """What ``reader`` made of the answer, or the error."""
        task = trio.lowlevel.current_task()
        self.waiting[task] = reader

        def leave(_: object) -> trio.lowlevel.Abort:
            # Here, and not when the task next runs: a deadline and an answer in one moment must not depend on whose task runs first.
            del self.waiting[task]
            return trio.lowlevel.Abort.SUCCEEDED

        read: outcome.Outcome[T] = await trio.lowlevel.wait_task_rescheduled(leave)
        return read

    async def serve(self, ahead: Ahead) -> None:
        """Let each read the answer, also who comes while others read."""
        while self.waiting:
            task = next(iter(self.waiting))
            reader = self.waiting.pop(task)
            trio.lowlevel.reschedule(task, outcome.Value(outcome.capture(reader, ahead)))
            if self.waiting:  # a draw may take milliseconds: a thousand in a row would hold up everything else
                await trio.lowlevel.checkpoint()

    def fail(self, error: Exception) -> None:
        """Give each the error: the first the very one, the others a copy, since each adds to it where it struck."""
        for task in list(self.waiting):
            del self.waiting[task]
            trio.lowlevel.reschedule(task, outcome.Value(outcome.Error(error)))
            error = copy_of(error)
