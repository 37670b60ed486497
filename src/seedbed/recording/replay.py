"""A model that only remembers: answers from a recording, in process or through a respx-mocked server, and never from anywhere else."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import httpx
import trio

from seedbed.errors import MissingExtra, RecordingMiss, RowError, UsageError
from seedbed.llm.base import LLM, ModelInfo, TopLogprobs
from seedbed.protocols import PROTOCOLS, protocol_named
from seedbed.protocols.exchange import HttpRequest
from seedbed.recording.format import Recording, open_recording
from seedbed.server.answer import answer

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

__all__ = ["ReplayLLM", "replay_transport"]


class ReplayLLM(LLM):
    """The model of a recording. It answers by prefix, so a test may change sampler, seed, n or stop rules and stay inside it.

    Args:
        path: the recording's directory, or an open ``Recording``.

    Raises:
        RecordingError: it cannot be read; when constructed.

    Concurrency:
        Any number of tasks. Always a checkpoint. No I/O after construction.
    """

    def __init__(self, path: str | os.PathLike[str] | Recording) -> None:
        self.recording = path if isinstance(path, Recording) else open_recording(path)
        self._info = self.recording.info

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> TopLogprobs:
        """The recorded row.

        Raises:
            RecordingMiss: none was recorded for exactly this prefix; names the nearest one and the first token that leads away from it.
        """
        await trio.lowlevel.checkpoint()
        step = self.recording.trie.get(prev_token_ids)
        if step is None:
            raise self._miss(prev_token_ids)
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
        """Token ids spelled as ``token_bytes`` spells them; no other text, since a recording has no tokenizer."""
        await trio.lowlevel.checkpoint()
        if not re.fullmatch(r"(<\|\d+\|>)+", text):
            raise UsageError("a recording has no tokenizer: give token ids instead of text")
        return [int(token_id) for token_id in re.findall(r"\d+", text)]

    def token_bytes(self, token_id: int) -> bytes:
        """A spelling for protocols that name tokens by text: ``<|7|>`` for token 7."""
        return f"<|{token_id}|>".encode()

    def _miss(self, prefix: Sequence[int]) -> RecordingMiss:
        nearest = self.recording.trie.nearest(prefix)
        name = self.recording.path.name
        if nearest.value is None:
            text = f"the recording {name} knows no beginning of this prefix ({list(prefix[:8])}, ...): other prompts?"
        elif nearest.length == len(prefix):
            text = f"the recording {name} has no row for this prefix of {len(prefix)} tokens"
        else:
            token_id = prefix[nearest.length]
            text = (
                f"the recording {name} was never asked for this prefix of {len(prefix)} tokens: it knows the first {nearest.length}, "
                f"then comes token {token_id}, {_likelihood(nearest.value.row, token_id)}; extend the recording to add it"
            )
        return RecordingMiss(text, prev_token_ids=prefix, known=nearest.length)

    def __repr__(self) -> str:
        return f"ReplayLLM({self.recording!r})"


def _likelihood(row: TopLogprobs, token_id: int) -> str:
    place = row.token_ids.tolist().index(token_id) if token_id in row.token_ids else None
    if place is None:
        return f"which is not among the {len(row)} most probable there"
    return f"which had probability {math.exp(row.logprobs[place]):.3g} there"


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
        RecordingMiss, RowError: out of the request itself, as they are, when the recording cannot answer it.

    Concurrency:
        As ``ReplayLLM``; nothing global is patched, so any number may be in use at once.
    """
    speaks = list(PROTOCOLS.values()) if protocol == "all" else [protocol_named(protocol)]
    model = ReplayLLM(path)

    async def respond(request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        headers = tuple(request.headers.items())
        asked = HttpRequest(request.method, request.url.raw_path.decode("ascii"), headers, body)
        response = await answer(model, speaks, asked, through=(RecordingMiss, RowError))
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
