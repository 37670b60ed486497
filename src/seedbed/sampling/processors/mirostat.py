"""Mirostat: a filter that steers the surprise of the tokens drawn towards a target, by feedback from each draw.

The state is one number, mu: the most surprise allowed at the next step, in bits. It belongs to the sequence, not to the sampler.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING

import numpy as np

from seedbed.sampling import portable
from seedbed.sampling.mass import Mass
from seedbed.sampling.processors.base import History, StatefulProcessor, require_in
from seedbed.sampling.processors.filters import TopK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seedbed.sampling.candidates import Candidates

__all__ = ["Mirostat", "MirostatV2"]

ZIPF_TOKENS = 100  # how many of the best tokens the exponent is estimated from, in paper and engine alike


@dataclass(frozen=True, slots=True)
class _Feedback(StatefulProcessor):
    tau: float = 5.0
    eta: float = 0.1

    def _check(self) -> None:
        require_in("mirostat_tau", self.tau, 0, math.inf, "[)")
        require_in("mirostat_eta", self.eta, 0, math.inf, "[)")

    def _mu(self, state: float | None) -> float:
        return 2.0 * self.tau if state is None else state

    def after(self, state: float | None, probability: float) -> float:
        surprise = -portable.ln_scalar(probability) / portable.LN2
        mu = self._mu(state) - self.eta * (surprise - self.tau)
        return min(max(mu, -portable.LARGEST), portable.LARGEST)  # a state is finite, whatever the rate


@dataclass(frozen=True, slots=True)
class Mirostat(_Feedback):
    """Keep the k best tokens, k chosen so that a Zipf law would give surprise mu; then learn from the token drawn.

    With the exponent s = sum t_i b_i / sum t_i**2 of the 100 best (t_i = ln((i+2)/(i+1)), b_i the fall in logits from rank i to i+1) and
    V the size of the vocabulary, k = ((s-1) 2**mu / (1 - V**(1-s)))**(1/s), at least 1. After each draw mu falls by eta (surprise - tau);
    it starts at 2 tau.

    Args:
        tau: the target, in bits, >= 0.
        eta: the learning rate, >= 0.

    Raises:
        InvalidSampler: a parameter that is negative or no number, when constructed.
        TruncatedRow: fewer tokens are listed than the estimate or k needs; of a vocabulary of at most 100, not all.

    Example:
        >>> Mirostat(tau=0.0)([4.0, 3.0, 1.0, 0.0]).tolist()
        [4.0, -inf, -inf, -inf]

    Source: Basu et al. 2021, arXiv:2007.14966; llama.cpp ("mirostat 1").
    """

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        best = TopK(ZIPF_TOKENS).apply(candidates, history)
        best.refuse_tail(f"mirostat needs the {ZIPF_TOKENS} best tokens")
        logits = best.logits
        exponent = _zipf_exponent(np.sort(logits[logits > -np.inf])[::-1])
        return TopK(self._k(exponent, self._mu(history.state), candidates.vocab_size)).apply(candidates, history)

    def _k(self, exponent: float, mu: float, vocab_size: int) -> int:
        if vocab_size == 1:
            return 1
        # In decimal: near s = 1 or s = 0 this is a ratio of small numbers, and k must not depend on a platform's pow.
        with localcontext(portable.DIGITS):
            s, ln_size = Decimal(exponent), Decimal(vocab_size).ln()
            excess = s - 1
            share = excess / (1 - (-excess * ln_size).exp()) if excess else 1 / ln_size
            ln_k = share.ln() + Decimal(mu) * Decimal(2).ln()
            ln_k = ln_k / s if s else ln_k * 10**6
            if ln_k >= ln_size:
                return vocab_size
            return int(ln_k.exp()) if ln_k > 0 else 1


@dataclass(frozen=True, slots=True)
class MirostatV2(_Feedback):
    """Keep the tokens whose surprise is at most mu bits, and the best; then learn from the token drawn.

    After each draw mu falls by eta (surprise - tau), the surprise being that of the token among those kept; mu starts at 2 tau.

    Args:
        tau: the target, in bits, >= 0.
        eta: the learning rate, >= 0.

    Raises:
        InvalidSampler: a parameter that is negative or no number, when constructed.
        TruncatedRow: a token that is not listed might be probable enough, or the most probable; or the unseen mass decides.

    Example:
        >>> MirostatV2(tau=1.0)([2.0, 2.0, 2.0, -4.0]).tolist()
        [2.0, 2.0, 2.0, -inf]

    Source: Basu et al. 2021, arXiv:2007.14966; llama.cpp ("mirostat 2").
    """

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        mu = self._mu(history.state)
        least = min(1.0, portable.exp_scalar(-mu * portable.LN2))
        return candidates.keep(Mass.of(candidates).at_least_or_best(candidates, least, f"mirostat at mu={mu:.3f}"))


def _zipf_exponent(logits: NDArray[np.float64]) -> float:
    """``logits``: descending."""
    if logits.size < 2:
        return 1.0
    steps = np.array([portable.ln((i + 2) / (i + 1)) for i in range(logits.size - 1)])
    return portable.total(steps * -np.diff(logits)) / portable.total(steps * steps)
