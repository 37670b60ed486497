"""What every protocol can do: put a question into bytes and take the answer out, and the same from the server's side.

Rule 1: no I/O, no state, no clock; a protocol is a set of pure functions with a name.
Rule 2: both halves live in one file and test each other: decoding what the other half encoded gives the same value back.
Rule 3: an answer is believed only as far as it agrees with the request and with itself; what does not is a ``DishonestAnswer``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import orjson

from seedbed.errors import BadRequest, BrokenAnswer, ContextOverflow, UnknownModel, UsageError
from seedbed.protocols.exchange import HttpResponse
from seedbed.protocols.refusal import refusal

if TYPE_CHECKING:
    from collections.abc import Generator

    from seedbed.errors import SeedbedError
    from seedbed.llm.base import LLM, ModelInfo, Row
    from seedbed.protocols.exchange import Answer, Ask, Describe, HttpRequest, Question

__all__ = ["Discovery", "Protocol"]

T = TypeVar("T")
JSON = (("content-type", "application/json"),)

Discovery: TypeAlias = "Generator[HttpRequest, HttpResponse, ModelInfo | None]"
"""Yields the next probe, is sent its response, returns what it learnt, or None when the server does not speak this protocol."""


class Protocol(ABC):
    """One way to ask a server for rows.

    Attributes:
        name: what ``connect(protocol=)`` and ``serve(protocols=)`` call it.
        default_top_k: how many tokens to ask for when the caller does not say; None is the full row.
    """

    name: ClassVar[str]
    default_top_k: ClassVar[int | None]

    # The client's half.

    @abstractmethod
    def discover(self) -> Discovery:
        """Find out whether a server speaks this protocol, and what model it has."""

    @abstractmethod
    def encode_request(self, ask: Ask, info: ModelInfo) -> HttpRequest:
        """The question as a request."""

    @abstractmethod
    def decode_response(self, ask: Ask, info: ModelInfo, response: HttpResponse) -> Answer:
        """The answer to that question.

        Raises:
            RequestRefused: the server said no; the subclass says how it was meant.
            BrokenAnswer: not in this protocol's terms, or contradicting the question or itself.
            RowError: a row no token can be drawn from.
        """

    @abstractmethod
    def answer_bound(self, ask: Ask, info: ModelInfo) -> int:
        """An honest answer's body is not longer than this, in bytes."""

    @abstractmethod
    def encode_tokenize(self, text: str) -> HttpRequest:
        """Ask for the token ids of a text."""

    @abstractmethod
    def decode_tokens(self, response: HttpResponse) -> list[int]:
        """The token ids."""

    @abstractmethod
    def encode_detokenize(self, token_ids: list[int]) -> HttpRequest:
        """Ask for the text of token ids."""

    @abstractmethod
    def decode_text(self, response: HttpResponse) -> str:
        """The text."""

    # The server's half.

    @abstractmethod
    def decode_request(self, request: HttpRequest) -> Question | None:
        """The question a request carries; None when its path is none of this protocol's.

        Raises:
            RequestRefused: the path is ours and the rest is not; to be answered with ``encode_error``.
        """

    @abstractmethod
    def encode_row(self, ask: Ask, request: HttpRequest, row: Row, llm: LLM) -> HttpResponse:
        """The row as a response."""

    @abstractmethod
    def encode_description(self, question: Describe, info: ModelInfo, llm: LLM) -> HttpResponse:
        """What the model is, as a response."""

    @abstractmethod
    def encode_tokens(self, token_ids: list[int]) -> HttpResponse:
        """Token ids as a response."""

    @abstractmethod
    def encode_text(self, text: str) -> HttpResponse:
        """A text as a response."""

    @abstractmethod
    def encode_health(self) -> HttpResponse:
        """That all is well."""

    @abstractmethod
    def encode_error(self, error: SeedbedError) -> HttpResponse:
        """What went wrong, in this protocol's envelope."""


def json_body(body: bytes | bytearray | memoryview) -> Any:
    """A request's JSON, on the server's side.

    Raises:
        BadRequest: not JSON, or not an object.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the request is not JSON: {error}", status=400) from error
    if not isinstance(data, dict):
        raise BadRequest("the request must be a JSON object", status=400)
    return data


def parse_json(response: HttpResponse, what: str) -> Any:
    """A response's JSON object, or array of them, on the client's side.

    Raises:
        BrokenAnswer: not JSON; quotes its beginning.
    """
    try:
        return orjson.loads(response.body)
    except orjson.JSONDecodeError as error:
        begin = bytes(response.body[:60])
        raise BrokenAnswer(f"{what} is not JSON ({error}); it begins {begin!r}") from error


def field_of(response: HttpResponse, name: str, kind: type[T]) -> T:
    """One field of a response that is a JSON object.

    Raises:
        RequestRefused: the server said no.
        BrokenAnswer: no such field, or of another type.
    """
    if response.status != 200:
        raise refusal(response)
    data = parse_json(response, "the answer")
    value = data.get(name) if isinstance(data, dict) else None
    if not isinstance(value, kind):
        raise BrokenAnswer(f"the answer has no {name!r}")
    return value


def known_vocab_size(info: ModelInfo) -> int:
    """The vocabulary's size, which a list of the k best cannot be judged without.

    Raises:
        UsageError: unknown.
    """
    if info.vocab_size is None:
        raise UsageError("the vocabulary's size is unknown: give it with vocab_size=")
    return info.vocab_size


def token_ids_of(data: Any, what: str) -> tuple[int, ...]:
    """Token ids out of a request's JSON.

    Raises:
        BadRequest: not a non-empty list of ints of 0 or more.
    """
    if not isinstance(data, list) or not data or not all(type(token_id) is int and token_id >= 0 for token_id in data):
        raise BadRequest(f"{what} must be a non-empty list of token ids, ints of 0 or more", status=400)
    return tuple(data)


def check_ask(ask: Ask, info: ModelInfo) -> None:
    """Whether a model can be asked that, on the server's side.

    Raises:
        BadRequest: a token id outside the vocabulary.
        ContextOverflow: no room for one more token.
        UnknownModel: a model of another name.
    """
    if ask.model is not None and info.model and ask.model != info.model:
        raise UnknownModel(f"the model {ask.model!r} does not exist; this server has {info.model!r}", status=404)
    if info.vocab_size is not None and max(ask.token_ids) >= info.vocab_size:
        raise BadRequest(f"token id {max(ask.token_ids)} is outside the vocabulary of {info.vocab_size}", status=400)
    if info.context_length is not None and len(ask.token_ids) >= info.context_length:
        raise ContextOverflow(
            f"the prompt has {len(ask.token_ids)} tokens, the context holds {info.context_length} and one is needed for the answer",
            status=400,
        )


def json_response(data: object, status: int = 200, *headers: tuple[str, str]) -> HttpResponse:
    """A JSON response. Float32 arrays are written in the shortest form that gives the same float32 back, -inf as null."""
    return HttpResponse(status, (("content-type", "application/json"), *headers), orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY))
