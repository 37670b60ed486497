"""A server's own draws through every protocol that has them, in both directions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols import wire
from tests.protocols.wire import said

from seedbed.errors import BadRequest, BrokenAnswer, DishonestAnswer, EngineFailed, InvalidPrompt, SeedbedError, UsageError
from seedbed.llm.base import ModelInfo
from seedbed.protocols import PROTOCOLS
from seedbed.protocols.exchange import HttpRequest, Sample

INFO = ModelInfo(model="m", vocab_size=12, eos_token_ids=(0,), context_length=64)
SPEAKING = [name for name, protocol in PROTOCOLS.items() if protocol.samples_as is not None]
QUESTION = Sample((3, 4), 0.5, 5, 0.75, 0.25, seed=9, tokens=2, n=3)

questions = st.builds(
    Sample,
    st.lists(st.integers(0, 11), min_size=1, max_size=6).map(tuple),
    st.floats(0, 2),
    st.integers(0, 20),
    st.floats(0.01, 1),
    st.floats(0, 1),
    seed=st.integers(0, 2**63 - 1),
    tokens=st.integers(1, 5),
    n=st.integers(1, 4),
)


def test_which_protocols_have_them() -> None:
    assert SPEAKING == ["llama.cpp", "vllm", "vllm-generate", "sglang"]


@pytest.mark.parametrize("name", SPEAKING)
@wire.same_every_time
@given(question=questions)
def test_the_question_arrives_as_it_was_asked(name: str, question: Sample) -> None:
    protocol = PROTOCOLS[name]
    request = protocol.encode_sample(question, ModelInfo(vocab_size=12))

    assert protocol.decode_request(request) == question


@pytest.mark.parametrize("name", SPEAKING)
def test_the_tokens_arrive_as_they_were_drawn(name: str) -> None:
    protocol, request = PROTOCOLS[name], PROTOCOLS[name].encode_sample(QUESTION, INFO)
    drawn = ((1, 2), (3,), (0,))
    response = protocol.encode_samples(QUESTION, request, drawn, wire.FixedLLM(None, INFO))

    assert protocol.decode_samples(QUESTION, INFO, response) == drawn


@pytest.mark.parametrize("name", SPEAKING)
def test_what_is_not_what_was_asked_for_is_not_believed(name: str) -> None:
    protocol, request = PROTOCOLS[name], PROTOCOLS[name].encode_sample(QUESTION, INFO)
    for drawn in (((1, 2), (3,)), ((1, 2, 3), (1,), (1,)), ((), (1,), (1,))):
        response = protocol.encode_samples(QUESTION, request, drawn, wire.FixedLLM(None, INFO))
        with pytest.raises(DishonestAnswer, match="asked for 3 samples of up to 2 tokens, got "):
            protocol.decode_samples(QUESTION, INFO, response)
    for data in ({}, [], [{"tokens": "x"}], {"choices": 3}, {"choices": [{"token_ids": ["1"]}]}, {"output_ids": [-1]}):
        with pytest.raises((BrokenAnswer, DishonestAnswer)):
            protocol.decode_samples(QUESTION, INFO, said(data))
    with pytest.raises(EngineFailed):
        protocol.decode_samples(QUESTION, INFO, said({}, 500))


@pytest.mark.parametrize("name", SPEAKING)
@pytest.mark.parametrize(
    ("field", "value"), [("temperature", -1.0), ("top_p", 2.0), ("seed", -1), ("tokens", 65), ("n", 65), ("top_k", "x")]
)
def test_parameters_outside_their_range_are_refused(name: str, field: str, value: object) -> None:
    protocol = PROTOCOLS[name]
    request = protocol.encode_sample(Sample((1,), **{field: value}), INFO)

    with pytest.raises(BadRequest):
        protocol.decode_request(request)


@pytest.mark.parametrize("name", SPEAKING)
def test_a_stream_is_refused_and_a_model_is_asked_by_name(name: str) -> None:
    protocol = PROTOCOLS[name]
    request = protocol.encode_sample(replace(QUESTION, model="m"), INFO)
    data = json.loads(request.body)

    assert name not in ("llama.cpp", "vllm") or protocol.decode_request(request) == replace(QUESTION, model="m")
    with pytest.raises(BadRequest, match="stream"):
        protocol.decode_request(replace(request, body=json.dumps(data | {"stream": True}).encode()))


def test_no_default_of_the_servers_has_a_say() -> None:
    data = json.loads(PROTOCOLS["llama.cpp"].encode_sample(QUESTION, INFO).body)

    assert {name: data[name] for name in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "typical_p", "mirostat")} == {
        "temperature": 0.5, "top_k": 5, "top_p": 0.75, "min_p": 0.25, "repeat_penalty": 1.0, "typical_p": 1.0, "mirostat": 0,
    }  # fmt: skip
    assert "samplers" not in data


def test_ids_that_would_end_the_server_are_not_sent() -> None:
    with pytest.raises(InvalidPrompt):
        PROTOCOLS["sglang"].encode_sample(Sample((12,)), INFO)
    with pytest.raises(InvalidPrompt):
        PROTOCOLS["llama.cpp"].encode_sample(Sample((2**32,)), INFO)


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name not in SPEAKING])
def test_the_others_say_that_they_have_none(name: str) -> None:
    protocol = PROTOCOLS[name]

    with pytest.raises(UsageError, match=f"in the {name} protocol a server draws no tokens itself"):
        protocol.encode_sample(QUESTION, INFO)
    with pytest.raises(UsageError):
        protocol.decode_samples(QUESTION, INFO, said({}))
    with pytest.raises(SeedbedError):
        protocol.encode_samples(QUESTION, HttpRequest("POST", "/"), ((1,),), wire.FixedLLM(None, INFO))
