"""The two things that travel, a request and a response, and the questions a request can carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from seedbed.llm.base import Row
    from seedbed.sampling.drawing import Drawing

__all__ = [
    "MAX_AHEAD",
    "Answer",
    "Ask",
    "Describe",
    "Detokenize",
    "Health",
    "HttpRequest",
    "HttpResponse",
    "Question",
    "Sample",
    "Score",
    "Tokenize",
]

Headers: TypeAlias = tuple[tuple[str, str], ...]

MAX_AHEAD = 64
"""The most rows that a client of ours asks for at once, and that a server in the box answers with; real ones have no bound."""

# HttpRequest, HttpResponse, Ask and Answer are not to be changed. That Python should refuse it, with frozen=True, would make them five
# times as dear; one of each is made for every request, of which that would be a twentieth.


@dataclass(slots=True, unsafe_hash=True)
class HttpRequest:
    """An HTTP request without its host: method, path with query, headers beyond those HTTP itself needs, body."""

    method: str
    path: str
    headers: Headers = ()
    body: bytes = b""

    @property
    def route(self) -> str:
        """The path without its query."""
        return self.path.split("?", 1)[0]

    def header(self, name: str) -> str | None:
        """The first header of that name (any case), or None."""
        return _header(self.headers, name)


@dataclass(slots=True, unsafe_hash=True)
class HttpResponse:
    """An HTTP response, read whole."""

    status: int
    headers: Headers = ()
    body: bytes | bytearray | memoryview = b""

    def header(self, name: str) -> str | None:
        """The first header of that name (any case), or None."""
        return _header(self.headers, name)


def _header(headers: Headers, name: str) -> str | None:
    name = name.lower()
    for key, value in headers:  # a generator here would cost more than all the rest of reading a short answer's head
        if key == name or key.lower() == name:
            return value
    return None


@dataclass(slots=True, unsafe_hash=True)
class Ask:
    """What row follows ``token_ids``: the k best of it, or all of it when ``top_k`` is None.

    Attributes:
        token_ids: the prefix.
        top_k: how many tokens of the row are wanted.
        model: for servers with several.
        force: a token the server is to choose whatever the row says, for protocols where its choice can withhold the row; None lets it
            choose the best, which checks ids against values.
        ahead: the most rows wanted, along the tokens the server would take itself; only of a protocol that ``looks_ahead``.
        reuse: the server may answer from what its prefix cache holds; only a protocol that ``can_bypass_cache`` forbids it otherwise.
        drawing: what the client is going to draw with, so that the server can take the same tokens; without it, or where the protocol
            cannot tell it, it takes the best.
    """

    token_ids: tuple[int, ...]
    top_k: int | None = None
    model: str | None = None
    force: int | None = None
    ahead: int = 1
    reuse: bool = False
    drawing: Drawing | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What would you draw yourself after ``token_ids``? Every parameter is said, so that no default of the server's has a say.

    Attributes:
        token_ids: the prefix.
        temperature: 0 is greedy.
        top_k, top_p, min_p: 0, 1 and 0 are off.
        seed: of the server's own randomness.
        tokens: how many to draw one after another, unless one ends the sequence.
        n: how many such samples in one request.
        model: for servers with several.
    """

    token_ids: tuple[int, ...]
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    tokens: int = 1
    n: int = 1
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """What rows follow each beginning of ``token_ids``, all in one request: the rows of ``Ask`` for its first token, its first two, ...

    Attributes:
        token_ids: the longest prefix.
        top_k, model: as in ``Ask``.
    """

    token_ids: tuple[int, ...]
    top_k: int | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Describe:
    """What model is this? ``path`` says which of a protocol's several ways to ask."""

    path: str


@dataclass(frozen=True, slots=True)
class Tokenize:
    """What token ids is this text?"""

    text: str


@dataclass(frozen=True, slots=True)
class Detokenize:
    """What text are these token ids?"""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Health:
    """Are you ready?"""


Question: TypeAlias = Ask | Sample | Score | Describe | Tokenize | Detokenize | Health


@dataclass(slots=True, unsafe_hash=True)
class Answer:
    """What an answer to ``Ask`` says.

    Attributes:
        row: the row.
        chosen: the token the server itself would have taken, greedily; None when it does not say.
        prompt_tokens: how many tokens the server says it read; None when it does not say. More than were sent means an added BOS.
        cached_tokens: how many of them it had in its prefix cache; None when it does not say.
        proposed: the tokens it would take next itself, where rows ahead were asked for.
        beyond: row j of these is the answer for the prefix followed by ``proposed[: j + 1]``.
    """

    row: Row
    chosen: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    proposed: tuple[int, ...] = ()
    beyond: tuple[Row, ...] = ()
