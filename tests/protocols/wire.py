"""What the tests of all protocols share: captured answers, models to serve, and the laws that hold for every protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from seedbed.errors import (
    BadRequest,
    ContextOverflow,
    EngineFailed,
    FeatureOff,
    NonFiniteAtServer,
    NonFiniteLogits,
    NotReady,
    Overloaded,
    RecordingMiss,
    RequestRefused,
    SeedbedError,
    ServerUnreachable,
    TruncatedRow,
    Unauthorized,
    UnknownModel,
    UsageError,
)
from seedbed.llm.base import LLM, ModelInfo, Row, TopLogprobs
from seedbed.protocols.exchange import Ask, Detokenize, HttpRequest, HttpResponse, Tokenize
from seedbed.server.answer import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from seedbed.protocols.base import Protocol

FIXTURES = Path(__file__).parents[2] / "fixtures" / "wire"
same_every_time = settings(max_examples=40, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
thorough = settings(same_every_time, max_examples=120)


# Captured exchanges.


def captured(name: str) -> tuple[HttpRequest, HttpResponse]:
    """One exchange with a real server: "folder/file" without its ending."""
    exchange = json.loads((FIXTURES / f"{name}.json").read_text("utf-8"))
    request, response = exchange["request"], exchange["response"]
    return (
        HttpRequest(request["method"], request["path"], _headers(request), _body(request)),
        HttpResponse(response["status"], _headers(response), _body(response)),
    )


def captured_names(prefix: str) -> list[str]:
    """All exchanges in folders of that prefix, sorted."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in FIXTURES.glob(f"{prefix}*/*.json"))


def _headers(half: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in half["headers"])


def _body(half: dict[str, Any]) -> bytes:
    return (half["body"] or {"text": ""})["text"].encode()


def replies(by_path: dict[str, HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """A server of fixed answers, keyed by "METHOD path"."""
    return lambda request: by_path.get(f"{request.method} {request.route}", HttpResponse(404, (), b""))


def said(data: Any, status: int = 200, *headers: tuple[str, str]) -> HttpResponse:
    """A JSON answer."""
    return HttpResponse(status, (("content-type", "application/json"), *headers), orjson.dumps(data))


def shape(value: Any) -> Any:
    """JSON with every scalar replaced by its type's name, and every list by the shape of its first element."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return type(value).__name__


# Models.


class FixedLLM(LLM):
    """Answers every prefix at once with the same row; or fails, if the row is an error."""

    def __init__(self, row: Row | Exception, info: ModelInfo | None = None) -> None:
        self.row, self._info = row, info
        self.asked: list[tuple[int, ...]] = []

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> Row:
        self.asked.append(tuple(prev_token_ids))
        if isinstance(self.row, Exception):
            raise self.row
        return self.row

    def get_stop_token_id(self) -> int:
        return 0

    @property
    def info(self) -> ModelInfo | None:
        return self._info

    async def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return bytes(token_id % 256 for token_id in token_ids).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([97 + token_id % 26])


def respond(llm: LLM, request: HttpRequest, *protocols: Protocol) -> HttpResponse:
    """What a server of ``llm`` in these protocols answers; ``llm`` must not wait."""
    return at_once(answer(llm, protocols, request))


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the model waited")


async def already(value: Any) -> Any:
    """A value to be awaited."""
    return value


def discovered(
    protocol: Protocol, ask: Callable[[HttpRequest], HttpResponse], model: str | None = None
) -> tuple[Protocol, ModelInfo] | None:
    """What discovery finds on a server that answers like ``ask``."""
    discovery = protocol.discover(model)
    request = next(discovery)
    while True:
        try:
            request = discovery.send(ask(request))
        except StopIteration as learnt:
            return learnt.value


# Values.

logits = st.floats(-40, 40, width=32) | st.just(-np.inf) | st.floats(-(2.0**20), 2.0**20, width=32)
prompts = st.lists(st.integers(0, 11), min_size=1, max_size=6).map(tuple)
small_ints = st.integers(1, 14)
names = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="/?#%"), min_size=1, max_size=12)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def full_rows(draw: st.DrawFn, vocab_size: int = 12) -> np.ndarray[Any, Any]:
    """A full row of logits, some of them -inf, at least one not."""
    row = np.array(draw(st.lists(logits, min_size=vocab_size, max_size=vocab_size)), dtype=np.float32)
    row[draw(st.integers(0, vocab_size - 1))] = draw(st.floats(-40, 40, width=32))
    return row


def shaken(value: Any, draw: st.DrawFn) -> Any:
    """JSON with one of its places replaced by any other JSON, or taken out."""
    places = list(_places(value, ()))
    place = draw(st.sampled_from(places))
    if not place:
        return draw(any_json)
    shaken_value = json.loads(json.dumps(value))
    parent = shaken_value
    for key in place[:-1]:
        parent = parent[key]
    if draw(st.booleans()):
        parent[place[-1]] = draw(any_json)
    else:
        del parent[place[-1]]
    return shaken_value


def _places(value: Any, at: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*at, key))


# What servers can refuse with, and how a client is to understand it.

REFUSALS: list[tuple[SeedbedError, type[RequestRefused]]] = [
    (BadRequest("no such parameter", status=400), BadRequest),
    (BadRequest("no such parameter", status=422), BadRequest),
    (ContextOverflow("the prompt has 9 tokens, the context holds 8", status=400), ContextOverflow),
    (Unauthorized("no key", status=401), Unauthorized),
    (Unauthorized("wrong key", status=403), Unauthorized),
    (UnknownModel("there is no model 'x'", status=404), UnknownModel),
    (FeatureOff("it does not list that many", status=501, flag="--max-logprobs -1"), FeatureOff),
    (FeatureOff("found out by looking at its answers", status=200, flag="--logprobs-mode"), FeatureOff),
    (NonFiniteAtServer("NaN", status=400), NonFiniteAtServer),
    (NotReady("loading model", status=503), NotReady),
    (NotReady("in a moment", status=503), NotReady),
    (Overloaded("too much to do", status=503), Overloaded),
    (Overloaded("too much to do", status=429, retry_after=7.0), Overloaded),
    (EngineFailed("the engine broke", status=500), EngineFailed),
    (UsageError("this model has no tokenizer"), BadRequest),
    (NonFiniteLogits("logit 3 is NaN"), NonFiniteAtServer),
    (TruncatedRow("50 tokens were asked for, 20 are known", needed=50), BadRequest),
    (RecordingMiss("never recorded", prev_token_ids=[1, 2], known=1), BadRequest),
    (ServerUnreachable("what is behind this proxy is gone"), EngineFailed),
    (SeedbedError("something else"), EngineFailed),
]


# Laws.


def outcome(protocol: Protocol, ask: Ask, info: ModelInfo, response: HttpResponse) -> Row | SeedbedError:
    """The row, or the typed error; anything else comes out as it is and fails the test."""
    try:
        return protocol.decode_response(ask, info, response).row
    except SeedbedError as error:
        return error


def same_row(have: Row, want: Row) -> bool:
    if isinstance(have, TopLogprobs) or isinstance(want, TopLogprobs):
        return isinstance(have, TopLogprobs) and have == want
    return have.dtype == want.dtype == np.float32 and np.array_equal(have, want)


def holds_for_every_truncation(protocol: Protocol, ask: Ask, info: ModelInfo, response: HttpResponse) -> None:
    """An answer cut anywhere is a typed error, never a row."""
    assert not isinstance(outcome(protocol, ask, info, response), SeedbedError)
    body = bytes(response.body)
    for length in range(len(body)):
        cut = outcome(protocol, ask, info, HttpResponse(response.status, response.headers, body[:length]))
        assert isinstance(cut, SeedbedError), f"cut to {length} of {len(body)} octets it still is a row: {cut!r}"


def holds_for_every_changed_byte(
    protocol: Protocol,
    ask: Ask,
    info: ModelInfo,
    response: HttpResponse,
    read: Callable[[bytes], dict[int, float]],
    step: int = 1,
) -> None:
    """An answer with one octet changed is a typed error, or the row that a plain reading of the changed octets gives."""
    assert not isinstance(outcome(protocol, ask, info, response), SeedbedError)
    body = bytearray(response.body)
    for place in range(0, len(body), step):
        original = body[place]
        for other in {original ^ 1, original ^ 0x10, 0x39, 0x2D, 0xFF} - {original}:
            body[place] = other
            row = outcome(protocol, ask, info, HttpResponse(response.status, response.headers, bytes(body)))
            if not isinstance(row, SeedbedError):
                assert as_dict(row) == read(bytes(body)), f"octet {place} changed from {original:#x} to {other:#x}"
        body[place] = original


def as_dict(row: Row) -> dict[int, float]:
    if isinstance(row, TopLogprobs):
        return dict(zip(row.token_ids.tolist(), row.logprobs.tolist(), strict=True))
    return dict(enumerate(row.tolist()))


def float32(value: float, lowest: float) -> float:
    return float(np.float32(value)) if value > lowest else -np.inf


def holds_for_every_refusal(protocol: Protocol) -> None:
    """Each error arrives as it was meant, with its words, its flag and its Retry-After."""
    for error, meant in REFUSALS:
        try:
            protocol.decode_response(Ask((1,), 1), ModelInfo(vocab_size=12), protocol.encode_error(error))
        except SeedbedError as caught:
            have: SeedbedError = caught
        else:
            raise AssertionError(f"{error!r} was taken for a row")
        assert type(have) is meant, f"{error!r} arrived as {have!r}"
        assert str(error) in str(have)
        if isinstance(error, FeatureOff):
            assert isinstance(have, FeatureOff)
            assert have.flag == error.flag
        if isinstance(error, Overloaded):
            assert isinstance(have, Overloaded)
            assert have.retry_after == error.retry_after


def holds_for_texts_and_token_ids(protocol: Protocol, text: str, token_ids: list[int]) -> None:
    """Tokenise and detokenise, questions and answers, both directions."""
    assert protocol.decode_request(protocol.encode_tokenize(text)) == Tokenize(text)
    assert protocol.decode_request(protocol.encode_detokenize(token_ids)) == Detokenize(tuple(token_ids))
    assert protocol.decode_tokens(protocol.encode_tokens(token_ids)) == token_ids
    assert protocol.decode_text(protocol.encode_text(text)) == text


def is_well_typed(found: tuple[Protocol, ModelInfo] | None) -> bool:
    """Whether what discovery found is nothing, or a ModelInfo whose fields have the types they promise."""
    if found is None:
        return True
    _, info = found
    return (
        all(isinstance(text, str) for text in (info.model, info.server, info.fingerprint))
        and all(n is None or (type(n) is int and 0 < n < 2**63) for n in (info.vocab_size, info.context_length, info.max_top_k))
        and all(type(token_id) is int and token_id >= 0 for token_id in info.eos_token_ids)
        and info.kind in ("logits", "logprobs")
    )


texts = st.text(st.characters(exclude_categories=["Cs"]))
some_token_ids = st.lists(st.integers(0, 2**40), min_size=1)
SOMETHING_ELSE = [b"", b"<html>", b"[]", b"7", b'"x"', b"null", b"[" * 5000, b"\xff", b'{"version": 7}', b'{"data": 7}']


def contains(want: Any, have: Any) -> bool:
    """Whether a shape has all of another one's fields, of the same types."""
    if isinstance(have, dict):
        return isinstance(want, dict) and all(key in want and contains(want[key], have[key]) for key in have)
    if isinstance(have, list):
        return isinstance(want, list) and (not have or contains(want[0], have[0]))
    return bool(have == want)
