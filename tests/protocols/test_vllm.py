"""vLLM's completions: both halves against each other and against what a real server said."""

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
    MalformedRow,
    NonFiniteAtServer,
    NonFiniteLogits,
    RequestRefused,
    SeedbedError,
    Unauthorized,
    UnknownModel,
    UsageError,
)
from seedbed.llm.base import ModelInfo, Row, TopLogprobs
from seedbed.protocols.exchange import Ask, Describe, Health, HttpRequest, HttpResponse
from seedbed.protocols.rows import full_row, top_logprobs
from seedbed.protocols.vllm import VLLM

PROTOCOL = VLLM()
LOGITS = VLLM("raw_logits")
INFO = ModelInfo(model="m", vocab_size=12, context_length=64, protocol="vllm", kind="logprobs")
TOP2 = Ask((1, 2), 2)
TINY = ModelInfo(model="tiny", vocab_size=512, context_length=256, protocol="vllm", kind="logprobs")
TINY_LOGITS = replace(TINY, kind="logits")
PROMPT = (10, 20, 30, 40)
BEST = [(476, -1.5577256679534912), (469, -3.243769884109497), (394, -3.468341112136841)]


def step(*listed: tuple[Any, Any], taken: Any = None, **more: Any) -> HttpResponse:
    keys = [f"token_id:{token_id}" if type(token_id) is int else token_id for token_id, _ in listed]
    top = dict(zip(keys, (value for _, value in listed), strict=True))
    logprobs = {"text_offset": [0], "token_logprobs": [listed[0][1]], "tokens": [taken or keys[0]], "top_logprobs": [top]}
    return said({"choices": [{"index": 0, "logprobs": logprobs}], "usage": {"prompt_tokens": 2}, **more})


def read(body: bytes) -> dict[int, float]:
    """A plain reading of an answer."""
    listed = json.loads(body)["choices"][0]["logprobs"]["top_logprobs"][0]
    return {int(key.removeprefix("token_id:")): wire.float32(value, -9998.5) for key, value in listed.items()}


def with_sentinel(row: Row) -> Row:
    """What of a row can travel: -9999 is -inf."""
    if isinstance(row, TopLogprobs):
        return TopLogprobs(row.token_ids, np.where(row.logprobs <= -9998.5, -np.inf, row.logprobs), row.vocab_size)
    return np.where(row <= -9998.5, np.float32(-np.inf), row)


def ask_of(protocol: VLLM, ask: Ask, info: ModelInfo, row: Any) -> Any:
    """The answer to a question, through both halves."""
    response = wire.respond(wire.FixedLLM(row, ModelInfo(model="m", vocab_size=12)), protocol.encode_request(ask, info), protocol)
    assert len(response.body) <= protocol.answer_bound(ask, info)
    return protocol.decode_response(ask, info, response)


@wire.same_every_time
@given(wire.prompts, st.none() | wire.small_ints, wire.names)
def test_a_question_arrives_as_it_was_asked(token_ids: tuple[int, ...], top_k: int | None, model: str) -> None:
    """decode_request(encode_request(ask)) == ask, of no more tokens than there are; a caller who names no model asks the one there is."""
    k = None if top_k is None else min(top_k, INFO.vocab_size)
    assert PROTOCOL.decode_request(PROTOCOL.encode_request(Ask(token_ids, top_k, model), INFO)) == Ask(token_ids, k, model)
    assert PROTOCOL.decode_request(PROTOCOL.encode_request(Ask(token_ids, top_k), INFO)) == Ask(token_ids, k, "m")
    assert PROTOCOL.decode_request(PROTOCOL.encode_request(Ask(token_ids, top_k), replace(INFO, model=""))) == Ask(token_ids, k)


@wire.thorough
@given(wire.full_rows(), st.none() | st.integers(1, 12))
def test_a_row_arrives_as_it_was_given(row: np.ndarray[Any, Any], top_k: int | None) -> None:
    """The logprobs of the k best, -inf included; with the server's own choice and what it read."""
    answer = ask_of(PROTOCOL, Ask((1, 2, 3), top_k), INFO, row)

    want = top_logprobs(row, 12 if top_k is None else top_k)
    assert wire.same_row(answer.row, with_sentinel(full_row(want) if top_k is None else want))
    assert (answer.chosen, answer.prompt_tokens, answer.cached_tokens) == (want.token_ids[0], 3, None)


@wire.thorough
@given(wire.full_rows())
def test_a_full_row_of_raw_logits_arrives_bit_by_bit(row: np.ndarray[Any, Any]) -> None:
    """With --logprobs-mode raw_logits, but for the sentinel, below which vLLM loses logits."""
    answer = ask_of(LOGITS, Ask((1, 2, 3)), replace(INFO, kind="logits"), row)

    assert wire.same_row(answer.row, with_sentinel(row))
    assert answer.chosen == row.argmax()


@wire.same_every_time
@given(wire.full_rows(), st.integers(1, 12))
def test_a_list_of_the_k_best_passes_through_unchanged(row: np.ndarray[Any, Any], k: int) -> None:
    """A model that knows only the k best is served and understood as such."""
    known = top_logprobs(row, k)

    assert ask_of(PROTOCOL, Ask((1,), len(known)), INFO, known).row == with_sentinel(known)


def test_a_refusal_is_understood_as_it_was_meant() -> None:
    """Its meaning, words, flag and Retry-After survive the wire."""
    wire.holds_for_every_refusal(PROTOCOL)


@wire.same_every_time
@given(wire.texts, wire.some_token_ids)
def test_texts_and_token_ids_arrive(text: str, token_ids: list[int]) -> None:
    """Tokenise and detokenise, questions and answers, both directions."""
    wire.holds_for_texts_and_token_ids(PROTOCOL, text, token_ids)


# What a real server said.

ROWS: dict[str, tuple[Ask, ModelInfo, list[tuple[int, float]], int, int | None]] = {
    "tiny512/completions-full512-id-keys": (Ask(PROMPT), TINY, BEST, 476, 4),
    "tiny512/completions-minus1": (Ask(PROMPT), TINY, BEST, 476, 4),
    "tiny512/completions-logprobs0": (Ask(PROMPT, 1), TINY, BEST[:1], 476, 4),
    "tiny512/completions-prompt-logprobs": (Ask(PROMPT, 2), TINY, BEST[:2], 476, 4),
    "tiny512/completions-top20-id-keys": (Ask(PROMPT, 20), TINY, BEST, 476, 4),
    "tiny512-rawlogits-bf16/completions-full512-raw-logits": (
        Ask(PROMPT),
        TINY_LOGITS,
        [(476, 6.28125), (469, 4.59375), (394, 4.34375)],
        476,
        4,
    ),
}

ERRORS: dict[str, tuple[Ask, type[SeedbedError], str]] = {
    "tiny512/completions-batch2": (Ask((1, 2), 5), DishonestAnswer, "the answer has 2 choices"),
    "tiny512/completions-echo": (Ask(PROMPT, 2), BrokenAnswer, "no choices with top_logprobs"),
    "tiny512/completions-full512-text-keys-collide": (Ask(PROMPT), FeatureOff, "by their texts"),
    "tiny512/completions-sampled-not-in-top1": (Ask(PROMPT, 1), DishonestAnswer, "choice, token 469, is not among the 1 best"),
    "tiny512/completions-stream": (Ask(PROMPT, 2), BrokenAnswer, "not JSON"),
    "tiny512/completions-top5-text-keys": (Ask(PROMPT, 5), FeatureOff, "by their texts"),
    "tiny512/detokenize": (Ask(PROMPT, 5), BrokenAnswer, "no choices"),
    "tiny512/error-404": (Ask(PROMPT, 5), UnknownModel, "Not Found"),
    "tiny512/error-bad-json": (Ask(PROMPT, 5), BadRequest, "JSON decode error"),
    "tiny512/error-empty-list": (Ask(PROMPT, 5), BadRequest, "at least one prompt"),
    "tiny512/error-empty-string": (Ask(PROMPT, 5), BadRequest, "must be provided"),
    "tiny512/error-get-405": (Ask(PROMPT, 5), BadRequest, "Method Not Allowed"),
    "tiny512/error-id-float": (Ask(PROMPT, 5), BadRequest, "int_from_float"),
    "tiny512/error-id-negative": (Ask(PROMPT, 5), BadRequest, "greater_than_equal"),
    "tiny512/error-id-out-of-range": (Ask(PROMPT, 5), BadRequest, "Token id 512 is out of vocabulary"),
    "tiny512/error-len-equals-max": (Ask(PROMPT, 5), ContextOverflow, "max_tokens must be at least 1"),
    "tiny512/error-logprobs-too-many": (Ask(PROMPT, 5), FeatureOff, "greater than max allowed: 512"),
    "tiny512/error-max_tokens-0": (Ask(PROMPT, 5), ContextOverflow, "max_tokens must be at least 1"),
    "tiny512/error-scale-out-disabled": (Ask(PROMPT, 5), FeatureOff, "Scale-out endpoints are disabled"),
    "tiny512/error-too-long": (Ask(PROMPT, 5), ContextOverflow, "maximum context length is 256"),
    "tiny512/error-wrong-model": (Ask(PROMPT, 5), UnknownModel, "`nope` does not exist"),
    "tiny512/health": (Ask(PROMPT, 5), BrokenAnswer, "not JSON"),
    "tiny512/tokenize": (Ask(PROMPT, 5), BrokenAnswer, "no choices"),
    "tiny512/v1-models": (Ask(PROMPT, 5), BrokenAnswer, "no choices"),
    "tiny512/version": (Ask(PROMPT, 5), BrokenAnswer, "no choices"),
    # Logits, decoded as if the server's mode had changed after discovery.
    "tiny512-rawlogits-bf16/completions-top20-raw-logits": (Ask(PROMPT, 20), MalformedRow, "are these logits"),
    "tiny512-rawlogits-bf16/inference-v1-generate": (Ask(PROMPT, 5), BrokenAnswer, "no choices with top_logprobs"),
}
FLAGS = {
    "tiny512/completions-full512-text-keys-collide": "--return-tokens-as-token-ids",
    "tiny512/error-logprobs-too-many": "--max-logprobs -1",
    "tiny512/error-scale-out-disabled": "--enable-scale-out",
}


def test_every_captured_answer_has_its_expected_value_below() -> None:
    """No file of the captured ones is left out."""
    assert sorted(f"vllm-{name}" for name in (*ROWS, *ERRORS)) == wire.captured_names("vllm-")


@pytest.mark.parametrize("name", ROWS)
def test_a_real_row_is_decoded_to_exactly_these_values(name: str) -> None:
    """The best three, pinned; all of it against a plain reading."""
    ask, info, first, chosen, prompt_tokens = ROWS[name]
    _, response = wire.captured(f"vllm-{name}")
    answer = PROTOCOL.decode_response(ask, info, response)

    values = wire.as_dict(answer.row)
    assert [(token_id, values[token_id]) for token_id, _ in first] == [(token_id, float(np.float32(value))) for token_id, value in first]
    assert values == read(bytes(response.body))
    assert (answer.chosen, answer.prompt_tokens, answer.cached_tokens) == (chosen, prompt_tokens, None)


@pytest.mark.parametrize("name", ERRORS)
def test_a_real_answer_that_is_no_row_is_this_error(name: str) -> None:
    """Refusals by their meaning, with the flag that lifts them; other bodies by what is missing in them."""
    ask, kind, words = ERRORS[name]
    _, response = wire.captured(f"vllm-{name}")
    with pytest.raises(kind, match=words) as caught:
        PROTOCOL.decode_response(ask, TINY, response)

    assert type(caught.value) is kind
    if isinstance(caught.value, RequestRefused):
        assert caught.value.status == response.status
    if name in FLAGS:
        assert isinstance(caught.value, FeatureOff)
        assert caught.value.flag == FLAGS[name]


@pytest.mark.parametrize("name", ROWS)
def test_a_cut_or_changed_real_answer_is_never_another_row_unnoticed(name: str) -> None:
    """Every truncation is an error; one changed octet is an error, or what the octets now say."""
    ask, info, _, _, _ = ROWS[name]
    _, response = wire.captured(f"vllm-{name}")

    wire.holds_for_every_truncation(PROTOCOL, ask, info, response)
    wire.holds_for_every_changed_byte(PROTOCOL, ask, info, response, read, step=1 if len(response.body) < 2000 else 37)


def test_two_real_rows_of_one_model_differ_by_a_constant() -> None:
    """Logprobs in float32 and logits in bfloat16 of the same weights and prompt, to bfloat16's precision."""
    rows = []
    for name in ("tiny512/completions-full512-id-keys", "tiny512-rawlogits-bf16/completions-full512-raw-logits"):
        ask, info, _, _, _ = ROWS[name]
        rows.append(PROTOCOL.decode_response(ask, info, wire.captured(f"vllm-{name}")[1]).row)
    difference = rows[1] - rows[0]

    assert float(np.ptp(difference)) < 0.15
    assert abs(float(np.median(difference)) - 7.84) < 0.05


def test_a_real_tokenizer_is_understood() -> None:
    """Ids and text."""
    assert PROTOCOL.decode_tokens(wire.captured("vllm-tiny512/tokenize")[1]) == [165, 227, 194, 194, 102]
    assert PROTOCOL.decode_text(wire.captured("vllm-tiny512/detokenize")[1]) == "n:"
    with pytest.raises(BrokenAnswer, match="no text under 'prompt' or 'content'"):
        PROTOCOL.decode_text(wire.captured("vllm-tiny512/tokenize")[1])


def refused(message: str) -> HttpResponse:
    return said({"error": {"message": message, "type": "BadRequestError", "param": "logprobs", "code": 400}}, 400)


def real_server(row: str = "tiny512/completions-top20-id-keys", cap: int | None = 512) -> Any:
    """A server of captured answers; the refusals in the words of vLLM's source."""
    get = {
        "GET /version": wire.captured("vllm-tiny512/version")[1],
        "GET /v1/models": wire.captured("vllm-tiny512/v1-models")[1],
    }

    def answers(request: HttpRequest) -> HttpResponse:
        if request.method == "GET":
            return get.get(f"GET {request.route}", HttpResponse(404))
        data = json.loads(request.body)
        if cap is not None and data["logprobs"] > cap:
            return refused(f"Requested sample logprobs of {data['logprobs']}, which is greater than max allowed: {cap}")
        if "logit_bias" in data:
            return refused("token_id(s) [2147483647] in logit_bias contain out-of-vocab token ids. Vocabulary size: 512")
        return wire.captured(f"vllm-{row}")[1]

    return answers


def test_a_real_server_is_discovered() -> None:
    """Name, version, fingerprint of its settings, context, vocabulary and that it reports logprobs; the end tokens it does not tell."""
    found = wire.discovered(PROTOCOL, real_server())

    assert found == (
        PROTOCOL,
        ModelInfo(
            model="tiny",
            server="vLLM 0.32.0",
            fingerprint="vllm-0.32.0-a2c3c88b",
            vocab_size=512,
            context_length=256,
            protocol="vllm",
            kind="logprobs",
        ),
    )


def test_raw_logits_are_noticed_and_only_full_rows_of_them_asked_for() -> None:
    """Nothing is known of the logits that are not listed; the error names both ways out."""
    found = wire.discovered(PROTOCOL, real_server("tiny512-rawlogits-bf16/completions-top20-raw-logits"))

    assert found is not None
    _, info = found
    assert info.kind == "logits"
    assert "raw logits" in info.notes[0]
    assert PROTOCOL.decode_request(PROTOCOL.encode_request(Ask(PROMPT), info)) == Ask(PROMPT, None, "tiny")
    with pytest.raises(FeatureOff, match='top_k="all"') as caught:
        PROTOCOL.encode_request(Ask(PROMPT, 50), info)
    assert (caught.value.flag, caught.value.status) == ("--logprobs-mode raw_logprobs", 400)


def test_a_capped_server_is_asked_for_no_more() -> None:
    """The cap is known from discovery, and so is the flag that lifts it."""
    found = wire.discovered(PROTOCOL, real_server(cap=20))

    assert found is not None
    _, info = found
    assert (info.max_top_k, info.vocab_size) == (20, 512)
    PROTOCOL.encode_request(Ask(PROMPT, 20), info)
    for top_k in (21, None):
        with pytest.raises(FeatureOff, match="the server lists 20") as caught:
            PROTOCOL.encode_request(Ask(PROMPT, top_k), info)
        assert (caught.value.flag, caught.value.status) == ("--max-logprobs -1", 400)


def test_a_server_that_reports_what_its_filters_left_is_told_which_flag_to_set() -> None:
    """Among the best tokens of a raw row none is impossible."""
    filtered, real = step((5, -0.5), (6, -0.9), (7, -9999.0)), real_server()
    with pytest.raises(FeatureOff, match="what its filters left") as caught:
        wire.discovered(PROTOCOL, lambda request: filtered if b'"logprobs":20,' in request.body else real(request))

    assert (caught.value.flag, caught.value.status) == ("--logprobs-mode raw_logprobs", 200)
    assert str(caught.value).endswith("start it with --logprobs-mode raw_logprobs")


def test_no_default_of_the_models_own_has_a_say() -> None:
    """vLLM takes penalties from the model's generation_config, and its choice would then not be the best of the row."""
    assert json.loads(PROTOCOL.encode_request(Ask(PROMPT, 5), TINY).body)["repetition_penalty"] == 1


def test_a_probe_that_lists_nothing_leaves_it_at_logprobs() -> None:
    """Each later row is held to that."""
    real = real_server()
    for choice in ({"logprobs": {"top_logprobs": [{}]}}, {"logprobs": None}, {"logprobs": {"top_logprobs": [{"token_id:1": "x"}]}}, 7):
        empty = said({"choices": [choice]})
        found = wire.discovered(PROTOCOL, lambda request, empty=empty: empty if b'"logprobs":20,' in request.body else real(request))

        assert found is not None
        assert found[1].kind == "logprobs"


@pytest.mark.parametrize(
    ("logits", "kind"),
    [
        ([3.5, 2.0], "logits"),
        ([-6.2403, -6.2403], "logits"),  # 512 tokens of 1 / 513
        ([-6.2383, -6.2383], "logprobs"),  # and of 1 / 512
        ([-0.1, -0.2], "logits"),
        ([-33.0, -35.0], "logits"),
        ([-0.7, -1.4], "logprobs"),
        ([-9.0, -9.1], "logits"),
    ],
)
def test_logits_are_told_from_logprobs_by_what_they_sum_to(logits: list[float], kind: str) -> None:
    """Above 0, summing above 1, or too little for the whole vocabulary to make up."""
    listed = step(*zip((5, 6), logits, strict=True))
    real = real_server()
    found = wire.discovered(PROTOCOL, lambda request: listed if b'"logprobs":20,' in request.body else real(request))

    assert found is not None
    assert found[1].kind == kind


def test_a_server_that_tells_nothing_but_its_name_is_still_one() -> None:
    """Then the vocabulary's size is for the caller to give."""
    found = wire.discovered(PROTOCOL, real_server(cap=None, row="tiny512/completions-top20-id-keys"))
    assert found is not None
    assert found[1].max_top_k is None
    real = real_server()
    found = wire.discovered(PROTOCOL, lambda request: real(request) if request.method == "GET" else HttpResponse(400))

    assert found is not None
    assert (found[1].model, found[1].vocab_size, found[1].kind) == ("tiny", None, "logprobs")
    with pytest.raises(UsageError, match="vocab_size="):
        PROTOCOL.encode_request(TOP2, found[1])


@pytest.mark.parametrize("version", ["0.8.4", "0.9.2", "main", ""])
def test_what_would_end_an_old_engine_is_not_sent(version: str) -> None:
    """Before 0.9 a bias for a token that cannot be is not refused."""
    real, bodies = real_server(), []

    def answers(request: HttpRequest) -> HttpResponse:
        bodies.append(request.body)
        return said({"version": version}) if request.route == "/version" else real(request)

    found = wire.discovered(PROTOCOL, answers)

    assert not any(b"logit_bias" in body for body in bodies)
    assert (found is None) == (not version)
    assert found is None or found[1].vocab_size is None


def test_one_of_several_models_is_found_by_name() -> None:
    """Adapters are listed beside their base; without a name it is the base."""
    entries = [
        {"id": "lora", "owned_by": "vllm", "parent": "base", "max_model_len": 16},
        {"id": "base", "owned_by": "vllm", "parent": None, "max_model_len": 32},
    ]
    real = real_server()

    def answers(request: HttpRequest) -> HttpResponse:
        return said({"data": entries}) if request.route == "/v1/models" else real(request)

    for asked, name, context_length in ((None, "base", 32), ("lora", "lora", 16), ("other", "base", 32)):
        found = wire.discovered(PROTOCOL, answers, asked)
        assert found is not None
        assert (found[1].model, found[1].context_length) == (name, context_length)


@pytest.mark.parametrize(
    ("path", "status"), [("/version", 401), ("/v1/models", 401), ("/v1/models", 403), ("/v1/completions", 401), ("/v1/completions", 403)]
)
def test_a_missing_key_is_named(path: str, status: int) -> None:
    """The version is open in vLLM, the rest is not; behind a gateway nothing is. Only 403 for the version is no vLLM's."""
    real = real_server()
    with pytest.raises(Unauthorized) as caught:
        wire.discovered(PROTOCOL, lambda request: said({"error": "no"}, status) if request.route == path else real(request))

    assert caught.value.status == status


def test_only_a_refusal_tells_the_cap() -> None:
    """The same words in an error of the server's own are no answer to the question."""
    real = real_server()

    def answers(request: HttpRequest) -> HttpResponse:
        response = real(request)
        return replace(response, status=500) if response.status == 400 else response

    found = wire.discovered(PROTOCOL, answers)
    assert found is not None
    assert (found[1].vocab_size, found[1].max_top_k) == (None, None)


@wire.same_every_time
@given(
    st.builds(
        ModelInfo,
        model=wire.names,
        server=st.sampled_from(["vLLM 0.10.0", "vLLM 0.33.1.dev5+gabc", "vLLM v1.0"]),
        fingerprint=wire.names,
        vocab_size=st.just(12),
        context_length=st.none() | st.integers(2, 2**40),
        protocol=st.just("vllm"),
        max_top_k=st.none() | st.integers(1, 11),
        kind=st.sampled_from(["logprobs", "logits"]),
    )
)
def test_what_a_model_says_of_itself_is_discovered(info: ModelInfo) -> None:
    """Discovery against our own server half finds the same ModelInfo, without the end tokens; the model is not asked.

    Neither is it changed by what only our half says, and a real server does not: then one row tells.
    """
    llm = wire.FixedLLM(np.float32([9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0]), info)
    protocol = PROTOCOL if info.kind == "logprobs" else LOGITS

    def as_a_real_one(request: HttpRequest) -> HttpResponse:
        response = wire.respond(llm, request, protocol)
        return said({"version": json.loads(response.body)["version"]}) if request.route == "/version" else response

    assert wire.discovered(PROTOCOL, lambda request: wire.respond(llm, request, protocol)) == (PROTOCOL, info)
    assert llm.asked == []
    assert wire.discovered(PROTOCOL, as_a_real_one) == (PROTOCOL, info)
    assert llm.asked == [(0,)]


@wire.thorough
@given(st.data())
def test_discovery_survives_any_answer(data: st.DataObject) -> None:
    """Whatever a server says of itself, discovery says None or a ModelInfo whose fields have the types they promise."""
    real, shaken = real_server(), data.draw(st.integers(0, 4))
    asked = []

    def answers(request: HttpRequest) -> HttpResponse:
        asked.append(request)
        answer = real(request)
        return (
            replace(answer, body=json.dumps(wire.shaken(json.loads(answer.body), data.draw)).encode())
            if len(asked) == shaken + 1
            else answer
        )

    assert wire.is_well_typed(wire.discovered(PROTOCOL, answers))


@pytest.mark.parametrize("body", wire.SOMETHING_ELSE)
@pytest.mark.parametrize("status", [200, 404, 403, 503])
def test_discovery_of_something_else_finds_nothing(body: bytes, status: int) -> None:
    """HTML, nothing, or JSON of another kind is not vLLM; nor is what is owned by another."""
    assert wire.discovered(PROTOCOL, lambda _: HttpResponse(status, (), body)) is None
    assert wire.discovered(PROTOCOL, lambda _: said({"version": "1", "data": [{"id": "m", "owned_by": "sglang"}]})) is None


# Shapes of our server half, compared with the real ones.


def ours(request: HttpRequest, protocol: VLLM = PROTOCOL) -> HttpResponse:
    llm = wire.FixedLLM(np.arange(512, dtype=np.float32) / 64, ModelInfo(model="tiny", vocab_size=512, fingerprint="f", context_length=256))
    return wire.respond(llm, request, protocol)


@pytest.mark.parametrize(
    "name",
    [
        "completions-top20-id-keys",
        "completions-full512-id-keys",
        "completions-minus1",
        "completions-logprobs0",
        "completions-top5-text-keys",
    ],
)
def test_our_answer_has_the_shape_of_a_real_one(name: str) -> None:
    """The same keys and types in the same order, as many entries, descending values, keys of the same form."""
    request, real = wire.captured(f"vllm-tiny512/{name}")
    response = ours(request)
    have, want = json.loads(response.body), json.loads(real.body)
    tops = [answer["choices"][0]["logprobs"].pop("top_logprobs")[0] for answer in (have, want)]

    assert wire.shape(have) == wire.shape(want)
    assert list(have) == list(want)
    assert (response.header("server"), response.header("content-type")) == ("uvicorn", "application/json")
    assert list(tops[0].values()) == sorted(tops[0].values(), reverse=True)
    if "text" not in name:
        assert len(tops[0]) == len(tops[1])
        assert all(key.startswith("token_id:") for key in (*tops[0], *tops[1]))


@pytest.mark.parametrize(
    "name",
    ["error-empty-list", "error-id-out-of-range", "error-logprobs-too-many", "error-too-long", "error-wrong-model", "error-id-float"],
)
def test_our_errors_have_the_shape_of_real_ones(name: str) -> None:
    """Status, envelope and code; the words are our own, but for those that are read."""
    request, real = wire.captured(f"vllm-tiny512/{name}")
    response = ours(request)
    have, want = json.loads(response.body)["error"], json.loads(real.body)["error"]

    assert (response.status, have["code"], list(have)) == (real.status, want["code"], list(want))
    if name == "error-logprobs-too-many":
        assert have["message"] == want["message"]


def test_our_descriptions_have_the_fields_of_real_ones() -> None:
    """Each of our fields is one of a real server's, of the same type."""
    for name in ("version", "v1-models", "tokenize", "detokenize", "health"):
        request, real = wire.captured(f"vllm-tiny512/{name}")
        response = ours(request)

        assert response.status == 200
        if real.body:
            have, want = json.loads(response.body), json.loads(real.body)
            if name == "version":  # what a client would ask for a row to find out, and a recording may not have
                want |= {"logprobs_mode": "", "system_fingerprint": ""}
            assert wire.contains(wire.shape(want), wire.shape(have)), name
        else:
            assert response.body == b""


def test_minus_infinity_is_spelled_as_the_sentinel() -> None:
    """-9999.0, in both modes, and for logits below it."""
    row = np.full(12, -np.inf, np.float32)
    row[:2] = [0.0, -20_000.0]
    for protocol in (PROTOCOL, LOGITS):
        response = wire.respond(wire.FixedLLM(row), HttpRequest("POST", "/v1/completions", (), minimal()), protocol)
        assert list(json.loads(response.body)["choices"][0]["logprobs"]["top_logprobs"][0].values()) == [0.0, -9999.0, -9999.0]


def minimal(**change: Any) -> bytes:
    data = {"prompt": [1], "max_tokens": 1, "logprobs": 3, "return_tokens_as_token_ids": True} | change
    return json.dumps({key: value for key, value in data.items() if value is not ...}).encode()


# Honesty.


@pytest.mark.parametrize(
    ("response", "kind", "words"),
    [
        (step((3, -0.1)), DishonestAnswer, "2 tokens were asked for, 1 are listed"),
        (step((3, -1.0), (4, -1.5), (5, -2.0), (6, -2.0)), DishonestAnswer, "2 tokens were asked for, 4 are listed"),
        (step((3, -1.0), (4, -1.5), (5, -2.0), taken="token_id:9"), DishonestAnswer, "2 tokens were asked for, 3 are listed"),
        (step((5, -2.0), (3, -1.0), (4, -1.5)), DishonestAnswer, "greedy choice, token 5, is not among the 2 best"),
        (step((3, -0.7), (12, -0.7)), MalformedRow, "outside the vocabulary"),
        (step((3, -0.7), (2**63, -0.7)), BrokenAnswer, "64 bits"),
        (step((3, -0.7), ("token_id:03", -0.7)), FeatureOff, "by their texts"),
        (step((3, -0.7), ("token_id:-3", -0.7)), MalformedRow, "outside the vocabulary"),
        (step((3, -0.7), ("token_id: 4", -0.7)), FeatureOff, "by their texts"),
        (step((3, -0.7), ("token_id:4_4", -0.7)), FeatureOff, "by their texts"),
        (step((3, -0.7), ("token_id:\u0664", -0.7)), FeatureOff, "by their texts"),
        (step((3, -0.7), ("token_id:", -0.7)), FeatureOff, "by their texts"),
        (step((3, -0.7), ("w4", -0.7)), FeatureOff, "by their texts"),
        (step((3, 1.5), (4, -0.7)), MalformedRow, "are these logits"),
        (step((3, -0.1), (4, -0.2)), MalformedRow, "sum to probability"),
        (step((3, -9.0), (4, -9.5)), MalformedRow, "no distribution"),
        (step((3, -9999.0), (4, -9999.0)), NonFiniteAtServer, "NaN for this prefix"),
        (step((3, None), (4, -1.0)), NonFiniteLogits, "value 0 of 2 is null"),
        (step((3, "x"), (4, -1.0)), BrokenAnswer, "no numbers"),
        (step((4, -2.0), (3, -0.2)), DishonestAnswer, "greedy choice is token 4, the best it lists is token 3"),
        (step((3, -0.2), (4, -2.0), usage={"prompt_tokens": 3}), DishonestAnswer, "the server read 3: it adds a BOS"),
        (step((3, -0.2), (4, -2.0), usage={"prompt_tokens": True}), DishonestAnswer, "the server read True"),
        (step((3, -0.2), (4, -2.0), choices=[]), BrokenAnswer, "no choices"),
        (step((3, -0.2), (4, -2.0), choices=[{"logprobs": None}]), BrokenAnswer, "no choices"),
        (said([1]), BrokenAnswer, "no choices"),
        (refused("Out of range float values are not JSON compliant"), NonFiniteAtServer, "NaN"),
    ],
)
def test_a_dishonest_answer_is_named(response: HttpResponse, kind: type[SeedbedError], words: str) -> None:
    """Every way to contradict the question or itself is an error that says which."""
    with pytest.raises(kind, match=words) as caught:
        PROTOCOL.decode_response(TOP2, INFO, response)

    assert type(caught.value) is kind


def test_a_token_that_cannot_be_taken_is_the_models_fault() -> None:
    with pytest.raises(NonFiniteAtServer, match="^the token taken has no probability: the server's model gave NaN") as caught:
        PROTOCOL.decode_response(TOP2, INFO, step((3, -9999.0), (4, -9999.0)))

    assert caught.value.status == 200


def test_more_rows_ahead_than_were_asked_for_are_refused() -> None:
    one = json.loads(step((3, -0.2), (4, -2.0)).body)
    listed = one["choices"][0]["logprobs"]
    for name in ("top_logprobs", "tokens"):
        listed[name] *= 4
    with pytest.raises(DishonestAnswer, match="^3 tokens were asked for, the answer has 1 choice, the first with 4$"):
        PROTOCOL.decode_response(replace(TOP2, ahead=3), INFO, said(one))


def test_the_k_plus_first_entry_of_a_tie_is_left_out() -> None:
    """The token taken greedily may be as good as the k best and not be listed among them."""
    answer = PROTOCOL.decode_response(TOP2, INFO, step((5, -1.2), (3, -1.2), (4, -1.2)))

    assert wire.as_dict(answer.row) == {3: float(np.float32(-1.2)), 4: float(np.float32(-1.2))}
    assert answer.chosen == 5


@pytest.mark.parametrize("ids", [[0, 1], [0, 1, 3], [0, 1, 1]])
def test_a_full_row_of_logits_has_every_id_once(ids: list[int]) -> None:
    """A missing id is an error, never -inf."""
    listed = step(*((token_id, 9.0 - place) for place, token_id in enumerate(ids)))
    with pytest.raises(DishonestAnswer):
        PROTOCOL.decode_response(Ask((1, 2)), ModelInfo(vocab_size=3, kind="logits"), listed)


def test_cached_tokens_are_told_where_the_server_tells_them() -> None:
    """With --enable-prompt-tokens-details."""
    usage = {"prompt_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}

    assert PROTOCOL.decode_response(TOP2, INFO, step((3, -0.2), (4, -2.0), usage=usage)).cached_tokens == 1


@wire.thorough
@given(st.data())
def test_a_shaken_answer_is_a_row_or_a_typed_error(data: st.DataObject) -> None:
    """Any JSON in any place of an honest answer: never an untyped exception, and a row only of what was asked for."""
    honest = json.loads(step((3, -0.25), (4, -1.5)).body)
    row = wire.outcome(PROTOCOL, TOP2, INFO, said(wire.shaken(honest, data.draw)))

    assert isinstance(row, SeedbedError) or (isinstance(row, TopLogprobs) and len(row) == 2)


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 65},
        {"max_tokens": True},
        {"max_tokens": ...},
        {"n": 2},
        {"stream": True},
        {"logprobs": ...},
        {"logprobs": -2},
        {"logprobs": True},
        {"logprobs": 13},
        {"logit_bias": {"3": 1}},
        {"logit_bias": {"x": 1}},
        {"prompt": "text"},
        {"prompt": [[1], [2]]},
        {"prompt": [99]},
    ],
)
def test_what_our_server_half_cannot_do_it_refuses(change: dict[str, Any]) -> None:
    """400 rather than less than was asked for; the model is not asked."""
    llm = wire.FixedLLM(np.zeros(12, np.float32), INFO)
    response = wire.respond(llm, HttpRequest("POST", "/v1/completions", (), minimal(**change)), PROTOCOL)

    assert (response.status, json.loads(response.body)["error"]["code"], llm.asked) == (400, 400, [])


def test_one_prompt_in_a_list_is_one_prompt() -> None:
    """Lists of several are refused."""
    assert PROTOCOL.decode_request(HttpRequest("POST", "/v1/completions", (), minimal(prompt=[[1, 2]]))) == Ask((1, 2), 3)


def test_only_its_own_paths_are_its_questions() -> None:
    """The rest is None, for other protocols to look at."""
    assert PROTOCOL.decode_request(HttpRequest("GET", "/ping")) == Health()
    assert PROTOCOL.decode_request(HttpRequest("GET", "/version")) == Describe("/version")
    assert PROTOCOL.decode_request(HttpRequest("POST", "/inference/v1/generate")) is None
