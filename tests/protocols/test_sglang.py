"""SGLang's generate: both halves against each other, and its client half against every form its lists come in."""

from __future__ import annotations

import base64
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
    DishonestAnswer,
    EngineFailed,
    InvalidPrompt,
    MalformedRow,
    NonFiniteAtServer,
    NonFiniteLogits,
    Overloaded,
    SeedbedError,
    Unauthorized,
    UsageError,
)
from seedbed.llm.base import ModelInfo, TopLogprobs
from seedbed.protocols.exchange import Ask, Describe, Health, HttpRequest, HttpResponse
from seedbed.protocols.rows import LOWEST, full_row, top_logprobs
from seedbed.protocols.sglang import SGLang

PROTOCOL = SGLang()
INFO = ModelInfo(model="m", vocab_size=12, context_length=64, protocol="sglang", kind="logprobs")
TOP2 = Ask((1, 2), 2)
TOP3 = Ask((5, 6, 7), 3)
FORMS = {
    "base64": {"return_flat_raw_output_top_logprobs": True, "return_flat_raw_top_logprobs_b64": True},
    "flat": {"return_flat_raw_output_top_logprobs": True},
    "nested": {},
}


def documented(form: str, **more: Any) -> HttpResponse:
    """The answer for values [-0.25, -1.5078125, -inf] and ids [7, 2, 5], with what the real encoder makes of them in base64."""
    name = "output_top_logprobs"
    lists: dict[str, Any] = {
        "base64": {
            f"{name}_val_flat_b64": "AACAvgAAwb///3//",
            f"{name}_val_flat_b64_dtype": "float32",
            f"{name}_idx_flat_b64": "BwAAAAIAAAAFAAAA",
            f"{name}_idx_flat_b64_dtype": "int32",
            f"{name}_shape": [1, 3],
            f"{name}_null_prefix": 0,
        },
        "flat": {
            f"{name}_val_flat": [-0.25, -1.5078125, LOWEST],
            f"{name}_idx_flat": [7, 2, 5],
            f"{name}_shape": [1, 3],
            f"{name}_null_prefix": 0,
        },
        "nested": {name: [[[-0.25, 7, None], [-1.5078125, 2, None], [LOWEST, 5, None]]]},
    }[form]
    meta = {
        "id": "r0",
        "finish_reason": {"type": "length", "length": 1},
        "prompt_tokens": 3,
        "completion_tokens": 1,
        "cached_tokens": 2,
        "output_token_logprobs": [[-0.25, 7, None]],
        **lists,
        **more,
    }
    return said({"text": "x", "output_ids": [7], "meta_info": {key: value for key, value in meta.items() if value is not ...}})


def step(*listed: tuple[Any, Any], taken: Any = None, output_ids: Any = None, **more: Any) -> HttpResponse:
    value, chosen = taken or (listed[0][1], listed[0][0])
    meta = {
        "prompt_tokens": 2,
        "output_token_logprobs": [[value, chosen, None]],
        "output_top_logprobs": [[[value, token_id, None] for token_id, value in listed]],
        **more,
    }
    return said({"output_ids": output_ids or [chosen], "meta_info": meta})


def read(body: bytes) -> dict[int, float]:
    """A plain reading of an answer in any of the three forms."""
    data = json.loads(body)
    meta = (data[0] if isinstance(data, list) else data)["meta_info"]
    if "output_top_logprobs_val_flat_b64" in meta:
        ids = np.frombuffer(base64.b64decode(meta["output_top_logprobs_idx_flat_b64"]), "<i4").tolist()
        values = np.frombuffer(base64.b64decode(meta["output_top_logprobs_val_flat_b64"]), "<f4").tolist()
    elif "output_top_logprobs_val_flat" in meta:
        ids, values = meta["output_top_logprobs_idx_flat"], meta["output_top_logprobs_val_flat"]
    else:
        values, ids, _ = zip(*meta["output_top_logprobs"][0], strict=True)
    return {token_id: wire.float32(value, LOWEST) for token_id, value in zip(ids, values, strict=True)}


def with_form(request: HttpRequest, form: str) -> HttpRequest:
    data = {key: value for key, value in json.loads(request.body).items() if not key.startswith("return_flat")} | FORMS[form]
    return replace(request, body=json.dumps(data).encode())


@wire.same_every_time
@given(wire.prompts, st.integers(1, 12), st.none() | wire.names)
def test_a_question_arrives_as_it_was_asked(token_ids: tuple[int, ...], top_k: int, model: str | None) -> None:
    """decode_request(encode_request(ask)) == ask; never more than the vocabulary has, which would end the server."""
    ask = Ask(token_ids, top_k, model)

    assert PROTOCOL.decode_request(PROTOCOL.encode_request(ask, INFO)) == ask
    assert PROTOCOL.decode_request(PROTOCOL.encode_request(Ask(token_ids), INFO)) == Ask(token_ids, 12)
    assert PROTOCOL.decode_request(PROTOCOL.encode_request(Ask(token_ids, 99), INFO)) == Ask(token_ids, 12)


def test_what_would_end_the_server_is_never_sent() -> None:
    """Neither an id outside the vocabulary, nor anything while its size is unknown."""
    with pytest.raises(InvalidPrompt, match="token id 12 is outside the vocabulary of 12"):
        PROTOCOL.encode_request(Ask((1, 12), 2), INFO)
    with pytest.raises(UsageError, match="vocab_size="):
        PROTOCOL.encode_request(Ask((1,), 2), ModelInfo())


@pytest.mark.parametrize("form", FORMS)
@wire.same_every_time
@given(wire.full_rows(), st.none() | wire.small_ints)
def test_a_row_arrives_as_it_was_given(form: str, row: np.ndarray[Any, Any], top_k: int | None) -> None:
    """In each form, alone or nested; with the server's own choice, what it read and what it had cached."""
    ask = Ask((1, 2, 3), top_k)
    request = with_form(PROTOCOL.encode_request(ask, INFO), form)
    response = wire.respond(wire.FixedLLM(row, INFO), request, PROTOCOL)
    answer = PROTOCOL.decode_response(ask, INFO, response)

    want = top_logprobs(row, 12 if top_k is None else top_k)
    assert wire.same_row(answer.row, full_row(want) if top_k is None else want)
    assert (answer.chosen, answer.prompt_tokens, answer.cached_tokens) == (want.token_ids[0], 3, 0)
    assert len(response.body) <= PROTOCOL.answer_bound(ask, INFO)
    nested = replace(request, body=request.body.replace(b"[1, 2, 3]", b"[[1, 2, 3]]"))
    response = wire.respond(wire.FixedLLM(row, INFO), nested, PROTOCOL)
    assert isinstance(json.loads(response.body), list)
    assert PROTOCOL.decode_response(ask, INFO, response).chosen == answer.chosen


@pytest.mark.parametrize("form", FORMS)
def test_the_documented_answer_is_decoded_in_each_form(form: str) -> None:
    """Little-endian float32 and int32; float32's lowest is -inf."""
    answer = PROTOCOL.decode_response(TOP3, INFO, documented(form))

    assert wire.as_dict(answer.row) == {7: -0.25, 2: -1.5078125, 5: -np.inf}
    assert (answer.chosen, answer.prompt_tokens, answer.cached_tokens) == (7, 3, 2)


@pytest.mark.parametrize("form", FORMS)
def test_our_answer_has_the_documented_shape(form: str) -> None:
    """The same lists, to the octet in base64, and no other fields than documented ones."""
    row = np.full(12, -np.inf, np.float32)
    row[[7, 2]] = np.log(np.float32([0.75, 0.25]))
    request = with_form(PROTOCOL.encode_request(TOP3, INFO), form)
    have = json.loads(wire.respond(wire.FixedLLM(row, INFO), request, PROTOCOL).body)
    rest = {"weight_version": "", "output_token_logprobs_length": 1, "input_token_logprobs": [], "input_top_logprobs": []}
    want = json.loads(documented(form, **rest).body)

    assert set(have["meta_info"]) == set(want["meta_info"])
    assert wire.contains(wire.shape(want), wire.shape(have))
    if form == "base64":
        assert have["meta_info"]["output_top_logprobs_idx_flat_b64"] == base64.b64encode(np.array([7, 2, 0], "<i4").tobytes()).decode()
        assert have["meta_info"]["output_top_logprobs_val_flat_b64"].endswith("///3//"[2:])


def test_a_refusal_is_understood_as_it_was_meant() -> None:
    """Its meaning, words, flag and Retry-After survive the wire."""
    wire.holds_for_every_refusal(PROTOCOL)


@pytest.mark.parametrize(
    ("error", "shape"),
    [
        (BadRequest("x", status=400), {"error": {"message": "str"}}),
        (Unauthorized("x", status=401), {"error": "str"}),
        (Overloaded("x", status=503), {"object": "str", "message": "str", "type": "str", "param": "NoneType", "code": "int"}),
    ],
)
def test_errors_have_their_four_shapes(error: SeedbedError, shape: Any) -> None:
    """A bad value is nested, a missing key is a string, the rest is flat."""
    assert wire.shape(json.loads(PROTOCOL.encode_error(error).body)) == shape


@wire.same_every_time
@given(wire.texts, wire.some_token_ids)
def test_texts_and_token_ids_arrive(text: str, token_ids: list[int]) -> None:
    """Tokenise and detokenise, questions and answers, both directions."""
    wire.holds_for_texts_and_token_ids(PROTOCOL, text, token_ids)


@pytest.mark.parametrize("form", FORMS)
def test_a_cut_or_changed_answer_is_never_another_row_unnoticed(form: str) -> None:
    """Every truncation is an error; one changed octet is an error, or what the octets now say."""
    response = documented(form)

    wire.holds_for_every_truncation(PROTOCOL, TOP3, INFO, response)
    wire.holds_for_every_changed_byte(PROTOCOL, TOP3, INFO, response, read)


@pytest.mark.parametrize("form", FORMS)
@wire.thorough
@given(st.data())
def test_a_shaken_answer_is_a_row_or_a_typed_error(form: str, data: st.DataObject) -> None:
    """Any JSON in any place of an honest answer: never an untyped exception, and a row only of what was asked for."""
    row = wire.outcome(PROTOCOL, TOP3, INFO, said(wire.shaken(json.loads(documented(form).body), data.draw)))

    assert isinstance(row, SeedbedError) or (isinstance(row, TopLogprobs) and len(row) == 3)


NAN = base64.b64encode(np.array([np.nan, -1.5, -2.0], "<f4").tobytes()).decode()


@pytest.mark.parametrize(
    ("ask", "response", "kind", "words"),
    [
        (TOP2, step((3, -0.1)), DishonestAnswer, "2 tokens were asked for, 1 are listed"),
        (TOP2, step((3, -1.0), (4, -1.5), (5, -2.0)), DishonestAnswer, "2 tokens were asked for, 3 are listed"),
        (TOP2, step((3, -0.7), (3, -0.7)), MalformedRow, "twice"),
        (TOP2, step((3, -0.7), (12, -0.7)), MalformedRow, "outside the vocabulary"),
        (TOP2, step((3, -0.7), ("4", -0.7)), BrokenAnswer, "no integers"),
        (TOP2, step((3, 1.5), (4, -0.7)), MalformedRow, "are these logits"),
        (TOP2, step((3, -0.1), (4, -0.2)), MalformedRow, "sum to probability"),
        (TOP2, step((3, -9.0), (4, -9.5)), MalformedRow, "no distribution"),
        (TOP2, step((3, None), (4, -1.0)), NonFiniteLogits, "is null"),
        (TOP2, step((3, -0.2), (4, -2.0), taken=(-2.0, 4)), DishonestAnswer, "greedy choice is token 4"),
        (TOP2, step((3, -0.2), (4, -2.0), taken=(-0.3, 3)), DishonestAnswer, "token 3 has logprob -0.3 by itself"),
        (TOP2, step((3, -0.2), (4, -2.0), taken=("x", 3)), BrokenAnswer, "no numbers"),
        (TOP2, step((3, -0.2), (4, -2.0), output_ids=[4]), DishonestAnswer, r"output_ids \[4\]"),
        (TOP2, step((3, -0.2), (4, -2.0), output_token_logprobs=[]), BrokenAnswer, "no output_token_logprobs"),
        (TOP2, step((3, -0.2), (4, -2.0), prompt_tokens=3), DishonestAnswer, "the server read 3"),
        (TOP2, step((3, -0.2), (4, -2.0), prompt_tokens=1), DishonestAnswer, "cuts the prompt"),
        (TOP2, step((3, -0.2), (4, -2.0), output_top_logprobs=[None]), BrokenAnswer, "no list of top logprobs"),
        (TOP2, step((3, -0.2), (4, -2.0), output_top_logprobs=[]), BrokenAnswer, "no list of top logprobs"),
        (TOP3, documented("base64", output_top_logprobs_val_flat_b64=NAN), NonFiniteLogits, "token 7 is NaN"),
        (TOP3, documented("base64", output_top_logprobs_val_flat_b64="AACAvgAAwL/"), BrokenAnswer, "no list of top logprobs"),
        (TOP3, documented("base64", output_top_logprobs_val_flat_b64="AACA vgAAwL///3//"), BrokenAnswer, "no list of top logprobs"),
        (TOP3, documented("base64", output_top_logprobs_val_flat_b64="AACAvgAAwL8="), DishonestAnswer, "3 ids and 2 values"),
        (TOP3, documented("base64", output_top_logprobs_val_flat_b64_dtype="float16"), BrokenAnswer, "must be float32"),
        (TOP3, documented("base64", output_top_logprobs_idx_flat_b64_dtype="int64"), BrokenAnswer, "must be int32"),
        (TOP3, documented("base64", output_top_logprobs_idx_flat_b64=...), BrokenAnswer, "no list of top logprobs"),
        (TOP3, documented("flat", output_top_logprobs_shape=[3, 1]), DishonestAnswer, "the shape of the list is said to be"),
        (TOP3, documented("flat", output_top_logprobs_shape=[1, 2]), DishonestAnswer, "the shape of the list is said to be"),
        (TOP3, documented("flat", output_top_logprobs_null_prefix=1), DishonestAnswer, "the shape of the list is said to be"),
        (TOP3, documented("flat", output_top_logprobs_idx_flat=[7, 2]), DishonestAnswer, "2 ids and 3 values"),
        (TOP3, documented("flat", finish_reason={"type": "abort", "message": "gone"}), EngineFailed, "gone"),
        (TOP3, documented("flat", finish_reason={"type": "abort", "message": "bad", "status_code": 400}), BadRequest, "bad"),
        (TOP3, said([]), DishonestAnswer, "the answer has 0"),
        (TOP3, said([{}, {}]), DishonestAnswer, "the answer has 2"),
        (TOP3, said(7), BrokenAnswer, "no list of top logprobs"),
    ],
)
def test_a_dishonest_answer_is_named(ask: Ask, response: HttpResponse, kind: type[SeedbedError], words: str) -> None:
    """Every way to contradict the question or itself is an error that says which."""
    with pytest.raises(kind, match=words) as caught:
        PROTOCOL.decode_response(ask, INFO, response)

    assert type(caught.value) is kind


def real_server(version: str = "0.5.23", **settings: Any) -> Any:
    """A server in the words of SGLang's source."""
    answers = {
        "/model_info": said({"model_path": "org/model", "served_model_name": "lm", "weight_version": "default", "is_generation": True}),
        "/v1/models": said({"data": [{"id": "lm", "owned_by": "sglang", "max_model_len": 4096}]}),
        "/server_info": said({"version": version, "enable_deterministic_inference": False, "disable_radix_cache": True, **settings}),
        "/generate": said(
            {"error": {"message": "token_ids_logprob contains out-of-vocabulary token id 2147483647; valid range is [0, 32000)."}}, 400
        ),
    }
    return lambda request: answers.get(request.route, HttpResponse(404))


def test_a_server_is_discovered() -> None:
    """Name, version, weights, context and vocabulary; and the flag that would make its rows repeatable."""
    found = wire.discovered(PROTOCOL, real_server())

    assert found is not None
    assert found[1] == ModelInfo(
        model="lm",
        server="SGLang 0.5.23",
        fingerprint="default",
        vocab_size=32_000,
        context_length=4096,
        protocol="sglang",
        kind="logprobs",
    )
    assert "start it with --enable-deterministic-inference" in found[1].notes[0]
    assert "radix" not in found[1].notes[0]
    found = wire.discovered(PROTOCOL, real_server(enable_deterministic_inference=True))
    assert found is not None
    assert found[1].notes == ()


@pytest.mark.parametrize("version", ["0.5.12.post1", "0.4.9", "main"])
def test_what_would_end_an_old_server_is_not_sent(version: str) -> None:
    """Before June 2026 an id asked for that cannot be is not refused; the size is then for the caller to give."""
    real, seen = real_server(version), []

    def answers(request: HttpRequest) -> HttpResponse:
        seen.append(request.route)
        return real(request)

    found = wire.discovered(PROTOCOL, answers)

    assert "/generate" not in seen
    assert found is not None
    assert found[1].vocab_size is None


@pytest.mark.parametrize(
    ("about", "listed", "named"),
    [
        ({"model_path": "path", "served_model_name": "served"}, [{"id": "a"}, {"id": "b"}], "a"),
        ({"model_path": "path", "served_model_name": "served"}, [], "served"),
        ({"model_path": "path"}, [{"id": 5}], "path"),
    ],
)
def test_a_model_is_called_what_clients_call_it(about: dict[str, str], listed: list[dict[str, Any]], named: str) -> None:
    """By the list of models, else by the name it is served under, else by where its weights are; and by the name that was asked for."""
    answers = wire.replies({"GET /model_info": said(about), "GET /v1/models": said({"data": listed})})
    found, meant = wire.discovered(PROTOCOL, answers), wire.discovered(PROTOCOL, answers, "b")

    assert found is not None
    assert meant is not None
    assert (found[1].model, found[1].server) == (named, "SGLang")
    assert meant[1].model == ("b" if len(listed) == 2 else named)


def test_every_flag_that_would_make_rows_repeatable_is_named() -> None:
    settings = {"version": "0.5.14", "disable_radix_cache": False, "enable_deterministic_inference": False}
    real = real_server()
    found = wire.discovered(PROTOCOL, lambda request: said(settings) if request.route == "/server_info" else real(request))

    assert found is not None
    assert found[1].vocab_size == 32_000  # the first release that can be asked for it
    assert found[1].notes == (
        (
            "rows may differ with what else runs and what is cached; start it with --enable-deterministic-inference "
            "--disable-radix-cache for repeatable rows"
        ),
    )


def test_what_is_no_refusal_tells_no_size() -> None:
    real, told = real_server(), {"error": {"message": "valid range is [0, 32000)."}}
    found = wire.discovered(PROTOCOL, lambda request: said(told) if request.route == "/generate" else real(request))

    assert found is not None
    assert found[1].vocab_size is None


def test_a_shared_path_is_understood_in_each_way_it_may_be_answered() -> None:
    for name in ("text", "content", "prompt"):
        assert PROTOCOL.decode_text(said({name: "x"})) == "x"


def test_the_old_name_of_its_description_is_tried_too() -> None:
    """/get_model_info."""
    real, renamed = real_server(), {"/model_info": "/nothing", "/get_model_info": "/model_info"}
    found = wire.discovered(PROTOCOL, lambda request: real(replace(request, path=renamed.get(request.path, request.path))))
    assert found is not None
    assert found[1].model == "lm"


@wire.same_every_time
@given(
    st.builds(
        ModelInfo,
        model=wire.names,
        server=st.sampled_from(["SGLang 0.5.23", "SGLang 1.0.0rc1"]),
        fingerprint=wire.names,
        vocab_size=st.integers(12, 2**31 - 1),
        context_length=st.none() | st.integers(2, 2**40),
        protocol=st.just("sglang"),
        max_top_k=st.none() | st.integers(1, 11),
        kind=st.just("logprobs"),
    )
)
def test_what_a_model_says_of_itself_is_discovered(info: ModelInfo) -> None:
    """Discovery against our own server half finds the same ModelInfo, without the end tokens; the model is not asked."""
    llm = wire.FixedLLM(np.zeros(12, np.float32), info)

    assert wire.discovered(PROTOCOL, lambda request: wire.respond(llm, request, PROTOCOL)) == (PROTOCOL, info)
    assert llm.asked == []


@wire.thorough
@given(st.data())
def test_discovery_survives_any_answer(data: st.DataObject) -> None:
    """Whatever a server says of itself, discovery says None or a ModelInfo whose fields have the types they promise."""
    real, shaken, asked = real_server(), data.draw(st.integers(0, 3)), []

    def answers(request: HttpRequest) -> HttpResponse:
        asked.append(request)
        answer = real(request)
        if len(asked) != shaken + 1 or not answer.body:
            return answer
        return replace(answer, body=json.dumps(wire.shaken(json.loads(answer.body), data.draw)).encode())

    assert wire.is_well_typed(wire.discovered(PROTOCOL, answers))


@pytest.mark.parametrize("body", wire.SOMETHING_ELSE)
@pytest.mark.parametrize("status", [200, 404, 403, 503])
def test_discovery_of_something_else_finds_nothing(body: bytes, status: int) -> None:
    """HTML, nothing, or JSON of another kind is not SGLang."""
    assert wire.discovered(PROTOCOL, lambda _: HttpResponse(status, (), body)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"sampling_params": {"max_new_tokens": 2}},
        {"sampling_params": {}},
        {"sampling_params": None},
        {"sampling_params": {"max_new_tokens": 1, "n": 2}},
        {"stream": True},
        {"return_logprob": False},
        {"top_logprobs_num": 0},
        {"top_logprobs_num": None},
        {"top_logprobs_num": True},
        {"input_ids": "text"},
        {"input_ids": [[1], [2]]},
        {"input_ids": [99]},
        {"token_ids_logprob": [1]},
        {"token_ids_logprob": [99]},
        {"token_ids_logprob": "x"},
    ],
)
def test_what_our_server_half_cannot_do_it_refuses(change: dict[str, Any]) -> None:
    """400 rather than less than was asked for; the model is not asked."""
    data = {"input_ids": [1], "sampling_params": {"max_new_tokens": 1}, "return_logprob": True, "top_logprobs_num": 2} | change
    llm = wire.FixedLLM(np.zeros(12, np.float32), INFO)
    response = wire.respond(llm, HttpRequest("POST", "/generate", (), json.dumps(data).encode()), PROTOCOL)

    assert (response.status, llm.asked) == (400, [])


def test_a_model_that_gives_nan_is_told_so() -> None:
    """The server half says what happened."""
    llm = wire.FixedLLM(np.full(12, np.nan, np.float32), INFO)
    with pytest.raises(NonFiniteAtServer):
        PROTOCOL.decode_response(TOP2, INFO, wire.respond(llm, PROTOCOL.encode_request(TOP2, INFO), PROTOCOL))


def test_the_end_token_is_a_normal_answer() -> None:
    """finish_reason tells which token matched; the row is there."""
    row = np.zeros(12, np.float32)
    row[0] = 5
    data = json.loads(wire.respond(wire.FixedLLM(row, INFO), PROTOCOL.encode_request(TOP2, INFO), PROTOCOL).body)

    assert (data["meta_info"]["finish_reason"], data["text"], data["output_ids"]) == ({"type": "stop", "matched": 0}, "", [0])


def test_only_its_own_paths_are_its_questions() -> None:
    """The rest is None, for other protocols to look at."""
    assert PROTOCOL.decode_request(HttpRequest("GET", "/ready")) == Health()
    assert PROTOCOL.decode_request(HttpRequest("GET", "/get_model_info")) == Describe("/get_model_info")
    assert PROTOCOL.decode_request(HttpRequest("GET", "/generate")) is None
