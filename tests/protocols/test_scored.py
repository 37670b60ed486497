"""The rows of all beginnings of a prefix in one answer, as vLLM scores a prompt, in both directions."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
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
from seedbed.testing import ScriptedLLM

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
            protocol.encode_place(QUESTION, np.zeros(4, np.float32), 1)
        with pytest.raises(BadRequest, match="one row a request"):
            protocol.encode_scores(QUESTION, None, [], np.zeros(4, np.float32), TinyLM())


async def test_what_is_scored_is_not_held_row_by_row() -> None:
    """A model that fails at the first question: nothing but the request is there."""
    request = VLLM().encode_score(Score((1,) * 8000, 1), INFO)
    tracemalloc.start()
    response = await answer(ScriptedLLM({}, info=INFO), [VLLM()], request)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert response.status == 500
    assert peak < 2_000_000


@pytest.mark.parametrize(("top_k", "values"), [(None, 40), (9, 36)])
async def test_an_answer_that_could_not_be_held_is_refused_after_one_row(top_k: int | None, values: int, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[answer.__module__], "MAX_VALUES", values - 1)
    model = ScriptedLLM({}, default=[0.0] * 10, info=replace(INFO, vocab_size=10))
    info = replace(INFO, vocab_size=10)
    question = Score((1, 2, 3, 4), top_k)
    with pytest.raises(BadRequest, match=f"4 rows of {values // 4} tokens are {values} values, this server answers with {values - 1} at"):
        VLLM().decode_scores(question, info, await answer(model, [VLLM()], VLLM().encode_score(question, info)))

    assert len(model.asked) == 1


async def test_the_token_that_stands_next_has_a_logit_where_logits_are_said() -> None:
    """Not its logprob, beside the others' logits."""
    protocol, model = VLLM(logprobs_mode="raw_logits"), wire.FixedLLM(np.float32([0, 1, 5, 2]), replace(INFO, vocab_size=4))
    response = await answer(model, [protocol], protocol.encode_score(Score((1, 0, 3), 1), replace(INFO, vocab_size=4)))

    assert orjson.loads(response.body)["choices"][0]["prompt_logprobs"] == [
        None,
        {"2": {"logprob": 5.0, "rank": 1}, "0": {"logprob": 0.0, "rank": 2}},
        {"2": {"logprob": 5.0, "rank": 1}, "3": {"logprob": 2.0, "rank": 2}},
    ]


@pytest.mark.parametrize("listed", [b"[]", b"[null,{}]", b"{}", b'""', b"null", b"5"])
def test_a_score_of_one_token_has_one_place(listed: bytes) -> None:
    body = b'{"choices":[{"logprobs":{"tokens":["token_id:3"],"top_logprobs":[{"token_id:3":-0.01}]},"prompt_logprobs":%b}]}' % listed
    with pytest.raises(BrokenAnswer):
        VLLM().decode_scores(Score((1,), 1), INFO, HttpResponse(200, (), body))
