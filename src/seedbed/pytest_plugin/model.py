"""The model a test samples from: its recording, and behind it, in the modes that write, the server that fills it."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from seedbed.errors import RecordingExists, SeedbedError, UsageError, WrongRunner
from seedbed.generation import generate
from seedbed.http import connect
from seedbed.llm.base import LLM, ModelInfo, Row, as_row
from seedbed.llm.running import require_trio
from seedbed.llm.threads import as_llm
from seedbed.protocols import protocol_named
from seedbed.recording.format import MANIFEST, Recording, open_recording
from seedbed.recording.merge import replace_recording, restore_interrupted
from seedbed.recording.record import Recorder, RecordingLLM, kept_of, recorded_info, token_texts
from seedbed.recording.replay import ReplayLLM, mock_transport
from seedbed.recording.write import RecordingWriter, refuse_other_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from seedbed.generation import GenerationResult
    from seedbed.pytest_plugin.session import Session, Settings
    from seedbed.recording.runs import Run

__all__ = ["RecordedModel", "replace_recordings"]

T = TypeVar("T")


class RecordedModel(LLM):
    """What the fixture ``seedbed_llm`` is: an ``LLM`` for trio tests, and two blocking methods for the others.

    Args:
        session: the pytest run.
        settings: the test's.
        source: what is recorded: a URL, anything ``as_llm`` takes, or None.

    Attributes:
        recording: what it answers from; grows while a test is recorded.
        settings: the test's.

    Raises:
        RecordingError: the recording cannot be read, or made.
        UsageError: there is nothing to record from, or no such protocol.

    Concurrency:
        Any number of tasks. Connections are opened when first needed, in the test's own trio run, and closed when it ends. Always a
        checkpoint.
    """

    def __init__(self, session: Session, settings: Settings, source: object) -> None:
        self.settings, self._session, self._source = settings, session, source
        if settings.protocol is not None:
            protocol_named(settings.protocol)
        self._recorder: Recorder | None = None
        self._writer: RecordingWriter | None = None
        self._kept = kept_of(settings.tier, settings.top_k)
        restore_interrupted(settings.path)
        self._path = settings.path
        if session.mode in ("all", "rewrite"):
            self._path = session.fresh.setdefault(settings.path, settings.path.with_name(f".{settings.path.name}.new"))
        self._live = _PerRun(self._open_source)
        self._http = _PerRun(self._open_http)
        self.recording = self._opened()
        self._replay = ReplayLLM(self.recording, how_to_extend=settings.command("new", url=True))
        self._kept = self.recording.top_k

    @property
    def may_write(self) -> bool:
        """Whether what is missing may be added."""
        return self._session.mode in ("new", "all", "rewrite") or self.settings.path in self._session.made

    @property
    def _may_ask(self) -> bool:
        return self.may_write and self._source is not None

    def _opened(self) -> Recording:
        if self._session.mode != "none":
            refuse_other_files(self.settings.path)  # before anybody is asked, and before anything is removed
        if self._path != self.settings.path and self._path not in self._session.made:
            shutil.rmtree(self._path, ignore_errors=True)  # of a session that was killed
        if not (self._path / MANIFEST).exists() and self._session.mode != "none":
            trio.run(self._create)
            self._session.made.add(self._path)
        recording = open_recording(self._path)
        if self._session.mode == "all" and (self.settings.path / MANIFEST).exists():
            old = open_recording(self.settings.path)
            if (old.info, old.top_k) != (recording.info, recording.top_k):
                raise RecordingExists(
                    f"{self.settings.path} records {old.info.model} (fingerprint {old.info.fingerprint!r}), the server has "
                    f"{recording.info.model} (fingerprint {recording.info.fingerprint!r}): start over with --seedbed-record=rewrite"
                )
        return recording

    async def _create(self) -> None:
        async with self._open_source() as live, RecordingLLM(live, self._path, self.settings.tier, self.settings.top_k):
            await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def _open_source(self) -> AsyncIterator[LLM]:
        if self._source is None:
            raise UsageError(f"--seedbed-record={self._session.mode} needs a server to ask: give --seedbed-url=URL")
        if isinstance(self._source, str):
            async with connect(self._source, top_k="all" if self._kept is None else self._kept) as model:
                yield model
        elif callable(self._source) and not hasattr(self._source, "next_token_logits"):
            async with self._source() as model:
                yield model
        else:
            yield as_llm(self._source)

    @asynccontextmanager
    async def _open_http(self) -> AsyncIterator[LLM]:
        assert self.settings.protocol is not None
        info = self.recording.info
        async with connect(
            "http://recording.invalid",
            self.settings.protocol,
            transport=mock_transport(_InProcess(self), self.settings.protocol),
            top_k="all" if self.recording.top_k is None else self.recording.top_k,
            eos_token_ids=info.eos_token_ids or None,  # not every protocol tells these two
            vocab_size=info.vocab_size,
        ) as model:
            yield model

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> Row:
        require_trio()
        if self.settings.protocol is None:
            return await self.answer(prev_token_ids)
        http = await self._http.get()
        return as_row(await http.next_token_logits(prev_token_ids))

    async def answer(self, prefix: Sequence[int]) -> Row:
        """The recorded row, or, where that may be, the server's, recorded; in process, whatever the protocol."""
        if self._may_ask and self.recording.get(prefix) is None:
            await (await self._recording_from(await self._live.get())).answer(prefix)
        return await self._replay.next_token_logits(prefix)

    async def _recording_from(self, live: LLM) -> Recorder:
        await trio.lowlevel.checkpoint()
        if self._recorder is None:
            self._recorder = Recorder(live, self._opened_writer(recorded_info(live, self._kept)))
        self._recorder.model = live
        return self._recorder

    def _opened_writer(self, info: ModelInfo) -> RecordingWriter:
        if self._writer is None:
            self._writer = RecordingWriter(self._path, info, self._kept, extend=True)
            self.recording = self._replay.recording = self._writer.recording
        return self._writer

    def note(self, run: Run, *, is_change: bool) -> None:
        """Keep what a test sampled; a change is told at the end of the session."""
        self._opened_writer(self.recording.info).note(run)
        if is_change:
            self._session.notes.append(f"accepted: {self._session.shown(self.settings.path)}: {run.name} has other tokens now")

    def close(self, *, failed: bool) -> None:
        """End the test: seal what it added, and tell the session what it used."""
        if self._writer is not None:
            self._writer.seal(None if self._recorder is None else token_texts(self._recorder.model, self.recording))
            self._session.written.add(self._path)
        self._session.used(self.settings, set(self._replay.answered), len(self.recording.steps))
        if failed:
            self._session.failed.setdefault(self.settings.path, self.settings.node_id)

    # The face for synchronous tests.

    def generate(self, prompts: Sequence[int] | Sequence[Sequence[int]], n: int = 1, **more: Any) -> GenerationResult:
        """``seedbed.generate(prompts, this, n, ...)``, run by trio from a test that is not async.

        Raises:
            WrongRunner: trio is running already: await ``generate`` itself.
        """
        return self._run(partial(generate, prompts, self, n, **more))

    def row(self, prefix: Sequence[int]) -> Row:
        """The row after a prefix, likewise."""
        return self._run(partial(self.next_token_logits, prefix))

    def _run(self, function: Callable[[], Awaitable[T]]) -> T:
        if trio.lowlevel.in_trio_run():
            raise WrongRunner("this test is async already: await generate(prompt, seedbed_llm, ...) itself")
        return trio.run(function)

    def get_stop_token_id(self) -> int:
        return self.recording.info.eos_token_ids[0]

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self.recording.info.eos_token_ids

    @property
    def info(self) -> ModelInfo:
        info = self.recording.info
        return info if self.settings.protocol is None else replace(info, protocol=self.settings.protocol)

    async def tokenize(self, text: str) -> list[int]:
        """The recorded token ids of a text, or, where that may be, the server's, recorded."""
        require_trio()
        if self._may_ask and text not in self.recording.texts.tokenized:
            return await (await self._recording_from(await self._live.get())).tokenize(text)
        return await self._replay.tokenize(text)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The recorded text of token ids, or, where that may be, the server's, recorded."""
        require_trio()
        if self._may_ask and tuple(token_ids) not in self.recording.texts.detokenized:
            return await (await self._recording_from(await self._live.get())).detokenize(token_ids)
        return await self._replay.detokenize(token_ids)

    def token_bytes(self, token_id: int) -> bytes:
        return self._replay.token_bytes(token_id)

    def __repr__(self) -> str:
        return f"<seedbed_llm: {self.recording!r}>"


class _InProcess(ReplayLLM):
    """The model behind the mocked server."""

    def __init__(self, outer: RecordedModel) -> None:
        super().__init__(outer.recording)
        self._outer = outer

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> Row:
        return await self._outer.answer(prev_token_ids)


class _PerRun(Generic[T]):
    """Something that must be entered and left in a trio run, held open from its first use until that run ends.

    A fixture that is no coroutine cannot enter it, and the test that needs it does not know of it; so a system task of the run does.
    """

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._open = opened
        self._token: trio.lowlevel.TrioToken | None = None
        self._ready = trio.Event()
        self._value: T | None = None
        self._error: Exception | None = None

    async def get(self) -> T:
        """What was opened.

        Raises:
            Exception: what opening it raised.
        """
        token = trio.lowlevel.current_trio_token()
        if self._token is not token:
            self._token, self._ready, self._value, self._error = token, trio.Event(), None, None
            trio.lowlevel.spawn_system_task(self._hold, self._ready)
        await self._ready.wait()
        if self._error is not None:
            raise self._error
        assert self._value is not None
        return self._value

    async def _hold(self, ready: trio.Event) -> None:
        try:
            async with self._open() as self._value:
                ready.set()
                await trio.sleep_forever()
        except Exception as error:
            self._error = error
        finally:
            ready.set()


def replace_recordings(session: Session) -> bool:
    """At the end of a session, put what was made anew in the place of what was there, unless a test that used it failed.

    Returns whether every one that was to be replaced could be.
    """
    is_well = True
    for path, fresh in session.fresh.items():
        reason = session.kept_since(path)
        if reason is not None:
            session.notes.append(f"not replaced: {session.shown(path)}, since {reason}")
            shutil.rmtree(fresh, ignore_errors=True)
        elif Path(fresh, MANIFEST).exists():
            try:
                session.notes.append(_replaced(session, path, fresh))
            except (SeedbedError, OSError) as error:
                session.notes.append(f"not replaced: {session.shown(path)}: {error}")
                is_well = False
    return is_well


def _replaced(session: Session, path: Path, fresh: Path) -> str:
    merged = replace_recording(path, fresh, keep_unasked=session.mode == "all")
    counts = f"{merged.same} unchanged, {merged.changed} changed, {merged.added} added, {merged.dropped} dropped"
    return f"replaced: {session.shown(path)}: {counts}"
