"""Every error seedbed raises on purpose, as one tree.

::

    SeedbedError
    ├── UsageError (also a ValueError)      the call was wrong; nothing was written
    │   ├── InvalidPrompt                   a token id that is none, or outside the vocabulary
    │   ├── InvalidSampler                  a sampler parameter outside its range
    │   ├── InvalidSeed                     not an int in [0, 2**128), or an address outside its field
    │   ├── WrongRunner                     a blocking call made from inside trio, or the other way round
    │   ├── EvidenceRefused                 a check's evidence is of another recording, or was had by another rule
    │   └── MissingExtra (also ImportError) an optional dependency is not installed
    ├── DeadlineExceeded (also TimeoutError)  a deadline of the caller's fired; ``.result`` has what there was
    ├── RowError                            the model's answer is no row a token can be drawn from
    │   ├── NonFiniteLogits                 NaN or +inf among the logits
    │   ├── NothingToDraw                   every token is excluded
    │   ├── MalformedRow                    wrong shape, dtype or ids; not a distribution
    │   └── TruncatedRow                    a filter's cut reaches into the tail the server did not list
    ├── ServerError                         between us and a model server
    │   ├── ServerUnreachable               no connection: name, refused, TLS, or not in time
    │   ├── ConnectionLost                  closed or broken before the answer was whole
    │   ├── RequestTimeout (also TimeoutError)  connected, but no whole answer in time
    │   ├── BrokenAnswer                    answered, but not in the protocol's terms
    │   │   ├── AnswerTooLarge              head, body or nesting beyond the bound
    │   │   ├── RowWithheld                 the server answered, but kept the row to itself
    │   │   └── DishonestAnswer             well-formed, and contradicts the request or itself
    │   ├── NotAModelServer                 an HTTP server, but none of the protocols known
    │   ├── ReplicasDiffer                  several servers, but not of one model
    │   └── RequestRefused                  the server said no; ``.status`` has its HTTP status
    │       ├── BadRequest                  400, 422: it does not accept what was asked
    │       ├── ContextOverflow             more tokens than the model's context holds
    │       ├── Unauthorized                401, 403: key missing or wrong
    │       ├── UnknownModel                404: it does not serve that model
    │       ├── FeatureOff                  it could, but a flag is missing; ``.flag`` names it
    │       ├── NonFiniteAtServer           the server's own model gave NaN
    │       ├── NotReady                    503 while the model loads
    │       ├── Overloaded                  429, 503: try later; ``.retry_after`` in seconds, if said
    │       └── EngineFailed                500: the engine behind the server broke
    ├── CheckFailed                         a baseline would be replaced by answers that fail their own check
    └── RecordingError                      between us and a recording
        ├── RecordingNotFound               no recording at that path
        ├── RecordingExists                 one is there already and would be overwritten
        ├── RecordingLocked                 somebody else is writing to it
        ├── RecordingBroken                 its files contradict themselves or the format
        ├── RecordingTooNew                 written by a later version of seedbed
        ├── RecordingMiss                   the prefix asked for was never recorded
        └── NetworkBlocked (also RuntimeError)  a test tried to leave the machine, and --seedbed-block-network forbids it

An error that happened inside a generation says where: ``prompt_index``, ``index`` and ``step`` are set, the message ends with them, and
``result`` holds what had been sampled when it came out. Errors chain the exception that caused them as ``__cause__``. No error shows a
secret: URLs lose their user info and query before they enter a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.generation.result import GenerationResult

__all__ = [
    "AnswerTooLarge",
    "BadRequest",
    "BrokenAnswer",
    "CheckFailed",
    "ConnectionLost",
    "ContextOverflow",
    "DeadlineExceeded",
    "DishonestAnswer",
    "EngineFailed",
    "EvidenceRefused",
    "FeatureOff",
    "InvalidPrompt",
    "InvalidSampler",
    "InvalidSeed",
    "MalformedRow",
    "MissingExtra",
    "NetworkBlocked",
    "NonFiniteAtServer",
    "NonFiniteLogits",
    "NotAModelServer",
    "NotReady",
    "NothingToDraw",
    "Overloaded",
    "RecordingBroken",
    "RecordingError",
    "RecordingExists",
    "RecordingLocked",
    "RecordingMiss",
    "RecordingNotFound",
    "RecordingTooNew",
    "ReplicasDiffer",
    "RequestRefused",
    "RequestTimeout",
    "RowError",
    "RowWithheld",
    "SeedbedError",
    "ServerError",
    "ServerUnreachable",
    "TruncatedRow",
    "Unauthorized",
    "UnknownModel",
    "UsageError",
    "WrongRunner",
]


class SeedbedError(Exception):
    """The root: ``except SeedbedError`` catches all that seedbed raises on purpose, and nothing else.

    Attributes:
        exit_code: what a command ends with when this error ends it.
        prompt_index, index, step: which prompt, which of its sequences, which generated token; None when outside a generation.
        result: the partial result of the generation this error ended, or None.
    """

    exit_code: ClassVar[int] = 3

    prompt_index: int | None = None
    index: int | None = None
    step: int | None = None
    result: GenerationResult | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled without calling the constructor, which takes other arguments than ``args`` tells."""
        return _remade, (type(self), self.args), self.__dict__

    @property
    def message(self) -> str:
        """What was wrong and what to do, without the place."""
        return super().__str__()

    def at(self, *, prompt_index: int | None = None, index: int | None = None, step: int | None = None) -> Self:
        """Note where it happened, unless an inner caller already did; returns the error itself."""
        if self.prompt_index is None:
            self.prompt_index = prompt_index
        if self.index is None:
            self.index = index
        if self.step is None:
            self.step = step
        return self

    def __str__(self) -> str:
        place = [
            f"{name} {value}"
            for name, value in (("prompt", self.prompt_index), ("sequence", self.index), ("step", self.step))
            if value is not None
        ]
        return f"{self.message} [{', '.join(place)}]" if place else self.message


def _remade(kind: type[SeedbedError], args: tuple[object, ...]) -> SeedbedError:
    return kind.__new__(kind, *args)


class UsageError(SeedbedError, ValueError):
    """The call itself was wrong; nothing was written, and nothing sent unless a first row had to show what is wrong."""

    exit_code = 2


class InvalidPrompt(UsageError):
    """A prompt holds something that is not a token id of the model."""


class InvalidSampler(UsageError):
    """A sampler parameter is outside its range."""


class InvalidSeed(UsageError):
    """A seed or an address of a draw is outside its field."""


class WrongRunner(UsageError):
    """A blocking call was made where trio already runs, or an awaiting one where it does not."""


class EvidenceRefused(UsageError):
    """The evidence that a check was to go on from is of another recording, or was had by another rule; the message says which."""


class MissingExtra(UsageError, ImportError):
    """An optional dependency is not installed; the message is the command that installs it."""


class DeadlineExceeded(SeedbedError, TimeoutError):
    """A deadline given by the caller fired; ``result`` holds every sequence with what it had."""


class RowError(SeedbedError):
    """The model's answer is no row a token can be drawn from."""


class NonFiniteLogits(RowError):
    """NaN or +inf among the logits."""


class NothingToDraw(RowError):
    """Every token is excluded."""


class MalformedRow(RowError):
    """A row of the wrong shape or dtype, ids that repeat or lie outside the vocabulary, or masses that are no distribution."""


class TruncatedRow(RowError):
    """A filter's cut would reach into the tail that the server did not list.

    Attributes:
        needed: a lower bound of the top_k to ask the server for.
    """

    def __init__(self, message: str, *, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


class ServerError(SeedbedError):
    """Something between us and a model server."""


class ServerUnreachable(ServerError):
    """No connection could be made."""


class ConnectionLost(ServerError):
    """The connection closed or broke before the answer was whole.

    Attributes:
        answer_begun: whether any byte of the answer had been read; when not, sending again at once is safe and usual.
    """

    def __init__(self, message: str, *, answer_begun: bool) -> None:
        super().__init__(message)
        self.answer_begun = answer_begun


class RequestTimeout(ServerError, TimeoutError):
    """Connected, but the whole answer did not come within ``request_timeout``."""


class BrokenAnswer(ServerError):
    """An answer that is not in the terms of HTTP or of the protocol."""


class AnswerTooLarge(BrokenAnswer):
    """The head, the body or the nesting of an answer is beyond its bound; the rest was not read."""


class RowWithheld(BrokenAnswer):
    """The server answered, but kept the row to itself; the message says why."""


class DishonestAnswer(BrokenAnswer):
    """A well-formed answer that contradicts the request, or itself."""


class NotAModelServer(ServerError):
    """Something answers HTTP there, but in none of the protocols known."""


class ReplicasDiffer(ServerError):
    """Servers given as replicas tell different things of themselves: which tokens are drawn would depend on which one answers."""


class RequestRefused(ServerError):
    """The server understood HTTP and said no.

    Attributes:
        status: its HTTP status.
        retryable: whether the same request may succeed later.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class BadRequest(RequestRefused):
    """400 or 422: the server does not accept what was asked."""


class ContextOverflow(RequestRefused):
    """More tokens than the model's context holds."""

    exit_code = 2


class Unauthorized(RequestRefused):
    """401 or 403: the key is missing or wrong."""


class UnknownModel(RequestRefused):
    """404: the server does not serve that model, or has no such path."""


class FeatureOff(RequestRefused):
    """The server could do it, but is not set to.

    Attributes:
        flag: the server's flag that lifts it.
    """

    def __init__(self, message: str, *, status: int, flag: str) -> None:
        super().__init__(message, status=status)
        self.flag = flag


class NonFiniteAtServer(RequestRefused):
    """The server's own model gave NaN for this prefix."""


class NotReady(RequestRefused):
    """503 while the model is still loading."""

    retryable = True


class Overloaded(RequestRefused):
    """429 or 503: the server has too much to do.

    Attributes:
        retry_after: seconds the server asked to wait, or None.
    """

    retryable = True

    def __init__(self, message: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class EngineFailed(RequestRefused):
    """500: the engine behind the server broke."""

    retryable = True


class CheckFailed(SeedbedError):
    """Answers that were to become a baseline do not pass a check against the server they are of; the old baseline stands."""

    exit_code = 1


class RecordingError(SeedbedError):
    """Something between us and a recording."""

    exit_code = 5


class RecordingNotFound(RecordingError):
    """There is no recording at that path."""


class RecordingExists(RecordingError):
    """A recording is there already; it is never overwritten unasked."""


class RecordingLocked(RecordingError):
    """Another recorder, in this process or another, is writing to the recording; the message names the lock."""


class RecordingBroken(RecordingError):
    """A recording's files contradict themselves or the format; the message says which step or line."""


class RecordingTooNew(RecordingError):
    """The recording was written in a later version of the format."""


class RecordingMiss(RecordingError):
    """The prefix asked for was never recorded. Never answered by guessing, never by the network.

    Attributes:
        prev_token_ids: the prefix asked for.
        known: how many of its first tokens lead to a recorded prefix.
    """

    def __init__(self, message: str, *, prev_token_ids: Sequence[int], known: int) -> None:
        super().__init__(message)
        self.prev_token_ids = tuple(prev_token_ids)
        self.known = known


class NetworkBlocked(RecordingError, RuntimeError):
    """A test tried to reach a host while ``--seedbed-block-network`` is given; no OSError, so that no client tries again."""
