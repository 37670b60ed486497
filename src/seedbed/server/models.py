"""Two models that need no download: a small real one to read, and a large empty one for load."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import trio

from seedbed.errors import UsageError
from seedbed.llm.arguments import check_text, check_token_ids, shown, whole_number
from seedbed.llm.base import LLM, ModelInfo
from seedbed.sampling import portable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["HashLM", "TinyLM"]

END = 256
END_TEXT = "<|end|>"


class TinyLM(LLM):
    """A byte-level n-gram model of a short text of our own: real probabilities, readable samples, the same rows on every CPU.

    Token ids 0 to 255 are octets, 256 is the end. With c(u, v) how often v follows the context u in the text, and u_k the last k tokens
    of the prefix, ``p(v)`` is proportional to ``1 + sum over k = 0..order of 32**k c(u_k, v)``: an integer, whose correctly rounded
    logarithm is the logit. So there is no floating-point sum to disagree about.

    Args:
        order: the longest context looked at, in tokens; 0 looks at none.
        context_length: most tokens of prompt and continuation together, at least 1.

    Raises:
        UsageError: a number that is none, or too small.

    Concurrency:
        Any number of tasks. Every call is a checkpoint.

    Example:
        >>> model = TinyLM()
        >>> row = trio.run(model.next_token_logits, list(b"The seed is an addres"))
        >>> chr(int(row.argmax())), row.shape
        ('s', (257,))
    """

    vocab_size = END + 1

    def __init__(self, order: int = 6, *, context_length: int = 2048) -> None:
        order, context_length = _whole("order", order, 0), _whole("context_length", context_length, 1)
        self._order = order
        self._counts = _counted(order)
        self._info = ModelInfo(
            model="tiny-lm",
            server="seedbed",
            fingerprint=self._counts.digest[:16],
            vocab_size=self.vocab_size,
            eos_token_ids=(END,),
            context_length=context_length,
        )

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> NDArray[np.float32]:
        await trio.lowlevel.checkpoint()
        try:
            return self._counts.row(_key(prev_token_ids[-self._order :] if self._order else ()))
        except (TypeError, ValueError, LookupError, OverflowError):
            check_token_ids(prev_token_ids, "the prefix", vocab_size=self.vocab_size)  # says which of them is none
            raise

    def get_stop_token_id(self) -> int:
        return END

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def tokenize(self, text: str) -> list[int]:
        await trio.lowlevel.checkpoint()
        pieces = re.split(f"({re.escape(END_TEXT)})", check_text(text))
        return [token_id for piece in pieces for token_id in ([END] if piece == END_TEXT else piece.encode())]

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        await trio.lowlevel.checkpoint()
        ids = check_token_ids(token_ids, "what is to be detokenized", may_be_empty=True)
        return bytes(token_id for token_id in ids if token_id < END).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        if token_id == END:
            return END_TEXT.encode()
        return bytes([token_id]) if 0 <= token_id < END else b""

    def __repr__(self) -> str:
        return f"TinyLM(order={self._order})"


@lru_cache(8)
def _counted(order: int) -> _Counts:
    """Of that order; made once, since every model of it counts the same text."""
    return _Counts(order)


class _Counts:
    """How often each token follows each context of up to ``order`` tokens in the text, and the rows that makes; never changed.

    Attributes:
        digest: of the text and the order.
        row: the row after a context, read-only.
    """

    def __init__(self, order: int) -> None:
        text = files("seedbed.server").joinpath("tiny_lm.txt").read_text("utf-8")
        self.digest = hashlib.sha256(f"{order} {text}".encode()).hexdigest()
        self._order = order
        self._followers: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for line in text.splitlines():
            self._learn([END, *line.encode(), END])
        self.row = lru_cache(4096)(self._row_after)

    def _learn(self, token_ids: list[int]) -> None:
        for place in range(1, len(token_ids)):
            for length in range(min(self._order, place) + 1):
                self._followers[_key(token_ids[place - length : place])][token_ids[place]] += 1

    def _row_after(self, context: str) -> NDArray[np.float32]:
        scores = [1] * TinyLM.vocab_size
        for length in range(len(context) + 1):
            for token_id, count in self._followers.get(context[len(context) - length :], {}).items():
                scores[token_id] += 32**length * count
        row = np.array([_ln(score) for score in scores], dtype=np.float32)
        row.flags.writeable = False
        return row


def _key(token_ids: Sequence[int]) -> str:
    """Token ids as a string of one character each: a cheap dict key, cheap to cut."""
    return "".join(map(chr, token_ids))


@lru_cache(65_536)
def _ln(n: int) -> float:
    return portable.ln_scalar(n)


class HashLM(LLM):
    """A model of any size that knows nothing: each row is a hash of the whole prefix, uniform in [-8, 8).

    For load and for plumbing: rows of two prefixes have nothing in common, and every CPU makes the same ones.

    Args:
        vocab_size: entries of a row, at least 1.
        eos_token_id: the token that ends a sequence.
        context_length: most tokens of prompt and continuation together, at least 1.

    Raises:
        UsageError: a number that is none, or too small.

    Concurrency:
        Any number of tasks. Every call is a checkpoint.

    Example:
        >>> row = trio.run(HashLM(1000).next_token_logits, [1, 2, 3])
        >>> row.shape, bool(row.min() >= -8 and row.max() < 8)
        ((1000,), True)
    """

    def __init__(self, vocab_size: int, *, eos_token_id: int = 0, context_length: int = 131_072) -> None:
        vocab_size, context_length = _whole("vocab_size", vocab_size, 1), _whole("context_length", context_length, 1)
        self._info = ModelInfo(
            model=f"hash-lm-{vocab_size}",
            server="seedbed",
            fingerprint=f"philox-{vocab_size}",
            vocab_size=vocab_size,
            eos_token_ids=(_whole("eos_token_id", eos_token_id, 0),),
            context_length=context_length,
        )
        self._vocab_size = vocab_size

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> NDArray[np.float32]:
        await trio.lowlevel.checkpoint()
        octets = _as_int64(prev_token_ids).tobytes()
        key = np.frombuffer(hashlib.blake2b(octets, digest_size=16).digest(), dtype="<u8")
        words = np.random.Philox(key=key).random_raw((self._vocab_size + 1) // 2).astype("<u8", copy=False).view("<u4")
        row = (words[: self._vocab_size] >> np.uint32(8)).astype(np.float32)
        row *= np.float32(2.0**-20)
        row -= np.float32(8.0)
        return row

    def get_stop_token_id(self) -> int:
        return self._info.eos_token_ids[0]

    @property
    def info(self) -> ModelInfo:
        return self._info

    def __repr__(self) -> str:
        return f"HashLM({self._vocab_size})"


def _as_int64(token_ids: Sequence[int]) -> NDArray[np.int64]:
    """A prefix as an array, which is quicker to check than a list.

    Raises:
        InvalidPrompt: it is none; says which of it is none.
    """
    try:
        ids = np.asarray(token_ids)
    except (TypeError, ValueError, OverflowError):
        ids = np.empty(0)
    if ids.ndim != 1 or ids.dtype.kind != "i" or not ids.size or ids.min() < 0:
        ids = np.array(check_token_ids(token_ids, "the prefix"))
    return ids.astype("<i8", copy=False)


def _whole(name: str, value: object, least: int) -> int:
    """Raises UsageError: an argument that is no int of ``least`` or more."""
    number = whole_number(value)
    if number is None or number < least:
        raise UsageError(f"{name} must be an int of {least} or more, not {shown(value)}")
    return number
