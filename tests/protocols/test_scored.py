"""The rows of all beginnings of a prefix in one answer, as vLLM scores a prompt, in both directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.protocols import wire

from seedbed import TinyLM
from seedbed.errors import BadRequest, BrokenAnswer, ContextOverflow, RowError, UsageError
from seedbed.llm.base import ModelInfo, TopLogprobs, as_row
from seedbed.protocols import PROTOCOLS
from seedbed.protocols.exchange import HttpResponse, Score
from seedbed.protocols.rows import full_row, top_logprobs
from seedbed.protocols.vllm import VLLM
from seedbed.server import answer

INFO = ModelInfo(model="tiny", vocab_size=512, kind="logprobs")
QUESTION = Score((10, 20, 30, 40), 2, None)
PROMPT = tuple(b"The seed")
SILENT = [protocol for protocol in PROTOCOLS.values() if not protocol.scores]


def test_a_captured_answer_gives_the_row_after_each_beginning() -> None:
    """At places where the token that follows is not among the two best it is listed besides."""
    _, response = wire.captured("vllm-tiny512/completions-prompt-logprobs")
    rows = VLLM().decode_scores(QUESTION, INFO, response)

    assert len(rows) == 4
    assert all(isinstance(row, TopLogprobs) and len(row) == 2 for row in rows)
    assert rows[0].token_ids.tolist() == [246, 18]
    assert rows[0].logprobs.tolist() == np.float32([-2.396649122238159, -2.8643338680267334]).tolist()
    assert rows[-1].token_ids.tolist() == [476, 469]


def test_the_question_is_the_one_captured() -> None:
    request, _ = wire.captured("vllm-tiny512/completions-prompt-logprobs")
    question = Score(QUESTION.token_ids, QUESTION.top_k, "tiny")

    assert VLLM().decode_request(request) == question == VLLM().decode_request(VLLM().encode_score(question, INFO))


@pytest.mark.parametrize("top_k", [1, 3, None])
async def test_rows_arrive_as_the_model_gave_them(top_k: int | None) -> None:
    """With one best the token that follows mostly stands besides."""
    model, info = TinyLM(), ModelInfo(vocab_size=257, kind="logprobs")
    question = Score(PROMPT, top_k, None)
    rows = VLLM().decode_scores(question, info, await answer(model, [VLLM()], VLLM().encode_score(question, info)))
    given = [as_row(await model.next_token_logits(PROMPT[: length + 1])) for length in range(len(PROMPT))]

    assert len(rows) == len(given)
    for row, one in zip(rows, given, strict=True):
        if top_k is None:
            assert np.array_equal(full_row(row), full_row(top_logprobs(one, 257)))
        else:
            assert row == top_logprobs(one, top_k)


def test_what_is_not_what_was_asked_for_is_not_believed() -> None:
    _, response = wire.captured("vllm-tiny512/completions-prompt-logprobs")
    text = bytes(response.body).decode()
    for changed in (
        text.replace('"prompt_logprobs":[null,', '"prompt_logprobs":['),
        text.replace('"prompt_logprobs":', '"other":'),
        text.replace('"246":', '"x":'),
        text.replace('"246":{"logprob":-2.396649122238159,"rank":1,"decoded_token":""},', ""),
        text.replace("-2.396649122238159", "null"),
        text.replace("-2.396649122238159", "2.5"),
    ):
        assert changed != text
        with pytest.raises((BrokenAnswer, RowError)):
            VLLM().decode_scores(QUESTION, INFO, HttpResponse(200, (), changed.encode()))


@pytest.mark.parametrize(
    ("question", "kind"), [(Score((1, 600), 2), BadRequest), (Score((1,) * 9, 2), ContextOverflow)], ids=["token", "context"]
)
async def test_what_cannot_be_scored_is_refused(question: Score, kind: type[Exception]) -> None:
    llm = wire.FixedLLM(np.zeros(512, np.float32), ModelInfo(model="m", vocab_size=512, context_length=8))
    response = await answer(llm, [VLLM()], VLLM().encode_score(question, ModelInfo(model="m", vocab_size=10_000, kind="logprobs")))

    with pytest.raises(kind):
        VLLM().decode_scores(question, INFO, response)


@pytest.mark.parametrize("protocol", SILENT, ids=lambda protocol: protocol.name)
def test_the_others_say_that_they_cannot(protocol: Any) -> None:
    with pytest.raises(UsageError, match="one row a request"):
        protocol.encode_score(QUESTION, INFO)
    if not isinstance(protocol, VLLM):
        with pytest.raises(UsageError, match="one row a request"):
            protocol.decode_scores(QUESTION, INFO, HttpResponse(200, (), b"{}"))
        with pytest.raises(BadRequest, match="one row a request"):
            protocol.encode_scores(QUESTION, None, [], TinyLM())
