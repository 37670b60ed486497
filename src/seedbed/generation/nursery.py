"""Where sequences run: one nursery task each, bounded by cancel scopes, collected in order.

A sequence's task loops: ask the model for a row, draw, until it is finished. Tasks share nothing but the model's answers, so no result
depends on how they are scheduled. An expected error never enters the nursery: the task that met it stores it, cancels its siblings when
asked to, and it is raised bare after the nursery has closed. ``KeyboardInterrupt`` and its like do enter it, so they win.
"""

from __future__ import annotations

import math
import re
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import trio

from seedbed.errors import SeedbedError, UsageError
from seedbed.generation.lookahead import Lookahead, Reach, check_lookahead
from seedbed.generation.plan import Deadlines, Plan, check_count
from seedbed.generation.result import GenerationResult, SampledSequence, Stats
from seedbed.generation.sequence import FollowedSequence
from seedbed.llm.beside import open_beside
from seedbed.llm.failures import copy_of
from seedbed.llm.prefix_cache import DEFAULT_BYTES, cache_around
from seedbed.llm.running import require_trio
from seedbed.llm.threads import as_llm
from seedbed.observing.observer import GenerationBegan, GenerationEnded, SequenceBegan, SequenceEnded, TokensDrawn, observers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from seedbed.llm.base import LLM, Ahead
    from seedbed.sampling.sampler import Sampler

__all__ = ["Generation", "Progress", "generate", "open_generation"]

# Sequences begun and not finished at any time; far more than connections, so servers stay busy, and 100,000 sequences fit in memory.
MAX_FOLLOWED = 1024
# Of more sequences than this, those that were never begun are not listed: they would say nothing, and take 700 bytes each.
MAX_LISTED = 1_000_000
NOTE = re.compile(r"in prompt \d+, sequence \d+, step \d+")  # on errors that are not seedbed's, where they struck


@asynccontextmanager
async def open_generation(
    prompts: Sequence[int] | Sequence[Sequence[int]],
    llm: object,
    n: int = 1,
    *,
    sampler: Sampler | None = None,
    seed: int | None = None,
    max_new_tokens: int | None = None,
    stop_token_ids: Sequence[int] = (),
    stop_sequences: Sequence[Sequence[int]] = (),
    timeout: float = math.inf,
    sequence_timeout: float = math.inf,
    on_error: Literal["raise", "keep"] = "raise",
    lookahead: Lookahead = 1,
    prefix_cache_bytes: int = DEFAULT_BYTES,
    resume: GenerationResult | Iterable[SampledSequence] = (),
) -> AsyncIterator[Generation]:
    """Sample sequences and hand each on as it finishes; leaving the block early cancels the rest.

    Arguments, errors and results are those of ``generate``. The object bound by ``as`` is an async iterator of ``SampledSequence`` in
    finishing order, which is length-biased: the first k to finish are not an independent sample.

    Concurrency:
        The sequences run in the background while the block runs; a slow block never holds up fetching. Cancelled from outside, the
        cancellation propagates, and ``generation.sequences`` still holds what there was. A deadline of ours ends the sequences, not
        the block.

    Example:
        >>> from seedbed.testing import ScriptedLLM
        >>> async def first_to_stop():
        ...     async with open_generation([1], ScriptedLLM({}, default=[0.0, 0.0]), n=4, seed=7) as generation:
        ...         async for sequence in generation:
        ...             return sequence.finish_reason
        >>> trio.run(first_to_stop)
        'stop'
    """
    require_trio()
    model = as_llm(llm)
    plan = Plan.of(
        prompts,
        model,
        range(check_count(n)),
        sampler=sampler,
        seed=seed,
        max_new_tokens=max_new_tokens,
        stop_token_ids=stop_token_ids,
        stop_sequences=stop_sequences,
        resume=resume,
    )
    deadlines = Deadlines(timeout, sequence_timeout)
    if on_error not in ("raise", "keep"):
        raise UsageError(f"on_error must be 'raise' or 'keep', not {on_error!r}")
    generation = Generation(plan, model, deadlines, raises=on_error == "raise", lookahead=lookahead, prefix_cache_bytes=prefix_cache_bytes)
    await trio.lowlevel.checkpoint()
    try:
        async with open_beside() as nursery:
            nursery.start_soon(generation._run)
            yield generation
    except Exception as body_error:
        generation._note_beside(body_error)
        raise
    finally:
        generation._close()
    generation._raise_unless_told()


async def generate(
    prompts: Sequence[int] | Sequence[Sequence[int]],
    llm: object,
    n: int = 1,
    *,
    sampler: Sampler | None = None,
    seed: int | None = None,
    max_new_tokens: int | None = None,
    stop_token_ids: Sequence[int] = (),
    stop_sequences: Sequence[Sequence[int]] = (),
    timeout: float = math.inf,
    sequence_timeout: float = math.inf,
    on_error: Literal["raise", "keep"] = "raise",
    lookahead: Lookahead = 1,
    prefix_cache_bytes: int = DEFAULT_BYTES,
    resume: GenerationResult | Iterable[SampledSequence] = (),
) -> GenerationResult:
    """Sample n sequences from each prompt; returns all of them, in order. A deadline returns what there is.

    Args:
        prompts: one prompt (token ids) or several (a list of prompts); not modified.
        llm: an ``LLM``, ``BlockingLLM`` or look-alike.
        n: sequences a prompt; 0 is legal and sends nothing. They begin in order, a thousand at a time, so n may be far more than will be
            wanted; of more than a million sequences, those that never began are left out of a partial result.
        sampler: how tokens are drawn; the default samples from the model itself.
        seed: in [0, 2**128); None takes a fresh one, which the result names.
        max_new_tokens: most tokens a sequence; None is what the model's context leaves, or 2048 when that is unknown. 0 sends nothing.
        stop_token_ids: token ids that end a sequence *besides* the model's own ``eos_token_ids``.
        stop_sequences: token-id sequences that end one; matched on generated tokens only.
        timeout: seconds for everything; unfinished sequences come back with ``finish_reason`` "deadline".
        sequence_timeout: seconds for each sequence from its start, likewise.
        on_error: "raise": the first failure cancels the other sequences and comes out as itself, with ``.result`` attached when it is
            seedbed's; "keep": that sequence ends with ``finish_reason`` "error", the others go on.
        lookahead: how many rows to ask for at once, along tokens the model proposes, if it can (``LLM.logits_ahead``); "auto" follows
            the rate at which the draws agree, which is always over the native protocol: its server draws with the same noise. Changes
            how often the model is asked, never the tokens.
        prefix_cache_bytes: how much the rows kept for siblings may take. Equal prefixes, such as the prompt of n sequences, are asked
            once. 0 asks anew each time. When ``llm`` is a ``PrefixCache`` itself, that one is used, and its own bound.
        resume: an earlier partial result, or some of its sequences: each goes on where it was, exactly as if never interrupted. Prompt,
            seed and sampler must be the same, and what ends a sequence no stricter.

    Raises:
        UsageError: a wrong argument; nothing was sent, unless what is wrong with it shows at the first row only, as a token id of the
            sampler's does that lies outside a vocabulary of unknown size. ``InvalidPrompt`` for ids that are none, ``InvalidSeed`` for
            the seed, ``WrongRunner`` when it is not trio that awaits.
        RowError, ServerError, RecordingError: what the first failing sequence met, with its prompt_index, index and step.

    Concurrency:
        One task per sequence. Several generations may run at once, also over one model. Cancelled from outside, everything stops and
        the cancellation propagates; use ``open_generation`` to keep what there was. Always a checkpoint.

    Example:
        >>> from seedbed.testing import ScriptedLLM
        >>> llm = ScriptedLLM({}, default=[0.0, 1.0, 2.0])
        >>> async def main():
        ...     return (await generate([1], llm, n=2, seed=7, max_new_tokens=4)).token_ids
        >>> trio.run(main)
        [[2, 1, 1, 2], [2, 1, 2, 2]]
    """
    async with open_generation(
        prompts,
        llm,
        n,
        sampler=sampler,
        seed=seed,
        max_new_tokens=max_new_tokens,
        stop_token_ids=stop_token_ids,
        stop_sequences=stop_sequences,
        timeout=timeout,
        sequence_timeout=sequence_timeout,
        on_error=on_error,
        lookahead=lookahead,
        prefix_cache_bytes=prefix_cache_bytes,
        resume=resume,
    ) as generation:
        await generation.wait()
    return generation.result()


class Progress(NamedTuple):
    """How far a generation is; cheap to ask at any time.

    Attributes:
        finished: sequences that ended, for whatever reason.
        total: sequences asked for.
        tokens: generated so far, of all sequences together.
    """

    finished: int
    total: int
    tokens: int


class Generation:
    """A generation under way: an async iterator of its sequences as they finish, and a view of all of them at any time.

    Made by ``open_generation``. Iterating ends when all have finished, and raises the error that ended it if there was one. One
    consumer gets each sequence once; several share them out.
    """

    def __init__(
        self,
        plan: Plan,
        model: LLM,
        deadlines: Deadlines,
        *,
        raises: bool,
        lookahead: Lookahead = 1,
        prefix_cache_bytes: int = DEFAULT_BYTES,
        admission: trio.CapacityLimiter | None = None,
    ) -> None:
        self._plan, self._deadlines, self._raises = plan, deadlines, raises
        self._lookahead = check_lookahead(lookahead)
        self._answers, self._opened = cache_around(model, prefix_cache_bytes)
        self._counted_before = self._answers.counters()
        self._began = trio.current_time()
        self._begun: list[FollowedSequence | SampledSequence] = []  # in order; a finished one is its result, which takes less memory
        self._not_begun: dict[int, SampledSequence] = {}  # {place: what it reads, made when first looked at}
        self._finished = self._tokens = self._rows = 0
        self._waited = 0.0
        self._first_error: Exception | None = None
        self._is_told = False
        self._scope = trio.CancelScope()
        # Unbounded: finished sequences are kept anyway, and a slow consumer must not hold up those that run.
        self._send, self._receive = trio.open_memory_channel[SampledSequence](math.inf)
        self._all_done = trio.Event()
        # How many sequences are followed at a time, of this generation, or of all that share it.
        self._admission = trio.CapacityLimiter(MAX_FOLLOWED) if admission is None else admission
        self._all_begun: Callable[[], object] | None = None

    @property
    def seed(self) -> int:
        """The seed used, fresh if none was given."""
        return self._plan.seed

    @property
    def sequences(self) -> tuple[SampledSequence, ...]:
        """Every sequence in order as it is now; one that is unfinished, or not begun, reads "cancelled".

        Finished ones are the same objects each time; ``progress`` is cheaper than to count them. Of more than a million, those not begun
        are left out.
        """
        begun = [sequence if isinstance(sequence, SampledSequence) else sequence.result() for sequence in self._begun]
        return (*begun, *(self._value_before_begun(place) for place in range(len(begun), self._listed)))

    @property
    def _listed(self) -> int:
        """How many sequences the result has."""
        return len(self._plan) if len(self._plan) <= MAX_LISTED else len(self._begun)

    @property
    def progress(self) -> Progress:
        """How many sequences are finished, of how many, and how many tokens there are."""
        return Progress(self._finished, len(self._plan), self._tokens)

    def result(self) -> GenerationResult:
        """What there is now, as a value."""
        sequences = self.sequences
        tokens = sum(len(sequence.token_ids) for sequence in sequences)
        stats = Stats.of(self._answers.counters(), self._counted_before, tokens=tokens, rows=self._rows, waited=self._waited)
        return GenerationResult(sequences, self._plan.seed, self._plan.configuration, stats)

    async def wait(self) -> None:
        """Wait until every sequence has ended; raises what ended the generation, if an error did.

        Raises:
            The error of the first sequence that failed, unless ``on_error="keep"``.

        Concurrency:
            Any number of tasks. Cancelled: nothing happened. Always a checkpoint.
        """
        await self._all_done.wait()
        self._raise_first_error()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SampledSequence:
        with suppress(trio.EndOfChannel):  # left before the error is raised, of which it is not the context
            return await self._receive.receive()
        self._raise_first_error()
        raise StopAsyncIteration

    async def run(self) -> GenerationResult:
        """All sequences to their end, when there is no block to run beside them.

        Raises:
            As ``wait``.

        Concurrency:
            Once. Cancelled: everything stops; ``sequences`` still holds what there was. Always a checkpoint.
        """
        await trio.lowlevel.checkpoint()
        try:
            await self._run()
        finally:
            self._close()
        self._raise_first_error()
        return self.result()

    async def _run(self) -> None:
        for observer in observers():
            observer.notice(GenerationBegan(len(self._plan), self._plan.seed))
        try:
            with self._scope, trio.move_on_after(self._deadlines.total) as total:
                async with self._opened, trio.open_nursery() as nursery:
                    await self._begin_all(nursery)
            if total.cancelled_caught:
                self._expire_the_rest()
            self._close()
        finally:
            error = type(self._first_error).__name__ if self._first_error else ""
            for observer in observers():
                observer.notice(GenerationEnded(self._finished, self._tokens, error))

    async def _begin_all(self, nursery: trio.Nursery) -> None:
        for place in range(len(self._plan)):
            borrower = object()
            await self._admission.acquire_on_behalf_of(borrower)
            nursery.start_soon(self._follow, self._begin(place), place, borrower)
        self._tell_all_begun()

    def _begin(self, place: int) -> FollowedSequence:
        sequence = self._plan.sequence(place)
        self._begun.append(sequence)
        self._not_begun.pop(place, None)
        self._tokens += sequence.step
        return sequence

    async def _follow(self, sequence: FollowedSequence, place: int, borrower: object) -> None:
        sequence.started = trio.current_time() - self._began
        for observer in observers():
            observer.notice(SequenceBegan(sequence.prompt_index, sequence.index, sequence.token_ids))
        try:
            with trio.move_on_after(self._deadlines.sequence) as own:
                await self._ask_and_draw(sequence)
            if own.cancelled_caught:
                sequence.expire()
        finally:
            self._admission.release_on_behalf_of(borrower)
            reason = sequence.state if sequence.is_finished else "cancelled"
            for observer in observers():
                observer.notice(SequenceEnded(sequence.prompt_index, sequence.index, sequence.step, reason))
        self._hand_on(sequence, place)

    async def _ask_and_draw(self, sequence: FollowedSequence) -> None:
        reach = Reach(self._lookahead)
        try:
            while not sequence.is_finished:
                self._rows += 1
                count = reach.count(sequence.room)
                drawing = sequence.drawing() if count > 1 else None
                await self._answers.read(sequence.prefix(), count, self._reader(sequence, reach), drawing)
        except Exception as error:
            placed = _placed(error, sequence)
            self._note(placed)
            sequence.fail(placed)

    def _reader(self, sequence: FollowedSequence, reach: Reach) -> Callable[[Ahead], None]:
        """What a sequence does with the answer to a question it asks now."""
        asked, step = trio.current_time(), sequence.step
        listening = observers()  # here, and not where the answer lands: that may be in a task of another generation

        def draw(ahead: Ahead) -> None:
            waited = trio.current_time() - asked
            self._waited += waited
            try:
                sequence.receive_ahead(ahead)
            finally:
                self._tokens += sequence.step - step
                for observer in listening:
                    drawn = sequence.token_ids[step:]
                    observer.notice(TokensDrawn(sequence.prompt_index, sequence.index, drawn, len(ahead.rows), waited))
            reach.learn(len(ahead.rows), sequence.step - step, is_finished=sequence.is_finished)

        return draw

    def _note(self, error: Exception) -> None:
        if self._raises and self._first_error is None:
            self._first_error = error
            self._scope.cancel()

    def _hand_on(self, sequence: FollowedSequence, place: int) -> None:
        sequence.finished = trio.current_time() - self._began
        self._begun[place] = result = sequence.result()
        self._finished += 1
        self._send.send_nowait(result)

    def _expire_the_rest(self) -> None:
        for place in range(self._listed):
            sequence = self._begun[place] if place < len(self._begun) else self._begin(place)
            if isinstance(sequence, FollowedSequence):
                if not sequence.is_finished:  # a resumed one may have been finished before it began
                    sequence.expire()
                self._hand_on(sequence, place)

    def _close(self) -> None:
        """What is unfinished now stays so. Idempotent."""
        for place, sequence in enumerate(self._begun):
            if isinstance(sequence, FollowedSequence):
                if not sequence.is_finished:
                    sequence.cancel()
                self._begun[place] = sequence.result()
        self._send.close()
        self._all_done.set()
        self._tell_all_begun()

    def when_all_begun(self, call: Callable[[], object]) -> None:
        """Call something, once, as soon as no sequence waits for its turn to begin."""
        self._all_begun = call

    def _tell_all_begun(self) -> None:
        call, self._all_begun = self._all_begun, None
        if call is not None:
            call()

    def _value_before_begun(self, place: int) -> SampledSequence:
        if place not in self._not_begun:
            self._not_begun[place] = self._plan.sequence(place).result()
        return self._not_begun[place]

    def _raise_unless_told(self) -> None:
        """Raise what ended the generation, if the block has not met it already by waiting or iterating."""
        if not self._is_told:
            self._raise_first_error()

    def _note_beside(self, body_error: Exception) -> None:
        """One error comes out of the block, and it is the block's own; that the generation had failed as well must not be lost."""
        if self._first_error is not None and not self._is_told:
            body_error.add_note(f"the generation had failed already: {type(self._first_error).__name__}: {self._first_error}")

    def _raise_first_error(self) -> None:
        error = self._first_error
        if error is None:
            return
        self._is_told = True
        if isinstance(error, SeedbedError):
            error.result = self.result()
        try:
            raise error
        finally:
            del error  # no cycle between the error's traceback and this frame

    def __repr__(self) -> str:
        return f"<Generation: {self._finished} of {len(self._plan)} sequences finished, {self._tokens} tokens>"


def _placed(error: Exception, sequence: FollowedSequence) -> Exception:
    """The error with the place where it struck: itself, or a copy where it has another place, or came out of a generation, already.

    A model may raise one object again and again. Each time the place is that of the sequence it ends, and what was caught earlier stays.
    """
    here = (sequence.prompt_index, sequence.index, sequence.step)
    if isinstance(error, SeedbedError):
        there = (error.prompt_index, error.index, error.step)
        if error.result is not None or any(known not in (None, place) for known, place in zip(there, here, strict=True)):
            error = copy_of(error)
            error.prompt_index = error.index = error.step = error.result = None
        return error.at(prompt_index=sequence.prompt_index, index=sequence.index, step=sequence.step)
    if any(map(NOTE.fullmatch, getattr(error, "__notes__", ()))):
        error = copy_of(error)
        error.__notes__ = [note for note in error.__notes__ if not NOTE.fullmatch(note)]
    error.add_note("in prompt {}, sequence {}, step {}".format(*here))
    return error
