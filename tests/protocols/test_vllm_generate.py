"""vLLM's token-in, token-out path: what is not as in completions."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols import wire
from tests.protocols.wire import said

from seedbed.errors import BrokenAnswer, DishonestAnswer, FeatureOff, NonFiniteAtServer, NonFiniteLogits, SeedbedError
from seedbed.llm.base import ModelInfo, Row, TopLogprobs
from seedbed.protocols.exchange import Ask, HttpRequest, HttpResponse
from seedbed.protocols.rows import full_row, top_logprobs
from seedbed.protocols.vllm_generate import VLLMGenerate

PROTOCOL = VLLMGenerate()
INFO = ModelInfo(model="m", vocab_size=12, context_length=64, protocol="vllm-generate", kind="logprobs")
TOP2 = Ask((1, 2), 2)
REAL = "vllm-tiny512-rawlogits-bf16/inference-v1-generate"


def step(*listed: tuple[Any, Any], taken: Any = ..., tokens: Any = ..., **more: Any) -> HttpResponse:
    entries = [{"token_id": token_id, "logprob": value, "rank": rank} for rank, (token_id, value) in enumerate(listed, 1)]
    first = {**entries[0], "top_logprobs": entries}
    if taken is not ...:
        first["token_id"] = taken
    choice = {"token_ids": [first["token_id"]] if tokens is ... else tokens, "logprobs": {"content": [first]}}
    return said({"choices": [choice], "usage": {"prompt_tokens": 2}, **more})


def read(body: bytes) -> dict[int, float]:
    listed = json.loads(body)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {pair["token_id"]: wire.float32(pair["logprob"], -9998.5) for pair in listed}


def with_sentinel(row: Row) -> Row:
    if isinstance(row, TopLogprobs):
        return TopLogprobs(row.token_ids, np.where(row.logprobs <= -9998.5, -np.inf, row.logprobs), row.vocab_size)
    return np.where(row <= -9998.5, np.float32(-np.inf), row)


@wire.same_every_time
@given(wire.prompts, st.none() | wire.small_ints, wire.names)
def test_a_question_arrives_as_it_was_asked(token_ids: tuple[int, ...], top_k: int | None, model: str) -> None:
    """decode_request(encode_request(ask)) == ask, of no more tokens than there are."""
    k = None if top_k is None else min(top_k, INFO.vocab_size)
    assert PROTOCOL.decode_request(PROTOCOL.encode_request(Ask(token_ids, top_k, model), INFO)) == Ask(token_ids, k, model)
    assert PROTOCOL.decode_request(PROTOCOL.encode_request(Ask(token_ids, top_k), replace(INFO, model=""))) == Ask(token_ids, k)


def test_each_request_goes_round_the_prefix_cache() -> None:
    """A reused prefix may change rows; nothing is detokenised either."""
    sampling = json.loads(PROTOCOL.encode_request(TOP2, INFO).body)["sampling_params"]

    assert sampling == {"max_tokens": 1, "temperature": 0, "logprobs": 2, "detokenize": False, "skip_reading_prefix_cache": True}


def test_the_prefix_cache_is_read_only_where_it_is_asked_for() -> None:
    data = json.loads(PROTOCOL.encode_request(replace(TOP2, reuse=True), INFO).body)

    assert data["sampling_params"]["skip_reading_prefix_cache"] is False


@wire.thorough
@given(wire.full_rows(), st.none() | st.integers(1, 12), st.sampled_from(["raw_logprobs", "raw_logits"]))
def test_a_row_arrives_as_it_was_given(row: np.ndarray[Any, Any], top_k: int | None, mode: Any) -> None:
    """The logprobs of the k best, or the logits themselves; with the server's own choice and what it read."""
    ask = Ask((1, 2, 3), None if mode == "raw_logits" else top_k)
    info = replace(INFO, kind="logits" if mode == "raw_logits" else "logprobs")
    response = wire.respond(wire.FixedLLM(row), PROTOCOL.encode_request(ask, info), VLLMGenerate(mode))
    answer = PROTOCOL.decode_response(ask, info, response)

    want = row if mode == "raw_logits" else top_logprobs(row, 12 if top_k is None else top_k)
    assert wire.same_row(answer.row, with_sentinel(full_row(want) if ask.top_k is None else want))
    assert (answer.chosen, answer.prompt_tokens) == (int(np.argmax(row)), 3)
    assert len(response.body) <= PROTOCOL.answer_bound(ask, info)


def test_a_refusal_is_understood_as_it_was_meant() -> None:
    """Its meaning, words, flag and Retry-After survive the wire."""
    wire.holds_for_every_refusal(PROTOCOL)


def test_a_real_row_of_logits_is_complete_or_none() -> None:
    """Five of 512 logits cannot be sampled from; taken for logprobs they are found out."""
    _, response = wire.captured(REAL)
    ask = Ask((10, 20, 30, 40), 5)
    with pytest.raises(SeedbedError, match="are these logits"):
        PROTOCOL.decode_response(ask, ModelInfo(vocab_size=512, kind="logprobs"), response)
    row = PROTOCOL.decode_response(replace(ask, top_k=None), ModelInfo(vocab_size=512, kind="logits"), full(response)).row

    assert isinstance(row, np.ndarray)
    assert (int(row.argmax()), float(row[476]), float(row[469])) == (476, 6.28125, 4.59375)


def full(response: HttpResponse) -> HttpResponse:
    """The captured answer, with the ids it does not list added at -inf."""
    data = json.loads(response.body)
    listed = data["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    known = {entry["token_id"] for entry in listed}
    listed += [{"token_id": token_id, "logprob": -9999.0, "rank": 6} for token_id in range(512) if token_id not in known]
    return said(data)


def test_a_cut_or_changed_answer_is_never_another_row_unnoticed() -> None:
    """Every truncation is an error; one changed octet is an error, or what the octets now say."""
    row = np.float32([0, 1, 2, 3, -np.inf, 5, 6, 7, -1, -2, -3, -4])
    ask = Ask((1, 2), 5)
    response = wire.respond(wire.FixedLLM(row), PROTOCOL.encode_request(ask, INFO), PROTOCOL)

    wire.holds_for_every_truncation(PROTOCOL, ask, INFO, response)
    wire.holds_for_every_changed_byte(PROTOCOL, ask, INFO, response, read)


def test_our_answer_has_the_shape_of_a_real_one() -> None:
    """The same keys and types in the same order."""
    request, real = wire.captured(REAL)
    llm = wire.FixedLLM(np.arange(512, dtype=np.float32) / 64, ModelInfo(model="tiny", vocab_size=512))
    have, want = json.loads(wire.respond(llm, request, PROTOCOL).body), json.loads(real.body)

    assert wire.shape(have) == wire.shape(want)
    assert list(have) == list(want)
    assert list(have["choices"][0]) == list(want["choices"][0])


@pytest.mark.parametrize(
    ("response", "kind", "words"),
    [
        (step((3, -0.1)), DishonestAnswer, "2 tokens were asked for, 1 are listed"),
        (step((3, -9999.0), (4, -9999.0)), NonFiniteAtServer, "gave NaN"),
        (step((3, None), (4, -1.0)), NonFiniteLogits, "is null"),
        (step((3, -0.2), (4, -2.0), taken=4), DishonestAnswer, "greedy choice is token 4"),
        (step((3, -0.2), (4, -2.0), tokens=[4]), DishonestAnswer, r"the first with tokens \[4\]"),
        (step((3, -0.2), (4, -2.0), tokens=[3, 4]), DishonestAnswer, "the first with tokens"),
        (step((3, -0.2), (4, -2.0), tokens=None), DishonestAnswer, "the first with tokens None"),
        (step(("3", -0.2), (4, -2.0)), BrokenAnswer, "no integers"),
        (step((3, -0.2), (4, -2.0), usage={"prompt_tokens": 3}), DishonestAnswer, "the server read 3"),
        (step((3, -0.2), (4, -2.0), choices=[{}]), BrokenAnswer, "no choices"),
    ],
)
def test_a_dishonest_answer_is_named(response: HttpResponse, kind: type[SeedbedError], words: str) -> None:
    """Every way to contradict the question or itself is an error that says which."""
    with pytest.raises(kind, match=words) as caught:
        PROTOCOL.decode_response(TOP2, INFO, response)

    assert type(caught.value) is kind


@wire.thorough
@given(st.data())
def test_a_shaken_answer_is_a_row_or_a_typed_error(data: st.DataObject) -> None:
    """Any JSON in any place of an honest answer: never an untyped exception, and a row only of what was asked for."""
    honest = json.loads(step((3, -0.25), (4, -1.5)).body)
    row = wire.outcome(PROTOCOL, TOP2, INFO, said(wire.shaken(honest, data.draw)))

    assert isinstance(row, SeedbedError) or (isinstance(row, TopLogprobs) and len(row) == 2)


def test_what_a_model_says_of_itself_is_discovered_over_this_path_alone() -> None:
    """The probes go to /inference/v1/generate too; without the flag the refusal names it."""
    info = replace(INFO, server="vLLM 0.33.0", fingerprint="", max_top_k=5)
    llm = wire.FixedLLM(np.float32([9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0]), info)
    seen = []

    def answers(request: HttpRequest) -> HttpResponse:
        seen.append(request.route)
        return wire.respond(llm, request, PROTOCOL)

    assert wire.discovered(PROTOCOL, answers) == (PROTOCOL, info)
    assert set(seen) == {"/version", "/v1/models", "/inference/v1/generate"}
    adapters = {"data": [{"id": name, "owned_by": "vllm"} for name in ("m", "tuned")]}
    any_model = wire.FixedLLM(llm.row, replace(info, model=""))
    meant = wire.discovered(
        PROTOCOL,
        lambda request: said(adapters) if request.route == "/v1/models" else wire.respond(any_model, request, PROTOCOL),
        "tuned",
    )
    assert meant is not None
    assert meant[1].model == "tuned"
    for mode, kind in (("raw_logprobs", "logprobs"), ("raw_logits", "logits")):  # a real server does not say which: one row tells
        protocol = VLLMGenerate(mode)  # type: ignore[arg-type]
        found = wire.discovered(
            PROTOCOL,
            lambda request, protocol=protocol: (
                said({"version": "0.33.0"}) if request.route == "/version" else wire.respond(llm, request, protocol)
            ),
        )
        assert found is not None
        assert found[1].kind == kind
    off = wire.captured("vllm-tiny512/error-scale-out-disabled")[1]
    with pytest.raises(FeatureOff) as caught:
        wire.discovered(PROTOCOL, lambda request: off if request.method == "POST" else answers(request))
    assert caught.value.flag == "--enable-scale-out"


@pytest.mark.parametrize(
    "data",
    [
        {"token_ids": [1]},
        {"token_ids": [1], "sampling_params": [1]},
        {"token_ids": [1], "sampling_params": {"max_tokens": 65, "logprobs": 1}},
        {"token_ids": [1], "sampling_params": {"max_tokens": 1}},
        {"token_ids": [1], "sampling_params": {"max_tokens": 1, "logprobs": 13}},
        {"token_ids": [[1]], "sampling_params": {"max_tokens": 1, "logprobs": 1}},
        {"token_ids": [99], "sampling_params": {"max_tokens": 1, "logprobs": 1}},
    ],
)
def test_what_our_server_half_cannot_do_it_refuses(data: dict[str, Any]) -> None:
    """400 rather than less than was asked for; the model is not asked."""
    llm = wire.FixedLLM(np.zeros(12, np.float32), INFO)
    response = wire.respond(llm, HttpRequest("POST", "/inference/v1/generate", (), json.dumps(data).encode()), PROTOCOL)

    assert (response.status, llm.asked) == (400, [])


def test_completions_are_not_its_question() -> None:
    """A server with both has both protocols."""
    assert PROTOCOL.decode_request(HttpRequest("POST", "/v1/completions", (), b"{}")) is None
