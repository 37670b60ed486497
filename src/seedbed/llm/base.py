"""What a model is to seedbed: something that maps a prefix of token ids to one row.

Never in this file: how the row is had (HTTP, a file, a thread), or what is done with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from dataclasses import dataclass, field
from inspect import isawaitable
from math import exp
from operator import index
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from seedbed.errors import MalformedRow, UsageError
from seedbed.llm.arguments import shown, whole_number

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from numpy.typing import ArrayLike

    from seedbed.sampling.drawing import Drawing

__all__ = [
    "LLM",
    "Ahead",
    "BlockingLLM",
    "ModelInfo",
    "Row",
    "TopLogprobs",
    "as_ahead",
    "as_row",
    "check_awaitable",
    "row_length",
]

T = TypeVar("T")

# float32 running sums over a vocabulary leave a log-softmax off by up to 2e-4 (llama.cpp, V = 49,152); beyond 1e-3 it is no distribution.
NORMALISATION_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a model: found by discovery, given by the caller, or read from a recording.

    Attributes:
        model: the server's name for it.
        server: the program that answers, with its version where it tells.
        fingerprint: changes when weights or engine settings change, as far as the server tells; "" when it does not.
        vocab_size: length of a full row, or None when unknown.
        eos_token_ids: the model's own end tokens; () when unknown.
        context_length: most tokens of prompt and continuation together, or None when unknown.
        protocol: the name of the protocol spoken, or "" in process.
        max_top_k: most tokens of a row that can be had; None is all of them.
        kind: what rows hold: "logits" up to any additive constant, or normalised "logprobs" in nats.
        notes: what discovery noticed that a user should know, such as a server flag that makes rows repeatable; not compared by ``==``.

    Example:
        >>> ModelInfo(model="mine", vocab_size=100, eos_token_ids=(0,)).kind
        'logits'
    """

    model: str = ""
    server: str = ""
    fingerprint: str = ""
    vocab_size: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    context_length: int | None = None
    protocol: str = ""
    max_top_k: int | None = None
    kind: Literal["logits", "logprobs"] = "logits"
    notes: tuple[str, ...] = field(default=(), compare=False)


class TopLogprobs:
    """The k most probable tokens of a row, as a server lists them: the rest of the vocabulary is the unseen tail.

    Args:
        token_ids: k distinct ids in [0, vocab_size), in any order; not modified.
        logprobs: their natural-log probabilities under the *whole* vocabulary, float32; -inf is allowed; NaN is not, nor are values
            above 1e-3: up to there rounding explains them.
        vocab_size: length of the full row, k <= vocab_size.

    Attributes:
        token_ids: int64, shape (k,), most probable first, equal ones by lowest id; read-only.
        logprobs: float32, shape (k,), descending; read-only.

    Raises:
        MalformedRow: ids that are none, repeat or lie outside the vocabulary, values that are no log-probabilities, masses that sum above
            1 + 1e-3.

    Example:
        >>> row = TopLogprobs([7, 2], [-1.5, -0.5], vocab_size=100)
        >>> row.token_ids.tolist(), row.logprobs.tolist()
        ([2, 7], [-0.5, -1.5])
        >>> round(row.tail_mass, 3)
        0.17
    """

    __slots__ = ("logprobs", "token_ids", "vocab_size")

    token_ids: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    vocab_size: int

    def __init__(self, token_ids: ArrayLike, logprobs: ArrayLike, vocab_size: int) -> None:
        self._take(*_ids_and_values(token_ids, logprobs, vocab_size))

    @classmethod
    def taking(cls, token_ids: NDArray[np.int64], logprobs: NDArray[np.float32], vocab_size: int) -> Self:
        """The same of arrays that are the caller's to give away: not copied, and read-only from now on. For codecs; half the cost."""
        if token_ids.shape != logprobs.shape or not token_ids.size:
            raise MalformedRow(f"top logprobs need k >= 1 ids and as many values, not shapes {token_ids.shape} and {logprobs.shape}")
        row = cls.__new__(cls)
        row._take(token_ids, logprobs, vocab_size)
        return row

    def _take(self, ids: NDArray[np.int64], values: NDArray[np.float32], vocab_size: int) -> None:
        listed = ids.tolist()
        mass = _mass_of_descending(listed, values.tolist(), vocab_size)
        if mass is None:
            ids, values, mass = _put_in_order(ids, values, vocab_size)
        if len(set(listed)) != len(listed):
            raise MalformedRow("a token id stands twice in the top logprobs; a list keyed by text can collapse ids: ask for ids")
        if mass > 1 + NORMALISATION_TOLERANCE:
            what_else = _what_else(values.tolist())
            raise MalformedRow(f"the top logprobs sum to probability {mass:.6g} > 1; are these {what_else}?")
        ids.setflags(write=False)
        values.setflags(write=False)
        self.token_ids, self.logprobs, self.vocab_size = ids, values, vocab_size

    @property
    def tail_mass(self) -> float:
        """Probability of all tokens not listed, in [0, 1]; 0 when the whole vocabulary is listed."""
        if self.token_ids.size == self.vocab_size:
            return 0.0
        return max(0.0, 1.0 - float(np.exp(self.logprobs, dtype=np.float64).sum()))

    def __len__(self) -> int:
        return int(self.token_ids.size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopLogprobs):
            return NotImplemented
        return (
            self.vocab_size == other.vocab_size
            and np.array_equal(self.token_ids, other.token_ids)
            and np.array_equal(self.logprobs, other.logprobs)
        )

    def __hash__(self) -> int:
        return hash((self.vocab_size, self.token_ids.tobytes(), self.logprobs.tobytes()))

    def __repr__(self) -> str:
        head = ", ".join(f"{i}: {lp:.4f}" for i, lp in zip(self.token_ids[:3].tolist(), self.logprobs[:3].tolist(), strict=True))
        return f"TopLogprobs({len(self)} of {self.vocab_size}: {head}{', ...' if len(self) > 3 else ''})"


Row: TypeAlias = NDArray[np.float32] | TopLogprobs
"""One answer: float32 logits of shape (vocab_size,), or the k best."""


def row_length(row: Row) -> int:
    """Of how many tokens' vocabulary a row is, whether or not it lists them all.

    Example:
        >>> row_length(TopLogprobs([7, 2], [-1.5, -0.5], vocab_size=100))
        100
    """
    return row.vocab_size if isinstance(row, TopLogprobs) else int(row.size)


class Ahead(NamedTuple):
    """One or more answers on the way the model would go on: row 0 is the answer for the prefix asked for.

    Attributes:
        proposed: token ids; one for each row but the last, or more.
        rows: row j is the answer for the prefix followed by ``proposed[:j]``; at least one.
    """

    proposed: tuple[int, ...]
    rows: tuple[Row, ...]


class LLM(ABC):
    """A language model that can be asked, from trio, for its next-token logits.

    Implement two methods; everything else has a default. Any object with these two methods is accepted wherever an ``LLM`` is
    (``as_llm``); inheriting buys the defaults. ``seedbed.testing.check_llm`` holds an implementation to this contract.

    Attributes:
        top_k: how many of its best tokens a row lists; None is all of them. A model around a model passes it on: runs that are gone on
            with must not mix the two.

    Example:
        >>> import trio
        >>> class Uniform(LLM):
        ...     async def next_token_logits(self, prev_token_ids):
        ...         await trio.lowlevel.checkpoint()
        ...         return [0.0, 0.0, 0.0]
        ...     def get_stop_token_id(self):
        ...         return 0
        >>> trio.run(Uniform().next_token_logits, [1, 2])
        [0.0, 0.0, 0.0]
    """

    top_k: int | None = None

    @abstractmethod
    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> ArrayLike | TopLogprobs:
        """The row for the token that follows ``prev_token_ids``.

        Args:
            prev_token_ids: prompt and what was generated so far; at least one id. Not to be modified or kept.

        Returns:
            Logits of shape (vocab_size,), kept as float32, natural log, any additive constant, -inf = impossible; or
            ``TopLogprobs``. A function of ``prev_token_ids`` alone, as far as the server can promise it.

        Raises:
            ServerError: the model could not be asked; what implementers raise otherwise comes out unchanged.

        Concurrency:
            Called by many tasks at once. On cancellation the answer is dropped; whatever the implementation holds for it
            (connection, limiter token) must be freed. Must be a checkpoint.
        """

    @abstractmethod
    def get_stop_token_id(self) -> int:
        """The token that ends a sequence; it is generated, kept as the last token, and nothing follows it."""

    async def logits_ahead(self, prev_token_ids: Sequence[int], count: int) -> tuple[Sequence[int], Sequence[ArrayLike | TopLogprobs]]:
        """Up to ``count`` rows in one answer, along tokens the model itself proposes; the default gives one row and proposes nothing.

        How good the proposals are decides how many questions a sequence costs, never which tokens it has: each token is drawn from the
        row at its own place, and the first draw that differs from the proposal drops the rows behind it.

        Args:
            prev_token_ids: as for ``next_token_logits``.
            count: the most rows wanted, at least 1.

        Returns:
            (proposed_ids, rows): row j is the answer for ``prev_token_ids`` followed by ``proposed_ids[:j]``; 1 <= len(rows) <= count,
            and len(proposed_ids) >= len(rows) - 1.

        Raises:
            ServerError: as ``next_token_logits``.

        Concurrency:
            As ``next_token_logits``.
        """
        return (), [await check_awaitable(self.next_token_logits(prev_token_ids), self, "next_token_logits")]

    async def logits_along(
        self, prev_token_ids: Sequence[int], count: int, drawing: Drawing
    ) -> tuple[Sequence[int], Sequence[ArrayLike | TopLogprobs]]:
        """As ``logits_ahead``, told what the caller is going to draw with; the default pays no heed to it.

        This is what ``generate(lookahead=)`` asks. With ``drawing.take(row, prefix)`` a model can propose the very tokens that will be
        drawn, so that every proposal is accepted. For wrappers, and for models behind which somebody else can draw.

        Args:
            drawing: of the token that follows ``prev_token_ids``; of one of the callers, where several share an answer.

        Returns, Raises, Concurrency:
            As ``logits_ahead``.
        """
        return await check_awaitable(self.logits_ahead(prev_token_ids, count), self, "logits_ahead")

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """All tokens that end a sequence, for models with several."""
        return (self.get_stop_token_id(),)

    @property
    def info(self) -> ModelInfo | None:
        """What is known of the model, or None."""
        return None

    async def tokenize(self, text: str) -> list[int]:
        """The token ids of a text, without any the tokenizer would add in front.

        Raises:
            UsageError: the model has no tokenizer.

        Concurrency:
            As ``next_token_logits``.
        """
        raise UsageError("this model has no tokenizer: give token ids instead of text")

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of token ids; octets that are no UTF-8 become U+FFFD.

        Raises:
            UsageError: the model has no tokenizer.

        Concurrency:
            As ``next_token_logits``.
        """
        raise UsageError("this model has no tokenizer: its tokens cannot be shown as text")

    def token_bytes(self, token_id: int) -> bytes:
        """The octets of one token, for servers whose answers carry them; b"" when unknown."""
        return b""

    def counters(self) -> dict[str, int]:
        """Running totals of what the model did for everyone: any of the costs that ``Stats`` names."""
        return {}


class BlockingLLM(ABC):
    """The same two methods, blocking: for a model behind a synchronous client.

    Passed wherever an ``LLM`` can be; its ``next_token_logits`` (and ``logits_ahead``, if it has one) then runs in worker threads (see
    ``as_llm``), several at once, so it must be thread-safe.

    Example:
        >>> import trio
        >>> from seedbed import generate_token_ids
        >>> class Uniform(BlockingLLM):
        ...     def next_token_logits(self, prev_token_ids):
        ...         return [0.0, 0.0, 0.0]
        ...     def get_stop_token_id(self):
        ...         return 0
        >>> async def main():
        ...     return await generate_token_ids([1], Uniform(), seed=7, index=1)
        >>> trio.run(main)
        [1, 1, 2, 1, 2, 1, 0]
    """

    @abstractmethod
    def next_token_logits(self, prev_token_ids: Sequence[int]) -> ArrayLike | TopLogprobs:
        """As ``LLM.next_token_logits``, blocking; called from worker threads, several at once.

        A long call may notice cancellation with ``trio.from_thread.check_cancelled()``.
        """

    @abstractmethod
    def get_stop_token_id(self) -> int:
        """As ``LLM.get_stop_token_id``; called in the trio thread, so it must not wait."""


def as_row(answer: ArrayLike | TopLogprobs, vocab_size: int | None = None) -> Row:
    """One row in the only form the rest of seedbed knows: float32, shape (vocab_size,), or ``TopLogprobs``.

    Args:
        answer: what a model returned: an array, a list of numbers, or ``TopLogprobs``; not modified.
        vocab_size: the length a full row must have; None accepts any.

    Raises:
        MalformedRow: not one-dimensional, empty, not numbers, or of another length than ``vocab_size``.

    Example:
        >>> as_row([0.5, -1.0])
        array([ 0.5, -1. ], dtype=float32)
    """
    if isinstance(answer, TopLogprobs):
        row: Row = answer
        length = answer.vocab_size
    else:
        row = dense = _as_float32(answer)
        length = dense.shape[0]
    if vocab_size is not None and length != vocab_size:
        raise MalformedRow(f"the row is for a vocabulary of {length} tokens, the model's has {vocab_size}")
    return row


def as_ahead(answer: tuple[Sequence[int], Sequence[ArrayLike | TopLogprobs]], count: int, vocab_size: int | None = None) -> Ahead:
    """What ``logits_ahead`` returned, held to its contract: rows in the one form of ``as_row``, ids as plain ints.

    Raises:
        MalformedRow: no row, more rows than asked for, fewer proposals than the rows need or none that are ids, or what ``as_row`` refuses.

    Example:
        >>> as_ahead(([2], [[0.0, 0.5, 1.0], [1.0, 0.0, 0.0]]), count=4).proposed
        (2,)
    """
    try:
        proposed, rows = tuple(map(index, answer[0])), tuple(as_row(row, vocab_size) for row in answer[1])
        array("q", proposed)
    except (TypeError, LookupError, OverflowError) as error:
        raise MalformedRow(f"logits_ahead must return (proposed_ids, rows), not {shown(answer)}") from error
    if not 1 <= len(rows) <= count:
        raise MalformedRow(f"logits_ahead was asked for 1 to {count} rows and returned {len(rows)}")
    if len(proposed) < len(rows) - 1:
        raise MalformedRow(f"logits_ahead returned {len(rows)} rows along {len(proposed)} proposed tokens")
    return Ahead(proposed, rows)


def check_awaitable(answer: Awaitable[T], model: LLM, method: str) -> Awaitable[T]:
    """What a model's method answered, to be awaited.

    Raises:
        UsageError: it cannot be: the method was written without ``async``.
    """
    if not isawaitable(answer):
        raise UsageError(f"{method} of {shown(model)} is not async, as an LLM's must be: inherit BlockingLLM instead")
    return answer


def _as_float32(answer: ArrayLike) -> NDArray[np.float32]:
    try:
        raw = np.asarray(answer)
        if raw.dtype.kind in "cmMOSU":
            raise TypeError(f"dtype {raw.dtype} is no real number")
        with np.errstate(over="ignore"):  # beyond float32 becomes inf, refused by the draw with its position
            row = raw.astype(np.float32, copy=False)
    except (TypeError, ValueError) as error:
        raise MalformedRow(f"a row must be an array of numbers or TopLogprobs, not {type(answer).__name__}: {error}") from error
    if row.ndim != 1 or not row.size:
        raise MalformedRow(f"a row must have shape (vocab_size,), not {row.shape}")
    return row


def _ids_and_values(token_ids: ArrayLike, logprobs: ArrayLike, vocab_size: object) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
    """What top logprobs are made of: copies, of the one type each."""
    try:
        ids = np.array(token_ids)
        with np.errstate(over="ignore"):  # beyond float32 becomes inf: refused when it is +inf, and -inf is allowed
            values = np.array(logprobs, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedRow(f"top logprobs are ids and as many numbers, not {shown(token_ids)} and {shown(logprobs)}") from error
    if ids.ndim != 1 or ids.shape != values.shape or not ids.size:
        raise MalformedRow(f"top logprobs need k >= 1 ids and as many values, not shapes {ids.shape} and {values.shape}")
    if ids.dtype.kind not in "iu":
        raise MalformedRow(f"the ids of top logprobs must be ints, not {shown(token_ids)}")
    length = whole_number(vocab_size)
    if length is None:
        raise MalformedRow(f"vocab_size must be an int, not {shown(vocab_size)}")
    return ids.astype(np.int64, copy=False), values, length


def _mass_of_descending(ids: list[int], logprobs: list[float], vocab_size: int) -> float | None:
    """The probability of all together when they are as servers send them: ids of the vocabulary, log-probabilities that descend with no
    two the same. None otherwise."""
    # The largest part of decoding an answer. Between two requests the caches forget everything, and then any of numpy's functions takes
    # the time of this loop, and each pass of one of Python's own a third of it.
    last, mass = NORMALISATION_TOLERANCE, 0.0
    for token_id, logprob in zip(ids, logprobs, strict=True):
        if not (0 <= token_id < vocab_size and logprob < last):
            return None
        last = logprob
        mass += exp(logprob)
    return mass


def _put_in_order(
    ids: NDArray[np.int64], values: NDArray[np.float32], vocab_size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], float]:
    """Most probable first, equal ones by lowest id; and the probability of all together."""
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    if outside.size:
        raise MalformedRow(f"token id {outside[0]} in the top logprobs is outside the vocabulary of {vocab_size}")
    order = np.lexsort((ids, -values))
    ids, values = ids[order], values[order]
    # A NaN is sorted last.
    if not values[0] <= NORMALISATION_TOLERANCE or np.isnan(values[-1]):
        what_else = _what_else(values.tolist())
        raise MalformedRow(f"the top logprobs hold {values.max()!s}, which is no log-probability; are these {what_else}?")
    return ids, values, sum(map(exp, values.tolist()))


def _what_else(values: list[float]) -> str:
    """What numbers that are no log-probabilities look like."""
    return "probabilities" if values[-1] >= 0 and sum(values) <= 1 + NORMALISATION_TOLERANCE else "logits"
