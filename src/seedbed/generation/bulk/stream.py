"""Many prompts as one stream: begun in order, finished in any, handed on in order, and few of them held at a time.

::

    read ──(window)──> starting ──(admission)──> followed ──> finished ──> handed on, in order
            one leaves when one is handed on            wait here for an earlier one that is slow

Rule 1: between "read" and "handed on" there are never more than ``window`` prompts, so memory does not depend on how many there are.
Rule 2: as long as the window is not full, ``concurrency`` sequences are followed, whatever their lengths. So the window is many times as
        wide as what is followed: it fills only behind a sequence that takes that many times as long as the others.
Rule 3: what a prompt gives depends on its index and on the model, not on its neighbours; what is skipped, on the prompt alone.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import trio

from seedbed.errors import (
    BadRequest,
    ContextOverflow,
    InvalidPrompt,
    NonFiniteAtServer,
    RecordingMiss,
    RowError,
    RowWithheld,
    TruncatedRow,
    UsageError,
)
from seedbed.generation.bulk.columns import encode_row, row_of
from seedbed.generation.bulk.output import Finished
from seedbed.generation.bulk.prompts import BadLine, Prompt
from seedbed.generation.lookahead import Lookahead, check_lookahead
from seedbed.generation.nursery import Generation
from seedbed.generation.plan import Deadlines, Plan, check_count, check_length, check_sampler, check_stop_sequences, check_stop_token_ids
from seedbed.llm.arguments import check_whole_number, shown
from seedbed.llm.beside import open_beside
from seedbed.llm.prefix_cache import DEFAULT_BYTES, cache_around
from seedbed.llm.threads import as_llm
from seedbed.sampling.randomness import check_seed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from seedbed.generation.result import SampledSequence
    from seedbed.llm.base import LLM
    from seedbed.llm.prefix_cache import PrefixCache
    from seedbed.sampling.sampler import Sampler

__all__ = ["FinishedPrompts", "Pace", "Recipe", "open_stream"]

# What is wrong with a prompt, and would be wrong with it tomorrow. Anything else is wrong with the server, and ends the run.
PROMPT_FAULTS = (InvalidPrompt, RowError, BadRequest, ContextOverflow, RowWithheld, NonFiniteAtServer, RecordingMiss)
STARTING = 32  # prompts that are read and not all begun: texts being tokenized, sequences waiting for their turn


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what a prompt gives, besides the model; the arguments of ``generate`` of the same names.

    Attributes:
        n, seed, sampler, max_new_tokens, stop_token_ids, stop_sequences: as there.
        text: whether rows have their text.

    Where seed or text is None, it is still to be chosen: see ``open_job``.

    Raises:
        UsageError: one of them is wrong whatever the model, as ``generate`` says.
    """

    seed: int | None = None
    n: int = 1
    sampler: Sampler | None = None
    max_new_tokens: int | None = None
    stop_token_ids: Sequence[int] = ()
    stop_sequences: Sequence[Sequence[int]] = ()
    text: bool | None = None

    def __post_init__(self) -> None:
        """All in plain ints, which can be written down beside the output."""
        if self.text is not None and not isinstance(self.text, bool):
            raise UsageError(f"text must be True, False or None, not {shown(self.text)}")
        if self.sampler is not None:
            check_sampler(self.sampler)
        plain = {
            "seed": None if self.seed is None else check_seed(self.seed),
            "n": check_count(self.n),
            "max_new_tokens": check_length(self.max_new_tokens),
            "stop_token_ids": check_stop_token_ids(self.stop_token_ids),
            "stop_sequences": check_stop_sequences(self.stop_sequences),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def plan(self, prompts: Sequence[tuple[int, ...]], model: LLM, first_prompt: int = 0) -> Plan:
        """The sequences of some prompts; of none, to find out whether everything else is right."""
        return Plan.of(
            prompts,
            model,
            range(self.n),
            sampler=self.sampler,
            seed=self.seed,
            max_new_tokens=self.max_new_tokens,
            stop_token_ids=self.stop_token_ids,
            stop_sequences=self.stop_sequences,
            first_prompt=first_prompt,
        )


@dataclass(frozen=True, slots=True)
class Pace:
    """What decides how fast it goes, and nothing else.

    Attributes:
        concurrency: sequences followed at a time: more than connections, so that no connection waits for a draw.
        window: prompts held at a time; None is 16 times the prompts whose sequences are followed.
        lookahead, prefix_cache_bytes: as for ``generate``.

    Raises:
        UsageError: one of them is none such.
    """

    concurrency: int = 256
    window: int | None = None
    lookahead: Lookahead = 1
    prefix_cache_bytes: int = DEFAULT_BYTES

    def __post_init__(self) -> None:
        plain = {
            "concurrency": check_whole_number("concurrency", self.concurrency, least=1),
            "window": None if self.window is None else check_whole_number("window", self.window, least=1),
            "lookahead": check_lookahead(self.lookahead),
            "prefix_cache_bytes": check_whole_number("prefix_cache_bytes", self.prefix_cache_bytes),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def prompts_held(self, n: int) -> int:
        """The window, in prompts of n sequences each."""
        return self.window or max(2, 16 * self.concurrency // max(1, n))


@asynccontextmanager
async def open_stream(
    prompts: Iterable[Prompt | BadLine], llm: object, recipe: Recipe, pace: Pace | None = None
) -> AsyncIterator[FinishedPrompts]:
    """Sample from a stream of prompts; the object bound by ``as`` is an async iterator of ``Finished``, in the order of the prompts.

    Args:
        prompts: read as they are needed, in the trio thread.
        llm: the model.
        recipe: what decides the rows.
        pace: what decides the speed.

    Raises:
        UsageError: a wrong argument, or no seed.

    Concurrency:
        One consumer. The sequences run in the background while the block runs; leaving it cancels the rest. A slow consumer holds them
        up once the window is full.

    Example:
        >>> from seedbed import TinyLM
        >>> async def main():
        ...     prompts = [Prompt(0, "The seed"), Prompt(5, "In spring")]
        ...     async with open_stream(prompts, TinyLM(), Recipe(seed=7, max_new_tokens=4, text=True)) as finished:
        ...         async for prompt in finished:
        ...             print(prompt.prompt_index, prompt.tokens, prompt.lines[-30:-4])
        >>> trio.run(main)
        0 4 b'"stop_match":null,"seed":"'
        5 4 b'"stop_match":null,"seed":"'
    """
    model = as_llm(llm)
    if recipe.seed is None:
        raise UsageError("a stream of prompts needs a seed, or each would have its own")
    stream = FinishedPrompts(prompts, recipe, pace or Pace())
    answers, opened = cache_around(model, stream.pace.prefix_cache_bytes)
    async with opened, open_beside() as nursery:
        nursery.start_soon(stream.read_all, nursery, answers)
        yield stream


def _up_to_an_error(prompts: Iterable[Prompt | BadLine]) -> Iterator[Prompt | BadLine | Exception]:
    """Each prompt; what reading the next one raises comes in its place, and is the last."""
    try:
        yield from prompts
    except Exception as error:
        yield error


def _is_of_the_prompt(error: Exception) -> bool:
    """Rows too short for the sampler are no prompt's fault: to skip those that happen to need more would make the rest another sample."""
    return isinstance(error, PROMPT_FAULTS) and not isinstance(error, TruncatedRow)


def _miss_of(error: Exception) -> RecordingMiss | None:
    """The miss without the result and the frames that hang on it, which may be large."""
    if not isinstance(error, RecordingMiss):
        return None
    error.result = None
    return error.with_traceback(None)


@dataclass(slots=True)
class _Place:
    """Where a prompt's result will be."""

    is_done: trio.Event = field(default_factory=trio.Event)
    finished: Finished | None = None
    error: Exception | None = None


class FinishedPrompts:
    """An async iterator of ``Finished``; made by ``open_stream``.

    Attributes:
        pace: as given.
        held: how many prompts are read and not handed on.
        most_held: how many there were at most.
    """

    def __init__(self, prompts: Iterable[Prompt | BadLine], recipe: Recipe, pace: Pace) -> None:
        self._prompts, self._recipe, self.pace = prompts, recipe, pace
        self._window = trio.Semaphore(pace.prompts_held(recipe.n))
        self._starting = trio.Semaphore(STARTING)
        self._admission = trio.CapacityLimiter(pace.concurrency)
        self._send, self._receive = trio.open_memory_channel[_Place](pace.prompts_held(recipe.n))
        self._has_failed = False
        self.held = self.most_held = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Finished:
        """The next prompt.

        Raises:
            Exception: what ended the run at this prompt, which is none of the prompt's own faults.
        """
        try:
            place = await self._receive.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        await place.is_done.wait()
        if place.error is not None:
            raise place.error
        self.held -= 1
        self._window.release()
        assert place.finished is not None
        return place.finished

    async def read_all(self, nursery: trio.Nursery, model: PrefixCache) -> None:
        """Begin every prompt, in order, as there is room."""
        with self._send:
            for prompt in _up_to_an_error(self._prompts):
                await self._window.acquire()
                await self._starting.acquire()
                if self._has_failed:
                    return
                self.held += 1
                self.most_held = max(self.most_held, self.held)
                place = _Place()
                self._send.send_nowait(place)
                if isinstance(prompt, Exception):
                    place.error = prompt
                    place.is_done.set()
                elif isinstance(prompt, BadLine):
                    self._starting.release()
                    place.finished = Finished(prompt.index, b"", problem=prompt.problem)
                    place.is_done.set()
                else:
                    nursery.start_soon(self._sample, prompt, place, model)

    async def _sample(self, prompt: Prompt, place: _Place, model: PrefixCache) -> None:
        try:
            place.finished = await self._finished(prompt, model)
        except Exception as error:
            if _is_of_the_prompt(error):
                place.finished = Finished(prompt.index, b"", problem=str(error), miss=_miss_of(error))
            else:
                place.error = error
                self._has_failed = True
        place.is_done.set()

    async def _finished(self, prompt: Prompt, model: PrefixCache) -> Finished:
        generation: Generation | None = None
        try:
            token_ids = prompt.tokens if isinstance(prompt.tokens, tuple) else tuple(await _tokenized(prompt.tokens, model))
            plan = self._recipe.plan([token_ids], model, prompt.index)
            never = Deadlines(float("inf"), float("inf"))
            generation = Generation(plan, model, never, raises=True, lookahead=self.pace.lookahead, admission=self._admission)
            generation.when_all_begun(self._starting.release)
        finally:
            if generation is None:
                self._starting.release()
        result = await generation.run()
        lines = [encode_row(row_of(sequence, prompt.name, await self._text_of(sequence, model))) for sequence in result.sequences]
        return Finished(prompt.index, b"".join(lines), result.stats.tokens)

    async def _text_of(self, sequence: SampledSequence, model: PrefixCache) -> str | None:
        return await model.detokenize(sequence.token_ids) if self._recipe.text else None


async def _tokenized(text: str, model: LLM) -> list[int]:
    try:
        return await model.tokenize(text)
    except UsageError as error:
        raise InvalidPrompt(error.message) from error
