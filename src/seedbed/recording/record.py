"""A model that remembers: every answer of the model inside is kept on disk, and what is kept is what is sampled from."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, TypeVar

import trio

from seedbed.errors import RowError, UsageError
from seedbed.llm.base import LLM, Ahead, ModelInfo, Row, as_ahead, as_row
from seedbed.llm.company import Company
from seedbed.llm.running import require_trio, together
from seedbed.llm.threads import as_llm
from seedbed.protocols.rows import full_row, top_logprobs
from seedbed.recording.runs import Run, default_name
from seedbed.recording.spelling import ids_spelled, spelled
from seedbed.recording.steps import Asked
from seedbed.recording.write import RecordingWriter
from seedbed.sampling.candidates import Candidates

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

    from numpy.typing import ArrayLike

    from seedbed.generation.result import GenerationResult
    from seedbed.llm.base import TopLogprobs
    from seedbed.recording.format import Recording
    from seedbed.recording.steps import Step
    from seedbed.sampling.drawing import Drawing

__all__ = ["DEFAULT_TOP_K", "Recorder", "RecordingLLM"]

DEFAULT_TOP_K = 20  # tokens of each row to keep, when nobody says

T = TypeVar("T")

AskAhead: TypeAlias = "Callable[[Sequence[int], int], Awaitable[tuple[Sequence[int], Sequence[ArrayLike | TopLogprobs]]]]"

# How many repeats are under way together, drawn anew for each group: half of them alone, as a server's batch of one is a kernel of its own.
CONCURRENCIES = (1, 1, 1, 1, 2, 4, 8, 16)


class RecordingLLM(LLM):
    """Record another model while it is used.

    What it answers is what it wrote: with ``tier="full"`` the row bit for bit as float32, with ``tier="top_k"`` its ``top_k`` best; also on
    the first run, so that a run and its replay draw from the same. A prefix that is already recorded is answered from the recording, so
    every prefix has one answer, whoever asks first, and a run that was killed is resumed by running it again.

    It looks ahead as far as the model does. All rows of an answer are recorded, those behind the first marked "decode"; a check compares
    rows had alike only, and asks for each by itself: of what is recorded with ``lookahead`` it compares the repeats (``repeats=2``).

    Args:
        llm: the model to record.
        path: the directory of the recording; made if missing.
        tier: "top_k" keeps about 25 octets a listed token, as text that fits into git; "full" keeps whole rows, two or four octets a
            token of the vocabulary.
        top_k: how many tokens of each row are kept in the tier "top_k"; a model that lists its k best must list as many.
        repeats: how many answers to each prefix to have in the end. Those after the first are asked for when the block is left, in an
            order and with a concurrency drawn at random, each marked with the condition it was had under: from their differences a later
            check learns what this server's noise is.
        scored: also ask for the rows of all beginnings of each sequence in one request, as often as ``repeats`` says; such answers are a
            condition of their own. Only of a model that can: a vLLM server behind ``connect``.
        extend: continue a finished recording; the default refuses.

    Used as an async context manager: entering opens the recording and locks it, leaving asks for the repeats and seals it. When an
    exception leaves the block, or after ``leave_unsealed()``, the recording stays unsealed and can be continued. Recorded first are the
    rows after the stop token alone and after token 0 alone: what ``connect`` asks any server, whatever the protocol, so that it can ask
    a replay too.

    Raises:
        UsageError: the model does not tell its vocabulary's size, or lists fewer tokens than are to be kept.
        RecordingExists: see ``extend``; also when the recording there is of another model.
        RecordingLocked: another recorder is writing to it.
        RecordingError: the disk is full or gone; what was recorded before is kept and valid.
        RowError: the model answered with a row no token can be drawn from; it is not recorded.

    Concurrency:
        Any number of tasks. An answer is written at once, without a checkpoint between its arrival and the disk: cancelled means that it
        is either whole in the recording or not in it. Always a checkpoint, also when answered from the recording. Cancelled while
        repeats are asked for, the recording stays unsealed.

    Example:
        >>> import tempfile
        >>> from seedbed.recording import ReplayLLM
        >>> from seedbed.server import TinyLM
        >>> async def main(path):
        ...     async with RecordingLLM(TinyLM(), path, top_k=5) as model:
        ...         row = await model.next_token_logits(list(b"The "))
        ...     return row == await ReplayLLM(path).next_token_logits(list(b"The "))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     trio.run(main, directory + "/recording")
        True
    """

    def __init__(
        self,
        llm: object,
        path: str | os.PathLike[str],
        tier: Literal["full", "top_k"] = "top_k",
        top_k: int = DEFAULT_TOP_K,
        repeats: int = 1,
        *,
        scored: bool = False,
        extend: bool = False,
    ) -> None:
        if scored and not getattr(llm, "can_score", False):
            raise UsageError("this model cannot score a whole sequence in one request: of the servers known only vLLM's can")
        if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
            raise UsageError(f"repeats must be an int of 1 or more, not {repeats!r}")
        self._model = as_llm(llm)
        self._path, self._repeats, self._scored, self._extend = path, repeats, scored, extend
        self._kept = kept_of(tier, top_k)
        self._info = recorded_info(self._model, self._kept)
        self._recorder: Recorder | None = None
        self._seals = True

    async def __aenter__(self) -> Self:
        require_trio()
        writer = RecordingWriter(self._path, self._info, self._kept, extend=self._extend)
        self._recorder = Recorder(self._model, writer)
        try:
            for token_id in dict.fromkeys((self.get_stop_token_id(), 0)):  # see the class: what connect() asks
                await self.next_token_logits([token_id])
        except BaseException:
            writer.abandon()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        assert self._recorder is not None
        writer = self._recorder.writer
        try:
            if error is None and self._seals:
                # Cancelled here, the recording stays unsealed and can be continued, which is what a caller who cancels wants.
                await self._recorder.ask_for_repeats(self._repeats)  # noqa: ASYNC102
                if self._scored:
                    await self._recorder.ask_for_scores(self._repeats)  # noqa: ASYNC102
                writer.seal(token_texts(self._model, writer.recording))
        finally:
            writer.abandon()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> Row:
        if self._recorder is None:
            raise UsageError("enter the recording first: async with RecordingLLM(...) as model")
        return await self._recorder.answer(prev_token_ids)

    async def logits_ahead(self, prev_token_ids: Sequence[int], count: int) -> Ahead:
        """The model's rows ahead, recorded; just the first, and no proposal, when that one is recorded already."""
        return await self._answer_ahead(prev_token_ids, count, self._model.logits_ahead)

    async def logits_along(self, prev_token_ids: Sequence[int], count: int, drawing: Drawing) -> Ahead:
        """Likewise, along what is going to be drawn, as far as the model can tell."""
        return await self._answer_ahead(prev_token_ids, count, partial(self._model.logits_along, drawing=drawing))

    async def _answer_ahead(self, prefix: Sequence[int], count: int, ask: AskAhead) -> Ahead:
        if count == 1 or self._recorder is None:
            return Ahead((), (await self.next_token_logits(prefix),))
        return await self._recorder.answer_ahead(prefix, count, ask)

    def note(self, result: GenerationResult, name: str | None = None) -> None:
        """Keep which tokens were sampled, with their seed and sampler, so that a later run can be held against them.

        Args:
            result: of ``generate`` over this model.
            name: of the run; a run noted earlier under the same name is replaced. The default is made of prompts, seed and sampler.

        Raises:
            RecordingError: it cannot be written.
        """
        self.keep(Run.of(name or default_name(result), result))

    def keep(self, run: Run) -> None:
        """Keep a run as it is.

        Raises:
            RecordingError: it cannot be written.
        """
        if self._recorder is None:
            raise UsageError("enter the recording first: async with RecordingLLM(...) as model")
        self._recorder.writer.note(run)

    def leave_unsealed(self) -> None:
        """Leave the recording unsealed when the block ends: for a run that was cut short, and is to be continued by running it again."""
        self._seals = False

    def get_stop_token_id(self) -> int:
        return self._model.get_stop_token_id()

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self._model.eos_token_ids

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def steps(self) -> int:
        """How many prefixes are recorded."""
        return len(self._recorder.writer.recording.steps) if self._recorder is not None else 0

    async def tokenize(self, text: str) -> list[int]:
        """The model's token ids of a text, recorded, or those that ``token_bytes`` spells where the model does not tell its own."""
        ids = None if self._spells else ids_spelled(text)
        if ids is not None or self._recorder is None:
            await trio.lowlevel.checkpoint()
            return await self._model.tokenize(text) if ids is None else ids
        return await self._recorder.tokenize(text)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The model's text of token ids, recorded."""
        if self._recorder is None:
            return await self._model.detokenize(token_ids)
        return await self._recorder.detokenize(token_ids)

    @property
    def _spells(self) -> bool:
        return bool(self._model.token_bytes(self.get_stop_token_id()))

    def token_bytes(self, token_id: int) -> bytes:
        """The octets of a token, or its number, as a replay spells it, where the model does not tell: so a proxy speaks every protocol."""
        return self._model.token_bytes(token_id) if self._spells else spelled(token_id)

    def counters(self) -> dict[str, int]:
        return self._model.counters()

    def __repr__(self) -> str:
        return f"<RecordingLLM of {self._model!r}: {self.steps} steps>"


class Recorder:
    """Answers from a recording, and from a model what the recording does not have yet, which is then written to it.

    Args:
        model: asked for what is missing.
        writer: of the recording; its lock is held.
    """

    def __init__(self, model: LLM, writer: RecordingWriter) -> None:
        self.model, self.writer = model, writer
        self._company = Company()
        self._asked: set[int] = set()  # numbers of the steps that were asked for by this recorder

    async def answer(self, prefix: Sequence[int]) -> Row:
        """The recorded row, or the model's, recorded.

        Concurrency:
            As ``RecordingLLM.next_token_logits``.
        """
        recording = self.writer.recording
        known = recording.get(prefix)
        if known is not None:
            await trio.lowlevel.checkpoint()
            return known.row
        answer, asked = await self._ask(partial(self.model.next_token_logits, prefix), recording.nearest(prefix))
        return self._keep(tuple(prefix), answer, asked)

    async def tokenize(self, text: str) -> list[int]:
        """The recorded token ids of a text, or the model's, recorded."""
        texts = self.writer.recording.texts
        if text in texts.tokenized:
            await trio.lowlevel.checkpoint()
        else:
            self.writer.note_text(text, await self.model.tokenize(text), is_tokenized=True)
        return list(texts.tokenized[text])

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The recorded text of token ids, or the model's, recorded."""
        texts, ids = self.writer.recording.texts, tuple(token_ids)
        if ids in texts.detokenized:
            await trio.lowlevel.checkpoint()
        else:
            self.writer.note_text(await self.model.detokenize(ids), ids, is_tokenized=False)
        return texts.detokenized[ids]

    async def answer_ahead(self, prefix: Sequence[int], count: int, ask: AskAhead) -> Ahead:
        """The recorded row, or the model's rows ahead, recorded; those behind one that cannot be are left out.

        Concurrency:
            As ``RecordingLLM.next_token_logits``.
        """
        recording = self.writer.recording
        known = recording.get(prefix)
        if known is not None:
            await trio.lowlevel.checkpoint()
            return Ahead((), (known.row,))
        answer, asked = await self._ask(partial(ask, prefix, count), recording.nearest(prefix))
        ahead = as_ahead(answer, count, recording.manifest.info.vocab_size)
        kept = [self._keep(tuple(prefix), ahead.rows[0], asked)]
        with suppress(RowError):  # whoever gets there asks for that row by itself
            for place, row in enumerate(ahead.rows[1:], 1):
                kept.append(self._keep((*prefix, *ahead.proposed[:place]), row, replace(asked, phase="decode")))
        return Ahead(ahead.proposed, tuple(kept))

    def _keep(self, prefix: tuple[int, ...], answer: ArrayLike | TopLogprobs, asked: Asked) -> Row:
        """Record an answer, unless somebody else has had one meanwhile: the first is the one that counts."""
        known = self.writer.recording.get(prefix)
        if known is not None:
            return known.row
        row = self._kept(answer)
        self._asked.add(self.writer.append(prefix, row, asked).number)
        return row

    async def ask_for_repeats(self, count: int) -> None:
        """Ask again until every prefix has ``count`` answers: all in random order, in groups of random size.

        Concurrency:
            Cancelled: what was answered is recorded.
        """
        missing = [step for step in self.writer.recording.steps for _ in range(count - step.asked_alone)]
        chance = random.Random()  # noqa: S311 - which conditions are met must not depend on any seed of the user's
        chance.shuffle(missing)
        while missing:
            size = chance.choice(CONCURRENCIES)
            group, missing = missing[:size], missing[size:]
            await together([partial(self._repeat, step) for step in group])

    async def ask_for_scores(self, count: int) -> None:
        """Have the rows of every sequence in one request, until each of its steps has ``count`` answers so.

        Concurrency:
            As ``ask_for_repeats``.
        """
        recording = self.writer.recording
        longer = {step.parent.number for step in recording.steps if step.parent is not None}
        ends = [step for step in recording.steps if step.number not in longer]
        # The longest first: a beginning may have been recorded later than its continuation, and then lacks nothing when its turn comes.
        for end in sorted(ends, key=lambda step: -step.length):
            prefix = end.prefix
            steps = [recording.get(prefix[:length]) for length in range(1, len(prefix) + 1)]
            while any(step is not None and step.scored < count for step in steps):
                rows = await self.model.score(prefix)  # type: ignore[attr-defined]
                for step, row in zip(steps, rows, strict=True):
                    if step is not None and step.scored < count:
                        self.writer.append_repeat(step, self._kept(row), Asked(phase="scored"))

    async def _repeat(self, step: Step) -> None:
        answer, asked = await self._ask(partial(self.model.next_token_logits, step.prefix), step)
        self.writer.append_repeat(step, self._kept(answer), asked)
        self._asked.add(step.number)

    async def _ask(self, question: Callable[[], Awaitable[T]], beginning: Step | None) -> tuple[T, Asked]:
        began = trio.current_time()
        is_warm = beginning is not None and beginning.number in self._asked
        with self._company.counted() as under_way:
            answer = await question()
        latency = trio.current_time() - began
        return answer, Asked(under_way.most, "warm" if is_warm else "cold", latency)

    def _kept(self, answer: object) -> Row:
        manifest = self.writer.recording.manifest
        row = as_row(answer, manifest.info.vocab_size)  # type: ignore[arg-type]
        if manifest.top_k is not None:
            return top_logprobs(row, manifest.top_k)
        Candidates.of(row)  # refuses what no token can be drawn from
        dense = full_row(row)
        if dense.flags.writeable:
            dense = dense.copy()  # the model may use its buffer again
            dense.flags.writeable = False
        return dense


def kept_of(tier: str, top_k: int) -> int | None:
    """How many tokens of each row a tier keeps; None is all.

    Raises:
        UsageError: there is no such tier, or nothing would be kept.
    """
    if tier not in ("full", "top_k"):
        raise UsageError(f"tier must be 'full' or 'top_k', not {tier!r}")
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise UsageError(f"top_k must be an int of 1 or more, not {top_k!r}")
    return None if tier == "full" else top_k


def recorded_info(model: LLM, kept: int | None) -> ModelInfo:
    """What a recording says of its model.

    Raises:
        UsageError: the model cannot be recorded so.
    """
    info = model.info
    if info is None or info.vocab_size is None:
        raise UsageError("only a model that tells its vocabulary's size can be recorded: give it an info with vocab_size")
    wanted = info.vocab_size if kept is None else min(kept, info.vocab_size)
    if info.max_top_k is not None and info.max_top_k < wanted:
        what = "tier='full' needs whole rows" if kept is None else f"top_k={kept} is to be kept"
        raise UsageError(f"{what}, this model lists at most its {info.max_top_k} best tokens: record with top_k={info.max_top_k} or less")
    return replace(info, eos_token_ids=model.eos_token_ids, max_top_k=kept, notes=())


def token_texts(model: LLM, recording: Recording) -> dict[int, str]:
    """How the tokens that occur are spelled, as far as the model tells and they are UTF-8; for people."""
    ids = {token_id for step in recording.steps for token_id in step.tokens}
    ids.update(int(token_id) for step in recording.steps if step.best is not None for token_id in step.best.token_ids[:5])
    texts = {}
    for token_id in sorted(ids | set(model.eos_token_ids)):
        octets = model.token_bytes(token_id)
        try:
            text = octets.decode()
        except UnicodeDecodeError:
            continue
        if text:
            texts[token_id] = text
    return texts
