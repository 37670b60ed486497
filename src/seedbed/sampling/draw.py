"""How one token is drawn: Gumbel-max, with noise keyed by token id.

The token is ``argmax(logit + noise)``, where ``noise[v] = -ln(-ln u[v])`` and ``u[v]`` is word v of the step's address. That draws from
softmax(logits) exactly (Gumbel 1954; Maddison et al. 2014), needs no sum over the vocabulary, and couples well: two rows that differ a
little, under the same noise, give different tokens with probability at most 2 TV / (1 + TV), where an inverse CDF flips up to a hundred
times as often. It also means that a top-k row gives the full row's token unless that token is in the missing tail.

Why the answer is the same on every CPU: after the largest logit is subtracted, scores that can win lie in [-4, 37], where two machines'
logarithms (each within 4 ulp) leave the differences of scores within 1.4e-13 of each other. If the lead is larger than 1e-12, all
machines agree; if not, the few contenders are scored again with 50 decimal digits, which is the same everywhere.
"""

from __future__ import annotations

import threading
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seedbed.sampling.portable import DIGITS, LARGEST
from seedbed.sampling.randomness import Address, Purpose, uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seedbed.sampling.candidates import Candidates

__all__ = ["Winner", "gumbel_argmax", "gumbel_max"]

NEAR_TIE = 1e-12
# A word below this gains at most -ln(-ln(1 - 2**-10)) = 6.9310 from its noise, so most of a vocabulary needs no logarithm.
LUCKY_WORD = np.uint64(2**64 - 2**54)
UNLUCKY_GAIN = 6.94
PRUNE_FROM = 4096  # below, the bookkeeping costs more than the logarithms
KEEP_SCRATCH = 2**20  # words; a thread that once drew from a longer row does not hold on to it


class _Scratch(threading.local):
    """Each thread's own arrays for a whole row: fresh ones cost a page fault for every 4 KiB, a third of the time of a draw."""

    def __init__(self) -> None:
        self._grow(0)

    def _grow(self, size: int) -> None:
        self._words, self._lucky, self._high = np.empty(size, np.uint64), np.empty(size, np.bool_), np.empty(size, np.bool_)

    def take(self, size: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_], NDArray[np.bool_]]:
        if size > KEEP_SCRATCH:
            return np.empty(size, np.uint64), np.empty(size, np.bool_), np.empty(size, np.bool_)
        if size > self._words.size:
            self._grow(size)
        return self._words[:size], self._lucky[:size], self._high[:size]


_scratch = _Scratch()


class Winner(NamedTuple):
    """The token drawn.

    Attributes:
        position: where it stands among the candidates.
        margin: by how much its score led the next one's, in the units of the processed logits; inf when it stood alone. No change of
            the logits by less than half of it, in each entry, changes the token.
    """

    position: int
    margin: float


def gumbel_max(candidates: Candidates, address: Address) -> Winner:
    """Draw from softmax(candidates.values). The tokens of an unseen tail take no part."""
    values, ids = candidates.values, candidates.ids
    if values.size == 1:
        return Winner(0, np.inf)
    # A row with much excluded (by a grammar, say) needs few words; whether it is one shows in a sample of it.
    if ids is None and values.size >= PRUNE_FROM and values[::64].min() > -np.inf:
        return _gumbel_max_whole(values, address)
    left = np.flatnonzero(values > -np.inf)
    words = address.words_at(left if ids is None else ids[left], Purpose.GUMBEL)
    winner = gumbel_argmax(values[left].astype(np.float64) - float(values.max()), uniform(words))
    return Winner(int(left[winner.position]), winner.margin)


def _gumbel_max_whole(values: NDArray[np.float32] | NDArray[np.float64], address: Address) -> Winner:
    """Over a whole vocabulary, with logarithms for those alone that may come first or second."""
    words, mask, high = _scratch.take(values.size)
    at = 0
    for piece in address.pieces(values.size, Purpose.GUMBEL):
        words[at : at + piece.size] = piece
        np.greater_equal(piece, LUCKY_WORD, out=mask[at : at + piece.size])
        at += piece.size
    best = int(values.argmax())
    top = float(values[best])
    mask[best] = True
    some = np.flatnonzero(mask)
    if some.size > 1:
        scores = values[some].astype(np.float64) - top - np.log(-np.log(uniform(words[some])))
        # What the second best of a few already scores, nobody reaches from below here without luck.
        bar = float(np.partition(scores, -2)[-2]) - UNLUCKY_GAIN + top
        # One step down in the row's own dtype: rounding may let too many pass, never too few.
        np.greater(values, np.nextafter(values.dtype.type(bar), -np.inf, dtype=values.dtype), out=high)
        mask |= high
    else:
        mask[:] = True
    contenders = np.flatnonzero(mask)
    winner = gumbel_argmax(values[contenders].astype(np.float64) - top, uniform(words[contenders]))
    return Winner(int(contenders[winner.position]), winner.margin)


def gumbel_argmax(z: NDArray[np.float64], u: NDArray[np.float64], least_rate: float = 0.0) -> Winner:
    """The best of ``z - ln(-ln u)``, the same on every CPU; exact ties go to the first.

    Args:
        z: at or below 0; -inf never wins.
        u: in [0, 1].
        least_rate: ``-ln u`` is taken as at least this much, and as at most the largest float64; engines that let u reach 0 and 1 do so.
    """
    with np.errstate(divide="ignore"):
        rates = np.minimum(np.maximum(-np.log(u), least_rate), LARGEST)
    scores = z - np.log(rates)
    first = int(scores.argmax())
    best = scores[first]
    near = np.flatnonzero(scores >= best - NEAR_TIE)
    if near.size > 1:
        exact = [_score_decimal(z[place], u[place], least_rate) for place in near]
        first = int(near[exact.index(max(exact))])
    scores[first] = -np.inf
    return Winner(first, float(max(0.0, best - scores.max())))


def _score_decimal(z: float, u: float, least_rate: float) -> Decimal:
    with localcontext(DIGITS):
        rate = min(max(-Decimal(u).ln(), Decimal(least_rate)), Decimal(LARGEST))
        return Decimal(z) - rate.ln()
