"""A request and a model in, a response out: every error becomes a response, and no request an exception."""

from __future__ import annotations

import orjson
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from seedbed import ModelInfo, TinyLM, TopLogprobs
from seedbed.errors import (
    BadRequest,
    ContextOverflow,
    EngineFailed,
    NotReady,
    Overloaded,
    RecordingMiss,
    SeedbedError,
    Unauthorized,
    UnknownModel,
    UsageError,
)
from seedbed.protocols import PROTOCOLS, protocol_named
from seedbed.protocols.exchange import HttpRequest, HttpResponse
from seedbed.server import answer
from seedbed.testing import ScriptedLLM

NATIVE = [protocol_named("native")]
ALL = list(PROTOCOLS.values())
INFO = ModelInfo("four", "test", "f", 4, (0,), 8)
ASK = HttpRequest("POST", "/v1/next_token_logits", (), b'{"token_ids":[1]}')


def llm_that_raises(error: BaseException) -> ScriptedLLM:
    return ScriptedLLM({(1,): error}, info=INFO)


async def said(llm, request: HttpRequest = ASK, protocols=NATIVE, **options) -> tuple[int, dict]:
    response = await answer(llm, protocols, request, **options)
    return response.status, orjson.loads(response.body)


async def test_a_row_is_answered() -> None:
    assert await said(ScriptedLLM({}, default=[0.0, 1.0, 2.0, 3.0], info=INFO)) == (200, {"logits": [0.0, 1.0, 2.0, 3.0]})


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadRequest("b", status=422), 422),
        (ContextOverflow("c", status=400), 400),
        (Unauthorized("u", status=401), 401),
        (UnknownModel("m", status=404), 404),
        (NotReady("n", status=503), 503),
        (Overloaded("o", status=429), 429),
        (EngineFailed("e", status=500), 500),
        (UsageError("v"), 400),
        (RecordingMiss("r", prev_token_ids=(1,), known=0), 400),  # trying again cannot help
        (SeedbedError("s"), 500),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_every_error_of_ours_has_its_status_and_says_its_message(error: SeedbedError, status: int) -> None:
    have, body = await said(llm_that_raises(error))

    assert have == status
    assert body["error"]["message"] == str(error)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_error_is_said_in_the_envelope_of_the_protocol_asked(protocol: str) -> None:
    path = "/nowhere-at-all"
    status, body = await said(TinyLM(), HttpRequest("GET", path), [protocol_named(protocol)])

    assert status == 404
    assert path in orjson.dumps(body).decode()


async def test_a_models_own_error_is_named_and_not_quoted() -> None:
    """Its text may hold anything, a path or a key."""
    status, body = await said(llm_that_raises(RuntimeError("hunter22")))

    assert status == 500
    assert body["error"]["message"] == "the model failed with RuntimeError"


async def test_errors_asked_for_pass_through() -> None:
    miss = RecordingMiss("r", prev_token_ids=(1,), known=0)
    with pytest.raises(RecordingMiss):
        await said(llm_that_raises(miss), through=(RecordingMiss,))
    assert (await said(llm_that_raises(UsageError("u")), through=(RecordingMiss,)))[0] == 400


async def test_a_cancellation_is_no_error_of_the_models(autojump_clock) -> None:
    with trio.move_on_after(1) as scope:
        await answer(ScriptedLLM({}, default=[0.0], info=INFO, delay=5), NATIVE, ASK)

    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"token_ids":[]}', 400),
        (b'{"token_ids":[-1]}', 400),
        (b'{"token_ids":[true]}', 400),
        (b'{"token_ids":[1.0]}', 400),
        (b'{"token_ids":"1"}', 400),
        (b'{"token_ids":[4]}', 400),
        (b'{"token_ids":[1,1,1,1,1,1,1,1]}', 400),
        (b'{"token_ids":[1],"top_k":0}', 400),
        (b'{"token_ids":[1],"model":"five"}', 404),
        (b'{"token_ids":' + b"[" * 100_000, 400),
        (b'{"token_ids":[1],"model":"\\ud800"}', 400),
        (b"\xff\xfe", 400),
    ],
)
async def test_a_request_that_is_none_is_refused(body: bytes, status: int) -> None:
    have, _ = await said(ScriptedLLM({}, default=[0.0] * 4, info=INFO), HttpRequest("POST", ASK.path, (), body))

    assert have == status


@pytest.mark.parametrize("row", [[0.0], [0.0] * 5, [[0.0] * 4], "row", None, [float("nan")] * 4, [float("inf"), 0, 0, 0]], ids=str)
async def test_a_row_that_is_none_is_the_servers_fault(row: object) -> None:
    status, _ = await said(ScriptedLLM({(1,): row}, info=INFO))

    assert status == 500


async def test_a_truncated_row_is_not_passed_off_as_full() -> None:
    status, body = await said(ScriptedLLM({}, default=TopLogprobs([1, 2], [-1.0, -2.0], 4), info=INFO))

    assert status == 400
    assert body["error"]["type"] == "truncated_row"


async def test_a_model_that_says_nothing_of_itself_is_described_by_asking_it() -> None:
    status, body = await said(ScriptedLLM({}, default=[0.0] * 7, stop_token_id=3), HttpRequest("GET", "/v1/model"))

    assert status == 200
    assert (body["model"], body["vocab_size"], body["eos_token_ids"]) == ("ScriptedLLM", 7, [3])


async def test_the_first_protocol_that_knows_a_path_answers() -> None:
    llm = TinyLM()
    for name in ("native", "llama.cpp", "vllm", "sglang"):
        alone = await answer(llm, [protocol_named(name)], HttpRequest("GET", "/health"))
        assert alone.status == 200
    together = await answer(llm, ALL, HttpRequest("GET", "/health"))

    assert together.body == (await answer(llm, ALL[:1], HttpRequest("GET", "/health"))).body


TINY = TinyLM(order=2)
PATHS = [
    "/v1/model",
    "/v1/next_token_logits",
    "/v1/tokenize",
    "/v1/detokenize",
    "/completion",
    "/props",
    "/tokenize",
    "/detokenize",
    "/",
    "/health",
]
KEYS = ["token_ids", "tokens", "text", "content", "prompt", "n_probs", "top_k", "model"]


@given(
    st.sampled_from(["GET", "POST", "PUT", "x"]),
    st.sampled_from(PATHS),
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
        max_leaves=10,
    ).map(lambda value: orjson.dumps(value)),
)
def test_no_request_is_an_exception(method: str, path: str, body: bytes) -> None:
    response = trio.run(answer, TINY, ALL, HttpRequest(method, path, (), body))

    assert isinstance(response, HttpResponse)
    assert 200 <= response.status < 600
    if response.status == 500:
        assert b"the model failed with" not in response.body


@pytest.mark.parametrize(("best", "rows"), [([1, 1, 1, 1], 3), ([1, 0, 1, 1], 2), ([0, 1, 1, 1], 1)])
async def test_rows_ahead_end_with_the_token_that_ends_a_sequence(best: list[int], rows: int) -> None:
    """Nothing follows it, so nothing is computed after it."""
    llm = ScriptedLLM(lambda prefix: [float(token_id == best[len(prefix) - 1]) for token_id in range(4)], info=INFO)
    request = HttpRequest("POST", "/v1/next_token_logits", (), b'{"token_ids":[1],"ahead":3}')
    _, ahead = await said(llm, request)

    assert ahead["ahead"]["proposed"] == best[:rows]
    assert len(ahead["ahead"]["rows"]) == len(llm.asked) == rows


async def test_a_servers_own_draws_end_where_the_context_does() -> None:
    llm = ScriptedLLM({}, default=[-50.0, 1.0, 1.0, 1.0], info=INFO)
    request = HttpRequest("POST", "/v1/completions", (), b'{"prompt":[1,1,1,1,1,1],"max_tokens":9,"return_token_ids":true,"n":2}')
    _, drawn = await said(llm, request, ALL)

    assert [len(choice["token_ids"]) for choice in drawn["choices"]] == [2, 2]


async def test_a_row_of_another_length_is_the_models_fault_in_draws_too() -> None:
    llm = ScriptedLLM({}, default=[0.0] * 5, info=INFO)
    request = HttpRequest("POST", "/v1/completions", (), b'{"prompt":[1],"max_tokens":1,"return_token_ids":true}')
    status, body = await said(llm, request, ALL)

    assert status == 500
    assert "the row is for a vocabulary of 5 tokens" in body["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": [1], "max_tokens": 1, "logprobs": 1, "logit_bias": {"1" * 5000: 1}}),
        ("/completion", {"prompt": [1], "n_predict": 1, "n_probs": 1, "logit_bias": [[True, 1000]]}),
        ("/completion", {"prompt": [1], "n_predict": 1, "n_probs": 1, "logit_bias": [[2**62, 1000]]}),
    ],
    ids=["digits", "bool", "no such token"],
)
async def test_a_bias_for_what_is_no_token_is_not_the_models_fault(path: str, body: dict[str, object]) -> None:
    """vLLM refuses it, llama.cpp passes over it."""
    status, answered = await said(
        ScriptedLLM({}, default=[0.0, 1.0, 2.0, 3.0], info=INFO), HttpRequest("POST", path, (), orjson.dumps(body)), ALL
    )

    assert status == (400 if path.startswith("/v1") else 200)
    assert status == 400 or answered["completion_probabilities"][0]["id"] == 3


async def test_rows_ahead_end_where_the_context_does() -> None:
    llm = ScriptedLLM({}, default=[0.0, 1.0, 0.0, 0.0], info=INFO)
    request = HttpRequest("POST", "/v1/next_token_logits", (), b'{"token_ids":[1,1,1,1,1,1],"ahead":4}')
    _, ahead = await said(llm, request)

    assert len(ahead["ahead"]["rows"]) == 2
