"""The lies a server can tell about a row, each told in every protocol that has the words for it: none is believed, each is named.

An honest answer of the protocol's own server half is taken, and its list of tokens and values changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from tests.protocols import wire

from seedbed.errors import (
    ContextOverflow,
    DishonestAnswer,
    FeatureOff,
    MalformedRow,
    NonFiniteAtServer,
    NonFiniteLogits,
    SeedbedError,
)
from seedbed.llm.base import ModelInfo, Row, TopLogprobs
from seedbed.protocols import protocol_named
from seedbed.protocols.exchange import Ask, HttpResponse
from seedbed.protocols.refusal import refusal
from seedbed.protocols.rows import LOWEST

V = 12
INFO = ModelInfo("m", "s", "f", V, (0,), 64, kind="logprobs")
LISTED = ("native", "llama.cpp", "vllm", "vllm-generate", "sglang")
COUNTING = LISTED[1:]  # those whose answers say how many tokens were read
P = np.array([0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.04, 0.03, 0.02, 0.01, 0.006, 0.004])
ASK = Ask((1, 2, 3), 4)
FULL = Ask((1, 2, 3))

Listed = list[tuple[int, Any]]


def told(name: str, ask: Ask, change: Callable[[Listed], Listed] = lambda listed: listed, *, prompt_tokens: int = 3) -> Row:
    """What the client makes of the answer with its list changed."""
    protocol = protocol_named(name)
    row = np.log(P).astype(np.float32)
    request = protocol.encode_request(ask, INFO)
    response = wire.respond(wire.FixedLLM(row, INFO), request, protocol)
    if name == "native" and ask.top_k is None:  # it would be octets
        response = HttpResponse(200, (), orjson.dumps({"top": {"token_ids": list(range(V)), "logprobs": row.tolist()}}))
    data = orjson.loads(response.body)
    READ_AND_WRITE[name](data, change, prompt_tokens)
    body = orjson.dumps(data, default=str)
    for word in ("NaN", "Infinity", "-Infinity"):
        body = body.replace(f'"{word}"'.encode(), word.encode())
    return protocol.decode_response(ask, INFO, HttpResponse(200, response.headers, body)).row


def native(data: Any, change: Callable[[Listed], Listed], prompt_tokens: int) -> None:
    top = data["top"]
    listed = change(list(zip(top["token_ids"], top["logprobs"], strict=True)))
    top["token_ids"], top["logprobs"] = [i for i, _ in listed], [value for _, value in listed]


def llama_cpp(data: Any, change: Callable[[Listed], Listed], prompt_tokens: int) -> None:
    step = data["completion_probabilities"][0]
    listed = change([(entry["id"], entry["logprob"]) for entry in step["top_logprobs"]])
    step["top_logprobs"] = [{"id": i, "token": "", "bytes": [], "logprob": value} for i, value in listed]
    step["id"], step["logprob"] = listed[0]
    data["tokens_evaluated"] = prompt_tokens


def vllm(data: Any, change: Callable[[Listed], Listed], prompt_tokens: int) -> None:
    logprobs = data["choices"][0]["logprobs"]
    listed = change([(int(key.removeprefix("token_id:")), value) for key, value in logprobs["top_logprobs"][0].items()])
    logprobs["top_logprobs"] = [{f"token_id:{i}": value for i, value in listed}]
    logprobs["tokens"] = [f"token_id:{listed[0][0]}"]
    data["usage"]["prompt_tokens"] = prompt_tokens


def vllm_generate(data: Any, change: Callable[[Listed], Listed], prompt_tokens: int) -> None:
    step = data["choices"][0]["logprobs"]["content"][0]
    listed = change([(entry["token_id"], entry["logprob"]) for entry in step["top_logprobs"]])
    step["top_logprobs"] = [{"token_id": i, "logprob": value} for i, value in listed]
    step["token_id"] = listed[0][0]
    data["choices"][0]["token_ids"] = [listed[0][0]]
    data["usage"]["prompt_tokens"] = prompt_tokens


def sglang(data: Any, change: Callable[[Listed], Listed], prompt_tokens: int) -> None:
    meta = data["meta_info"]
    k = meta["output_top_logprobs_shape"][1]
    listed = change([(i, float(np.float32(np.log(P[i])))) for i in range(k)])
    for key in [key for key in meta if key.startswith("output_top_logprobs_")]:
        del meta[key]
    meta["output_top_logprobs"] = [[[value, i, None] for i, value in listed]]
    meta["output_token_logprobs"] = [[listed[0][1], listed[0][0], None]]
    data["output_ids"] = [listed[0][0]]
    meta["prompt_tokens"] = prompt_tokens


READ_AND_WRITE = {"native": native, "llama.cpp": llama_cpp, "vllm": vllm, "vllm-generate": vllm_generate, "sglang": sglang}


def named(error: type[SeedbedError], words: str, name: str, ask: Ask, change: Callable[[Listed], Listed], **more: int) -> None:
    with pytest.raises(error, match=words) as caught:
        told(name, ask, change, **more)
    assert type(caught.value) is error


@pytest.mark.parametrize("name", LISTED)
def test_the_truth_is_believed(name: str) -> None:
    """Else nothing below would say anything."""
    assert told(name, ASK) == TopLogprobs(range(4), np.log(P[:4]), V)
    np.testing.assert_array_equal(told(name, FULL), np.log(P).astype(np.float32))


@pytest.mark.parametrize("name", LISTED)
def test_a_missing_id(name: str) -> None:
    named(DishonestAnswer, "4 tokens were asked for, 3 are listed", name, ASK, lambda listed: listed[:3])
    named(DishonestAnswer, f"{V} tokens were asked for, {V - 1} are listed", name, FULL, lambda listed: listed[:-1])


@pytest.mark.parametrize("name", LISTED)
def test_an_id_that_cannot_be(name: str) -> None:
    named(MalformedRow, f"token id {V} .*outside the vocabulary", name, ASK, lambda listed: [*listed[:3], (V, listed[3][1])])
    named(DishonestAnswer, "not those of a vocabulary", name, FULL, lambda listed: [*listed[:-1], (V, listed[-1][1])])


@pytest.mark.parametrize("name", [name for name in LISTED if name != "vllm"])  # whose list is an object
def test_one_id_twice(name: str) -> None:
    named(MalformedRow, "stands twice", name, ASK, lambda listed: [*listed[:3], (2, listed[3][1])])
    named(DishonestAnswer, f"token {V - 1} of {V} is missing: another stands twice", name, FULL, lambda listed: [*listed[:-1], listed[-2]])


@pytest.mark.parametrize("name", LISTED)
def test_values_above_0(name: str) -> None:
    named(MalformedRow, "no log-probability; are these logits", name, ASK, lambda listed: [(i, value + 3) for i, value in listed])
    named(MalformedRow, "no distribution; are these logits", name, FULL, lambda listed: [(i, value + 3) for i, value in listed])


@pytest.mark.parametrize("name", LISTED)
def test_probabilities_labelled_logprobs(name: str) -> None:
    named(MalformedRow, "are these probabilities", name, ASK, lambda listed: [(i, math.exp(value)) for i, value in listed])
    named(MalformedRow, "are these probabilities", name, FULL, lambda listed: [(i, math.exp(value)) for i, value in listed])


@pytest.mark.parametrize("name", LISTED)
def test_sums_above_1_and_a_thousandth(name: str) -> None:
    """What float32 sums leave is believed; llama.cpp's were off by 2e-4."""

    def summing_to(mass: float) -> Callable[[Listed], Listed]:
        return lambda listed: [(i, value + math.log(mass / P[: len(listed)].sum())) for i, value in listed]

    for ask in (ASK, FULL):
        told(name, ask, summing_to(1.0009))
    named(MalformedRow, r"sum to probability 1\.0011", name, ASK, summing_to(1.0011))
    named(MalformedRow, r"sums to probability 1\.0011", name, FULL, summing_to(1.0011))
    named(MalformedRow, r"sums to probability 0\.9985", name, FULL, summing_to(0.9985))


@pytest.mark.parametrize("name", LISTED)
def test_lists_that_leave_no_room_for_the_rest(name: str) -> None:
    """Logits that happen to be negative: the unlisted are less probable than the last listed, and cannot make up what is missing."""
    named(MalformedRow, "no distribution", name, ASK, lambda listed: [(i, value - 6) for i, value in listed])


SPELLINGS = {  # of -inf, by what is written
    -9999.0: ("vllm", "vllm-generate"),
    LOWEST: LISTED,
    -1e300: LISTED,
    "-Infinity": LISTED,
    None: ("native",),
}


@pytest.mark.parametrize(("spelling", "name"), [(spelling, name) for spelling, names in SPELLINGS.items() for name in names])
def test_impossible_is_spelled_in_many_ways(spelling: Any, name: str) -> None:
    first = (0, float(np.log(P[0] + P[-1])))
    row = told(name, FULL, lambda listed: [first, *listed[1:-1], (V - 1, spelling)])
    assert row[-1] == (spelling if name == "native" and spelling == LOWEST else -np.inf)  # a native logit may be that low


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("spelling", ["NaN", "Infinity", None, 1e39])
def test_nan_and_infinity_are_the_models_fault_however_spelled(name: str, spelling: Any) -> None:
    if name == "native" and spelling is None:
        return  # where null is -inf
    for ask in (ASK, FULL):
        named(
            NonFiniteLogits,
            "null|beyond float32|holds NaN|holds Infinity",
            name,
            ask,
            lambda listed: [*listed[:-1], (listed[-1][0], spelling)],
        )


@pytest.mark.parametrize("name", ["vllm", "vllm-generate"])
def test_nan_as_the_sentinel_with_status_200(name: str) -> None:
    named(NonFiniteAtServer, "NaN for this prefix", name, ASK, lambda listed: [(i, -9999.0) for i, _ in listed])


def test_nan_as_a_400() -> None:
    said = wire.said({"error": {"message": "Out of range float values are not JSON compliant", "type": "BadRequestError"}}, 400)
    assert type(refusal(said)) is NonFiniteAtServer


@pytest.mark.parametrize("name", COUNTING)
@pytest.mark.parametrize(("read", "lie"), [(4, "an added BOS"), (2, "a prompt cut in silence")])
def test_another_number_of_tokens_read_than_were_sent(name: str, read: int, lie: str) -> None:
    named(DishonestAnswer, f"3 tokens were sent, the server read {read}: it adds a BOS token in front or cuts the prompt", name, ASK,
          lambda listed: listed, prompt_tokens=read)  # fmt: skip


@pytest.mark.parametrize("name", COUNTING)
def test_a_greedy_choice_that_is_not_the_best(name: str) -> None:
    named(DishonestAnswer, "greedy choice is token 1, the best it lists is token 0", name, ASK,
          lambda listed: [listed[1], listed[0], *listed[2:]])  # fmt: skip


@pytest.mark.parametrize("name", ["vllm", "vllm-generate"])
def test_a_list_of_k_and_the_token_taken(name: str) -> None:
    """Taken greedily it can only be as good as the best: a tie, and the list is the k best without it."""
    tie = float(np.log(np.float32(0.25)))
    row = told(name, ASK, lambda listed: [(9, tie), (0, tie), (1, tie), (2, math.log(0.1)), (3, math.log(0.1))])
    assert row.token_ids.tolist() == [0, 1, 2, 3]
    named(DishonestAnswer, "greedy choice, token 9, is not among the 4 best", name, ASK, lambda listed: [(9, math.log(0.01)), *listed])


@pytest.mark.parametrize("name", ["vllm", "vllm-generate"])
def test_raw_logits_whose_normaliser_is_unknown(name: str) -> None:
    """Nothing is known of those not listed: refused before it is asked, naming both ways out."""
    info = ModelInfo("m", vocab_size=V, kind="logits")
    with pytest.raises(FeatureOff, match="--logprobs-mode raw_logprobs") as caught:
        protocol_named(name).encode_request(ASK, info)
    assert caught.value.flag == "--logprobs-mode raw_logprobs"
    protocol_named(name).encode_request(FULL, info)


@pytest.mark.parametrize(
    "error",
    [
        {"type": "exceed_context_size_error", "message": "request (9 tokens) exceeds the available context size (8 tokens)"},
        {"param": "input_tokens", "message": "This model's maximum context length is 8 tokens.", "type": "BadRequestError"},
        {"type": "BadRequestError", "message": "max_tokens must be at least 1, got 0"},
        {"message": "The input (9 tokens) is longer than the model's context length (8 tokens)."},
        "the prompt is longer than the model's context length: 9",
    ],
    ids=["llama.cpp", "vllm", "vllm, one too many", "sglang", "a text"],
)
def test_a_context_that_overflows_in_each_servers_words(error: object) -> None:
    assert type(refusal(wire.said({"error": error}, 400))) is ContextOverflow
