"""How a server's "no" is understood, whoever's envelope it comes in."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols import wire

from seedbed.errors import (
    BadRequest,
    BrokenAnswer,
    ConnectionLost,
    ContextOverflow,
    DeadlineExceeded,
    EngineFailed,
    FeatureOff,
    InvalidPrompt,
    NonFiniteAtServer,
    NonFiniteLogits,
    NotReady,
    Overloaded,
    RecordingBroken,
    RecordingMiss,
    RequestRefused,
    RequestTimeout,
    SeedbedError,
    TruncatedRow,
    Unauthorized,
    UnknownModel,
)
from seedbed.protocols.exchange import HttpResponse
from seedbed.protocols.refusal import MESSAGE_LENGTH, error_text, error_type, refusal, retry_after_header, status_for, told


def answered(status: int, body: object, *headers: tuple[str, str]) -> HttpResponse:
    return HttpResponse(status, headers, body if isinstance(body, bytes) else orjson.dumps(body))


def inside(message: str, kind: str = "", param: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": param, "code": 400}}


@pytest.mark.parametrize(
    ("status", "body", "meant"),
    [
        (400, {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}, ContextOverflow),
        (400, inside("This model's maximum context length is 256 tokens.", "BadRequestError", "input_tokens"), ContextOverflow),
        (400, inside("The prompt is longer than the maximum model length of 256.", "BadRequestError"), ContextOverflow),
        (400, inside("max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)", "BadRequestError"), ContextOverflow),
        (400, {"error": {"message": "The input (9 tokens) is longer than the model's context length (8 tokens)."}}, ContextOverflow),
        (400, inside("max_tokens must be at least 1, got -3."), BadRequest),
        (400, {"error": {"message": "Prompt contains invalid tokens", "type": "invalid_request_error"}}, BadRequest),
        (400, {"error": "unknown field `x`"}, BadRequest),
        (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, BadRequest),
        (405, {"detail": "Method Not Allowed"}, BadRequest),
        (400, inside("Out of range float values are not JSON compliant: nan", "BadRequestError"), NonFiniteAtServer),
        (500, {"error": {"type": "non_finite_logits", "message": "logit 3 is NaN"}}, NonFiniteAtServer),
        (400, inside("Requested sample logprobs of 50, which is greater than max allowed: 20", "BadRequestError"), FeatureOff),
        (403, inside("Scale-out endpoints are disabled. Restart with --enable-scale-out.", "PermissionDeniedError"), FeatureOff),
        (501, {"error": {"code": 501, "message": "Start it with `--metrics`", "type": "not_supported_error"}}, FeatureOff),
        (501, {"error": "unsupported"}, FeatureOff),
        (401, {"error": "Unauthorized"}, Unauthorized),
        (403, {"error": "Forbidden"}, Unauthorized),
        (401, {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}}, Unauthorized),
        (407, b"", Unauthorized),
        (404, {"detail": "Not Found"}, UnknownModel),
        (404, inside("The model `nope` does not exist.", "NotFoundError", "model"), UnknownModel),
        (503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}, NotReady),
        (503, {"error": "model 'lm' is not ready"}, NotReady),
        (503, {"error": {"message": "queue is full", "type": "Service Unavailable", "code": 503}}, Overloaded),
        (503, {"object": "error", "message": "The request queue is full.", "type": "ServiceUnavailable", "code": 503}, Overloaded),
        (429, {"error": "Model is overloaded", "error_type": "overloaded"}, Overloaded),
        (503, b"<html><body>503 Service Temporarily Unavailable</body></html>", Overloaded),
        (500, {"error": {"message": "EngineDeadError", "type": "InternalServerError"}}, EngineFailed),
        (502, b"<html>bad gateway</html>", EngineFailed),
        (504, b"", EngineFailed),
        (418, b"\xff\xfe", BadRequest),
        (413, inside("longer than the model's context length"), ContextOverflow),
        (422, inside("longer than the model's context length"), ContextOverflow),
        (423, inside("longer than the model's context length"), BadRequest),
        (414, inside("longer than the model's context length"), BadRequest),
        (204, b"", RequestRefused),
        (101, b"", RequestRefused),
    ],
)
def test_every_envelope_means_what_its_server_means(status: int, body: object, meant: type[RequestRefused]) -> None:
    """The table of all servers' refusals; the status stays with the error."""
    error = refusal(answered(status, body))

    assert (type(error), error.status) == (meant, status)


@pytest.mark.parametrize(
    ("status", "text", "flag"),
    [
        (400, "Requested sample logprobs of 50, which is greater than max allowed: 20 (parameter=logprobs)", "--max-logprobs -1"),
        (403, "Scale-out endpoints are disabled.", "--enable-scale-out"),
        (501, "This server does not support metrics endpoint. Start it with `--metrics`", "--metrics"),
        (501, "Start it with --metrics 5 or --slots", "--metrics 5"),
        (501, "This server does not support embeddings.", ""),
    ],
)
def test_a_missing_feature_names_the_flag_that_lifts_it(status: int, text: str, flag: str) -> None:
    """From the server's words, or from what is known of the server; "" when neither says."""
    error = refusal(answered(status, {"error": {"message": text}}))

    assert isinstance(error, FeatureOff)
    assert error.flag == flag


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("0", 0.0), ("0.5", 0.5), ("-1", None), ("inf", None), ("nan", None), ("Wed, 21 Oct", None), ("", None)],
)
def test_retry_after_is_understood_in_seconds(value: str, seconds: float | None) -> None:
    """A date, nonsense, or nothing is None."""
    error = refusal(answered(429, b"", ("Retry-After", value)))

    assert isinstance(error, Overloaded)
    assert error.retry_after == seconds


def test_a_redirect_is_named_without_its_query() -> None:
    """A query may hold a key."""
    error = refusal(answered(307, b"", ("location", "https://host/v1?key=secret")))

    assert str(error) == "the server redirects to https://host/v1; redirects are not followed, connect there directly"


@pytest.mark.parametrize("status", [300, 399])
def test_a_redirect_to_nowhere_is_one_too(status: int) -> None:
    error = refusal(answered(status, b""))

    assert (str(error), error.status) == (
        "the server redirects to nowhere; redirects are not followed, connect there directly",
        status,
    )


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, b"", "the server answered 500: no reason given"),
        (204, b"", "the server answered 204: no reason given"),
        (401, b"", "the server answered 401: no reason given; give the server's key with api_key="),
        (500, inside("non-finite logits"), "the server answered 500: non-finite logits; its model gave NaN for this prefix"),
    ],
)
def test_the_words_say_what_to_do(status: int, body: object, words: str) -> None:
    assert str(refusal(answered(status, body))) == words


def test_where_a_redirect_leads_cannot_steer_a_terminal() -> None:
    """What HTTP allows in a header has control characters beyond ASCII."""
    assert str(refusal(answered(307, b"", ("location", "http://a/\x9b2Jb")))).isprintable()


@wire.thorough
@given(st.integers(100, 599), wire.any_json.map(orjson.dumps) | st.binary(max_size=40))
def test_any_body_with_any_status_is_some_refusal(status: int, body: bytes) -> None:
    """Never an untyped exception, and its message is one bounded printable line."""
    error = refusal(HttpResponse(status, (), body))

    assert isinstance(error, RequestRefused)
    assert str(error).isprintable()
    assert len(str(error)) < 2 * MESSAGE_LENGTH


@wire.thorough
@given(st.data())
def test_any_envelope_is_some_refusal(data: st.DataObject) -> None:
    """Wrong types anywhere in an envelope that is almost right."""
    honest = {"error": {"message": "m", "type": "t", "param": "p", "flag": "--f", "code": 400}, "error_type": "e"}
    body = orjson.dumps(wire.shaken(honest, data.draw))

    assert isinstance(refusal(HttpResponse(data.draw(st.sampled_from([400, 403, 422, 429, 500, 501, 503])), (), body)), RequestRefused)


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (b"<html>bad gateway</html>", "", "<html>bad gateway</html>"),
        (b"\xff no text", "", "\ufffd no text"),
        (b"", "", ""),
        ("only a text", "", "only a text"),
        ({"detail": "Not Found"}, "", "Not Found"),
        ({"error": "Model is overloaded", "error_type": "overloaded"}, "overloaded", "Model is overloaded"),
        ({"object": "error", "message": "full", "type": "ServiceUnavailable"}, "ServiceUnavailable", "full"),
        (inside("too long", "", "input_tokens"), "input_tokens", "too long"),
        (inside("too long", "overflow", "input_tokens"), "overflow", "too long"),
        ({"error": {"detail": "field required"}}, "", "field required"),
        ({"error": {}}, "", ""),
        ({"error": 5}, "", "5"),
        (b"null", "", ""),
        ({"error": {"type": 5, "message": ""}}, "5", "{'type': 5, 'message': ''}"),
    ],
)
def test_type_and_words_are_found_in_any_envelope(body: object, kind: str, text: str) -> None:
    assert error_text(answered(500, body)) == (kind, text)


def test_a_servers_words_cannot_steer_a_terminal() -> None:
    """Escape sequences and line breaks are gone, endless text is cut."""
    kind, text = error_text(answered(400, {"error": {"message": "\x1b[2Jgone\r\nnext " + "x" * 10_000, "type": "a\x07b"}}))

    assert text.startswith("\ufffd[2Jgone next xxx")
    assert (len(text), kind) == (MESSAGE_LENGTH, "a\ufffdb")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadRequest("x", status=422), 422),
        (FeatureOff("x", status=200, flag="--f"), 501),
        (RequestRefused("a redirect, met by a proxy", status=302), 502),
        (EngineFailed("x", status=599), 599),
        (EngineFailed("no status of HTTP's", status=600), 502),
        (InvalidPrompt("x"), 400),
        (TruncatedRow("x", needed=2), 400),
        (RecordingMiss("x", prev_token_ids=[1], known=0), 400),
        (RecordingBroken("x"), 500),
        (ConnectionLost("x", answer_begun=True), 502),
        (BrokenAnswer("x"), 502),
        (RequestTimeout("x"), 504),
        (DeadlineExceeded("x"), 504),
        (NonFiniteLogits("x"), 500),
        (SeedbedError("x"), 500),
    ],
)
def test_only_what_may_help_to_repeat_is_answered_500_or_503(error: SeedbedError, status: int) -> None:
    """A client repeats 429, 500 and 503; what cannot be helped by it, and what a proxy met, has another status."""
    assert status_for(error) == status


def test_what_an_envelope_has_no_type_for_is_in_the_words() -> None:
    """NaN and missing flags are recognised by text."""
    assert told(NonFiniteLogits("logit 3 is NaN")) == "non-finite logits: logit 3 is NaN"
    assert told(NonFiniteLogits("Non-finite logits at 3")) == "Non-finite logits at 3"
    assert told(FeatureOff("no", status=501, flag="--f")) == "no; start the server with --f"
    assert told(FeatureOff("no --f", status=501, flag="--f")) == "no --f"
    assert retry_after_header(Overloaded("x", status=503, retry_after=0.2)) == (("retry-after", "1"),)
    assert retry_after_header(Overloaded("x", status=503)) == ()
    assert error_type(NonFiniteAtServer("x", status=400)) == error_type(NonFiniteAtServer) == "non_finite_at_server"
