"""The registry: discovery in its order names each server right, and one server can speak every protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from tests.protocols import wire
from tests.protocols.wire import said

from seedbed.errors import Unauthorized, UsageError
from seedbed.http import connect
from seedbed.llm.base import ModelInfo
from seedbed.protocols import PROTOCOLS, protocol_named, protocols_named
from seedbed.protocols.exchange import Ask, HttpRequest, HttpResponse
from seedbed.protocols.kserve_v2 import KServeV2
from seedbed.protocols.vllm import VLLM
from seedbed.server import TinyLM, serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from seedbed.protocols.base import Protocol

ROW = np.float32([9, 8, 7, 6, 5, 4, 3, 2, 1, 0, -1, -2])
INFO = ModelInfo(model="m", fingerprint="f", vocab_size=12, eos_token_ids=(3,), context_length=64)
LLM = wire.FixedLLM(ROW, INFO)


def found_by_asking(ask: Callable[[HttpRequest], HttpResponse]) -> tuple[Protocol, ModelInfo] | None:
    """What protocol="auto" does."""
    for protocol in PROTOCOLS.values():
        found = wire.discovered(protocol, ask)
        if found is not None:
            return found
    return None


def test_the_protocols_are_these_in_this_order() -> None:
    """The order discovery tries them in."""
    assert list(PROTOCOLS) == ["native", "llama.cpp", "vllm", "vllm-generate", "sglang", "kserve-v2"]


def test_a_protocol_itself_passes_for_its_name() -> None:
    """For those that can be told more."""
    assert protocol_named(KServeV2("lm")) == KServeV2("lm")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_server_of_one_protocol_is_found_to_speak_it(name: str) -> None:
    """With the model's name and the vocabulary's size by the probes; vLLM's second way is found when it is the only one."""
    found = found_by_asking(lambda request: wire.respond(LLM, request, PROTOCOLS[name]))

    assert found is not None
    protocol, info = found
    assert (protocol.name, info.protocol, info.model, info.vocab_size) == (name, name, "m", 12)
    assert info.kind == ("logits" if name in ("native", "kserve-v2") else "logprobs")
    assert info.eos_token_ids == {"native": (3,), "llama.cpp": (100,)}.get(name, ())  # by its text, of which this tokenizer makes 100


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_server_that_speaks_them_all_is_understood_in_each(name: str) -> None:
    """Shared paths are answered by the first protocol that has them; each client half makes do with that."""

    def ask(request: HttpRequest) -> HttpResponse:
        return wire.respond(LLM, request, *PROTOCOLS.values())

    found = wire.discovered(PROTOCOLS[name], ask)
    assert found is not None
    protocol, info = found
    question = Ask((1, 2), None)
    row = protocol.decode_response(question, info, ask(protocol.encode_request(question, info))).row

    assert (info.model, info.vocab_size) == ("m", 12)
    assert isinstance(row, np.ndarray)
    assert np.allclose(row - row[0], ROW - ROW[0], atol=1e-6)
    if name != "kserve-v2":
        assert info.context_length == 64
        assert protocol.decode_tokens(ask(protocol.encode_tokenize("hé"))) == list("hé".encode())
        assert protocol.decode_text(ask(protocol.encode_detokenize([104, 105]))) == "hi"


def test_the_first_of_all_is_the_native_one() -> None:
    """It tells most."""
    found = found_by_asking(lambda request: wire.respond(LLM, request, *PROTOCOLS.values()))

    assert found is not None
    assert found[0].name == "native"


def captured_llama(request: HttpRequest) -> HttpResponse:
    known = {
        "GET /props": "llamacpp-smollm2/props",
        "GET /v1/models": "llamacpp-smollm2/v1-models",
        "GET /health": "llamacpp-smollm2/health",
        "POST /tokenize": "llamacpp-smollm2/tokenize",
    }
    return wire.captured(known.get(f"{request.method} {request.route}", "llamacpp-smollm2/error-404"))[1]


def captured_vllm(request: HttpRequest) -> HttpResponse:
    known = {
        "GET /version": "vllm-tiny512/version",
        "GET /v1/models": "vllm-tiny512/v1-models",
        "GET /health": "vllm-tiny512/health",
        "POST /v1/completions": "vllm-tiny512/error-logprobs-too-many",
        "POST /tokenize": "vllm-tiny512/tokenize",
    }
    return wire.captured(known.get(f"{request.method} {request.route}", "vllm-tiny512/error-404"))[1]


@pytest.mark.parametrize(
    ("ask", "name", "model"),
    [(captured_llama, "llama.cpp", "models/SmolLM2-135M-Instruct.Q4_1.gguf"), (captured_vllm, "vllm", "tiny")],
)
def test_a_real_server_is_found_by_its_captured_answers(ask: Any, name: str, model: str) -> None:
    """To every other path it answers as it really does."""
    found = found_by_asking(ask)

    assert found is not None
    assert (found[0].name, found[1].model) == (name, model)


@pytest.mark.parametrize(
    "answer",
    [
        HttpResponse(404),
        HttpResponse(200, (("content-type", "text/html"),), b"<html>hello</html>"),
        said({}),
        said({"object": "list", "data": [{"id": "gpt", "owned_by": "openai"}]}),
        said({"version": "0.5.1"}),
        said({"detail": "Not Found"}, 404),
    ],
)
def test_what_is_no_model_server_is_found_to_be_none(answer: HttpResponse) -> None:
    """Whatever it answers to everything."""
    assert found_by_asking(lambda _: answer) is None


def test_a_gateway_that_wants_a_key_is_named_at_once() -> None:
    """Before anything is guessed about what is behind it."""
    with pytest.raises(Unauthorized):
        found_by_asking(lambda _: HttpResponse(401, (), b"<html>"))


@pytest.mark.parametrize("name", PROTOCOLS)
async def test_every_protocol_works_from_end_to_end(name: str) -> None:
    """connect() and serve() over a real socket; what the protocol does not tell is given."""
    prompt = list(b"The seed is an addres")
    async with (
        serve(TinyLM(), protocols=[name]) as server,
        connect(server.url, eos_token_ids=[256], vocab_size=257) as model,
    ):
        assert model.protocol == name
        row = await model.next_token_logits(prompt)
        best = int(row.argmax()) if isinstance(row, np.ndarray) else int(row.token_ids[0])

    assert chr(best) == "s"


async def test_raw_logits_are_asked_for_in_full_unasked() -> None:
    """Of a vLLM server started with --logprobs-mode raw_logits."""
    transport = transport_of(VLLM("raw_logits"))
    async with connect("http://lm", "vllm", eos_token_ids=[3], transport=transport) as model:
        assert (model.info.kind, model.top_k) == ("logits", None)
        assert np.array_equal(await model.next_token_logits([1, 2]), ROW)


def transport_of(protocol: Protocol) -> httpx.MockTransport:
    async def handle(request: httpx.Request) -> httpx.Response:
        asked = HttpRequest(request.method, request.url.raw_path.decode(), tuple(request.headers.items()), await request.aread())
        given = wire.respond(LLM, asked, protocol)
        return httpx.Response(given.status, headers=list(given.headers), content=bytes(given.body))

    return httpx.MockTransport(handle)


@pytest.mark.parametrize(
    ("names", "why"), [("native", "must be a list of names"), (7, "must be a list of names"), ((), "at least one"), (["vlm"], "known are")]
)
def test_a_server_speaks_at_least_one_protocol_by_name(names: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        protocols_named(names)
