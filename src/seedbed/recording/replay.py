"""A model that only remembers: answers from a recording, in process or through a respx-mocked server, and never from anywhere else."""

from __future__ import annotations

import math
import os
import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any

import trio

from seedbed.errors import MissingExtra, RecordingError, RecordingMiss, UsageError
from seedbed.llm.base import LLM, ModelInfo, Row, TopLogprobs, row_length
from seedbed.llm.running import require_trio
from seedbed.protocols import PROTOCOLS, protocol_named
from seedbed.protocols.exchange import HttpRequest
from seedbed.protocols.rows import logprob_of
from seedbed.recording.format import Recording, open_recording
from seedbed.recording.record import DEFAULT_TOP_K
from seedbed.recording.spelling import ids_spelled, spelled
from seedbed.server.answer import answer
from seedbed.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

    from seedbed.recording.steps import Step

__all__ = ["SHOWN_IN_COMMAND", "ReplayLLM", "missed", "mock_transport", "replay_transport"]

SHOWN_IN_COMMAND = 64
"""Token ids; a command with a longer prompt is not typed but rerun: the run that missed has it."""


class ReplayLLM(LLM):
    """The model of a recording. It answers by prefix, so a test may change sampler, seed, n or stop rules and stay inside it.

    Args:
        path: the recording's directory, or an open ``Recording``.
        how_to_extend: the command that would add what is missing, for the message of a miss, of a prefix or of a text; the default is
            ``seedbed record``'s, with the prefix filled in.

    Attributes:
        recording: what it answers from.
        answered: how many questions were answered, by step number.

    Raises:
        RecordingError: it cannot be read; when constructed.

    Concurrency:
        Any number of tasks. Always a checkpoint. A full row is read from disk through a memory map, and its hash checked, when it is
        asked for first; otherwise no I/O after construction.

    Example:
        >>> import tempfile, trio
        >>> from seedbed import RecordingLLM, TinyLM, generate
        >>> async def main(path):
        ...     async with RecordingLLM(TinyLM(), path) as model:
        ...         live = await generate(list(b"The "), model, n=2, seed=7, max_new_tokens=8)
        ...     return live == await generate(list(b"The "), ReplayLLM(path), n=2, seed=7, max_new_tokens=8)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     trio.run(main, directory + "/recording")
        True
    """

    def __init__(self, path: str | os.PathLike[str] | Recording, *, how_to_extend: str | None = None) -> None:
        self.recording = path if isinstance(path, Recording) else open_recording(path)
        self._info = self.recording.info
        self.top_k = self.recording.top_k
        self._how_to_extend = how_to_extend
        self.answered: Counter[int] = Counter()

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> Row:
        """The recorded row: ``TopLogprobs``, or float32 of shape (vocab_size,), read-only, from a full recording.

        Raises:
            RecordingMiss: none was recorded for exactly this prefix. Names the nearest one, the first token that leads away from it, that
                token's probability there, and the command that would extend the recording. Nothing else is ever tried.
            RecordingBroken: the row on disk is not the one that was recorded.
            WrongRunner: it is not trio that awaits.
        """
        require_trio()
        await trio.lowlevel.checkpoint()
        step = self.recording.get(prev_token_ids)
        if step is None:
            raise missed(self.recording, prev_token_ids, self._how_to_extend)
        self.answered[step.number] += 1
        return step.row

    def get_stop_token_id(self) -> int:
        return self._info.eos_token_ids[0]

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self._info.eos_token_ids

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def tokenize(self, text: str) -> list[int]:
        """The recorded token ids of a text, or those that are spelled as ``token_bytes`` spells them.

        Raises:
            UsageError: no other text, since a recording has no tokenizer, only what one said while it was made.
        """
        await trio.lowlevel.checkpoint()
        known = self.recording.texts.tokenized.get(text)
        ids = ids_spelled(text) if known is None else list(known)
        if ids is None:
            raise untokenized(self.recording, text, self._how_to_extend)
        return ids

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The recorded text of token ids.

        Raises:
            UsageError: of others, which no tokenizer was asked for while the recording was made.
        """
        known = self.recording.texts.detokenized.get(tuple(token_ids))
        if known is None:
            return await super().detokenize(token_ids)
        await trio.lowlevel.checkpoint()
        return known

    def token_bytes(self, token_id: int) -> bytes:
        """A spelling for protocols that name tokens by text: ``<|7|>`` for token 7."""
        return spelled(token_id)

    def __repr__(self) -> str:
        return f"ReplayLLM({self.recording!r})"


def missed(recording: Recording, prefix: Sequence[int], how_to_extend: str | None = None) -> RecordingMiss:
    """The error of a prefix that was never recorded."""
    nearest = recording.nearest(prefix)
    name, known = recording.path.name, 0 if nearest is None else nearest.length
    if nearest is None:
        text = f"the recording {name} knows no beginning of this prefix of {counted(len(prefix), 'token')} ({_shown(prefix)})"
    else:
        token_id = prefix[known]
        text = (
            f"the recording {name} was never asked for this prefix of {counted(len(prefix), 'token')}: it knows the first {known}, "
            f"then comes token {token_id}, {_likelihood(nearest, token_id)}"
        )
    # In marks, since the place in a generation, which is added behind, is no part of what is to be typed.
    return RecordingMiss(f"{text}; to add it: `{how_to_extend or _command_for(recording, prefix)}`", prev_token_ids=prefix, known=known)


def untokenized(recording: Recording, text: str, how_to_extend: str | None = None) -> UsageError:
    """The error of a text whose token ids were never recorded."""
    shown = text if len(text) <= SHOWN_IN_COMMAND else f"{text[:SHOWN_IN_COMMAND]}..."
    how_to_extend = how_to_extend or f"seedbed record URL {shlex.quote(os.fspath(recording.path))} --extend --prompt TEXT"
    return UsageError(
        f"the recording {recording.path.name} has no tokenizer, only what one said while it was made, and it was not asked for {shown!r}: "
        f"give token ids instead of text; or, to add it: `{how_to_extend}`"
    )


def _command_for(recording: Recording, prefix: Sequence[int]) -> str:
    return command_to_extend(recording, f"--token-ids {','.join(map(str, prefix)) if len(prefix) <= SHOWN_IN_COMMAND else 'ID,ID,...'}")


def command_to_extend(recording: Recording, asked: str) -> str:
    """What adds to a recording what the options in ``asked`` sample, with all that it is refused without."""
    words = ["seedbed record URL", shlex.quote(os.fspath(recording.path)), "--extend"]
    if recording.top_k != DEFAULT_TOP_K:
        words.append(f"--keep {'all' if recording.top_k is None else recording.top_k}")
    if recording.info.protocol not in ("", "native"):
        words.append(f"--protocol {recording.info.protocol}")
    return " ".join([*words, asked])


def _shown(prefix: Sequence[int]) -> str:
    return ", ".join(map(str, prefix[:8])) + (", ..." if len(prefix) > 8 else "")


def _likelihood(step: Step, token_id: int) -> str:
    row = step.row
    size = row_length(row)
    if token_id not in range(size):
        return f"which is no token of its vocabulary of {size}"
    if isinstance(row, TopLogprobs) and token_id not in row.token_ids:
        return f"which is not among the {len(row)} most probable there"
    return f"which had probability {math.exp(logprob_of(row, token_id)):.3g} there"


def replay_transport(path: str | os.PathLike[str] | Recording, protocol: str = "native") -> httpx.MockTransport:
    """A recording as an httpx transport: a respx router that answers every request from it, with no socket anywhere.

    Give it to ``connect(base_url, transport=...)``, or to any ``httpx.AsyncClient``; the URL's host does not matter. One route catches
    all requests, and calls are not kept, so memory stays flat however many there are.

    Args:
        path: the recording's directory, or an open ``Recording``.
        protocol: the protocol it speaks; "all" speaks every one that is known.

    Raises:
        MissingExtra: respx is not installed.
        RecordingError: the recording cannot be read.
        RecordingError, RowError: out of the request itself, as they are, when the recording cannot answer it.

    Concurrency:
        As ``ReplayLLM``; nothing global is patched, so any number may be in use at once.

    Example:
        >>> import tempfile, trio
        >>> from seedbed import RecordingLLM, TinyLM, connect
        >>> async def main(path):
        ...     async with RecordingLLM(TinyLM(), path) as model:
        ...         await model.next_token_logits(list(b"The "))
        ...     async with connect("http://model.invalid", transport=replay_transport(path)) as model:
        ...         return model.info.model, len(await model.next_token_logits(list(b"The ")))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     trio.run(main, directory + "/recording")
        ('tiny-lm', 20)
    """
    return mock_transport(ReplayLLM(path), protocol)


def mock_transport(model: LLM, protocol: str = "native") -> httpx.MockTransport:
    """Any model as an httpx transport, as ``replay_transport`` does it with a recording's."""
    import httpx  # a tenth of a second that a model which only remembers need not wait

    speaks = list(PROTOCOLS.values()) if protocol == "all" else [protocol_named(protocol)]

    async def respond(request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        headers = tuple(request.headers.items())
        asked = HttpRequest(request.method, request.url.raw_path.decode("ascii"), headers, body)
        response = await answer(model, speaks, asked, through=(RecordingError,))
        return httpx.Response(response.status, headers=list(response.headers), content=bytes(response.body))

    return httpx.MockTransport(_catch_all_router(respond).async_handler)


def _catch_all_router(respond: Any) -> Any:
    try:
        import respx
    except ImportError as error:
        raise MissingExtra("replaying through HTTP needs respx: pip install 'seedbed[test]'") from error

    class ReplayRouter(respx.Router):
        """Without the record of every call, which would hold each row for ever."""

        def record(self, request: httpx.Request, *, response: Any = None, route: Any = None) -> None:
            """Keep nothing."""

    router = ReplayRouter(assert_all_called=False)
    router.route().mock(side_effect=respond)
    return router
