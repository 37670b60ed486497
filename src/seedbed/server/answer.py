"""A request and a model in, a response out: everything a model server is, but the sockets.

The mounts are elsewhere: our listener and ASGI beside this file, a respx router in ``recording.replay``. A server is then a model:
``serve(TinyLM())`` is a reference, ``serve(ReplayLLM(path))`` a replay, ``serve(RecordingLLM(model, path))`` a recording proxy.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from seedbed.errors import EngineFailed, SeedbedError, UnknownModel
from seedbed.llm.base import LLM, Ahead, ModelInfo, Row, TopLogprobs, as_ahead, as_row
from seedbed.protocols.base import check_ask
from seedbed.protocols.exchange import Ask, Describe, Detokenize, Health, HttpRequest, HttpResponse, Question, Sample, Score, Tokenize
from seedbed.protocols.rows import full_row, top_logprobs
from seedbed.server.draws import own_draws

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.protocols.base import Protocol

__all__ = ["MAX_BODY", "answer"]

MAX_BODY = 67_108_864
"""The longest request body a mount takes, in octets: a prompt of a million ids is 8 MB of JSON; Triton's own default is 64 MB too."""


async def answer(
    llm: LLM, protocols: Sequence[Protocol], request: HttpRequest, *, through: tuple[type[SeedbedError], ...] = ()
) -> HttpResponse:
    """The response a server of ``llm`` gives to one request, in the first of ``protocols`` that knows its path.

    Args:
        llm: the model.
        protocols: at least one; the first one's envelope is used for paths that none of them knows.
        request: what came.
        through: errors to raise as they are, instead of encoding them; for mounts in the same process as the client.

    Raises:
        SeedbedError: only of the types in ``through``; all other errors become responses.

    Concurrency:
        As the model's ``next_token_logits``.

    Example:
        >>> import trio
        >>> from seedbed import TinyLM
        >>> from seedbed.protocols import PROTOCOLS
        >>> request = HttpRequest("POST", "/v1/next_token_logits", body=b'{"token_ids": [84], "top_k": 1}')
        >>> trio.run(answer, TinyLM(), [PROTOCOLS["native"]], request).body
        b'{"top":{"token_ids":[104],"logprobs":[-1.8724134]}}'
    """
    for protocol in protocols:
        try:
            question = protocol.decode_request(request)
            if question is not None:
                return await _answer_in(protocol, question, request, llm)
        except through:
            raise
        except SeedbedError as error:
            return protocol.encode_error(error)
        except Exception as error:
            # The model's own fault; its text may hold anything, so only its type goes out.
            return protocol.encode_error(EngineFailed(f"the model failed with {type(error).__name__}", status=500))
    return protocols[0].encode_error(UnknownModel(f"no such path: {request.method} {request.route}", status=404))


async def _answer_in(protocol: Protocol, question: Question, request: HttpRequest, llm: LLM) -> HttpResponse:
    match question:
        case Ask():
            info = llm.info or ModelInfo()
            protocol.check_request(question, request, info)
            if question.ahead > 1:
                return protocol.encode_ahead(question, request, await _rows_ahead(question, llm, info), llm)
            row = as_row(await llm.next_token_logits(question.token_ids), info.vocab_size)
            return protocol.encode_row(question, request, row, llm)
        case Score():
            info = llm.info or ModelInfo()
            protocol.check_request(Ask(question.token_ids, question.top_k, question.model), request, info)
            beginnings = [question.token_ids[: length + 1] for length in range(len(question.token_ids))]
            rows = [as_row(await llm.next_token_logits(beginning), info.vocab_size) for beginning in beginnings]
            return protocol.encode_scores(question, request, rows, llm)
        case Sample():
            check_ask(question, llm.info or ModelInfo())
            return protocol.encode_samples(question, request, await own_draws(llm, question, protocol.samples_as), llm)
        case Describe():
            return protocol.encode_description(question, await _describe(llm), llm)
        case Tokenize():
            return protocol.encode_tokens(await llm.tokenize(question.text))
        case Detokenize():
            return protocol.encode_text(await llm.detokenize(question.token_ids))
        case Health():
            return protocol.encode_health()


async def _rows_ahead(ask: Ask, llm: LLM, info: ModelInfo) -> Ahead:
    """Row after row along what the client is going to draw, or the best token of each; until one ends a sequence, the context is full,
    or something goes wrong beyond the first row, which is then for the client to ask for if it gets there.
    """
    walk = _Walk(ask, llm.eos_token_ids)
    room = ask.ahead if info.context_length is None else min(ask.ahead, info.context_length - len(ask.token_ids))
    while len(walk.rows) < room and not walk.is_over:
        try:
            ahead = await _ask_ahead(llm, walk, room - len(walk.rows), info)
            walk.follow(ahead)
        except SeedbedError:
            if not walk.rows:
                raise
            break
    return Ahead(tuple(walk.proposed), tuple(walk.rows))


async def _ask_ahead(llm: LLM, walk: _Walk, count: int, info: ModelInfo) -> Ahead:
    if walk.drawing is None:
        answer = await llm.logits_ahead(walk.prefix, count)
    else:
        answer = await llm.logits_along(walk.prefix, count, walk.drawing)
    return as_ahead(answer, count, info.vocab_size)


class _Walk:
    """The rows a client is going to see, and the tokens it is thought to take from them."""

    def __init__(self, ask: Ask, ends: Sequence[int]) -> None:
        self.prefix, self.drawing, self.is_over = list(ask.token_ids), ask.drawing, False
        self.proposed: list[int] = []
        self.rows: list[Row] = []
        self._top_k, self._ends = ask.top_k, ends

    def follow(self, ahead: Ahead) -> None:
        """Take the rows, as far as the model behind proposed the same."""
        for proposed, row in zip_longest(ahead.proposed[: len(ahead.rows) - 1], ahead.rows):
            token_id = self._take(row)
            self.is_over = token_id in self._ends
            if token_id != proposed or self.is_over:
                return

    def _take(self, row: Row) -> int:
        if self.drawing is None:
            self.rows.append(row)
            token_id = int(row.token_ids[0]) if isinstance(row, TopLogprobs) else int(row.argmax())
        else:
            # As the client will see it: it draws from the k best, if those are what it asked for.
            self.rows.append(seen := full_row(row) if self._top_k is None else top_logprobs(row, self._top_k))
            token_id, self.drawing = self.drawing.take(seen, self.prefix)
        self.proposed.append(token_id)
        self.prefix.append(token_id)
        return token_id


async def _describe(llm: LLM) -> ModelInfo:
    """What the model says of itself, with what a client cannot do without filled in."""
    info = llm.info or ModelInfo(model=type(llm).__name__)
    if not info.eos_token_ids:
        info = replace(info, eos_token_ids=llm.eos_token_ids)
    if info.vocab_size is None:
        row = as_row(await llm.next_token_logits([llm.get_stop_token_id()]))
        info = replace(info, vocab_size=row.vocab_size if isinstance(row, TopLogprobs) else row.size)
    return info
