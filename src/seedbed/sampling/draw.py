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

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seedbed.sampling.portable import DIGITS
from seedbed.sampling.randomness import Address, Purpose, uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seedbed.sampling.candidates import Candidates

__all__ = ["Winner", "gumbel_max"]

NEAR_TIE = 1e-12
# A word below this gains at most -ln(-ln(1 - 2**-10)) = 6.9310 from its noise, so most of a vocabulary needs no logarithm.
LUCKY_WORD = np.uint64(2**64 - 2**54)
UNLUCKY_GAIN = 6.94
PRUNE_FROM = 4096  # below, the bookkeeping costs more than the logarithms


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
    """Draw from softmax(candidates.logits). The tokens of an unseen tail take no part."""
    logits, ids = candidates.logits, candidates.ids
    kept = np.flatnonzero(logits > -np.inf)
    if kept.size == 1:
        return Winner(int(kept[0]), candidates.gap if candidates.gap is not None else np.inf)
    if kept.size == logits.size and ids is None:
        return _argmax(logits - logits.max(), address.words(logits.size, Purpose.GUMBEL))
    words = address.words_at(kept if ids is None else ids[kept], Purpose.GUMBEL)
    left = logits[kept]
    winner = _argmax(left - left.max(), words)
    return Winner(int(kept[winner.position]), winner.margin)


def _argmax(z: NDArray[np.float64], words: NDArray[np.uint64]) -> Winner:
    """``z``: finite, its maximum is 0; positions in the order of ascending ids."""
    contenders = _contenders(z, words)
    scores = _scores(z[contenders], words[contenders])
    first = int(scores.argmax())
    best = scores[first]
    near = np.flatnonzero(scores >= best - NEAR_TIE)
    if near.size > 1:
        first = int(near[_argmax_decimal(z[contenders[near]], words[contenders[near]])])
    scores[first] = -np.inf
    return Winner(int(contenders[first]), float(max(0.0, best - scores.max())))


def _scores(z: NDArray[np.float64], words: NDArray[np.uint64]) -> NDArray[np.float64]:
    return z - np.log(-np.log(uniform(words)))


def _contenders(z: NDArray[np.float64], words: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Positions, ascending, that certainly include the best and the second best score."""
    if z.size < PRUNE_FROM:
        return np.arange(z.size)
    lucky = words >= LUCKY_WORD
    lucky[z.argmax()] = True
    some = np.flatnonzero(lucky)
    if some.size < 2:
        return np.arange(z.size)
    runner_up = np.partition(_scores(z[some], words[some]), -2)[-2]
    return np.flatnonzero(lucky | (z > runner_up - UNLUCKY_GAIN))


def _argmax_decimal(z: NDArray[np.float64], words: NDArray[np.uint64]) -> int:
    """The best of a few near ties, in 50 digits; exact ties go to the lowest id."""
    scores = [
        DIGITS.subtract(Decimal(value), DIGITS.ln(-DIGITS.ln(Decimal(u))))
        for value, u in zip(z.tolist(), uniform(words).tolist(), strict=True)
    ]
    return scores.index(max(scores))
