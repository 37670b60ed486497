"""The native protocol: both halves against each other, and its client half against anything."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols import wire
from tests.protocols.wire import said

from seedbed.errors import (
    BrokenAnswer,
    DishonestAnswer,
    MalformedRow,
    NonFiniteAtServer,
    NonFiniteLogits,
    SeedbedError,
    Unauthorized,
)
from seedbed.llm.base import ModelInfo, TopLogprobs
from seedbed.protocols.exchange import Ask, Describe, Health, HttpRequest, HttpResponse
from seedbed.protocols.native import Native
from seedbed.protocols.rows import full_row, top_logprobs

PROTOCOL = Native()
INFO = ModelInfo(model="m", server="s", fingerprint="f", vocab_size=12, eos_token_ids=(11,), context_length=64, protocol="native")
TOP2 = Ask((1, 2), 2)
FULL = Ask((1, 2))


def octets(body: bytes, dtype: str = "float32", rows: str = "1") -> HttpResponse:
    return HttpResponse(200, (("content-type", "application/octet-stream"), ("seedbed-dtype", dtype), ("seedbed-rows", rows)), body)


def top(token_ids: list[Any], logprobs: list[Any]) -> HttpResponse:
    return said({"top": {"token_ids": token_ids, "logprobs": logprobs}})


@wire.same_every_time
@given(wire.prompts, st.none() | wire.small_ints, st.none() | wire.names)
def test_a_question_arrives_as_it_was_asked(token_ids: tuple[int, ...], top_k: int | None, model: str | None) -> None:
    """decode_request(encode_request(ask)) == ask."""
    ask = Ask(token_ids, top_k, model)

    assert PROTOCOL.decode_request(PROTOCOL.encode_request(ask, INFO)) == ask


@wire.thorough
@given(wire.full_rows(), st.none() | wire.small_ints)
def test_a_row_arrives_as_it_was_given(row: np.ndarray[Any, Any], top_k: int | None) -> None:
    """Full rows bit by bit; lists as the k best of the row."""
    ask = Ask((1,), top_k)
    request = PROTOCOL.encode_request(ask, INFO)
    response = PROTOCOL.encode_row(ask, request, row, wire.FixedLLM(row))
    have = PROTOCOL.decode_response(ask, INFO, response).row

    assert wire.same_row(have, row if top_k is None else top_logprobs(row, top_k))
    assert len(response.body) <= PROTOCOL.answer_bound(ask, INFO)


@wire.same_every_time
@given(wire.full_rows())
def test_a_full_row_arrives_as_json_too(row: np.ndarray[Any, Any]) -> None:
    """A client that does not accept octets gets the same float32 values."""
    request = HttpRequest("POST", "/v1/next_token_logits", (), b'{"token_ids": [1]}')
    response = PROTOCOL.encode_row(FULL, request, row, wire.FixedLLM(row))

    assert response.header("content-type") == "application/json"
    assert wire.same_row(PROTOCOL.decode_response(FULL, INFO, response).row, row)


@wire.same_every_time
@given(wire.full_rows(), wire.small_ints)
def test_a_list_of_the_k_best_passes_through_unchanged(row: np.ndarray[Any, Any], k: int) -> None:
    """A model that knows only the k best is served and understood as such; its complete list is a full row."""
    known = top_logprobs(row, k)
    ask = Ask((1,), len(known))
    response = PROTOCOL.encode_row(ask, PROTOCOL.encode_request(ask, INFO), known, wire.FixedLLM(known))

    assert PROTOCOL.decode_response(ask, INFO, response).row == known
    if len(known) == 12:
        response = PROTOCOL.encode_row(FULL, PROTOCOL.encode_request(FULL, INFO), known, wire.FixedLLM(known))
        assert wire.same_row(PROTOCOL.decode_response(FULL, INFO, response).row, full_row(known))


@pytest.mark.parametrize(
    ("dtype", "body"),
    [("float16", np.array([0.5, -np.inf, 2.0], "<f2").tobytes()), ("bfloat16", b"\x00\x3f\x80\xff\x00\x40")],
)
def test_half_precision_octets_widen_exactly(dtype: str, body: bytes) -> None:
    """float16 and bfloat16 rows become the float32 values they stand for."""
    row = PROTOCOL.decode_response(FULL, ModelInfo(vocab_size=3), octets(body, dtype)).row

    assert wire.same_row(row, np.float32([0.5, -np.inf, 2.0]))


def test_a_refusal_is_understood_as_it_was_meant() -> None:
    """Its type, words, flag and Retry-After survive the wire."""
    wire.holds_for_every_refusal(PROTOCOL)


@wire.same_every_time
@given(wire.texts, wire.some_token_ids)
def test_texts_and_token_ids_arrive(text: str, token_ids: list[int]) -> None:
    """Tokenise and detokenise, questions and answers, both directions."""
    wire.holds_for_texts_and_token_ids(PROTOCOL, text, token_ids)


@wire.same_every_time
@given(
    st.builds(
        ModelInfo,
        model=wire.names,
        server=wire.names,
        fingerprint=wire.names,
        vocab_size=st.integers(12, 2**40),
        eos_token_ids=st.lists(st.integers(0, 11), min_size=1).map(tuple),
        context_length=st.none() | st.integers(1, 2**40),
        protocol=st.just("native"),
        max_top_k=st.none() | st.integers(1, 2**40),
    )
)
def test_what_a_model_says_of_itself_is_discovered(info: ModelInfo) -> None:
    """Discovery against our own server half finds the same ModelInfo."""
    llm = wire.FixedLLM(np.zeros(12, np.float32), info)

    assert wire.discovered(PROTOCOL, lambda request: wire.respond(llm, request, PROTOCOL)) == (PROTOCOL, info)


@wire.thorough
@given(st.data())
def test_discovery_survives_any_answer(data: st.DataObject) -> None:
    """Whatever a server says of itself, discovery says None or a ModelInfo whose fields have the types they promise."""
    honest = {"model": "m", "server": "s", "vocab_size": 12, "eos_token_ids": [1], "context_length": 8, "fingerprint": "f", "max_top_k": 3}
    found = wire.discovered(PROTOCOL, lambda _: said(wire.shaken(honest, data.draw)))

    assert wire.is_well_typed(found)


def test_a_server_that_wants_a_key_first_is_named() -> None:
    """Whatever it speaks; a client without the key cannot find out."""
    with pytest.raises(Unauthorized, match="api_key="):
        wire.discovered(PROTOCOL, lambda _: HttpResponse(401, (), b""))


@pytest.mark.parametrize("body", wire.SOMETHING_ELSE)
@pytest.mark.parametrize("status", [200, 404, 500])
def test_discovery_of_something_else_finds_nothing(body: bytes, status: int) -> None:
    """HTML, nothing, or JSON of another kind is not a native server."""
    assert wire.discovered(PROTOCOL, lambda _: HttpResponse(status, (), body)) is None


@pytest.mark.parametrize(
    ("ask", "response", "kind", "words"),
    [
        (TOP2, top([3], [-0.1]), DishonestAnswer, "2 tokens were asked for, 1 are listed"),
        (TOP2, top([3, 4, 5], [-1, -1, -1.5]), DishonestAnswer, "2 tokens were asked for, 3 are listed"),
        (TOP2, top([3, 3], [-0.7, -0.7]), MalformedRow, "twice"),
        (TOP2, top([3, 12], [-0.7, -0.7]), MalformedRow, "token id 12 .* outside the vocabulary of 12"),
        (TOP2, top([-1, 3], [-0.7, -0.7]), MalformedRow, "token id -1 .* outside"),
        (TOP2, top([3, 2**63], [-0.7, -0.7]), BrokenAnswer, "64 bits"),
        (TOP2, top([3, True], [-0.7, -0.7]), BrokenAnswer, "no integers"),
        (TOP2, top([3, 4.0], [-0.7, -0.7]), BrokenAnswer, "no integers"),
        (TOP2, top(["3", 4], [-0.7, -0.7]), BrokenAnswer, "no integers"),
        (TOP2, top([3, 4], [0.5, -0.7]), MalformedRow, "are these logits"),
        (TOP2, top([3, 4], [-0.1, -0.2]), MalformedRow, "sum to probability 1.7"),
        (TOP2, top([3, 4], [-5, -6]), MalformedRow, "no distribution"),
        (TOP2, top([3, 4], [None, None]), MalformedRow, "no distribution"),
        (TOP2, top([3, 4], [1e300, -1]), NonFiniteLogits, "beyond float32"),
        (TOP2, top([3, 4], ["-0.7", "-0.7"]), BrokenAnswer, "no numbers"),
        (TOP2, top([3, 4], [True, False]), BrokenAnswer, "no numbers"),
        (TOP2, top([3, 4], [[-0.7], [-0.7]]), BrokenAnswer, "no numbers"),
        (TOP2, top([3, 4], [-0.7]), MalformedRow, "shapes"),
        (TOP2, said({"logits": [0.0] * 12}), DishonestAnswer, "the 2 best were asked for, the answer is a full row"),
        (TOP2, said({"top": {"token_ids": 3, "logprobs": -0.7}}), BrokenAnswer, "neither"),
        (TOP2, said({"top": [3, 4]}), BrokenAnswer, "neither"),
        (TOP2, said("logits"), BrokenAnswer, "neither"),
        (TOP2, said([1]), BrokenAnswer, "neither"),
        (TOP2, said(None), BrokenAnswer, "neither"),
        (TOP2, HttpResponse(200, (), b""), BrokenAnswer, "not JSON"),
        (TOP2, HttpResponse(200, (), b"<html>"), BrokenAnswer, "it begins b'<html>'"),
        (TOP2, HttpResponse(200, (), b'{"logits": [NaN]}'), NonFiniteLogits, "holds NaN"),
        (FULL, said({"logits": [0.0] * 11}), DishonestAnswer, "11 entries, the model's vocabulary 12"),
        (FULL, said({"logits": [[0.0] * 12]}), BrokenAnswer, "no numbers"),
        (FULL, said({"logits": 5}), BrokenAnswer, "neither"),
        (FULL, said({"logits": []}), BrokenAnswer, "neither"),
        (FULL, said({"logits": ["0"] * 12}), BrokenAnswer, "no numbers"),
        (FULL, top([3, 4], [-0.7, -0.7]), DishonestAnswer, "12 tokens were asked for, 2 are listed"),
        (FULL, octets(b""), BrokenAnswer, "0 octets"),
        (FULL, octets(b"12345"), BrokenAnswer, "5 octets are no row of float32"),
        (FULL, octets(bytes(44)), DishonestAnswer, "11 entries"),
        (FULL, octets(bytes(48), rows="2"), DishonestAnswer, "^one row was asked for, Seedbed-Rows says '2'"),
        (Ask((1,), ahead=3), octets(bytes(48), rows="4"), DishonestAnswer, "^3 rows were asked for, Seedbed-Rows says '4'"),
        (Ask((1,), ahead=3), octets(bytes(47), rows="3"), BrokenAnswer, "^47 octets are no 3 rows of float32"),
        (FULL, octets(bytes(48), rows="1" * 5000), DishonestAnswer, "Seedbed-Rows says '111"),
        (FULL, HttpResponse(200, (), b'{"logits": [-Infinity, 1%b]}' % (b"0" * 400)), NonFiniteLogits, "value 1 of 2 is beyond float32"),
        (FULL, octets(bytes(48), dtype="float64"), BrokenAnswer, "Seedbed-Dtype must be one of"),
        (TOP2, octets(bytes(48)), DishonestAnswer, "the answer is a full row"),
    ],
)
def test_a_dishonest_answer_is_named(ask: Ask, response: HttpResponse, kind: type[SeedbedError], words: str) -> None:
    """Every way to contradict the question or itself is an error that says which."""
    with pytest.raises(kind, match=words) as caught:
        PROTOCOL.decode_response(ask, INFO, response)

    assert type(caught.value) is kind


def test_an_answer_is_bounded_by_the_entries_it_may_hold() -> None:
    """Four million, where nobody said how many there are."""
    assert PROTOCOL.answer_bound(Ask((1,), 10), ModelInfo()) == 4096 + 480
    assert PROTOCOL.answer_bound(Ask((1,), ahead=2), ModelInfo(vocab_size=100)) == 2 * (4096 + 4800)
    assert PROTOCOL.answer_bound(Ask((1,)), ModelInfo()) == 4 * 4_194_304


@wire.thorough
@given(st.data())
def test_a_shaken_answer_is_a_row_or_a_typed_error(data: st.DataObject) -> None:
    """Any JSON in any place of an honest answer: never an untyped exception, and a row only of what was asked for."""
    honest = {"top": {"token_ids": [3, 4], "logprobs": [-0.25, -1.5]}}
    row = wire.outcome(PROTOCOL, TOP2, INFO, said(wire.shaken(honest, data.draw)))

    assert isinstance(row, SeedbedError) or (isinstance(row, TopLogprobs) and len(row) == 2)


def test_a_cut_or_changed_answer_is_never_another_row_unnoticed() -> None:
    """Every truncation is an error; one changed octet is an error, or what the octets now say."""

    def read(body: bytes) -> dict[int, float]:
        listed = json.loads(body)["top"]
        values = [wire.float32(-np.inf if value is None else value, -np.inf) for value in listed["logprobs"]]
        return dict(zip(listed["token_ids"], values, strict=True))

    row = np.float32([0, 1, 2, 3, -np.inf, 5, 6, 7, -1, -2, -3, -4])
    ask = Ask((1, 2), 12)
    response = PROTOCOL.encode_row(ask, PROTOCOL.encode_request(ask, INFO), row, wire.FixedLLM(row))

    wire.holds_for_every_truncation(PROTOCOL, ask, INFO, response)
    wire.holds_for_every_changed_byte(PROTOCOL, ask, INFO, response, read)
    response = PROTOCOL.encode_row(FULL, PROTOCOL.encode_request(FULL, INFO), row, wire.FixedLLM(row))
    wire.holds_for_every_truncation(PROTOCOL, FULL, INFO, response)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/next_token_logits", b""),
        ("/v1/next_token_logits", b"[]"),
        ("/v1/next_token_logits", b"{}"),
        ("/v1/next_token_logits", b'{"token_ids": []}'),
        ("/v1/next_token_logits", b'{"token_ids": [1.5]}'),
        ("/v1/next_token_logits", b'{"token_ids": [-1]}'),
        ("/v1/next_token_logits", b'{"token_ids": [true]}'),
        ("/v1/next_token_logits", b'{"token_ids": [18446744073709551615]}'),
        ("/v1/next_token_logits", b'{"token_ids": [12]}'),
        ("/v1/next_token_logits", b'{"token_ids": [1], "top_k": 0}'),
        ("/v1/next_token_logits", b'{"token_ids": [1], "top_k": "2"}'),
        ("/v1/next_token_logits", b'{"token_ids": [1], "top_k": true}'),
        ("/v1/next_token_logits", b'{"token_ids": [1], "model": 7}'),
        ("/v1/tokenize", b'{"text": 7}'),
        ("/v1/detokenize", b'{"token_ids": "x"}'),
        ("/v1/detokenize", b"\xff\xfe"),
    ],
)
def test_a_wrong_question_is_answered_400(path: str, body: bytes) -> None:
    """In the protocol's envelope, typed as a bad request; the model is not asked."""
    llm = wire.FixedLLM(np.zeros(12, np.float32), INFO)
    response = wire.respond(llm, HttpRequest("POST", path, (), body), PROTOCOL)

    assert (response.status, json.loads(response.body)["error"]["type"], llm.asked) == (400, "bad_request", [])


def test_a_model_that_gives_nan_is_told_so_in_every_form() -> None:
    """JSON has no NaN, so the server half says what happened; octets carry it, and the draw refuses it."""
    row = np.full(12, np.nan, np.float32)
    llm = wire.FixedLLM(row, INFO)
    in_json = HttpRequest("POST", "/v1/next_token_logits", (), b'{"token_ids": [1]}')
    for request in (in_json, PROTOCOL.encode_request(TOP2, INFO)):
        with pytest.raises(NonFiniteAtServer):
            PROTOCOL.decode_response(TOP2, INFO, wire.respond(llm, request, PROTOCOL))
    by_octets = PROTOCOL.decode_response(FULL, INFO, wire.respond(llm, PROTOCOL.encode_request(FULL, INFO), PROTOCOL)).row

    assert np.isnan(by_octets).all()
    with pytest.raises(NonFiniteLogits):
        top_logprobs(by_octets, 2)


def test_only_its_own_paths_are_its_questions() -> None:
    """The rest is None, for other protocols to look at."""
    assert PROTOCOL.decode_request(HttpRequest("GET", "/health")) == Health()
    assert PROTOCOL.decode_request(HttpRequest("GET", "/v1/model?x=1")) == Describe("/v1/model")
    assert PROTOCOL.decode_request(HttpRequest("GET", "/v1/next_token_logits")) is None
    assert PROTOCOL.decode_request(HttpRequest("POST", "/completion")) is None
    assert PROTOCOL.encode_health().status == 200
