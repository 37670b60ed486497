"""A model that remembers: every answer of the model inside is kept on disk, and what is kept is what is sampled from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

import trio

from seedbed.errors import UsageError
from seedbed.llm.base import LLM, ModelInfo, TopLogprobs, as_row
from seedbed.llm.threads import as_llm
from seedbed.protocols.rows import top_logprobs
from seedbed.recording.format import RecordingWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from types import TracebackType

__all__ = ["RecordingLLM"]


class RecordingLLM(LLM):
    """Record another model while it is used.

    What it answers is what it wrote: the ``top_k`` best of the row, also on the first run, so that a run and its replay draw from the same.
    A prefix that is already recorded is answered from the recording, so every prefix has one row, whoever asks first, and a run that was
    killed is resumed by running it again.

    Args:
        llm: the model to record.
        path: the directory of the recording; made if missing.
        top_k: how many tokens of each row are kept; a model that lists its k best must list as many.
        extend: continue a finished recording; the default refuses.

    Used as an async context manager: entering opens the recording, leaving seals it. When an exception leaves the block the recording
    stays unsealed and can be continued. The first row recorded is the one after the stop token alone: what ``connect`` asks any server
    to verify it, so that it can verify a replay too.

    Raises:
        UsageError: the model does not tell its vocabulary's size, or lists fewer than ``top_k`` tokens.
        RecordingExists: see ``extend``; also when the recording there is of another model.

    Concurrency:
        Any number of tasks. An answer is written at once, without a checkpoint between its arrival and the disk: cancelled means that it
        is either whole in the recording or not in it. Always a checkpoint, also when answered from the recording.

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

    def __init__(self, llm: object, path: str | os.PathLike[str], *, top_k: int = 20, extend: bool = False) -> None:
        self._model = as_llm(llm)
        self._path, self._top_k, self._extend = path, top_k, extend
        self._writer: RecordingWriter | None = None
        info = self._model.info
        if info is None or info.vocab_size is None:
            raise UsageError("only a model that tells its vocabulary's size can be recorded: give it an info with vocab_size")
        if top_k < 1 or (info.max_top_k is not None and info.max_top_k < min(top_k, info.vocab_size)):
            raise UsageError(f"top_k must be in [1, {info.max_top_k or info.vocab_size}] for this model, not {top_k}")
        self._info = replace(info, eos_token_ids=self._model.eos_token_ids, max_top_k=top_k, notes=())

    async def __aenter__(self) -> Self:
        self._writer = RecordingWriter(self._path, self._info, self._top_k, extend=self._extend)
        try:
            await self.next_token_logits([self.get_stop_token_id()])
        except BaseException:
            self._writer.abandon()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._writer is not None:
            if error is None:
                self._writer.seal()
            else:
                self._writer.abandon()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> TopLogprobs:
        writer = self._writer
        if writer is None:
            raise UsageError("enter the recording first: async with RecordingLLM(...) as model")
        prefix = tuple(prev_token_ids)
        known = writer.trie.get(prefix)
        if known is None:
            row = top_logprobs(as_row(await self._model.next_token_logits(prev_token_ids), self._info.vocab_size), self._top_k)
            # Somebody else may have asked the same meanwhile; the first answer is the one that counts.
            known = writer.trie.get(prefix) or writer.append(prefix, row)
        else:
            await trio.lowlevel.checkpoint()
        return known.row

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
        return len(self._writer.trie) if self._writer is not None else 0

    async def tokenize(self, text: str) -> list[int]:
        return await self._model.tokenize(text)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return await self._model.detokenize(token_ids)

    def token_bytes(self, token_id: int) -> bytes:
        return self._model.token_bytes(token_id)

    def counters(self) -> dict[str, int]:
        return self._model.counters()

    def __repr__(self) -> str:
        return f"<RecordingLLM of {self._model!r}: {self.steps} steps>"
