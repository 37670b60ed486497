"""What every protocol can do, and the registry of those there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.protocols import wire

from seedbed.errors import BadRequest, ContextOverflow, InvalidPrompt, SeedbedError, UnknownModel, UsageError
from seedbed.llm.base import Ahead, ModelInfo
from seedbed.protocols import PROTOCOLS, protocol_named
from seedbed.protocols.base import Protocol, check_ask, check_ids_below, known_vocab_size
from seedbed.protocols.exchange import Ask, HttpRequest, HttpResponse, Sample, Score
from seedbed.protocols.fields import json_request

if TYPE_CHECKING:
    from collections.abc import Callable

INFO = ModelInfo(model="m", vocab_size=12, eos_token_ids=(0,), context_length=8, kind="logprobs")
PATHS = ["/", "/health", "/v1/models", "/v1/model", "/props", "/version", "/tokenize", "/detokenize", "/completion", "/generate", "/v2"]


def test_protocols_are_found_by_name() -> None:
    """An unknown name is answered with those that are known."""
    assert all(protocol_named(name) is protocol and protocol.name == name for name, protocol in PROTOCOLS.items())
    with pytest.raises(UsageError, match="unknown protocol 'llama'; known are native"):
        protocol_named("llama")


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        (Ask((1, 12)), BadRequest),
        (Ask((1,) * 8), ContextOverflow),
        (Ask((1,), None, "other"), UnknownModel),
        (Ask((1,) * 7 + (12,)), BadRequest),
    ],
)
def test_a_question_the_model_cannot_be_asked_is_refused(ask: Ask, kind: type[SeedbedError]) -> None:
    """Before the model sees it: an unknown token, no room for an answer, another model."""
    with pytest.raises(kind):
        check_ask(ask, INFO)


def test_a_model_that_says_nothing_of_itself_is_asked_anything() -> None:
    """What is unknown is not checked."""
    check_ask(Ask((2**40,) * 9, 5, "any"), ModelInfo())
    check_ask(Ask((11,) * 7, 5, "m"), INFO)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_any_request_is_answered_in_the_protocols_envelope(protocol: Protocol) -> None:
    """Every path with every method and body: 200, or a refusal that the client half understands."""
    llm = wire.FixedLLM(np.zeros(12, np.float32), INFO)
    for path in PATHS:
        for method in ("GET", "POST", "PUT", ""):
            for body in (b"", b"{}", b"[]", b"\xff", b'{"prompt": 7, "content": 7, "tokens": 7, "inputs": 7}'):
                response = wire.respond(llm, HttpRequest(method, path, (), body), protocol)
                assert response.status in (200, 400, 404), (method, path, body)
                if response.status != 200:
                    with pytest.raises(SeedbedError):
                        protocol.decode_response(Ask((1,), 2), INFO, response)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_a_fault_of_the_models_own_tells_only_its_type(protocol: Protocol) -> None:
    """Its text may hold anything."""
    llm = wire.FixedLLM(ZeroDivisionError("secret"), INFO)
    response = wire.respond(llm, protocol.encode_request(Ask((1,), 2), INFO), protocol)

    assert response.status == 500
    assert b"ZeroDivisionError" in response.body
    assert b"secret" not in response.body


def test_a_prefix_is_looked_at_once_and_its_first_wrong_id_named() -> None:
    check_ids_below(10, (0, np.int64(9), 5), "")  # type: ignore[arg-type]
    check_ids_below(2**63, (2**63 - 1,), "")
    for token_ids, limit, words in (((0, 10, 11), 10, "^token id 10 is none$"), ((0, -1), 10, "^token id -1 is none$")):
        with pytest.raises(InvalidPrompt, match=words):
            check_ids_below(limit, token_ids, " is none")
    for token_ids in ((0, True), (False,)):
        with pytest.raises(InvalidPrompt, match="a prefix is one token id or more"):
            check_ids_below(10, token_ids, " is none")


def test_a_vocabulary_of_unknown_size_is_asked_for() -> None:
    with pytest.raises(UsageError, match="^the vocabulary's size is unknown: give it with vocab_size=$"):
        known_vocab_size(ModelInfo())


def test_what_a_protocol_cannot_say_is_refused_in_words() -> None:
    """kserve-v2 has neither rows ahead, nor those of a whole prompt, nor draws of the server's own."""
    protocol, llm, request = PROTOCOLS["kserve-v2"], wire.FixedLLM(np.zeros(12, np.float32), INFO), HttpRequest("POST", "/")
    row = np.zeros(12, np.float32)
    server_side: list[tuple[Callable[[], object], str]] = [
        (lambda: protocol.encode_ahead(Ask((1,), ahead=2), request, Ahead((1,), (row, row)), llm), "one row a request"),
        (lambda: protocol.encode_place(Score((1, 2), 1), row, 2), "one row a request"),
        (lambda: protocol.encode_scores(Score((1, 2), 1), request, [], row, llm), "one row a request"),
        (lambda: protocol.encode_samples(Sample((1,)), request, [[1]], llm), "no sampling of the server's own"),
    ]
    for refused, words in server_side:
        with pytest.raises(BadRequest, match=words) as caught:
            refused()
        assert caught.value.status == 400
    with pytest.raises(UsageError, match="in the kserve-v2 protocol a server draws no tokens itself"):
        protocol.decode_samples(Sample((1,)), INFO, HttpResponse(200))


@pytest.mark.parametrize("token_ids", [(), ("a",), (-1,), (None,), (1.5,)], ids=repr)
@pytest.mark.parametrize("name", ["llama.cpp", "sglang", "kserve-v2"])
def test_a_prefix_that_would_be_taken_for_something_else_is_not_sent(name: str, token_ids: tuple[Any, ...]) -> None:
    """The other servers refuse it themselves; to look at each id of each prefix would cost more than to send them."""
    with pytest.raises(InvalidPrompt):
        PROTOCOLS[name].encode_request(Ask(token_ids, 2), INFO)


def test_what_is_no_json_is_no_request() -> None:
    with pytest.raises(UsageError, match="cannot be written as JSON"):
        json_request("/v1", {"prompt": object()})
