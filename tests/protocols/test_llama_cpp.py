"""llama.cpp's server: both halves against each other and against what a real one said."""

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

from seedbed.errors import (
    BadRequest,
    BrokenAnswer,
    ContextOverflow,
    DishonestAnswer,
    FeatureOff,
    InvalidPrompt,
    MalformedRow,
    NonFiniteLogits,
    NotReady,
    Overloaded,
    RequestRefused,
    RowWithheld,
    SeedbedError,
    Unauthorized,
    UnknownModel,
    UsageError,
)
from seedbed.llm.base import ModelInfo, TopLogprobs
from seedbed.protocols.exchange import Ask, Describe, Health, HttpRequest, HttpResponse
from seedbed.protocols.llama_cpp import LlamaCpp
from seedbed.protocols.rows import LOWEST, full_row, top_logprobs

PROTOCOL = LlamaCpp()
INFO = ModelInfo(
    model="m",
    server="llama.cpp 7",
    fingerprint="Q8",
    vocab_size=12,
    eos_token_ids=(11,),
    context_length=64,
    protocol="llama.cpp",
    kind="logprobs",
)
TOP2 = Ask((1, 2), 2)
SMOL = ModelInfo(vocab_size=49_152)
TINY = ModelInfo(vocab_size=512)
FRANCE = (504, 3575, 282, 4649, 314)
PARIS = [(7042, -0.25889989733695984), (260, -2.764557123184204), (4528, -4.29493522644043)]


def entry(token_id: Any, logprob: Any) -> dict[str, Any]:
    return {"id": token_id, "token": "x", "bytes": [120], "logprob": logprob}


def step(*listed: tuple[Any, Any], chosen: tuple[Any, Any] | None = None, **more: Any) -> HttpResponse:
    first = {**entry(*(chosen or listed[0])), "top_logprobs": [entry(*pair) for pair in listed]}
    return said({"tokens_evaluated": 2, "timings/cache_n": 0, "completion_probabilities": [first], **more})


def read(body: bytes) -> dict[int, float]:
    """A plain reading of an answer."""
    data = json.loads(body)
    first = (data[0] if isinstance(data, list) else data)["completion_probabilities"][0]
    return {pair["id"]: wire.float32(pair["logprob"], LOWEST) for pair in first["top_logprobs"]}


@wire.same_every_time
@given(wire.prompts, st.integers(1, 12), st.none() | wire.names)
def test_a_question_arrives_as_it_was_asked(token_ids: tuple[int, ...], top_k: int, model: str | None) -> None:
    """decode_request(encode_request(ask)) == ask; the full row is asked for as all entries of the vocabulary."""
    ask = Ask(token_ids, top_k, model)

    assert PROTOCOL.decode_request(PROTOCOL.encode_request(ask, INFO)) == ask
    assert PROTOCOL.decode_request(PROTOCOL.encode_request(Ask(token_ids), INFO)) == Ask(token_ids, 12)
    assert PROTOCOL.decode_request(PROTOCOL.encode_request(Ask(token_ids, 99), INFO)) == Ask(token_ids, 12)


@pytest.mark.parametrize("reuse", [False, True])
def test_the_prompt_cache_is_forbidden_unless_it_is_asked_for(reuse: bool) -> None:
    assert json.loads(PROTOCOL.encode_request(Ask((1,), 2, reuse=reuse), INFO).body)["cache_prompt"] is reuse


@wire.thorough
@given(wire.full_rows(), st.none() | wire.small_ints)
def test_a_row_arrives_as_it_was_given(row: np.ndarray[Any, Any], top_k: int | None) -> None:
    """The logprobs of the k best, -inf included; with the server's own choice and what it read."""
    ask = Ask((1, 2, 3), top_k)
    response = wire.respond(wire.FixedLLM(row, INFO), PROTOCOL.encode_request(ask, INFO), PROTOCOL)
    answer = PROTOCOL.decode_response(ask, INFO, response)

    want = top_logprobs(row, 12 if top_k is None else top_k)
    assert wire.same_row(answer.row, full_row(want) if top_k is None else want)
    assert (answer.chosen, answer.prompt_tokens, answer.cached_tokens) == (want.token_ids[0], 3, 0)
    assert len(response.body) <= PROTOCOL.answer_bound(ask, INFO)


@wire.same_every_time
@given(wire.full_rows(), wire.small_ints)
def test_a_list_of_the_k_best_passes_through_unchanged(row: np.ndarray[Any, Any], k: int) -> None:
    """A model that knows only the k best is served and understood as such."""
    known = top_logprobs(row, k)
    ask = Ask((1,), len(known))
    response = wire.respond(wire.FixedLLM(known, INFO), PROTOCOL.encode_request(ask, INFO), PROTOCOL)

    assert PROTOCOL.decode_response(ask, INFO, response).row == known


def test_a_refusal_is_understood_as_it_was_meant() -> None:
    """Its type, words, flag and Retry-After survive the wire."""
    wire.holds_for_every_refusal(PROTOCOL)
    response = PROTOCOL.encode_error(Overloaded("x", status=503))
    assert (response.header("connection"), response.header("keep-alive")) == ("close", None)


@wire.same_every_time
@given(wire.texts, wire.some_token_ids)
def test_texts_and_token_ids_arrive(text: str, token_ids: list[int]) -> None:
    """Tokenise and detokenise, questions and answers, both directions."""
    wire.holds_for_texts_and_token_ids(PROTOCOL, text, token_ids)


# What a real server said.

HALF_A_CHARACTER = (504, 3575, 282, 4649, 314, 7042, 284, 624, 10882, 1453, 260, 2240, 28, 260, 3575, 282, 624, 2695, 28, 260)

ROWS: dict[str, tuple[Ask, ModelInfo, list[tuple[int, float]], tuple[int | None, int | None, int | None]]] = {
    "smollm2/completion-end-forced": (
        Ask(HALF_A_CHARACTER, 5, None, 2),
        SMOL,
        [(5549, -1.5744539499282837), (5671, -2.747438907623291), (6151, -3.260047674179077)],
        (2, 20, None),
    ),
    "smollm2/completion-eos": (
        Ask((1, 4093, 198, 36218, 15876, 2, 198, 1, 520, 9531, 198, 26843, 17), 5),
        SMOL,
        [(339, -1.1601227521896362), (8109, -2.036712646484375), (3361, -2.2455358505249023)],
        (339, 13, None),
    ),
    "smollm2/completion-invalid-utf8-tokens": (
        Ask((6831, 552, 47526, 10813, 38887, 10813), 10),
        SMOL,
        [(38887, -1.1919938325881958), (230, -1.3897591829299927), (241, -2.702869415283203)],
        (38887, None, None),
    ),
    "smollm2/completion-n_predict0": (Ask(FRANCE, 5), SMOL, PARIS, (7042, None, None)),
    "smollm2/completion-top20": (Ask(FRANCE, 20), SMOL, PARIS, (7042, 5, None)),
    "smollm2/completion-top5-fields": (Ask(FRANCE, 5), SMOL, PARIS, (7042, None, None)),
    "smollm2/completion-top5-fields-timings": (Ask(FRANCE, 5), SMOL, PARIS, (7042, None, 0)),
    "smollm2/completion-warm-cache": (Ask(FRANCE, 5), SMOL, PARIS, (7042, 5, None)),
    # Wrong, and nothing in the answer shows it: 2**40 was read as 0. Such a question is never sent.
    "smollm2/error-id-2to40-accepted": (
        Ask((504, 2**40), 3),
        SMOL,
        [(198, -2.277155876159668), (788, -3.0300512313842773), (29, -3.325106620788574)],
        (198, None, None),
    ),
    "tiny512/completion-full-vocab64": (
        Ask((10, 20, 30, 40), 200),
        TINY,
        [(476, -1.5582348108291626), (469, -3.243433713912964), (394, -3.466928243637085)],
        (476, None, None),
    ),
}

ERRORS: dict[str, tuple[Ask, type[SeedbedError], str]] = {
    "smollm2/completion-batch2": (Ask(FRANCE, 5), DishonestAnswer, "one row was asked for, the answer has 2"),
    "smollm2/completion-row-withheld": (Ask(HALF_A_CHARACTER, 5), RowWithheld, "ends in the middle of a character"),
    "smollm2/completion-n_probs0": (Ask(FRANCE, 1), BrokenAnswer, "was n_probs understood"),
    "smollm2/completion-post-sampling": (Ask(FRANCE, 5), BrokenAnswer, "was n_probs understood"),
    "smollm2/completion-sampled-not-in-top": (
        Ask(FRANCE, 2),
        DishonestAnswer,
        "greedy choice is token 1315, the best it lists is token 7042",
    ),
    "smollm2/completion-stream": (Ask(FRANCE, 2), BrokenAnswer, "not JSON"),
    "smollm2/detokenize": (Ask(FRANCE, 5), BrokenAnswer, "no completion_probabilities"),
    "smollm2/error-404": (Ask(FRANCE, 5), UnknownModel, "File Not Found"),
    "smollm2/error-bad-json": (Ask(FRANCE, 5), BadRequest, "parse error at line 1"),
    "smollm2/error-empty-list": (Ask(FRANCE, 5), BadRequest, "must not be empty"),
    "smollm2/error-empty-string": (Ask(FRANCE, 20), BrokenAnswer, "no completion_probabilities"),
    "smollm2/error-get-completion": (Ask(FRANCE, 5), UnknownModel, "File Not Found"),
    "smollm2/error-id-float": (Ask(FRANCE, 5), BadRequest, "elements must be"),
    "smollm2/error-id-negative": (Ask(FRANCE, 5), BadRequest, "invalid tokens"),
    "smollm2/error-id-out-of-range": (Ask(FRANCE, 5), BadRequest, "invalid tokens"),
    "smollm2/error-missing-prompt": (Ask(FRANCE, 5), BadRequest, "key 'prompt' not found"),
    "smollm2/error-n_probs-string": (Ask(FRANCE, 5), BadRequest, "type must be number"),
    "smollm2/error-too-long": (Ask(FRANCE, 5), ContextOverflow, "2100 tokens"),
    "smollm2/health": (Ask(FRANCE, 5), BrokenAnswer, "no completion_probabilities"),
    "smollm2/metrics-disabled": (Ask(FRANCE, 5), FeatureOff, "does not support metrics"),
    "smollm2/props": (Ask(FRANCE, 5), BrokenAnswer, "no completion_probabilities"),
    "smollm2/slots-busy-none": (Ask(FRANCE, 5), DishonestAnswer, "the answer has 8"),
    "smollm2/tokenize": (Ask(FRANCE, 5), BrokenAnswer, "no completion_probabilities"),
    "smollm2/tokenize-pieces": (Ask(FRANCE, 5), BrokenAnswer, "no completion_probabilities"),
    "smollm2/v1-chat-logprobs3": (Ask(FRANCE, 3), BrokenAnswer, "no completion_probabilities"),
    "smollm2/v1-completions-logprobs5": (Ask(FRANCE, 5), BrokenAnswer, "no completion_probabilities"),
    "smollm2/v1-models": (Ask(FRANCE, 5), BrokenAnswer, "no completion_probabilities"),
    "tiny512/metrics": (Ask(FRANCE, 5), BrokenAnswer, "not JSON"),
    "tiny512/v1-models": (Ask(FRANCE, 5), BrokenAnswer, "no completion_probabilities"),
}


def test_every_captured_answer_has_its_expected_value_below() -> None:
    """No file of the captured ones is left out."""
    ahead = {name for name in wire.captured_names("llamacpp-") if "completion-ahead" in name}  # see test_ahead
    assert sorted(f"llamacpp-{name}" for name in (*ROWS, *ERRORS)) == sorted(set(wire.captured_names("llamacpp-")) - ahead)


@pytest.mark.parametrize("name", ROWS)
def test_a_real_row_is_decoded_to_exactly_these_values(name: str) -> None:
    """The first three of the list, pinned; all of it against a plain reading."""
    ask, info, first, (chosen, prompt_tokens, cached_tokens) = ROWS[name]
    _, response = wire.captured(f"llamacpp-{name}")
    answer = PROTOCOL.decode_response(ask, info, response)

    assert list(wire.as_dict(answer.row).items())[:3] == [(token_id, float(np.float32(value))) for token_id, value in first]
    assert wire.as_dict(answer.row) == read(bytes(response.body))
    assert (answer.chosen, answer.prompt_tokens, answer.cached_tokens) == (chosen, prompt_tokens, cached_tokens)


def test_a_server_made_to_take_a_token_and_taking_another_is_not_believed() -> None:
    ask, info, _, _ = ROWS["smollm2/completion-end-forced"]
    _, response = wire.captured("llamacpp-smollm2/completion-end-forced")
    with pytest.raises(DishonestAnswer, match="was made to take token 3 and took 2"):
        PROTOCOL.decode_response(replace(ask, force=3), info, response)


@pytest.mark.parametrize("name", ERRORS)
def test_a_real_answer_that_is_no_row_is_this_error(name: str) -> None:
    """Refusals by their meaning, other bodies by what is missing in them."""
    ask, kind, words = ERRORS[name]
    _, response = wire.captured(f"llamacpp-{name}")
    with pytest.raises(kind, match=words) as caught:
        PROTOCOL.decode_response(ask, SMOL, response)

    assert type(caught.value) is kind
    if isinstance(caught.value, RequestRefused):
        assert caught.value.status == response.status


@pytest.mark.parametrize("name", ROWS)
def test_a_cut_or_changed_real_answer_is_never_another_row_unnoticed(name: str) -> None:
    """Every truncation is an error; one changed octet is an error, or what the octets now say."""
    ask, info, _, _ = ROWS[name]
    _, response = wire.captured(f"llamacpp-{name}")

    wire.holds_for_every_truncation(PROTOCOL, ask, info, response)
    wire.holds_for_every_changed_byte(PROTOCOL, ask, info, response, read, step=1 if len(response.body) < 4000 else 23)


def test_a_real_tokenizer_is_understood() -> None:
    """Ids and text; pieces beside the ids are not what was asked for."""
    assert PROTOCOL.decode_tokens(wire.captured("llamacpp-smollm2/tokenize")[1]) == list(FRANCE)
    assert PROTOCOL.decode_text(wire.captured("llamacpp-smollm2/detokenize")[1]) == "The capital of France is"
    with pytest.raises(BrokenAnswer, match="no list of token ids"):
        PROTOCOL.decode_tokens(wire.captured("llamacpp-smollm2/tokenize-pieces")[1])


def real_server(**more: HttpResponse) -> dict[str, HttpResponse]:
    return {
        "GET /props": wire.captured("llamacpp-smollm2/props")[1],
        "GET /v1/models": wire.captured("llamacpp-smollm2/v1-models")[1],
        "POST /tokenize": said({"tokens": [2]}),
        **more,
    }


def test_a_real_server_is_discovered() -> None:
    """Name, build, size of the vocabulary, context, end token, and a warning about its eight slots."""
    found = wire.discovered(PROTOCOL, wire.replies(real_server()))

    assert found is not None
    protocol, info = found
    assert protocol is PROTOCOL
    assert info == ModelInfo(
        model="models/SmolLM2-135M-Instruct.Q4_1.gguf",
        server="llama.cpp b0-unknown",
        fingerprint="134515008 96576768 Q4_1",
        vocab_size=49_152,
        eos_token_ids=(2,),
        context_length=2048,
        protocol="llama.cpp",
        kind="logprobs",
    )
    assert info.notes == ("it has 8 slots: rows differ when requests run at the same time; start it with -np 1 for repeatable rows",)


@pytest.mark.parametrize(
    ("listed", "asked", "named"),
    [([{"id": "a"}, {"id": "b"}], None, "a"), ([{"id": "a"}, {"id": "b"}], "b", "b"), ([{"id": 5}], None, "path"), ([], None, "path")],
)
def test_a_model_is_called_what_clients_call_it(listed: list[dict[str, Any]], asked: str | None, named: str) -> None:
    """By the list of models, else by where its weights are."""
    props = said({"build_info": "b1", "model_path": "path", "eos_token": "."})
    server = real_server() | {"GET /props": props, "GET /v1/models": said({"data": listed}), "POST /tokenize": said({"tokens": [0]})}
    found = wire.discovered(PROTOCOL, wire.replies(server), asked)

    assert found is not None
    assert (found[1].model, found[1].eos_token_ids) == (named, (0,))


@pytest.mark.parametrize(
    ("slots", "warned"), [({}, False), ({"total_slots": "8"}, False), ({"total_slots": 1}, False), ({"total_slots": 2}, True)]
)
def test_only_slots_that_are_there_are_warned_of(slots: dict[str, Any], warned: bool) -> None:
    found = wire.discovered(PROTOCOL, wire.replies(real_server() | {"GET /props": said({"build_info": "b1", **slots})}))

    assert found is not None
    assert bool(found[1].notes) == warned


@pytest.mark.parametrize(
    "answer", [said({"tokens": [60, 124, 62]}), said({"tokens": []}), said({"tokens": [True]}), said([2]), HttpResponse(500)]
)
def test_an_end_text_that_is_not_one_token_leaves_the_end_unknown(answer: HttpResponse) -> None:
    """Then the caller must say it."""
    found = wire.discovered(PROTOCOL, wire.replies(real_server() | {"POST /tokenize": answer}))

    assert found is not None
    assert found[1].eos_token_ids == ()


@pytest.mark.parametrize(
    ("props", "kind"),
    [
        (said({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, 503, ("server", "llama.cpp")), NotReady),
        (
            said({"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}, 401, ("server", "llama.cpp")),
            Unauthorized,
        ),
        (said({"error": "Forbidden"}, 403, ("Server", "llama.cpp")), Unauthorized),
    ],
)
def test_a_llama_cpp_that_will_not_tell_yet_is_named(props: HttpResponse, kind: type[SeedbedError]) -> None:
    """It says who it is in its headers, so loading and a missing key are not taken for another server."""
    with pytest.raises(kind):
        wire.discovered(PROTOCOL, lambda _: props)


@wire.same_every_time
@given(
    st.builds(
        ModelInfo,
        model=wire.names,
        server=wire.names.map("llama.cpp {}".format),
        fingerprint=wire.names,
        vocab_size=st.integers(12, 2**40),
        eos_token_ids=st.just((ord("d") - 97,)),
        context_length=st.none() | st.integers(1, 2**40),
        protocol=st.just("llama.cpp"),
        max_top_k=st.none() | st.integers(1, 11),
        kind=st.just("logprobs"),
    )
)
def test_what_a_model_says_of_itself_is_discovered(info: ModelInfo) -> None:
    """Discovery against our own server half finds the same ModelInfo, the end token by way of its text."""
    llm = wire.FixedLLM(np.zeros(12, np.float32), info)
    llm.tokenize = lambda text: wire.already([ord(text) - 97])  # type: ignore[method-assign]

    assert wire.discovered(PROTOCOL, lambda request: wire.respond(llm, request, PROTOCOL)) == (PROTOCOL, info)


@wire.thorough
@given(st.data())
def test_discovery_survives_any_answer(data: st.DataObject) -> None:
    """Whatever a server says of itself, discovery says None or a ModelInfo whose fields have the types they promise."""
    server = real_server()
    path = data.draw(st.sampled_from(sorted(server)))
    server[path] = said(wire.shaken(json.loads(server[path].body), data.draw))
    found = wire.discovered(PROTOCOL, wire.replies(server))

    assert wire.is_well_typed(found)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b'"build_info"', b"null", b'{"build_info": 7}', b"\xff"])
@pytest.mark.parametrize("status", [200, 404, 403, 503])
def test_discovery_of_something_else_finds_nothing(body: bytes, status: int) -> None:
    """HTML, nothing, or JSON of another kind is not llama.cpp."""
    assert wire.discovered(PROTOCOL, lambda _: HttpResponse(status, (), body)) is None


# Shapes of our server half, compared with the real ones.


def ours(request: HttpRequest, row: Any = None) -> HttpResponse:
    row = np.arange(512, dtype=np.float32) / 64 if row is None else row
    llm = wire.FixedLLM(row, ModelInfo(model="m", vocab_size=512, eos_token_ids=(0,), context_length=2048))
    return wire.respond(llm, request, PROTOCOL)


def headers(response: HttpResponse) -> dict[str, str]:
    return {name: value for name, value in response.headers if name != "content-length"}


@pytest.mark.parametrize("name", ["smollm2/completion-top20", "smollm2/completion-top5-fields", "smollm2/completion-top5-fields-timings"])
def test_our_answer_has_the_shape_of_a_real_one(name: str) -> None:
    """The same keys and types in the same order, descending values, the same headers; but for settings of samplers we do not have."""
    request, real = wire.captured(f"llamacpp-{name}")
    data = json.loads(request.body) | {"prompt": [5, 6, 7]}
    response = ours(HttpRequest("POST", "/completion", (), json.dumps(data).encode()))
    have, want = json.loads(response.body), json.loads(real.body)
    for answer in (have, want):
        answer.pop("generation_settings", None)
        answer.pop("timings", None)

    assert wire.shape(have) == wire.shape(want)
    assert list(have) == list(want)
    assert headers(response) == headers(real)
    listed = have["completion_probabilities"][0]["top_logprobs"]
    assert len(listed) == data["n_probs"]
    assert [pair["logprob"] for pair in listed] == sorted((pair["logprob"] for pair in listed), reverse=True)


def test_our_values_are_spelled_as_real_ones() -> None:
    """A float32 widened to double, in its shortest form; -inf as float32's lowest."""
    row = np.full(512, -np.inf, np.float32)
    row[:2] = [0.0, -0.7]
    body = bytes(ours(PROTOCOL.encode_request(Ask((5,), 3), TINY), row).body)
    listed = json.loads(body)["completion_probabilities"][0]["top_logprobs"]

    assert [pair["logprob"] for pair in listed] == [*top_logprobs(row, 2).logprobs.tolist(), -3.4028234663852886e38]
    assert repr(listed[0]["logprob"]).encode() in body


@pytest.mark.parametrize("name", ["error-404", "error-empty-list", "error-too-long", "error-id-out-of-range", "error-n_probs-string"])
def test_our_errors_have_the_shape_of_real_ones(name: str) -> None:
    """Status, envelope, type and headers; the words and counts are our own."""
    request, real = wire.captured(f"llamacpp-smollm2/{name}")
    response = ours(request)
    have, want = json.loads(response.body)["error"], json.loads(real.body)["error"]

    assert (response.status, headers(response)) == (real.status, headers(real))
    assert (have["type"], have["code"]) == (want["type"], want["code"])
    assert {key: type(value) for key, value in have.items()} == {key: type(want[key]) for key in ("code", "message", "type")}


def test_our_descriptions_have_the_fields_of_real_ones() -> None:
    """Each of our fields is one of a real server's, of the same type."""
    for path, name in (("/props", "props"), ("/v1/models", "v1-models"), ("/health", "health")):
        real = wire.captured(f"llamacpp-smollm2/{name}")[1]
        response = ours(HttpRequest("GET", path))
        have, want = wire.shape(json.loads(response.body)), wire.shape(json.loads(real.body))

        assert wire.contains(want, have), path
        assert headers(response) == headers(real)
    for name in ("tokenize", "detokenize"):
        request, real = wire.captured(f"llamacpp-smollm2/{name}")
        assert wire.shape(json.loads(ours(request).body)) == wire.shape(json.loads(real.body))


# Honesty.


@pytest.mark.parametrize(
    ("response", "kind", "words"),
    [
        (step((3, -0.1)), DishonestAnswer, "2 tokens were asked for, 1 are listed"),
        (step((3, -1.0), (4, -1.0), (5, -2.0)), DishonestAnswer, "2 tokens were asked for, 3 are listed"),
        (step((3, -0.7), (3, -0.7)), MalformedRow, "twice"),
        (step((3, -0.7), (12, -0.7)), MalformedRow, "outside the vocabulary"),
        (step((3, -0.7), (-4, -0.7)), MalformedRow, "outside the vocabulary"),
        (step((3, -0.7), (2**64 - 1, -0.7)), BrokenAnswer, "64 bits"),
        (step((3, -0.7), ("4", -0.7)), BrokenAnswer, "no integers"),
        (step((3, 1.5), (4, -0.7)), MalformedRow, "are these logits"),
        (step((3, -0.1), (4, -0.2)), MalformedRow, "sum to probability"),
        (step((3, -9.0), (4, -9.5)), MalformedRow, "no distribution"),
        (step((3, None), (4, None)), NonFiniteLogits, "value 0 of 2 is null"),
        (step((3, -0.7), (4, "x")), BrokenAnswer, "no numbers"),
        (step((3, -0.2), (4, -2.0), chosen=(4, -2.0)), DishonestAnswer, "greedy choice is token 4, the best it lists is token 3"),
        (step((3, -0.2), (4, -2.0), chosen=(None, -0.2)), DishonestAnswer, "greedy choice is token None"),
        (step((3, -0.2), (4, -2.0), chosen=(3, -0.3)), DishonestAnswer, "token 3 has logprob -0.3 by itself and -0.2 in the list"),
        (step((3, -0.2), (4, -2.0), tokens_evaluated=3), DishonestAnswer, "2 tokens were sent, the server read 3: it adds a BOS"),
        (step((3, -0.2), (4, -2.0), tokens_evaluated="2"), DishonestAnswer, "the server read '2'"),
        (step((3, -0.2), (4, -2.0), completion_probabilities=[]), BrokenAnswer, "no completion_probabilities"),
        (said([]), DishonestAnswer, "the answer has 0"),
        (said([7]), BrokenAnswer, "no completion_probabilities"),
        (HttpResponse(200, (), b""), BrokenAnswer, "not JSON"),
    ],
)
def test_a_dishonest_answer_is_named(response: HttpResponse, kind: type[SeedbedError], words: str) -> None:
    """Every way to contradict the question or itself is an error that says which."""
    with pytest.raises(kind, match=words) as caught:
        PROTOCOL.decode_response(TOP2, INFO, response)

    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("rows", "tokens", "kind", "words"),
    [
        (4, [3] * 4, DishonestAnswer, "^3 were asked for, the answer has 4$"),
        (2, [3], RowWithheld, "^the server left out the row of a token that ends in the middle of a character$"),
        (2, [3, 4], RowWithheld, "^the server left out the row of a token that ends in the middle of a character$"),
        (0, [], BrokenAnswer, "^the answer has no token and no row$"),
    ],
)
def test_rows_ahead_stand_at_their_tokens(rows: int, tokens: list[int], kind: type[SeedbedError], words: str) -> None:
    one = json.loads(step((3, -0.2), (4, -2.0)).body)
    answer = said(one | {"completion_probabilities": one["completion_probabilities"] * rows, "tokens": tokens})
    with pytest.raises(kind, match=words):
        PROTOCOL.decode_response(replace(TOP2, ahead=3), INFO, answer)


def test_more_than_one_step_is_not_what_was_asked() -> None:
    """A server that ignores n_predict."""
    data = json.loads(step((3, -0.2), (4, -2.0)).body)
    data["completion_probabilities"] *= 2
    with pytest.raises(DishonestAnswer, match="one token was asked for, the answer has 2"):
        PROTOCOL.decode_response(TOP2, INFO, said(data))


def test_the_lowest_float_is_minus_infinity_and_ties_may_be_chosen() -> None:
    """Sentinel on the way in; any of equally good tokens is an honest greedy choice."""
    answer = PROTOCOL.decode_response(TOP2, INFO, step((3, -0.0), (4, -3.4028234663852886e38)))
    assert wire.as_dict(answer.row) == {3: 0.0, 4: -np.inf}
    assert PROTOCOL.decode_response(TOP2, INFO, step((3, -1.0), (4, -1.0), chosen=(4, -1.0))).chosen == 4


@wire.thorough
@given(st.data())
def test_a_shaken_answer_is_a_row_or_a_typed_error(data: st.DataObject) -> None:
    """Any JSON in any place of an honest answer: never an untyped exception, and a row only of what was asked for."""
    honest = json.loads(step((3, -0.25), (4, -1.5)).body)
    row = wire.outcome(PROTOCOL, TOP2, INFO, said(wire.shaken(honest, data.draw)))

    assert isinstance(row, SeedbedError) or (isinstance(row, TopLogprobs) and len(row) == 2)


def test_questions_it_would_misread_are_never_sent() -> None:
    """Ids are cut to 32 bits there; and without the vocabulary's size a list cannot be judged."""
    for misread in (2**32, 2**40, 2**64, -1, -(2**32)):
        with pytest.raises(InvalidPrompt, match=f"token id {misread}: llama.cpp would read it as another one"):
            PROTOCOL.encode_request(Ask((504, misread), 3), SMOL)
    for nothing in ((), (1.5,), ("7",), (None,)):
        with pytest.raises(InvalidPrompt, match="one token id or more"):
            PROTOCOL.encode_request(Ask(nothing, 3), SMOL)
    assert PROTOCOL.encode_request(Ask((504, 2**32 - 1), 3), SMOL).body  # the server itself refuses what 32 bits hold
    with pytest.raises(UsageError, match="vocab_size="):
        PROTOCOL.encode_request(Ask((504,), 3), ModelInfo())


@pytest.mark.parametrize(
    "change",
    [
        {"n_predict": 65},
        {"n_predict": -1},
        {"n_predict": None},
        {"n_predict": True},
        {"n_probs": 0},
        {"n_probs": -1},
        {"n_probs": "x"},
        {"n_probs": True},
        {"post_sampling_probs": True},
        {"stream": True},
        {"prompt": "text"},
        {"prompt": [[1], [2]]},
        {"prompt": [99]},
    ],
)
def test_what_our_server_half_cannot_do_it_refuses(change: dict[str, Any]) -> None:
    """400 rather than less than was asked for."""
    data = {"prompt": [1], "n_predict": 1, "n_probs": 2} | change
    llm = wire.FixedLLM(np.zeros(12, np.float32), INFO)
    response = wire.respond(llm, HttpRequest("POST", "/completion", (), json.dumps(data).encode()), PROTOCOL)

    assert (response.status, json.loads(response.body)["error"]["type"], llm.asked) == (400, "invalid_request_error", [])


def test_fields_that_are_none_are_left_out() -> None:
    """Of those asked for; a path into the timings becomes a key."""
    body = b'{"prompt": [1], "n_predict": 1, "n_probs": 1, "response_fields": ["timings/cache_n", "nope", "tokens/x", 7, ""]}'
    response = wire.respond(wire.FixedLLM(np.zeros(12, np.float32), INFO), HttpRequest("POST", "/completion", (), body), PROTOCOL)

    assert json.loads(response.body) == {"timings/cache_n": 0}


def test_the_end_token_is_a_normal_answer() -> None:
    """stop_type tells, the text is empty, the row is there."""
    row = np.zeros(12, np.float32)
    row[11] = 5
    llm = wire.FixedLLM(row, INFO)
    llm.get_stop_token_id = lambda: 11  # type: ignore[method-assign]
    request = HttpRequest("POST", "/completion", (), b'{"prompt": [[1]], "n_predict": 1, "n_probs": 2, "return_tokens": true}')
    data = json.loads(wire.respond(llm, request, PROTOCOL).body)

    assert (data["stop_type"], data["content"], data["tokens"]) == ("eos", "", [11])
    assert data["completion_probabilities"][0]["id"] == 11


def test_only_its_own_paths_are_its_questions() -> None:
    """And a text under "prompt" is another protocol's way of asking."""
    assert PROTOCOL.decode_request(HttpRequest("GET", "/health")) == Health()
    assert PROTOCOL.decode_request(HttpRequest("GET", "/props")) == Describe("/props")
    assert PROTOCOL.decode_request(HttpRequest("POST", "/tokenize", (), b'{"prompt": "x"}')) is None
    assert PROTOCOL.decode_request(HttpRequest("POST", "/v1/completions", (), b"{}")) is None
    with pytest.raises(BadRequest):
        PROTOCOL.decode_request(HttpRequest("POST", "/tokenize", (), b"{}"))
