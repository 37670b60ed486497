"""Where every random number comes from: an address, not a stream.

Rule 1: a word is a pure function of (seed, purpose, prompt_index, index, step, v). There is no state to share, advance or reset.
Rule 2: two different addresses under one seed never share a Philox block; two seeds never share a key.
Rule 3: every consumer of randomness has a purpose of its own, so a new one shifts nothing that exists.

The generator is Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), as numpy ships it::

    key     = (seed mod 2**64, seed div 2**64)
    counter = (1 + lane, step, index, purpose * 2**48 + prompt_index)
    word v  = output word v mod 4 of lane v div 4

numpy increments its counter before the first block, so word 0..n-1 of an address is exactly
``numpy.random.Philox(key=seed, counter=[0, step, index, purpose << 48 | prompt_index]).random_raw(n)``: anyone can check a draw
with stock numpy.

Compatibility guarantee: this mapping never changes. ``random_raw`` of numpy's Philox is covered by numpy's own guarantee for bit
generators; nothing here goes through ``numpy.random.Generator``, whose methods may change.

What not to do instead: ``seed + index`` as a seed (run 7's sequence 1 *is* run 8's sequence 0), re-seeding at every step (each step
draws the same number), or one stream in finishing order (results depend on scheduling).
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from seedbed.errors import InvalidSeed
from seedbed.llm.arguments import shown, whole_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Address", "Purpose", "check_seed", "fresh_seed", "uniform"]

SEED_BITS, PROMPT_BITS, WORD_BITS = 128, 48, 64
_LOW_WORD = (1 << WORD_BITS) - 1


class Purpose(IntEnum):
    """Who consumes the words of an address. Numbers are for ever; a new consumer takes the next one."""

    GUMBEL = 1
    """The noise of the draw: word v belongs to token id v."""
    XTC = 2
    """Whether the xtc filter fires at a step."""
    INVERSE_CDF = 3
    """The one uniform of an inverse-CDF draw, mirostat's included."""
    RETRY_JITTER = 4
    """How long a retry waits; never reaches a result."""
    YOURS = 5
    """The caller's own, for instance to resample among sequences: seedbed itself never uses it."""
    CHECK_ORDER = 6
    """In which order and in groups of which size a check asks; index is the pass, step the batch."""
    PIT = 7
    """Where inside its own probability a token falls that a server drew; index is the number of the draw."""


def fresh_seed() -> int:
    """A new seed from the operating system: 63 bits, so that it fits the int64 fields of servers. Print it, and a run can be repeated.

    Example:
        >>> 0 <= fresh_seed() < 2**63
        True
    """
    return secrets.randbits(63)


def check_seed(seed: object) -> int:
    """``seed`` as a plain int.

    Raises:
        InvalidSeed: not an int (a bool is none), negative, or 2**128 and above.

    Example:
        >>> check_seed(np.int64(7))
        7
    """
    return _field("seed", seed, SEED_BITS)


def uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Words as numbers in (0, 1): ``((w >> 12) + 1/2) * 2**-52``, exact in float64, never 0 and never 1.

    53 bits and a half would round the top value to 1.0, whose Gumbel noise is infinite.

    Example:
        >>> uniform(np.array([0, 2**64 - 1], dtype=np.uint64)).tolist() == [2**-53, 1 - 2**-53]
        True
    """
    u = (words >> np.uint64(12)).astype(np.float64)
    u += 0.5
    u *= 2.0**-52
    return u


@dataclass(frozen=True, slots=True)
class Address:
    """Where the randomness of one step of one sequence lives.

    Args:
        seed: the run's seed, 0 <= seed < 2**128.
        prompt_index: which prompt of the run, below 2**48.
        index: which sequence of the prompt, below 2**64.
        step: which generated token, from 0, the prompt not counted, below 2**64.

    Raises:
        InvalidSeed: a field that is not an int in its range.

    Example:
        >>> hex(Address(seed=7).words(1, Purpose.GUMBEL)[0])
        '0xa12ba2cf79f67db5'
    """

    seed: int
    prompt_index: int = 0
    index: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        for name, bits in (
            ("seed", SEED_BITS),
            ("prompt_index", PROMPT_BITS),
            ("index", WORD_BITS),
            ("step", WORD_BITS),
        ):
            object.__setattr__(self, name, _field(name, getattr(self, name), bits))

    def words(self, count: int, purpose: Purpose) -> NDArray[np.uint64]:
        """Words 0 to ``count`` - 1, uint64."""
        return self._philox(purpose).random_raw(count)

    def pieces(self, count: int, purpose: Purpose) -> Iterator[NDArray[np.uint64]]:
        """Words 0 to ``count`` - 1, a few thousand at a time: so that the allocator need not ask the system for each, and they stay in
        the cache while they are looked at. Only one such walk at a time in a thread.
        """
        philox = self._philox(purpose)
        for at in range(0, count, 32_768):
            yield philox.random_raw(min(32_768, count - at))

    def words_at(self, positions: NDArray[np.int64], purpose: Purpose) -> NDArray[np.uint64]:
        """The words at ascending ``positions``, uint64; the same values as ``words(max + 1)[positions]``, without making all of them."""
        if not positions.size:
            return np.empty(0, dtype=np.uint64)
        # Going to a lane costs about as much as making 500 words in a row.
        if 500 * positions.size > positions[-1]:
            return self.words(int(positions[-1]) + 1, purpose)[positions]
        philox, state = _of_this_thread.philox, self._state(purpose)
        counter = state["state"]["counter"]
        lane, block, picked = -1, [], []
        for position in positions.tolist():
            if position >> 2 != lane:
                lane = counter[0] = position >> 2
                philox.state = state
                block = philox.random_raw(4).tolist()
            picked.append(block[position & 3])
        return np.array(picked, dtype=np.uint64)

    def uniform(self, purpose: Purpose) -> float:
        """The one number in (0, 1) of a purpose that needs just one: word 0."""
        return float(uniform(self.words(1, purpose))[0])

    def _philox(self, purpose: Purpose) -> np.random.Philox:
        """A generator at the beginning of this address; good until the thread asks for another."""
        philox = _of_this_thread.philox
        philox.state = self._state(purpose)
        return philox

    def _state(self, purpose: Purpose) -> Any:
        """Of a generator at the beginning of this address, in numpy's terms."""
        return {
            "bit_generator": "Philox",
            "state": {
                "counter": np.array((0, self.step, self.index, purpose << PROMPT_BITS | self.prompt_index), dtype=np.uint64),
                "key": np.array((self.seed & _LOW_WORD, self.seed >> WORD_BITS), dtype=np.uint64),
            },
            "buffer": _EMPTY_BUFFER,
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }


class _OfThread(threading.local):
    """A new generator asks the system for entropy it then ignores, 8 microseconds; putting a kept one somewhere else takes 2."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(key=0)


_of_this_thread = _OfThread()
_EMPTY_BUFFER = np.zeros(4, dtype=np.uint64)


def _field(name: str, value: object, bits: int) -> int:
    whole = whole_number(value)
    if whole is None:
        raise InvalidSeed(f"{name} must be an int, not {type(value).__name__}: {shown(value)}")
    if not 0 <= whole < 1 << bits:
        raise InvalidSeed(f"{name} must be in [0, 2**{bits}), not {shown(whole)}")
    return whole
