"""A request and a model in, a response out: everything a model server is, but the sockets.

The mounts are elsewhere: our listener and ASGI beside this file, a respx router in ``recording.replay``. A server is then a model:
``serve(TinyLM())`` is a reference, ``serve(ReplayLLM(path))`` a replay, ``serve(RecordingLLM(model, path))`` a recording proxy.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from seedbed.errors import BadRequest, EngineFailed, SeedbedError, UnknownModel
from seedbed.llm.base import LLM, ModelInfo, as_row, row_length
from seedbed.protocols.base import check_ask
from seedbed.protocols.exchange import Ask, Describe, Detokenize, Health, HttpRequest, HttpResponse, Question, Sample, Score, Tokenize
from seedbed.server.ahead import MAX_VALUES, rows_ahead
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
                return protocol.encode_ahead(question, request, await rows_ahead(question, llm, info), llm)
            row = as_row(await llm.next_token_logits(question.token_ids), info.vocab_size)
            return protocol.encode_row(question, request, row, llm)
        case Score():
            info = llm.info or ModelInfo()
            protocol.check_request(Ask(question.token_ids, question.top_k, question.model), request, info)
            return await _scored(protocol, question, request, llm, info)
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


async def _scored(protocol: Protocol, question: Score, request: HttpRequest, llm: LLM, info: ModelInfo) -> HttpResponse:
    """The answer of one row for each beginning: had one after the other, and of each no more is kept than will be said of it."""
    token_ids, places = question.token_ids, []
    for length in range(1, len(token_ids)):
        row = as_row(await llm.next_token_logits(token_ids[:length]), info.vocab_size)
        if length == 1:
            _check_size(question, row_length(row))
        places.append(protocol.encode_place(question, row, token_ids[length]))
    last = as_row(await llm.next_token_logits(token_ids), info.vocab_size)
    return protocol.encode_scores(question, request, places, last, llm)


def _check_size(question: Score, vocab_size: int) -> None:
    """Whether the answer is one that can be held.

    Raises:
        BadRequest: it would have too many values.
    """
    rows, listed = len(question.token_ids), vocab_size if question.top_k is None else min(question.top_k, vocab_size)
    if rows * listed > MAX_VALUES:
        raise BadRequest(
            f"{rows} rows of {listed} tokens are {rows * listed} values, this server answers with {MAX_VALUES} at most: score fewer "
            "tokens at once, or ask for fewer of each row",
            status=400,
        )


async def _describe(llm: LLM) -> ModelInfo:
    """What the model says of itself, with what a client cannot do without filled in."""
    info = llm.info or ModelInfo(model=type(llm).__name__)
    if not info.eos_token_ids:
        info = replace(info, eos_token_ids=llm.eos_token_ids)
    if info.vocab_size is None:
        row = as_row(await llm.next_token_logits([llm.get_stop_token_id()]))
        info = replace(info, vocab_size=row_length(row))
    return info
