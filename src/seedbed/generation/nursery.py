"""Where sequences run: one nursery task each, bounded by cancel scopes, collected in order.

A sequence's task loops: ask the model for a row, draw, until it is finished. Tasks share nothing but the model, so no result depends on
how they are scheduled. An expected error never enters the nursery: the task that met it stores it, cancels its siblings when asked to,
and it is raised bare after the nursery has closed.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import trio

from seedbed.errors import DeadlineExceeded, InvalidPrompt, SeedbedError, UsageError
from seedbed.generation.result import GenerationResult, SampledSequence, Stats
from seedbed.generation.sequence import FollowedSequence, StopRules
from seedbed.llm.base import LLM, as_row
from seedbed.llm.threads import as_llm
from seedbed.sampling.randomness import check_seed, fresh_seed
from seedbed.sampling.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

__all__ = ["Generation", "generate", "generate_token_ids", "generate_token_ids_multiple", "open_generation"]

# Sequences begun and not finished at any time; far more than connections, so servers stay busy, and 100,000 sequences fit in memory.
MAX_FOLLOWED = 1024
# When neither the caller nor the model bounds a sequence. (vLLM: 16, transformers: 20, SGLang: 128, llama.cpp: none.)
DEFAULT_MAX_NEW_TOKENS = 2048


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
    model = as_llm(llm)
    plan = _Plan.of(
        prompts,
        model,
        range(_count(n)),
        sampler=sampler,
        seed=seed,
        max_new_tokens=max_new_tokens,
        stop_token_ids=stop_token_ids,
        stop_sequences=stop_sequences,
        resume=resume,
    )
    deadlines = _Deadlines(timeout, sequence_timeout)
    if on_error not in ("raise", "keep"):
        raise UsageError(f"on_error must be 'raise' or 'keep', not {on_error!r}")
    await trio.lowlevel.checkpoint()
    generation = Generation(plan, model, deadlines, raises=on_error == "raise")
    body_error: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(generation._run)
            try:
                yield generation
            except Exception as error:
                body_error = error
            nursery.cancel_scope.cancel()
    finally:
        generation._close()
    try:
        if body_error is not None:
            raise body_error
        generation._raise_first_error()
    finally:
        del body_error  # no cycle between the error's traceback and this frame


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
    resume: GenerationResult | Iterable[SampledSequence] = (),
) -> GenerationResult:
    """Sample n sequences from each prompt; returns all of them, in order. A deadline returns what there is.

    Args:
        prompts: one prompt (token ids) or several (a list of prompts); not modified.
        llm: an ``LLM``, ``BlockingLLM`` or look-alike.
        n: sequences a prompt; 0 is legal and sends nothing.
        sampler: how tokens are drawn; the default samples from the model itself.
        seed: in [0, 2**128); None takes a fresh one, which the result names.
        max_new_tokens: most tokens a sequence; None is what the model's context leaves, or 2048 when that is unknown. 0 sends nothing.
        stop_token_ids: token ids that end a sequence *besides* the model's own ``eos_token_ids``.
        stop_sequences: token-id sequences that end one; matched on generated tokens only.
        timeout: seconds for everything; unfinished sequences come back with ``finish_reason`` "deadline".
        sequence_timeout: seconds for each sequence from its start, likewise.
        on_error: "raise": the first failure cancels the other sequences and comes out as itself, with ``.result`` attached when it is
            seedbed's; "keep": that sequence ends with ``finish_reason`` "error", the others go on.
        resume: an earlier partial result, or some of its sequences: each goes on where it was, exactly as if never interrupted.

    Raises:
        UsageError: a wrong argument; nothing was sent. ``InvalidPrompt`` for ids that are none, ``InvalidSeed`` for the seed.
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
        resume=resume,
    ) as generation:
        await generation.wait()
    return generation.result()


async def generate_token_ids(
    input_token_ids: Sequence[int],
    llm: object,
    *,
    sampler: Sampler | None = None,
    seed: int | None = None,
    index: int = 0,
    max_new_tokens: int | None = None,
    timeout: float = math.inf,
) -> list[int]:
    """Sample one sequence; returns the generated ids, the stop token last. Raises when the deadline fires.

    Args:
        input_token_ids: the prompt; not modified, and not part of what is returned.
        index: which of the seed's sequences: what ``generate_token_ids_multiple`` returns at that place.

    The others are those of ``generate``.

    Raises:
        DeadlineExceeded: not done after ``timeout`` seconds; ``.result`` has what there was.

    Concurrency:
        As ``generate``.

    Example:
        >>> from seedbed.testing import ScriptedLLM
        >>> async def main():
        ...     return await generate_token_ids([1], ScriptedLLM({}, default=[0.0, 1.0, 2.0]), seed=7, index=1)
        >>> trio.run(main)
        [2, 1, 2, 2, 2, 1, 2, 2, 1, 2, 0]
    """
    model = as_llm(llm)
    plan = _Plan.of([list(input_token_ids)], model, range(index, index + 1), sampler=sampler, seed=seed, max_new_tokens=max_new_tokens)
    return (await _token_ids_within(plan, model, timeout))[0]


async def generate_token_ids_multiple(
    input_token_ids: Sequence[int],
    llm: object,
    n: int,
    *,
    sampler: Sampler | None = None,
    seed: int | None = None,
    max_new_tokens: int | None = None,
    timeout: float = math.inf,
) -> list[list[int]]:
    """Sample n sequences of one prompt; returns their generated ids in order. Raises when the deadline fires.

    Arguments, errors and concurrency are those of ``generate_token_ids``.

    Example:
        >>> from seedbed.testing import ScriptedLLM
        >>> async def main():
        ...     return await generate_token_ids_multiple([1], ScriptedLLM({}, default=[0.0, 1.0, 2.0]), 2, seed=7, max_new_tokens=3)
        >>> trio.run(main)
        [[2, 1, 1], [2, 1, 2]]
    """
    model = as_llm(llm)
    plan = _Plan.of([list(input_token_ids)], model, range(_count(n)), sampler=sampler, seed=seed, max_new_tokens=max_new_tokens)
    return await _token_ids_within(plan, model, timeout)


async def _token_ids_within(plan: _Plan, model: LLM, timeout: float) -> list[list[int]]:
    await trio.lowlevel.checkpoint()
    generation = Generation(plan, model, _Deadlines(timeout, math.inf), raises=True)
    try:
        await generation._run()
    finally:
        generation._close()
    generation._raise_first_error()
    result = generation.result()
    if any(sequence.finish_reason == "deadline" for sequence in result.sequences):
        error = DeadlineExceeded(f"not done after {timeout} s; .result has the {result.stats.tokens} tokens there were")
        error.result = result
        raise error
    return result.token_ids


class Generation:
    """A generation under way: an async iterator of its sequences as they finish, and a view of all of them at any time.

    Made by ``open_generation``. Iterating ends when all have finished, and raises the error that ended it if there was one. One
    consumer gets each sequence once; several share them out.
    """

    def __init__(self, plan: _Plan, model: LLM, deadlines: _Deadlines, *, raises: bool) -> None:
        self._plan, self._model, self._deadlines, self._raises = plan, model, deadlines, raises
        self._followed: list[FollowedSequence] = []  # in order; those not yet begun are not in it
        self._first_error: Exception | None = None
        self._rows, self._waited = 0, 0.0
        self._began = trio.current_time()
        self._counted_before = model.counters()
        self._scope = trio.CancelScope()
        # Unbounded: finished sequences are kept anyway, and a slow consumer must not hold up those that run.
        self._send, self._receive = trio.open_memory_channel[SampledSequence](math.inf)
        self._all_done = trio.Event()

    @property
    def seed(self) -> int:
        """The seed used, fresh if none was given."""
        return self._plan.seed

    @property
    def sequences(self) -> tuple[SampledSequence, ...]:
        """Every sequence in order as it is now; one that is unfinished, or not begun, reads "cancelled"."""
        begun = [sequence.result() for sequence in self._followed]
        return (*begun, *(self._plan.sequence(place).result() for place in range(len(begun), len(self._plan))))

    def result(self) -> GenerationResult:
        """What there is now, as a value."""
        counted = self._model.counters()
        since = {name: counted[name] - self._counted_before.get(name, 0) for name in counted}
        sequences = self.sequences
        tokens = sum(len(sequence.token_ids) for sequence in sequences)
        stats = Stats(tokens=tokens, rows=self._rows, waited=self._waited, **since)
        return GenerationResult(sequences, self._plan.seed, repr(self._plan.sampler), stats)

    async def wait(self) -> None:
        """Wait until every sequence has ended; raises what ended the generation, if an error did.

        Concurrency:
            Any number of tasks. Cancelled: nothing happened. Always a checkpoint.
        """
        await self._all_done.wait()
        self._raise_first_error()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SampledSequence:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            self._raise_first_error()
            raise StopAsyncIteration from None

    async def _run(self) -> None:
        admission = trio.CapacityLimiter(MAX_FOLLOWED)
        with self._scope, trio.move_on_after(self._deadlines.total) as total:
            async with trio.open_nursery() as nursery:
                for place in range(len(self._plan)):
                    await admission.acquire_on_behalf_of(place)
                    sequence = self._plan.sequence(place)
                    self._followed.append(sequence)
                    nursery.start_soon(self._follow, sequence, admission, place)
        if total.cancelled_caught:
            self._followed += [self._plan.sequence(place) for place in range(len(self._followed), len(self._plan))]
            for sequence in self._followed:
                if not sequence.is_finished:
                    sequence.expire()
                    self._hand_on(sequence)
        self._close()

    async def _follow(self, sequence: FollowedSequence, admission: trio.CapacityLimiter, place: int) -> None:
        sequence.started = trio.current_time() - self._began
        try:
            with trio.move_on_after(self._deadlines.sequence) as own:
                await self._ask_and_draw(sequence)
        finally:
            admission.release_on_behalf_of(place)
        if own.cancelled_caught:
            sequence.expire()
        self._hand_on(sequence)

    async def _ask_and_draw(self, sequence: FollowedSequence) -> None:
        vocab_size = self._plan.vocab_size
        try:
            while not sequence.is_finished:
                # A model that never waits must not keep deadlines, siblings and Ctrl-C from their turn.
                await trio.lowlevel.checkpoint()
                self._rows += 1
                asked = trio.current_time()
                answer = await self._model.next_token_logits(sequence.prefix())
                self._waited += trio.current_time() - asked
                sequence.receive(as_row(answer, vocab_size))
        except Exception as error:
            self._note(error, sequence)
            sequence.fail(error)

    def _note(self, error: Exception, sequence: FollowedSequence) -> None:
        if isinstance(error, SeedbedError):
            error.at(prompt_index=sequence.prompt_index, index=sequence.index, step=sequence.step)
        else:
            error.add_note(f"in prompt {sequence.prompt_index}, sequence {sequence.index}, step {sequence.step}")
        if self._raises and self._first_error is None:
            self._first_error = error
            self._scope.cancel()

    def _hand_on(self, sequence: FollowedSequence) -> None:
        sequence.finished = trio.current_time() - self._began
        self._send.send_nowait(sequence.result())

    def _close(self) -> None:
        """What is unfinished now stays so. Idempotent."""
        for sequence in self._followed:
            if not sequence.is_finished:
                sequence.cancel()
        self._send.close()
        self._all_done.set()

    def _raise_first_error(self) -> None:
        if self._first_error is None:
            return
        error, self._first_error = self._first_error, None
        if isinstance(error, SeedbedError):
            error.result = self.result()
        try:
            raise error
        finally:
            del error

    def __repr__(self) -> str:
        done = sum(sequence.is_finished for sequence in self._followed)
        tokens = sum(sequence.step for sequence in self._followed)
        return f"<Generation: {done} of {len(self._plan)} sequences finished, {tokens} tokens>"


@dataclass(frozen=True, slots=True)
class _Deadlines:
    total: float
    sequence: float

    def __post_init__(self) -> None:
        for name, seconds in (("timeout", self.total), ("sequence_timeout", self.sequence)):
            if not seconds >= 0:
                raise UsageError(f"{name} must be seconds >= 0, or math.inf for none, not {seconds!r}")


class _Plan:
    """What is to be sampled, checked before anything is sent; makes the sequence of any place."""

    def __init__(
        self,
        prompts: list[tuple[int, ...]],
        indices: range,
        seed: int,
        sampler: Sampler,
        stop: StopRules,
        max_new_tokens: list[int],
        vocab_size: int | None,
        resume: dict[tuple[int, int], SampledSequence],
    ) -> None:
        self.prompts, self.indices, self.seed, self.sampler = prompts, indices, seed, sampler
        self.stop, self.max_new_tokens, self.vocab_size, self.resume = stop, max_new_tokens, vocab_size, resume

    @classmethod
    def of(
        cls,
        prompts: Sequence[int] | Sequence[Sequence[int]],
        model: LLM,
        indices: range,
        *,
        sampler: Sampler | None,
        seed: int | None,
        max_new_tokens: int | None,
        stop_token_ids: Sequence[int] = (),
        stop_sequences: Sequence[Sequence[int]] = (),
        resume: GenerationResult | Iterable[SampledSequence] = (),
    ) -> Self:
        info = model.info
        vocab_size = info.vocab_size if info else None
        checked = [_check_ids(prompt, vocab_size, f"prompt {place}") for place, prompt in enumerate(_several(prompts))]
        earlier = _resume_table(resume, checked)
        if seed is None:
            seed = next(iter(earlier.values())).resume.seed if earlier else fresh_seed()
        seed = check_seed(seed)
        if any(sequence.resume.seed != seed for sequence in earlier.values()):
            raise UsageError("a sequence can only be resumed under the seed it was begun with")
        stops = frozenset(_check_ids(stop_token_ids, None, "stop_token_ids", may_be_empty=True)) | frozenset(model.eos_token_ids)
        stop = StopRules(stops, tuple(_check_ids(stop, None, "a stop sequence") for stop in stop_sequences))
        context = info.context_length if info else None
        lengths = [_max_new_tokens(max_new_tokens, context, len(prompt), place) for place, prompt in enumerate(checked)]
        return cls(checked, indices, seed, sampler or Sampler(), stop, lengths, vocab_size, earlier)

    def __len__(self) -> int:
        return len(self.prompts) * len(self.indices)

    def sequence(self, place: int) -> FollowedSequence:
        """The sequence at a place of the result, at its beginning."""
        prompt_index, offset = divmod(place, len(self.indices))
        index = self.indices[offset]
        return FollowedSequence(
            self.seed,
            prompt_index,
            index,
            self.prompts[prompt_index],
            sampler=self.sampler,
            stop=self.stop,
            max_new_tokens=self.max_new_tokens[prompt_index],
            resume=self.resume.get((prompt_index, index)),
        )


def _several(prompts: Sequence[int] | Sequence[Sequence[int]]) -> list[Sequence[int]]:
    if isinstance(prompts, (str, bytes)):
        raise InvalidPrompt("a prompt is a list of token ids, not text: tokenize it first, for instance with HTTPModel.tokenize()")
    several = list(prompts)
    if several and not hasattr(several[0], "__len__"):
        return [several]  # type: ignore[list-item]
    return several  # type: ignore[return-value]


def _check_ids(ids: Sequence[int], vocab_size: int | None, what: str, *, may_be_empty: bool = False) -> tuple[int, ...]:
    if isinstance(ids, (str, bytes)):
        raise InvalidPrompt(f"{what} must be token ids, not text: tokenize it first, for instance with HTTPModel.tokenize()")
    checked = []
    for place, token_id in enumerate(ids):
        if isinstance(token_id, bool) or not hasattr(token_id, "__index__"):
            raise InvalidPrompt(f"{what} holds {token_id!r} at place {place}, which is no token id")
        value = token_id.__index__()
        if value < 0 or (vocab_size is not None and value >= vocab_size):
            bound = f"the model's vocabulary has ids 0 to {vocab_size - 1}" if vocab_size is not None else "ids are 0 or more"
            raise InvalidPrompt(f"{what} holds token id {value} at place {place}; {bound}")
        checked.append(value)
    if not checked and not may_be_empty:
        raise InvalidPrompt(f"{what} is empty: at least one token id is needed, for instance the model's BOS token")
    return tuple(checked)


def _max_new_tokens(asked: int | None, context: int | None, prompt: int, place: int) -> int:
    if asked is not None and (isinstance(asked, bool) or not hasattr(asked, "__index__") or asked < 0):
        raise UsageError(f"max_new_tokens must be an int of 0 or more, or None, not {asked!r}")
    if context is None:
        return DEFAULT_MAX_NEW_TOKENS if asked is None else asked
    if prompt >= context:
        raise InvalidPrompt(f"prompt {place} has {prompt} tokens; the model's context holds {context}, the continuation included")
    return min(context - prompt, context if asked is None else asked)


def _count(n: int) -> int:
    if isinstance(n, bool) or not hasattr(n, "__index__") or n < 0:
        raise UsageError(f"n must be an int of 0 or more, not {n!r}")
    return n


def _resume_table(
    resume: GenerationResult | Iterable[SampledSequence], prompts: list[tuple[int, ...]]
) -> dict[tuple[int, int], SampledSequence]:
    sequences = resume.sequences if isinstance(resume, GenerationResult) else resume
    table = {(sequence.prompt_index, sequence.index): sequence for sequence in sequences}
    for (prompt_index, index), sequence in table.items():
        if prompt_index >= len(prompts) or prompts[prompt_index] != sequence.prompt_token_ids:
            raise UsageError(f"sequence {index} to be resumed does not continue prompt {prompt_index} of this generation")
    return table
