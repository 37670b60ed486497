"""What one line of ``steps.jsonl`` says: a step of the tree of prefixes, or one more answer to a prefix that is a step already."""

from __future__ import annotations

import hashlib
import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from seedbed.errors import MalformedRow, RecordingBroken, UsageError
from seedbed.llm.base import Row, TopLogprobs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from seedbed.recording.shards import Shards

__all__ = [
    "Asked",
    "Observation",
    "Step",
    "StepIndex",
    "StoredRow",
    "best_of",
    "check_first",
    "prefix_hasher",
    "prefix_key",
    "row_sha256",
    "top_from_line",
]

BEST = 5
Cache: TypeAlias = Literal["cold", "warm"]
Phase: TypeAlias = Literal["prefill", "decode", "scored"]


@dataclass(frozen=True, slots=True)
class Asked:
    """The condition under which an answer was had, as far as its recorder knows; None where it does not.

    Attributes:
        concurrency: the most questions this recorder had under way at any moment until the answer was there; 1 is alone.
        cache: "warm" when this recorder had asked for the prefix, or for its recorded beginning, before, so that the server may have had
            it in its prefix cache; "cold" when it had not.
        latency: seconds from question to answer, on trio's clock.
        phase: "prefill" when the row was asked for by itself, so that its prefix was read whole; "decode" when it came as a further row
            of an answer ahead, computed token by token behind the prefix that was asked for; "scored" when it came with the answers to all
            beginnings of a longer prefix, in one request. The last bits may differ.
    """

    concurrency: int | None = None
    cache: Cache | None = None
    latency: float | None = None
    phase: Phase = "prefill"

    @property
    def tags(self) -> tuple[str, ...]:
        """ "scored"; or else "solo" or "concurrent", "cold" or "warm", and "decode", unless it is prefill: rows are compared under equal
        tags only.
        """
        if self.phase == "scored":
            return ("scored",)
        tags = () if self.concurrency is None else ("solo" if self.concurrency == 1 else "concurrent",)
        tags = tags if self.cache is None else (*tags, self.cache)
        return tags if self.phase == "prefill" else (*tags, self.phase)

    def to_line(self) -> dict[str, Any]:
        """As members of a line."""
        latency = None if self.latency is None else float(f"{self.latency:.4g}")
        phase = None if self.phase == "prefill" else self.phase
        values = {"concurrency": self.concurrency, "cache": self.cache, "latency": latency, "phase": phase}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_line(cls, data: dict[str, Any]) -> Asked:
        """Out of a line.

        Raises:
            ValueError: not what ``to_line`` writes.
        """
        concurrency, cache, latency = data.get("concurrency"), data.get("cache"), data.get("latency")
        if not (concurrency is None or (type(concurrency) is int and concurrency >= 1)) or cache not in (None, "cold", "warm"):
            raise ValueError("concurrency or cache is wrong")
        if not (latency is None or (type(latency) in (int, float) and latency >= 0)):
            raise ValueError("latency is wrong")
        phase = data.get("phase", "prefill")
        if phase not in get_args(Phase):
            raise ValueError("phase is wrong")
        return cls(concurrency, cache, latency, phase)


def check_first(asked: Asked) -> None:
    """Whether the first answer to a prefix can have been had so: replay gives it as the answer to this prefix alone.

    Raises:
        UsageError: it cannot.
    """
    if asked.phase == "scored":
        raise UsageError("the first answer to a prefix cannot be a scored one, only a repeat can")


class StoredRow:
    """Where a full row lies, and what it must be.

    Attributes:
        shard, row: its shard, counted from 1, and its place in it, from 0.
        sha256: 16 hex digits.
    """

    __slots__ = ("_is_checked", "_key", "_number", "_shards", "row", "sha256", "shard")

    def __init__(self, shards: Shards, shard: int, row: int, sha256: str, *, key: bytes, number: int) -> None:
        self._shards, self._key, self._number, self._is_checked = shards, key, number, False
        self.shard, self.row, self.sha256 = shard, row, sha256

    def load(self, *, check: bool = False) -> NDArray[np.float32]:
        """The row, float32, read-only; its hash is checked when it is read first, or with ``check`` again.

        Raises:
            RecordingBroken: it is not what was recorded; names the step.
        """
        values = self._shards.row(self.shard, self.row)
        if check or not self._is_checked:
            if row_sha256(self._key, values) != self.sha256:
                raise RecordingBroken(
                    f"step {self._number}: row {self.row} of shard {self.shard} is not the one recorded: its hash does not match; "
                    "restore the shard, or record anew"
                )
            self._is_checked = True
        return values


@dataclass(frozen=True, slots=True)
class Observation:
    """One answer to one prefix.

    Attributes:
        asked: the condition under which it was had.
        source: the row itself, or where it lies.
        same_as: which earlier observation of the step gave the same bits; None when none did.
    """

    asked: Asked
    source: TopLogprobs | StoredRow
    same_as: int | None = None

    @property
    def row(self) -> Row:
        """The answer.

        Raises:
            RecordingBroken: it is not what was recorded.
        """
        return self.source if isinstance(self.source, TopLogprobs) else self.source.load()


class Step:
    """A recorded prefix and every answer to it. Made by ``open_recording``; ``Recording.get`` finds one.

    Attributes:
        number: its place among the steps, from 0.
        parent: the step of its longest beginning that was recorded before it, or None.
        tokens: what it adds to that.
        length: of the prefix, in tokens.
        key: 16 octets that stand for the prefix.
        observations: at least one; the first is what replay answers.
        best: the most probable tokens of the first answer: all that were kept, or in the full tier the five best.
        logsumexp: natural log of the sum of e**logit over the first answer; None in the top_k tier.
    """

    __slots__ = ("best", "key", "length", "logsumexp", "number", "observations", "parent", "tokens")

    def __init__(
        self,
        number: int,
        parent: Step | None,
        tokens: tuple[int, ...],
        key: bytes,
        first: Observation,
        best: TopLogprobs | None,
        logsumexp: float | None,
    ) -> None:
        self.number, self.parent, self.tokens, self.key = number, parent, tokens, key
        self.length: int = len(tokens) + (parent.length if parent is not None else 0)
        self.observations = [first]
        self.best, self.logsumexp = best, logsumexp

    @property
    def prefix(self) -> tuple[int, ...]:
        """The token ids asked for."""
        pieces: list[tuple[int, ...]] = []
        at: Step | None = self
        while at is not None:
            pieces.append(at.tokens)
            at = at.parent
        return tuple(token_id for piece in reversed(pieces) for token_id in piece)

    @property
    def row(self) -> Row:
        """What the model answered first.

        Raises:
            RecordingBroken: a full row is not what was recorded.
        """
        return self.observations[0].row

    @property
    def asked_alone(self) -> int:
        """How many of its answers were to this prefix alone, and not to all beginnings of a longer one; at least one."""
        return sum(observation.asked.phase != "scored" for observation in self.observations)

    @property
    def scored(self) -> int:
        """How many of its answers came with those to all beginnings of a longer prefix; 0 is none."""
        return len(self.observations) - self.asked_alone

    @property
    def margin(self) -> float:
        """How far the best token leads the next, in nats; inf when there is no other, nan when the row has no best."""
        if self.best is None:
            return math.nan
        return float(self.best.logprobs[0] - self.best.logprobs[1]) if len(self.best) > 1 else math.inf

    @property
    def sha256(self) -> str:
        """16 hex digits over prefix and first answer: equal in two recordings when both are, on any machine."""
        source = self.observations[0].source
        return source.sha256 if isinstance(source, StoredRow) else row_sha256(self.key, source)

    def __repr__(self) -> str:
        return f"<Step {self.number}: {self.length} tokens, {len(self.observations)} answers>"


def prefix_key(prefix: Sequence[int]) -> bytes:
    """16 octets that stand for a prefix: BLAKE2b over its ids as little-endian 64-bit integers."""
    return prefix_hasher(prefix).digest()


def prefix_hasher(tokens: Sequence[int], beginning: hashlib.blake2b | None = None) -> hashlib.blake2b:
    """What ``prefix_key`` digests, so that a longer prefix need not be hashed from its beginning."""
    hasher = hashlib.blake2b(digest_size=16) if beginning is None else beginning.copy()
    hasher.update(_octets(tokens))
    return hasher


def _octets(tokens: Sequence[int]) -> bytes:
    return np.frombuffer(array("q", tokens), dtype=np.int64).astype("<i8", copy=False).tobytes() if len(tokens) else b""


def row_sha256(key: bytes, row: Row) -> str:
    """16 hex digits over a prefix's key and its row as it is: ids and float32 values, nothing computed from them."""
    digest = hashlib.sha256(key)
    if isinstance(row, TopLogprobs):
        digest.update(b"top" + row.vocab_size.to_bytes(8, "little"))
        digest.update(row.token_ids.astype("<i8", copy=False).tobytes())
        digest.update(row.logprobs.astype("<f4", copy=False).tobytes())
    else:
        digest.update(b"row")
        digest.update(np.ascontiguousarray(row, dtype="<f4").data)
    return digest.hexdigest()[:16]


class StepIndex:
    """Steps by prefix. Looking one up takes one hash, whatever the recording's size; nothing is kept per token."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, Step] = {}

    def add(self, step: Step) -> None:
        """Make a step known."""
        self._by_key[step.key] = step

    def by_key(self, key: bytes) -> Step | None:
        """The step of a prefix that has this key."""
        return self._by_key.get(key)

    def get(self, prefix: Sequence[int]) -> Step | None:
        """The step of exactly this prefix, or None."""
        try:
            return self._by_key.get(prefix_key(prefix))
        except (TypeError, OverflowError):  # no token ids, so never recorded
            return None

    def nearest(self, prefix: Sequence[int]) -> Step | None:
        """The step of the longest recorded beginning of ``prefix``, itself included, or None."""
        # A sequence is asked for token by token, so what is nearest is mostly the prefix without its last one.
        best = self.get(prefix) or self.get(prefix[:-1])
        if best is not None:
            return best
        hasher = prefix_hasher(())
        try:
            for token_id in prefix:
                hasher.update(_octets((token_id,)))
                best = self._by_key.get(hasher.digest(), best)
        except (TypeError, OverflowError):
            pass
        return best

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Step]:
        return iter(self._by_key.values())


def best_of(row: Row) -> tuple[TopLogprobs | None, float | None]:
    """The five best of a full row and its log-sum-exp, for people and for a first look; None for a row that has none.

    Computed with this machine's exponentials, so never part of a hash.
    """
    if isinstance(row, TopLogprobs):
        return row, None
    top = float(row.max())
    if not math.isfinite(top):
        return None, None
    count = min(BEST, row.size)
    with np.errstate(under="ignore"):
        above_top = math.log(float(np.exp(np.subtract(row, top, dtype=np.float64)).sum()))
    ids = np.flatnonzero(row >= np.partition(row, -count)[-count])
    ids = ids[np.argsort(-row[ids], kind="stable")][:count]
    # The top first: beside a logit of 1e17 the logarithm of the sum would be lost.
    return TopLogprobs(ids, np.minimum(row[ids].astype(np.float64) - top - above_top, 0.0), row.size), top + above_top


def top_from_line(data: Any, vocab_size: int) -> TopLogprobs:
    """The k best out of a line.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: not what a writer writes.
    """
    ids, values = data["token_ids"], data["logprobs"]
    if not all(type(token_id) is int for token_id in ids) or not all(value is None or type(value) in (float, int) for value in values):
        raise ValueError("ids or values of the row are no numbers")
    try:
        return TopLogprobs(ids, [-math.inf if value is None else value for value in values], vocab_size)
    except MalformedRow as error:
        raise ValueError(str(error)) from error
