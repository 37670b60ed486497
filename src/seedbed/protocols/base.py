"""What every protocol can do: put a question into bytes and take the answer out, and the same from the server's side.

Rule 1: no I/O, no state, no clock; a protocol is a set of pure functions with a name.
Rule 2: both halves live in one file and test each other: decoding what the other half encoded gives the same value back.
Rule 3: an answer is believed only as far as it agrees with the request and with itself; what does not is a ``DishonestAnswer``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import orjson

from seedbed.errors import BadRequest, ContextOverflow, InvalidPrompt, UnknownModel, UsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from seedbed.errors import SeedbedError
    from seedbed.llm.base import LLM, Ahead, ModelInfo, Row
    from seedbed.protocols.exchange import Answer, Ask, Describe, HttpRequest, HttpResponse, Question, Sample, Score
    from seedbed.sampling.presets import Order

__all__ = ["WORD", "Discovery", "Protocol", "check_ask", "check_ids_below", "entries_asked", "known_vocab_size"]

WORD = 2**32
"""One more than the largest id that 32 bits hold."""
Discovery: TypeAlias = "Generator[HttpRequest, HttpResponse, tuple[Protocol, ModelInfo] | None]"
"""Yields the next probe, is sent its response. Returns the protocol, narrowed to what the server has, and the model; None when the
server does not speak it."""


class Protocol(ABC):
    """One way to ask a server for rows.

    Attributes:
        name: what ``connect(protocol=)`` and ``serve(protocols=)`` call it.
        default_top_k: how many tokens to ask for when the caller does not say; None is the full row.
        whole_rows_only: whether it has no words for a row's best tokens.
        looks_ahead: whether one answer can carry several rows, along the tokens the server would take itself.
        can_bypass_cache: whether a request can forbid the server to use its prefix cache; ours then do, unless ``Ask.reuse`` is set.
        scores: whether one answer can carry the rows of all beginnings of a prefix. They are another computation than one row a request,
            and may differ from it.
        samples_as: whose order and rules a server's own sampler follows; None where servers draw no tokens themselves.
    """

    name: ClassVar[str]
    default_top_k: ClassVar[int | None]
    whole_rows_only: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False
    can_bypass_cache: ClassVar[bool] = False
    scores: ClassVar[bool] = False
    samples_as: ClassVar[Order | None] = None

    # The client's half.

    @abstractmethod
    def discover(self, model: str | None = None) -> Discovery:
        """Find out whether a server speaks this protocol, and what model it has.

        Args:
            model: which of a server's several models; None is its first. A name it does not list is left for the caller to refuse.

        Raises:
            RequestRefused: it speaks the protocol, and refuses to tell: a key is missing, or a feature is off.
        """

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

    def encode_score(self, score: Score, info: ModelInfo) -> HttpRequest:
        """Ask for the rows of all beginnings as a request.

        Raises:
            UsageError: the protocol has no such question.
        """
        raise UsageError(f"the {self.name} protocol answers with one row a request")

    def decode_scores(self, score: Score, info: ModelInfo, response: HttpResponse) -> tuple[Row, ...]:
        """The row after each beginning of ``score.token_ids``, the shortest first.

        Raises:
            RequestRefused, BrokenAnswer, RowError: as ``decode_response``.
        """
        raise UsageError(f"the {self.name} protocol answers with one row a request")

    def encode_sample(self, sample: Sample, info: ModelInfo) -> HttpRequest:
        """Ask for the server's own draws as a request.

        Raises:
            UsageError: the protocol has none.
        """
        raise UsageError(f"in the {self.name} protocol a server draws no tokens itself")

    def decode_samples(self, sample: Sample, info: ModelInfo, response: HttpResponse) -> tuple[tuple[int, ...], ...]:
        """The tokens drawn, of each of ``sample.n`` samples.

        Raises:
            RequestRefused, BrokenAnswer: as ``decode_response``.
        """
        raise UsageError(f"in the {self.name} protocol a server draws no tokens itself")

    @abstractmethod
    def encode_tokenize(self, text: str) -> HttpRequest:
        """Ask for the token ids of a text, without any that a tokenizer would add in front."""

    @abstractmethod
    def decode_tokens(self, response: HttpResponse) -> list[int]:
        """The token ids.

        Raises:
            RequestRefused: the server said no, for instance since it has no tokenizer.
            BrokenAnswer: no list of ids.
        """

    @abstractmethod
    def encode_detokenize(self, token_ids: list[int]) -> HttpRequest:
        """Ask for the text of token ids."""

    @abstractmethod
    def decode_text(self, response: HttpResponse) -> str:
        """The text.

        Raises:
            RequestRefused, BrokenAnswer: as ``decode_tokens``.
        """

    # The server's half.

    @abstractmethod
    def decode_request(self, request: HttpRequest) -> Question | None:
        """The question a request carries; None when its path is none of this protocol's.

        Raises:
            RequestRefused: the path is ours and the rest is not; to be answered with ``encode_error``.
        """

    def check_request(self, ask: Ask, request: HttpRequest, info: ModelInfo) -> None:
        """Whether the model can be asked that, before it is; protocols with limits of their own add them.

        Raises:
            RequestRefused: it cannot; to be answered with ``encode_error``.
        """
        check_ask(ask, info)

    @abstractmethod
    def encode_row(self, ask: Ask, request: HttpRequest, row: Row, llm: LLM) -> HttpResponse:
        """The row as a response.

        Raises:
            RowError: what the model gave cannot be said in this protocol.
            RequestRefused: the request asks for more than a row can give; to be answered with ``encode_error``.
        """

    def encode_ahead(self, ask: Ask, request: HttpRequest, ahead: Ahead, llm: LLM) -> HttpResponse:
        """Several rows as a response; only of a protocol whose server half takes such a question.

        Raises:
            RowError, RequestRefused: as ``encode_row``.
        """
        raise BadRequest(f"{self.name} answers with one row a request", status=400)

    def encode_place(self, score: Score, row: Row, next_id: int) -> bytes:
        """What the response will say of one beginning, so that no row need be kept; only of a protocol that ``scores``.

        Args:
            row: after that beginning.
            next_id: the token that stands there.

        Raises:
            RowError: as ``encode_row``.
        """
        raise BadRequest(f"{self.name} answers with one row a request", status=400)

    def encode_scores(self, score: Score, request: HttpRequest, places: Sequence[bytes], last: Row, llm: LLM) -> HttpResponse:
        """The rows of all beginnings as a response; only of a protocol that ``scores``.

        Args:
            places: of all but the whole, by ``encode_place``.
            last: the row after the whole.

        Raises:
            RowError: as ``encode_row``.
        """
        raise BadRequest(f"{self.name} answers with one row a request", status=400)

    def encode_samples(self, sample: Sample, request: HttpRequest, drawn: Sequence[Sequence[int]], llm: LLM) -> HttpResponse:
        """Tokens drawn as a response; only of a protocol with ``samples_as``."""
        raise BadRequest(f"{self.name} has no sampling of the server's own", status=400)

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


def check_ask(ask: Ask | Sample | Score, info: ModelInfo) -> None:
    """Whether a model can be asked that.

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


def known_vocab_size(info: ModelInfo) -> int:
    """The vocabulary's size, which a list of the k best cannot be judged without.

    Raises:
        UsageError: unknown.
    """
    if info.vocab_size is None:
        raise UsageError("the vocabulary's size is unknown: give it with vocab_size=")
    return info.vocab_size


def entries_asked(ask: Ask, info: ModelInfo) -> int:
    """How many tokens an honest answer lists: k, or the whole vocabulary.

    Raises:
        UsageError: the vocabulary's size is unknown.
    """
    vocab_size = known_vocab_size(info)
    return vocab_size if ask.top_k is None else min(ask.top_k, vocab_size)


def check_ids_below(limit: int, token_ids: tuple[int, ...], otherwise: str) -> None:
    """Whether a prefix holds an id, and none that is no int from 0 to ``limit`` - 1; for servers that do not refuse such an id, but take it
    for another one, or break.

    Args:
        otherwise: what is said of an id that is not, behind "token id N".

    Raises:
        InvalidPrompt: it does not.
    """
    try:
        # An array refuses what is no int, negative or beyond its word, in a third of the time that min() and max() take; for any other
        # limit max() is still needed.
        array("I" if limit <= WORD else "Q", token_ids)
        if token_ids and (limit == WORD or max(token_ids) < limit) and not _holds_bools(token_ids):
            return
    except (TypeError, OverflowError):
        pass  # why is found out once more, below
    try:
        outside = next(token_id for token_id in token_ids if not 0 <= token_id < limit)
    except (TypeError, StopIteration):
        raise InvalidPrompt(f"a prefix is one token id or more, ints of 0 or more, and not {token_ids!r:.80}") from None
    raise InvalidPrompt(f"token id {outside}{otherwise}")


def _holds_bools(token_ids: tuple[int, ...]) -> bool:
    """Whether True or False is among ints, which Python takes for 1 and 0. JSON has words for them, and looking for their common letter
    takes a tenth of the time that looking at types takes."""
    return b"e" in orjson.dumps(token_ids, option=orjson.OPT_SERIALIZE_NUMPY)
