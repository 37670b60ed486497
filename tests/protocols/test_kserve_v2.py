"""The open inference protocol: tensors as octets and as JSON, of every layout we know, both halves against each other."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols import wire
from tests.protocols.wire import said

from seedbed.errors import (
    BadRequest,
    BrokenAnswer,
    DishonestAnswer,
    FeatureOff,
    InvalidPrompt,
    NonFiniteLogits,
    SeedbedError,
    UnknownModel,
    UsageError,
)
from seedbed.llm.base import ModelInfo
from seedbed.protocols import PROTOCOLS
from seedbed.protocols.exchange import Ask, Describe, Health, HttpRequest, HttpResponse
from seedbed.protocols.kserve_v2 import KServeV2, Layout, Tensor
from seedbed.protocols.rows import top_logprobs

PROTOCOL = KServeV2()
INFO = ModelInfo(model="m", vocab_size=12, protocol="kserve-v2")
FULL = Ask((1, 2))
TRTLLM = Layout(
    logits=Tensor("generation_logits", "FP32"),
    lengths=Tensor("input_lengths", "INT32"),
    output_length=Tensor("request_output_len", "INT32"),
    switches=("return_generation_logits", "exclude_input_in_output"),
    choice=Tensor("output_ids", "INT32"),
)
ROW = np.float32([0, 1, 2, 3, -np.inf, 5, 6, 7, -1, -2, -3, -4])


def answer(outputs: list[dict[str, Any]], octets: bytes = b"", **head: Any) -> HttpResponse:
    text = orjson.dumps({"model_name": "m", "model_version": "1", "outputs": outputs, **head})
    return HttpResponse(200, (("Inference-Header-Content-Length", str(len(text))),), text + octets)


def logits(values: np.ndarray[Any, Any], shape: list[Any] | None = None, datatype: str = "FP32", **more: Any) -> HttpResponse:
    octets = values.tobytes()
    entry = {"name": "logits", "datatype": datatype, "shape": shape or [1, 1, values.size], "parameters": {"binary_data_size": len(octets)}}
    return answer([entry | more], octets)


def in_json(data: Any, shape: Any = None, **more: Any) -> HttpResponse:
    return said({"outputs": [{"name": "logits", "datatype": "FP32", "shape": shape or [1, 12], "data": data} | more]})


layouts = st.builds(
    Layout,
    token_ids=st.builds(Tensor, st.just("ids"), st.sampled_from(["INT32", "INT64"])),
    logits=st.builds(Tensor, st.just("out"), st.just("FP32")),
    lengths=st.none() | st.just(Tensor("len", "INT64")),
    output_length=st.none() | st.just(Tensor("n", "INT32")),
    switches=st.sampled_from([(), ("on",)]),
    choice=st.none() | st.just(Tensor("took", "INT32")),
    batched=st.booleans(),
    binary=st.booleans(),
)


@wire.thorough
@given(layouts, wire.prompts, wire.names)
def test_a_question_arrives_as_it_was_asked(layout: Layout, token_ids: tuple[int, ...], model: str) -> None:
    """decode_request(encode_request(ask)) == ask, in octets and in JSON; rows are always full ones."""
    protocol = KServeV2(layout=layout)

    assert protocol.decode_request(protocol.encode_request(Ask(token_ids, None, model), INFO)) == Ask(token_ids, None, model)
    assert protocol.decode_request(protocol.encode_request(Ask(token_ids, 5), INFO)) == Ask(token_ids, None, "m")


def test_the_documented_question_is_made_to_the_octet() -> None:
    """The JSON, its length in the header, then little-endian int32 without a gap."""
    request = PROTOCOL.encode_request(Ask((5, 6, 258)), replace(INFO, model="org/lm", vocab_size=1000))
    length = int(request.header("inference-header-content-length") or "")

    assert (request.method, request.path) == ("POST", "/v2/models/org%2Flm/infer")
    assert json.loads(request.body[:length]) == {
        "inputs": [{"name": "input_ids", "shape": [1, 3], "datatype": "INT32", "parameters": {"binary_data_size": 12}}],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
    }
    assert request.body[length:] == bytes([5, 0, 0, 0, 6, 0, 0, 0, 2, 1, 0, 0])


@wire.thorough
@given(layouts, wire.full_rows(), st.none() | wire.small_ints)
def test_a_row_arrives_as_it_was_given(layout: Layout, row: np.ndarray[Any, Any], top_k: int | None) -> None:
    """Bit by bit in octets, and in JSON where it has no -inf; a list is cut from it here."""
    if not layout.binary:
        row = np.where(np.isinf(row), np.float32(-50), row)
    protocol, ask = KServeV2(layout=layout), Ask((1, 2, 3), top_k)
    response = wire.respond(wire.FixedLLM(row, INFO), protocol.encode_request(ask, INFO), protocol)
    have = protocol.decode_response(ask, INFO, response)

    assert wire.same_row(have.row, row if top_k is None else top_logprobs(row, top_k))
    assert have.chosen == (int(row.argmax()) if layout.choice else None)
    assert len(response.body) <= protocol.answer_bound(ask, INFO)
    assert (response.header("inference-header-content-length") is not None) == layout.binary


@pytest.mark.parametrize(("datatype", "what"), [("FP16", "FP16"), ("BF16", "BF16"), ("FP32", "-inf")])
def test_what_cannot_travel_as_json_is_named(datatype: str, what: str) -> None:
    protocol = KServeV2(layout=Layout(logits=Tensor("logits", datatype)))
    refused = wire.respond(wire.FixedLLM(ROW, INFO), question({}), protocol)

    assert (refused.status, orjson.loads(refused.body)) == (400, {"error": f"{what} cannot travel as JSON: ask for binary_data"})


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
@wire.same_every_time
@given(wire.full_rows())
def test_half_precision_is_rounded_once_and_widened_exactly(datatype: str, row: np.ndarray[Any, Any]) -> None:
    """What arrives is the nearest value of the narrow type, ties to even."""
    row = np.clip(row, -60_000, 60_000)
    protocol = KServeV2(layout=Layout(logits=Tensor("logits", datatype)))
    response = wire.respond(wire.FixedLLM(row, INFO), protocol.encode_request(FULL, INFO), protocol)
    have = protocol.decode_response(FULL, INFO, response).row

    assert isinstance(have, np.ndarray)
    if datatype == "FP16":
        want = row.astype(np.float16).astype(np.float32)
    else:
        assert not (have.view(np.uint32) & 0xFFFF).any()
        halfway = np.abs(have.view(np.uint32).astype(np.int64) - row.view(np.uint32).astype(np.int64))
        assert halfway.max() <= 0x8000
        want = have
    assert wire.same_row(have, want)


def test_a_bfloat16_tie_goes_to_even() -> None:
    """Both ways, and NaN stays NaN."""
    row = np.array([0x3F808000, 0x3F818000, 0x7F800001], np.uint32).view(np.float32)
    protocol = KServeV2(layout=Layout(logits=Tensor("logits", "BF16")))
    response = wire.respond(wire.FixedLLM(row), protocol.encode_request(FULL, ModelInfo(model="m", vocab_size=3)), protocol)

    assert bytes(response.body[-6:]) == bytes([0x80, 0x3F, 0x82, 0x3F, 0xC0, 0x7F])


@pytest.mark.parametrize("shape", [[1, 12], [12], [1, 1, 12], [1, 1, 1, 12]])
def test_a_row_of_any_rank_is_read(shape: list[int]) -> None:
    """With and without a batch axis, positions and beams."""
    assert wire.same_row(PROTOCOL.decode_response(FULL, INFO, logits(ROW, shape)).row, ROW)


@pytest.mark.parametrize("shape", [[1, 2, 12], [2, 12]])
def test_of_rows_for_every_position_the_last_counts(shape: list[int]) -> None:
    """As many as the prompt has tokens, or the server read another prompt."""
    both = np.concatenate([np.zeros(12, np.float32), ROW])

    assert wire.same_row(PROTOCOL.decode_response(FULL, INFO, logits(both, shape)).row, ROW)
    with pytest.raises(DishonestAnswer, match="3 tokens were sent, the answer has rows for 2"):
        PROTOCOL.decode_response(Ask((1, 2, 3)), INFO, logits(both, shape))


@pytest.mark.parametrize("data", [ROW[:4].tolist(), [ROW[:4].tolist()], [[[0, 1.0], [2, 3]]]])
def test_an_answer_in_json_is_read_flat_or_nested(data: Any) -> None:
    """Ints among the numbers too."""
    have = PROTOCOL.decode_response(FULL, ModelInfo(vocab_size=4), in_json(data, [1, 4])).row

    assert wire.same_row(have, np.float32([0, 1, 2, 3]))


def test_other_outputs_are_passed_over() -> None:
    """Whatever else a model gives, of whatever type, in whatever order."""
    octets = b"\x03\x00\x00\x00abc" + ROW.tobytes()
    outputs = [
        {"name": "text", "datatype": "BYTES", "shape": [7], "parameters": {"binary_data_size": 7}},
        {"name": "logits", "datatype": "FP32", "shape": [1, 12], "parameters": {"binary_data_size": 48}},
        {"name": "flag", "datatype": "BOOL", "shape": [1], "data": [True]},
    ]

    assert wire.same_row(PROTOCOL.decode_response(FULL, INFO, answer(outputs, octets)).row, ROW)


def test_a_padded_row_is_cut_to_the_vocabulary_that_was_given() -> None:
    """Tensor parallelism pads it; what the model declares is still held to."""
    protocol = KServeV2(layout=Layout(row_length=12))

    assert wire.same_row(protocol.decode_response(FULL, replace(INFO, vocab_size=10), logits(ROW)).row, ROW[:10])
    with pytest.raises(DishonestAnswer, match="the row has 12 entries, the model declares 12 and the vocabulary has 13"):
        protocol.decode_response(FULL, replace(INFO, vocab_size=13), logits(ROW))


def trtllm(chosen: list[int]) -> HttpResponse:
    ids = np.array(chosen, "<i4").tobytes()
    outputs = [
        {"name": "output_ids", "datatype": "INT32", "shape": [1, 1, len(chosen)], "parameters": {"binary_data_size": len(ids)}},
        {"name": "generation_logits", "datatype": "FP32", "shape": [1, 1, 1, 12], "parameters": {"binary_data_size": 48}},
    ]
    return answer(outputs, ids + ROW.tobytes())


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ([6], "greedy choice is token 6, the best it lists is token 7"),
        ([1, 2, 6], "greedy choice is token 6"),
        ([1, 3, 7], "begins with another prompt"),
        ([7, 7], "one token was asked for"),
        ([], "one token was asked for"),
    ],
)
def test_tensorrt_llm_says_what_it_took_and_is_held_to_it(chosen: list[int], words: str) -> None:
    """Its generation logits may start one position late, which only this shows."""
    protocol = KServeV2(layout=TRTLLM)
    for honest in ([7], [1, 2, 7]):
        assert protocol.decode_response(FULL, INFO, trtllm(honest)).chosen == 7
    with pytest.raises(DishonestAnswer, match=words):
        protocol.decode_response(FULL, INFO, trtllm(chosen))


def test_an_engine_built_without_logits_is_named_with_its_flag() -> None:
    """Its output is then empty."""
    empty = {"name": "generation_logits", "datatype": "FP32", "shape": [1, 1, 0, 12], "data": []}
    with pytest.raises(FeatureOff) as caught:
        KServeV2(layout=TRTLLM).decode_response(FULL, INFO, said({"outputs": [empty]}))

    assert (caught.value.flag, caught.value.status) == ("--gather_generation_logits", 200)


def test_a_row_is_as_long_as_the_vocabulary_where_no_length_was_declared() -> None:
    with pytest.raises(DishonestAnswer, match="the row has 13 entries, the model declares 12 and the vocabulary has 12"):
        PROTOCOL.decode_response(FULL, INFO, logits(np.zeros(13, np.float32)))


def test_tensorrt_llm_is_asked_with_all_its_inputs() -> None:
    """The prompt, its length, one token, and what is to come back."""
    request = KServeV2(layout=TRTLLM).encode_request(FULL, INFO)
    length = int(request.header("inference-header-content-length") or "")
    asked = json.loads(request.body[:length])

    assert [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in asked["inputs"]] == [
        ("input_ids", "INT32", [1, 2]),
        ("input_lengths", "INT32", [1, 1]),
        ("request_output_len", "INT32", [1, 1]),
        ("return_generation_logits", "BOOL", [1, 1]),
        ("exclude_input_in_output", "BOOL", [1, 1]),
    ]
    assert [output["name"] for output in asked["outputs"]] == ["generation_logits", "output_ids"]
    assert request.body[length:] == bytes([1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 1])


def test_a_refusal_is_understood_as_it_was_meant() -> None:
    """Its meaning, words, flag and Retry-After survive the wire, in an envelope that has but a text."""
    wire.holds_for_every_refusal(PROTOCOL)
    assert wire.shape(json.loads(PROTOCOL.encode_error(BadRequest("x", status=400)).body)) == {"error": "str"}


@pytest.mark.parametrize("response", [logits(ROW), trtllm([7])], ids=["logits", "trtllm"])
def test_a_cut_or_changed_answer_is_never_another_row_unnoticed(response: HttpResponse) -> None:
    """Every truncation is an error; one changed octet is an error, or what the octets now say."""
    protocol = PROTOCOL if b"output_ids" not in response.body else KServeV2(layout=TRTLLM)

    def read(body: bytes) -> dict[int, float]:
        return dict(enumerate(np.frombuffer(body[-48:], "<f4").tolist()))

    wire.holds_for_every_truncation(protocol, FULL, INFO, response)
    body = bytearray(response.body)
    for place in range(len(body)):
        for other in (body[place] ^ 1, body[place] ^ 0x10, 0x39):
            changed = bytes(body[:place]) + bytes([other]) + bytes(body[place + 1 :])
            row = wire.outcome(protocol, FULL, INFO, HttpResponse(200, response.headers, changed))
            if not isinstance(row, SeedbedError):
                np.testing.assert_equal(wire.as_dict(row), read(changed))


@pytest.mark.parametrize(
    ("response", "kind", "words"),
    [
        (logits(ROW[:11]), DishonestAnswer, "11 entries"),
        (logits(ROW, [1, 11]), BrokenAnswer, r"12 values, its shape is \[1, 11\]"),
        (logits(ROW, [1, "12"]), BrokenAnswer, "the shape of 'logits' is"),
        (logits(ROW, [1, -12]), BrokenAnswer, "the shape of 'logits' is"),
        (logits(ROW, [2**41, 12]), BrokenAnswer, "the shape of 'logits' is"),
        (logits(ROW, datatype="FP16"), BrokenAnswer, "24 values"),
        (logits(ROW, datatype="INT32"), BrokenAnswer, "is INT32, and no logits"),
        (logits(ROW, datatype="WHAT"), BrokenAnswer, "48 values"),
        (logits(ROW, name="other"), BrokenAnswer, "no output 'logits'; it has other"),
        (logits(ROW, name=7), BrokenAnswer, "a tensor's name is 7"),
        (logits(ROW, datatype=[]), BrokenAnswer, "the datatype of 'logits' is "),
        (logits(ROW, parameters={"binary_data_size": 47}), BrokenAnswer, "47 octets of 'logits' are no FP32"),
        (logits(ROW, parameters={"binary_data_size": 44}), BrokenAnswer, "11 values"),
        (logits(ROW, parameters={"binary_data_size": 52}), BrokenAnswer, "said to have 52 octets, there are 48"),
        (logits(ROW, parameters={"binary_data_size": -1}), BrokenAnswer, "said to have -1 octets"),
        (logits(ROW, parameters={"binary_data_size": "48"}), BrokenAnswer, "said to have '48' octets"),
        (logits(ROW, parameters={}), BrokenAnswer, "neither octets nor data"),
        (answer([], b"x"), BrokenAnswer, "1 octets belong to no tensor"),
        (answer([]), BrokenAnswer, "no output 'logits'; it has none"),
        (answer(None), BrokenAnswer, "there are no outputs"),  # type: ignore[arg-type]
        (answer([7]), BrokenAnswer, "there are no outputs"),  # type: ignore[list-item]
        (replace(logits(ROW), headers=(("inference-header-content-length", "x"),)), BrokenAnswer, "Inference-Header-Content-Length is 'x'"),
        (replace(logits(ROW), headers=(("inference-header-content-length", "-5"),)), BrokenAnswer, "Inference-Header-Content-Length"),
        (replace(logits(ROW), headers=(("inference-header-content-length", "5"),)), BrokenAnswer, "the JSON is none"),
        (replace(logits(ROW), headers=()), BrokenAnswer, "the JSON is none"),
        (in_json([0.0] * 11), BrokenAnswer, "11 values"),
        (in_json([None] * 12), NonFiniteLogits, "is null"),
        (in_json(["0"] * 12), BrokenAnswer, "the values are no numbers"),
        (in_json("x"), BrokenAnswer, "neither octets nor data"),
        (in_json([0.0] * 12 + [0.0] * 12, [2, 12], name="logits2"), BrokenAnswer, "it has logits2"),
        (HttpResponse(200, (), b"<html>"), BrokenAnswer, "it begins b'<html>'"),
    ],
)
def test_a_dishonest_answer_is_named(response: HttpResponse, kind: type[SeedbedError], words: str) -> None:
    """Every way to contradict the question or itself is an error that says which."""
    with pytest.raises(kind, match=words) as caught:
        PROTOCOL.decode_response(FULL, INFO, response)

    assert type(caught.value) is kind


@wire.thorough
@given(st.data())
def test_a_shaken_answer_is_a_row_or_a_typed_error(data: st.DataObject) -> None:
    """Any JSON in any place of an honest answer: never an untyped exception, and a row only of the vocabulary's length."""
    entry = {"name": "logits", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}
    in_octets = orjson.dumps(wire.shaken({"outputs": [entry]}, data.draw))
    shaken = HttpResponse(200, (("inference-header-content-length", str(len(in_octets))),), in_octets + ROW[:3].tobytes())
    also = said(wire.shaken({"outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 3], "data": [0.5, 1, 2]}]}, data.draw))
    for response in (shaken, also):
        row = wire.outcome(PROTOCOL, FULL, ModelInfo(vocab_size=3), response)
        assert isinstance(row, SeedbedError) or (isinstance(row, np.ndarray) and row.shape == (3,) and row.dtype == np.float32)


# Discovery.


def triton(**more: Any) -> Any:
    metadata = {
        "name": "lm",
        "versions": ["3"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "ids", "datatype": "INT64", "shape": [-1, -1]}],
        "outputs": [{"name": "scores", "datatype": "FP16", "shape": [-1, -1, 32_000]}],
    }
    answers = {
        "/v2": said({"name": "triton", "version": "2.60.0", "extensions": ["classification", "binary_tensor_data", "model_repository"]}),
        "/v2/repository/index": said([{"name": "lm", "version": "3", "state": "READY"}, {"name": "old", "state": "UNAVAILABLE"}]),
        "/v2/models/lm": said(metadata | more),
    }
    return lambda request: answers.get(request.route, said({"error": "Request for unknown model: it is not found"}, 404))


def test_a_triton_server_is_discovered() -> None:
    """Which tensors are what, their types, the vocabulary's size and the model's version; names from its only model."""
    found = wire.discovered(PROTOCOL, triton())

    assert found is not None
    layout = Layout(Tensor("ids", "INT64"), Tensor("scores", "FP16"), row_length=32_000, every_position=True)
    assert found == (
        KServeV2("lm", layout),
        ModelInfo(model="lm", server="triton 2.60.0", fingerprint="3", vocab_size=32_000, protocol="kserve-v2", kind="logits"),
    )


def test_tensorrt_llm_is_recognised_by_its_inputs() -> None:
    """As its backend declares them."""
    inputs = [
        {"name": name, "datatype": datatype, "shape": [-1, 1]}
        for name, datatype in (
            ("input_ids", "INT32"),
            ("input_lengths", "INT32"),
            ("request_output_len", "INT32"),
            ("end_id", "INT32"),
            ("temperature", "FP32"),
            ("return_generation_logits", "BOOL"),
            ("exclude_input_in_output", "BOOL"),
        )
    ]
    outputs = [
        {"name": "output_ids", "datatype": "INT32", "shape": [-1, -1, -1]},
        {"name": "context_logits", "datatype": "FP32", "shape": [-1, -1, -1]},
        {"name": "generation_logits", "datatype": "FP32", "shape": [-1, -1, -1, -1]},
    ]
    found = wire.discovered(PROTOCOL, triton(inputs=inputs, outputs=outputs))

    assert found == (
        KServeV2("lm", TRTLLM),
        ModelInfo(model="lm", server="triton 2.60.0", fingerprint="3", protocol="kserve-v2"),
    )


def declared(*tensors: tuple[str, str, list[int]]) -> list[dict[str, object]]:
    return [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in tensors]


THREE = [("input_ids", "INT32", [-1, -1]), ("input_lengths", "INT32", [-1, 1]), ("request_output_len", "INT32", [-1, 1])]
OF_THREE = Layout(lengths=Tensor("input_lengths", "INT32"), output_length=Tensor("request_output_len", "INT32"))


@pytest.mark.parametrize(
    ("inputs", "outputs", "layout"),
    [
        (
            THREE,
            [("context_logits", "FP32", [-1, -1, 9]), ("output_ids", "INT64", [-1])],
            replace(
                OF_THREE, logits=Tensor("context_logits", "FP32"), choice=Tensor("output_ids", "INT64"), row_length=9, every_position=True
            ),
        ),
        (
            [*THREE, ("return_generation_logits", "INT32", [1]), ("exclude_input_in_output", "BOOL", [1])],
            [("generation_logits", "FP16", [-1, 1, 9]), ("context_logits", "FP32", [9]), ("output_ids", "FP32", [-1])],
            replace(OF_THREE, logits=Tensor("generation_logits", "FP16"), switches=("exclude_input_in_output",), row_length=9),
        ),
        (
            [("tokens", "INT64", [-1])],
            [("out", "FP64", []), ("output_ids", "INT32", [-1])],
            Layout(Tensor("tokens", "INT64"), Tensor("out", "FP64"), batched=False),
        ),
        (
            [("The_Length", "INT32", [1]), ("input_ids", "INT64", [-1, -1])],
            [("a", "FP32", [1]), ("logits", "BF16", [-1, 5, 9])],
            Layout(Tensor("input_ids", "INT64"), Tensor("logits", "BF16"), lengths=Tensor("The_Length", "INT32"), row_length=9),
        ),
    ],
)
def test_tensors_are_known_by_names_and_types(
    inputs: list[tuple[str, str, list[int]]], outputs: list[tuple[str, str, list[int]]], layout: Layout
) -> None:
    """TensorRT-LLM's three inputs; or the one input of integers or ``input_ids``, with a length or none, and the one output of floats or
    ``logits``."""
    found = wire.discovered(PROTOCOL, triton(inputs=declared(*inputs), outputs=declared(*outputs)))

    assert found is not None
    assert found[0] == KServeV2("lm", layout)


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ([], [], "inputs none and outputs none: say so"),
        ([("a", "INT32"), ("b", "INT32")], [("x", "FP32"), ("y", "INT32")], "inputs a, b and outputs x, y: say so"),
        (
            [("input_ids", "INT32"), ("input_lengths", "INT32"), ("request_output_len", "INT32")],
            [("logits", "FP32")],
            "inputs input_ids, input_lengths, request_output_len and outputs logits: say so",
        ),
        (
            [("input_ids", "INT32"), ("length", "INT32"), ("mask", "INT32")],
            [("x", "FP32")],
            "inputs input_ids, length, mask and outputs x: ",
        ),
    ],
)
def test_what_there_is_to_choose_from_is_listed(inputs: list[tuple[str, str]], outputs: list[tuple[str, str]], words: str) -> None:
    half = [declared(*((name, datatype, [1]) for name, datatype in tensors)) for tensors in (inputs, outputs)]
    with pytest.raises(UsageError, match=words):
        wire.discovered(PROTOCOL, triton(inputs=half[0], outputs=half[1]))


def test_a_server_may_say_little_of_itself() -> None:
    """No version of its own, none of the model, or several; a list of models that is refused; a model that is ready without saying so."""
    plain = triton(versions=["1", "2"])
    about = {"name": "kserve", "extensions": ["binary_tensor_data"]}
    index = [{"name": "lm", "state": ""}, {"name": "lm", "state": "READY"}, {"name": "x", "state": "LOADING"}]
    little = {"/v2": said(about), "/v2/repository/index": said(index)}
    found = wire.discovered(PROTOCOL, lambda request: little.get(request.route) or plain(request))
    assert found is not None
    assert (found[1].server, found[1].fingerprint) == ("kserve", "1 2")

    unversioned, refused = triton(versions="3"), said([{"name": "lm"}], 404)
    found = wire.discovered(KServeV2("lm"), lambda request: unversioned(request))
    assert found is not None
    assert found[1].fingerprint == ""
    with pytest.raises(UsageError, match="the server lists none"):
        wire.discovered(PROTOCOL, lambda request: refused if "index" in request.route else plain(request))


@pytest.mark.parametrize(
    ("layout", "info", "octets"),
    [
        (Layout(), ModelInfo(vocab_size=12), 12 * 8),
        (Layout(row_length=16), ModelInfo(vocab_size=12), 16 * 8),
        (Layout(every_position=True), ModelInfo(vocab_size=12), 3 * 12 * 8),
        (Layout(binary=False), ModelInfo(vocab_size=12), 12 * 32),
        (Layout(), ModelInfo(), 4_194_304 * 8),
    ],
)
def test_an_answer_is_bounded_by_the_rows_it_may_hold(layout: Layout, info: ModelInfo, octets: int) -> None:
    assert KServeV2(layout=layout).answer_bound(Ask((1, 2, 3)), info) == 65_536 + octets
    assert KServeV2().answer_bound(Ask((1, 2, 3)), info) == 65_536 + (info.vocab_size or 4_194_304) * 8


@pytest.mark.parametrize(("datatype", "largest"), [("INT32", 2**31 - 1), ("INT64", 2**63 - 1)])
def test_an_id_that_the_tensor_cannot_hold_is_not_sent(datatype: str, largest: int) -> None:
    protocol = KServeV2(layout=Layout(Tensor("input_ids", datatype)))

    assert (
        str(largest).encode()
        in replace(protocol, layout=replace(protocol.layout, binary=False)).encode_request(Ask((largest,)), ModelInfo()).body
    )  # type: ignore[type-var]
    with pytest.raises(InvalidPrompt, match=f"is outside the vocabulary of {largest + 1}"):
        protocol.encode_request(Ask((largest + 1,)), ModelInfo())


def test_an_answer_without_what_the_server_took_is_named() -> None:
    with pytest.raises(DishonestAnswer, match="one token was asked for, the output 'output_ids' has 0"):
        KServeV2(layout=TRTLLM).decode_response(FULL, INFO, logits(ROW, name="generation_logits"))


def test_of_tensorrt_llms_models_the_one_with_tensors_is_meant() -> None:
    """The others are its tokenizer, and it behind that."""
    plain, index = triton(), said([{"name": "ensemble"}, {"name": "tensorrt_llm"}, {"name": "preprocessing"}])

    def answers(request: HttpRequest) -> HttpResponse:
        return index if "index" in request.route else plain(replace(request, path=request.path.replace("tensorrt_llm", "lm")))

    found = wire.discovered(PROTOCOL, answers)
    assert found is not None
    assert found[1].model == "tensorrt_llm"


def test_a_layout_that_was_given_is_kept() -> None:
    """And only whether the server sends octets is looked up."""
    layout = Layout(Tensor("a", "INT64"), Tensor("b", "FP32"))
    plain = triton()

    def answers(request: HttpRequest) -> HttpResponse:
        return said({"name": "kserve", "version": "1", "extensions": []}) if request.route == "/v2" else plain(request)

    found = wire.discovered(KServeV2("lm", layout), answers)

    assert found is not None
    assert found[0] == KServeV2("lm", replace(layout, binary=False))
    assert b'"data":[1,2]' in found[0].encode_request(FULL, INFO).body


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ([{"name": "a"}, {"name": "b"}], "the server lists a, b"),
        ([], "the server lists none"),
        ({"error": "not found"}, "the server lists none"),
        ("<html>", "the server lists none"),
        ([7, {"name": 7}, {"state": "READY"}], "the server lists none"),
    ],
)
def test_one_of_several_models_has_to_be_named(index: Any, words: str) -> None:
    """By connect(model=) or by KServeV2(model=)."""
    plain = triton()

    def answers(request: HttpRequest) -> HttpResponse:
        if "index" not in request.route:
            return plain(request)
        return HttpResponse(200, (), b"<html>") if index == "<html>" else said(index)

    with pytest.raises(UsageError, match=words):
        wire.discovered(PROTOCOL, answers)
    assert wire.discovered(PROTOCOL, answers, "lm") == wire.discovered(KServeV2("lm"), answers)
    with pytest.raises(UnknownModel):
        wire.discovered(PROTOCOL, answers, "nope")


@pytest.mark.parametrize(
    "more",
    [
        {"inputs": []},
        {"outputs": []},
        {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1]}]},
        {"inputs": [{"name": "a", "datatype": "INT64"}, {"name": "b", "datatype": "INT64"}]},
        {"inputs": [{"name": "input_ids", "datatype": "INT64"}, {"name": "attention_mask", "datatype": "INT64"}]},
        {"outputs": [{"name": "a", "datatype": "FP32"}, {"name": "b", "datatype": "FP32"}]},
    ],
)
def test_tensors_that_do_not_say_what_they_are_have_to_be_named(more: dict[str, Any]) -> None:
    """The error lists them, and how to say it."""
    with pytest.raises(UsageError, match=r"which tensors of model 'lm' .* say so with KServeV2"):
        wire.discovered(PROTOCOL, triton(**more))


@wire.same_every_time
@given(
    st.builds(
        ModelInfo,
        model=wire.names,
        server=st.sampled_from(["triton 2.60.0", "seedbed 1"]),
        fingerprint=wire.names,
        vocab_size=st.integers(12, 2**40),
        protocol=st.just("kserve-v2"),
    ),
    layouts,
)
def test_what_a_model_says_of_itself_is_discovered(info: ModelInfo, layout: Layout) -> None:
    """Discovery against our own server half finds the same ModelInfo, and the tensors of the layout it was given."""
    llm = wire.FixedLLM(np.zeros(12, np.float32), info)
    serving = KServeV2(layout=replace(layout, output_length=None, switches=(), choice=None, lengths=None, batched=True, binary=True))
    found = wire.discovered(PROTOCOL, lambda request: wire.respond(llm, request, serving))

    assert serving.layout is not None
    assert found == (KServeV2(info.model, replace(serving.layout, row_length=info.vocab_size)), info)


@wire.thorough
@given(st.data())
def test_discovery_survives_any_answer(data: st.DataObject) -> None:
    """Whatever a server says of itself, discovery says None, a typed error, or a ModelInfo whose fields have the types they promise."""
    real, shaken, asked = triton(), data.draw(st.integers(0, 2)), []

    def answers(request: HttpRequest) -> HttpResponse:
        asked.append(request)
        response = real(request)
        if len(asked) != shaken + 1:
            return response
        return replace(response, body=json.dumps(wire.shaken(json.loads(response.body), data.draw)).encode())

    try:
        found = wire.discovered(PROTOCOL, answers)
    except SeedbedError:
        return
    assert wire.is_well_typed(found)
    if found is not None:
        found[0].encode_request(FULL, found[1])


@pytest.mark.parametrize("body", wire.SOMETHING_ELSE)
@pytest.mark.parametrize("status", [200, 404, 403, 503])
def test_discovery_of_something_else_finds_nothing(body: bytes, status: int) -> None:
    """HTML, nothing, or JSON of another kind."""
    assert wire.discovered(PROTOCOL, lambda _: HttpResponse(status, (), body)) is None


# The server half.


def question(change: dict[str, Any], **more: Any) -> HttpRequest:
    tensor = {"name": "input_ids", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]} | change
    return HttpRequest("POST", "/v2/models/m/infer", (), json.dumps({"inputs": [tensor], **more}).encode())


@pytest.mark.parametrize("more", [{"lengths": Tensor("len", "INT32")}, {"output_length": Tensor("len", "INT32")}])
def test_a_length_that_contradicts_the_prompt_is_refused(more: dict[str, Tensor]) -> None:
    """And so is more than one token."""
    protocol = KServeV2(layout=Layout(**more))  # type: ignore[arg-type]
    data = {"name": "len", "datatype": "INT32", "shape": [1, 1], "data": [3]}
    asked = question({})
    both = json.dumps({"inputs": [json.loads(asked.body)["inputs"][0], data]}).encode()

    assert wire.respond(wire.FixedLLM(ROW, INFO), replace(asked, body=both), protocol).status == 400


@pytest.mark.parametrize(
    "request_",
    [
        question({"name": "other"}),
        question({"datatype": "INT64"}),
        question({"shape": [2, 1], "data": [1, 2]}),
        question({"shape": [1, 3]}),
        question({"shape": [1, 0], "data": []}),
        question({"data": [1, -2]}),
        question({"data": [1, 2.5]}),
        question({"data": [1, 99]}),
        question({"data": None}),
        question({"data": [1, None]}),
        question({"data": [1, math.nan]}),
        question({"shape": [1] * 98 + [2]}),
        question({"shape": [0, 2**39, 2**39], "data": []}),
        HttpRequest(
            "POST",
            "/v2/models/m/infer",
            (),
            json.dumps(
                {
                    "inputs": [
                        {"name": "input_ids", "datatype": "INT32", "shape": [1, 1], "data": [1]},
                        {"name": "x", "datatype": "FP32", "shape": [2], "data": [1e308, None]},
                    ]
                }
            ).encode(),
        ),
        HttpRequest("POST", "/v2/models/m/infer", (("inference-header-content-length", "1" * 5000),), b"{}"),
        question({}, outputs=[{"name": "nope"}]),
        HttpRequest("POST", "/v2/models/m/infer", (("inference-header-content-length", "x"),), b"{}"),
        HttpRequest("POST", "/v2/models/m/infer", (), b"{}"),
    ],
)
def test_what_our_server_half_cannot_do_it_refuses(request_: HttpRequest) -> None:
    """400 with a text."""
    response = wire.respond(wire.FixedLLM(np.zeros(12, np.float32), INFO), request_, PROTOCOL)

    assert (response.status, list(json.loads(response.body))) == (400, ["error"])


def test_what_json_cannot_carry_is_refused_in_json() -> None:
    """-inf, and the half-precision types; octets carry both."""
    llm = wire.FixedLLM(ROW, INFO)
    half = KServeV2(layout=Layout(logits=Tensor("logits", "BF16")))
    for protocol in (PROTOCOL, half):
        assert wire.respond(llm, question({}), protocol).status == 400
        for asked in ({"parameters": {"binary_data_output": True}, "outputs": [{"name": "logits"}]},):
            response = wire.respond(llm, question({}, **asked), protocol)
            assert wire.same_row(protocol.decode_response(FULL, INFO, response).row, ROW)


def test_its_paths_are_its_questions() -> None:
    """Health, description and inference, with and without a version; the rest is None."""
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/m/ready", "/health"):
        assert PROTOCOL.decode_request(HttpRequest("GET", path)) == Health()
    for path in ("/v2/models/m", "/v2/models/m/config"):
        assert PROTOCOL.decode_request(HttpRequest("GET", path)) == Describe(path)
    assert PROTOCOL.encode_health().status == 200
    assert PROTOCOL.decode_request(replace(question({}), path="/v2/models/m/versions/3/infer")) == Ask((1, 2), None, "m")
    for path in ("/v1/models", "/v2/other", "/", "", "/v2/models/m/generate"):
        assert PROTOCOL.decode_request(HttpRequest("GET", path)) is None
    assert wire.respond(wire.FixedLLM(ROW, INFO), HttpRequest("GET", "/v2/models/other"), PROTOCOL).status == 404


def test_there_is_no_tokenizer() -> None:
    """Said before anything is sent."""
    nothing = HttpResponse(200)
    for call in (
        lambda: PROTOCOL.encode_tokenize("x"),
        lambda: PROTOCOL.encode_detokenize([1]),
        lambda: PROTOCOL.decode_tokens(nothing),
        lambda: PROTOCOL.decode_text(nothing),
        lambda: PROTOCOL.encode_tokens([1]),
        lambda: PROTOCOL.encode_text("x"),
    ):
        with pytest.raises(UsageError, match="no tokenizer"):
            call()


@pytest.mark.parametrize("shape", [[1] * 99 + [12], [0, 2**39, 2**39]])
def test_a_shape_that_no_array_has_is_named(shape: list[int]) -> None:
    with pytest.raises(BrokenAnswer, match="the shape of 'logits' is"):
        PROTOCOL.decode_response(FULL, INFO, in_json([0.5] * 12 if 0 not in shape else [], shape))


@pytest.mark.parametrize("token_ids", [(True,), (True, 2), (2, False)])
def test_true_and_false_are_no_token_ids(token_ids: tuple[int, ...]) -> None:
    """Python and numpy take them for 1 and 0, also among ints."""
    for name in ("kserve-v2", "llama.cpp", "sglang"):
        with pytest.raises(InvalidPrompt):
            PROTOCOLS[name].encode_request(Ask(token_ids, None if name == "kserve-v2" else 3), INFO)


def test_a_vocabulary_beyond_what_the_input_can_hold_is_no_leave_to_send_it() -> None:
    with pytest.raises(InvalidPrompt):
        PROTOCOL.encode_request(Ask((1, 2**31)), replace(INFO, vocab_size=2**40))


@pytest.mark.parametrize("token_id", [12, 2**31])
def test_an_id_that_cannot_be_is_never_sent(token_id: int) -> None:
    """It would be another one in 32 bits, or none of the vocabulary."""
    with pytest.raises(InvalidPrompt):
        PROTOCOL.encode_request(Ask((1, token_id)), INFO)
    with pytest.raises(InvalidPrompt):
        PROTOCOL.encode_request(Ask((1, 2**31)), ModelInfo(model="m"))
