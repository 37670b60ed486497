"""Numeric faults planted in a model, to see whether a regression tester finds them and calls them by their names.

A fault says what goes wrong with a row or a prefix, a place says where it does: ``PlantedLLM(TinyLM(), RoundTo("bfloat16"),
where=FromPosition(64))``. Several faults are several wrappers. Nothing here is random: what looks like noise is a hash of the prefix and
of the condition it is said to depend on, so the same questions get the same answers on every CPU.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from seedbed.errors import UsageError
from seedbed.llm.base import LLM, ModelInfo, TopLogprobs, as_row
from seedbed.llm.threads import as_llm
from seedbed.sampling import portable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = [
    "AboveConcurrency",
    "AtMultiples",
    "CutTopK",
    "CutTopP",
    "DropBest",
    "Everywhere",
    "ExtraToken",
    "Fault",
    "FromPosition",
    "Growing",
    "Lattice",
    "MissingToken",
    "Noise",
    "OneIn",
    "OnePrompt",
    "Place",
    "PlantedLLM",
    "Question",
    "RoundTo",
    "Scaled",
    "ShiftByOne",
    "SwappedIds",
    "WarmOnly",
]


@dataclass(frozen=True, slots=True)
class Question:
    """What is known of one question when it is answered.

    Attributes:
        prefix: the token ids asked for.
        concurrency: the most questions that were under way at any moment until the answer was there; 1 is alone.
        is_warm: whether the prefix, or any beginning of it, had been answered before.
        repeat: how many times this prefix had been asked for before.
        shape: the shape of the batch it was computed in: the test's own, or else ``concurrency`` rounded up to a power of 2.
    """

    prefix: tuple[int, ...]
    concurrency: int = 1
    is_warm: bool = False
    repeat: int = 0
    shape: int = 1


class Fault(ABC):  # noqa: B024 - each fault overrides one of the two
    """What goes wrong: with the prefix before the model sees it, or with the row it answers. The default is nothing."""

    def misread(self, prefix: tuple[int, ...]) -> tuple[int, ...]:
        """The prefix the model gets instead."""
        return prefix

    def distort(self, row: NDArray[np.float32], question: Question) -> NDArray[np.float32]:
        """The row that is answered instead; ``row`` is not modified."""
        return row


class Place(ABC):
    """Where a fault strikes."""

    @abstractmethod
    def holds(self, question: Question) -> bool:
        """Whether it does so for this question."""


class PlantedLLM(LLM):
    """A model with a fault in it.

    Args:
        llm: the model; must answer with full rows.
        fault: what goes wrong.
        where: where it does; the default is everywhere. A fault of the prefix cannot depend on concurrency, which is known only later.
        shape: what the server's batch shape is said to be, called at every answer; None derives it from the concurrency.

    Raises:
        UsageError: the model listed only its k best tokens.

    Concurrency:
        Any number of tasks; as the model inside. Concurrency is counted here, so a cancelled question no longer counts.

    Example:
        >>> import trio
        >>> from seedbed.server.models import TinyLM
        >>> llm = PlantedLLM(TinyLM(), RoundTo("bfloat16"), where=FromPosition(3))
        >>> rows = [trio.run(llm.next_token_logits, list(b"The")[:n]) for n in (2, 3)]
        >>> [bool((row.view("u4") & 0xFFFF).any()) for row in rows]
        [True, False]
    """

    def __init__(self, llm: object, fault: Fault, *, where: Place | None = None, shape: Callable[[], int] | None = None) -> None:
        self._model = as_llm(llm)
        self._fault, self._where, self._shape = fault, where if where is not None else Everywhere(), shape
        self._under_way: set[_UnderWay] = set()
        self._asked: Counter[tuple[int, ...]] = Counter()  # {prefix: how often it was answered}

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> NDArray[np.float32]:
        prefix = tuple(prev_token_ids)
        is_warm = any(prefix[:length] in self._asked for length in range(len(prefix), 0, -1))
        repeat = self._asked[prefix]
        asked = prefix
        if self._where.holds(Question(prefix, 1, is_warm, repeat)):
            asked = self._fault.misread(prefix)
        with self._counted() as under_way:
            row = as_row(await self._model.next_token_logits(list(asked)))
        if isinstance(row, TopLogprobs):
            raise UsageError("a fault is planted in full rows; ask the model for all of them")
        self._asked[prefix] += 1
        shape = 1 << (under_way.most - 1).bit_length() if self._shape is None else self._shape()
        question = Question(prefix, under_way.most, is_warm, repeat, shape)
        return self._fault.distort(row, question) if self._where.holds(question) else row

    @contextmanager
    def _counted(self) -> Iterator[_UnderWay]:
        question = _UnderWay()
        self._under_way.add(question)
        for other in self._under_way:
            other.most = max(other.most, len(self._under_way))
        try:
            yield question
        finally:
            self._under_way.discard(question)

    def get_stop_token_id(self) -> int:
        return self._model.get_stop_token_id()

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self._model.eos_token_ids

    @property
    def info(self) -> ModelInfo | None:
        return self._model.info

    async def tokenize(self, text: str) -> list[int]:
        return await self._model.tokenize(text)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return await self._model.detokenize(token_ids)

    def token_bytes(self, token_id: int) -> bytes:
        return self._model.token_bytes(token_id)

    def __repr__(self) -> str:
        return f"PlantedLLM({self._model!r}, {self._fault!r}, where={self._where!r})"


class _UnderWay:
    """One question: the most that were under way at any moment since it was asked."""

    __slots__ = ("most",)

    def __init__(self) -> None:
        self.most = 0


# Faults of the row.


@dataclass(frozen=True, slots=True)
class RoundTo(Fault):
    """Logits rounded to a 16-bit float, nearest, ties to even."""

    dtype: Literal["bfloat16", "float16"]

    def distort(self, row: NDArray[np.float32], question: Question) -> NDArray[np.float32]:
        if self.dtype == "float16":
            return row.astype(np.float16).astype(np.float32)
        bits = np.ascontiguousarray(row).view(np.uint32)
        # Adding 0x7fff, and one more when the last kept bit is odd, carries into the kept half exactly when that must go up.
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


@dataclass(frozen=True, slots=True)
class Lattice(Fault):
    """Logits on 2**16 evenly spaced values between the row's least and greatest, as a file of 16-bit integers with a scale keeps them."""

    def distort(self, row: NDArray[np.float32], question: Question) -> NDArray[np.float32]:
        low, high = float(row[np.isfinite(row)].min()), float(row.max())
        step = (high - low) / 65535 or 1.0
        # float64 until the end, or the lattice itself is rounded.
        return np.asarray(low + np.rint((row.astype(np.float64) - low) / step) * step, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Noise(Fault):
    """A number of mean 0 added to each logit, evenly distributed.

    Args:
        sigma: its standard deviation, in nats.
        by: what it depends on beside the prefix: "prefix" nothing (as other weights do), "shape" the batch shape, "cache" cold or warm,
            "repeat" each answer anew.
        seed: another seed is another noise.
    """

    sigma: float
    by: Literal["prefix", "shape", "cache", "repeat"] = "prefix"
    seed: int = 0

    def distort(self, row: NDArray[np.float32], question: Question) -> NDArray[np.float32]:
        condition = {"prefix": 0, "shape": question.shape, "cache": int(question.is_warm), "repeat": question.repeat}[self.by]
        return (row + _noise(question.prefix, condition, self.seed, row.size) * self.sigma).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Growing(Fault):
    """Noise as of other weights, whose standard deviation grows in proportion to the prefix's length, as a wrong position scale's does.

    Args:
        sigma: for each token of the prefix, in nats.
        seed: another seed is another noise.
    """

    sigma: float
    seed: int = 0

    def distort(self, row: NDArray[np.float32], question: Question) -> NDArray[np.float32]:
        return Noise(self.sigma * len(question.prefix), seed=self.seed).distort(row, question)


@dataclass(frozen=True, slots=True)
class Scaled(Fault):
    """A temperature applied by the server: logits divided by ``temperature``."""

    temperature: float

    def distort(self, row: NDArray[np.float32], question: Question) -> NDArray[np.float32]:
        return (row.astype(np.float64) / self.temperature).astype(np.float32)


@dataclass(frozen=True, slots=True)
class CutTopK(Fault):
    """All but the ``k`` most probable tokens excluded; of equal ones the lowest ids are kept."""

    k: int

    def distort(self, row: NDArray[np.float32], question: Question) -> NDArray[np.float32]:
        kept = np.argsort(-row, kind="stable")[: self.k]
        cut = np.full_like(row, -np.inf)
        cut[kept] = row[kept]
        return cut


@dataclass(frozen=True, slots=True)
class CutTopP(Fault):
    """All but the smallest set of most probable tokens with a mass of at least ``p`` excluded."""

    p: float

    def distort(self, row: NDArray[np.float32], question: Question) -> NDArray[np.float32]:
        order = np.argsort(-row, kind="stable")
        mass = np.exp(portable.log_softmax(row.astype(np.float64)))[order].cumsum()
        return CutTopK(int(np.searchsorted(mass, self.p)) + 1).distort(row, question)


@dataclass(frozen=True, slots=True)
class SwappedIds(Fault):
    """Two token ids exchanged, as by a wrong vocabulary file."""

    one: int
    other: int

    def distort(self, row: NDArray[np.float32], question: Question) -> NDArray[np.float32]:
        swapped = row.copy()
        swapped[[self.one, self.other]] = row[[self.other, self.one]]
        return swapped


@dataclass(frozen=True, slots=True)
class DropBest(Fault):
    """The most probable token excluded: an answer corrupted."""

    def distort(self, row: NDArray[np.float32], question: Question) -> NDArray[np.float32]:
        dropped = row.copy()
        dropped[int(row.argmax())] = -np.inf
        return dropped


# Faults of the prefix.


@dataclass(frozen=True, slots=True)
class ShiftByOne(Fault):
    """The row one place too early: the answer for the prefix without its last token."""

    def misread(self, prefix: tuple[int, ...]) -> tuple[int, ...]:
        return prefix[:-1] if len(prefix) > 1 else prefix


@dataclass(frozen=True, slots=True)
class ExtraToken(Fault):
    """A token put in front, as a tokenizer puts a second begin-of-sequence."""

    token_id: int

    def misread(self, prefix: tuple[int, ...]) -> tuple[int, ...]:
        return (self.token_id, *prefix)


@dataclass(frozen=True, slots=True)
class MissingToken(Fault):
    """A first token with this id taken away."""

    token_id: int

    def misread(self, prefix: tuple[int, ...]) -> tuple[int, ...]:
        return prefix[1:] if len(prefix) > 1 and prefix[0] == self.token_id else prefix


# Places.


@dataclass(frozen=True, slots=True)
class Everywhere(Place):
    """At every prefix, under every condition."""

    def holds(self, question: Question) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class FromPosition(Place):
    """At prefixes of ``position`` tokens or more."""

    position: int

    def holds(self, question: Question) -> bool:
        return len(question.prefix) >= self.position


@dataclass(frozen=True, slots=True)
class AtMultiples(Place):
    """At prefixes whose length is a multiple of ``block``."""

    block: int

    def holds(self, question: Question) -> bool:
        return len(question.prefix) % self.block == 0


@dataclass(frozen=True, slots=True)
class OnePrompt(Place):
    """At prefixes that begin with these token ids."""

    beginning: tuple[int, ...]

    def holds(self, question: Question) -> bool:
        return question.prefix[: len(self.beginning)] == self.beginning


@dataclass(frozen=True, slots=True)
class AboveConcurrency(Place):
    """While more than ``limit`` questions are under way."""

    limit: int

    def holds(self, question: Question) -> bool:
        return question.concurrency > self.limit


@dataclass(frozen=True, slots=True)
class WarmOnly(Place):
    """Where the prefix, or any beginning of it, had been answered before."""

    def holds(self, question: Question) -> bool:
        return question.is_warm


@dataclass(frozen=True, slots=True)
class OneIn(Place):
    """At about one prefix in ``count``, chosen by a hash; ``each_answer`` chooses among answers instead, so that it seldom comes twice."""

    count: int
    each_answer: bool = False
    seed: int = 0

    def holds(self, question: Question) -> bool:
        return (
            int.from_bytes(_digest(question.prefix, question.repeat if self.each_answer else 0, self.seed)[:8], "little") % self.count == 0
        )


def _digest(prefix: tuple[int, ...], condition: int, seed: int) -> bytes:
    return hashlib.blake2b(np.array([*prefix, condition, seed], dtype="<i8").tobytes(), digest_size=16).digest()


def _noise(prefix: tuple[int, ...], condition: int, seed: int, count: int) -> NDArray[np.float64]:
    """``count`` numbers of mean 0 and variance 1, evenly distributed in [-sqrt(3), sqrt(3))."""
    key = np.frombuffer(_digest(prefix, condition, seed), dtype="<u8")
    words = np.random.Philox(key=key).random_raw(count)
    return np.asarray(((words >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5) * 12**0.5)
