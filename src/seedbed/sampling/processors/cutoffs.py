"""The rarer filters, by information content: typical, epsilon, eta, top-H, n sigma, and the one that drops the best (xtc)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from seedbed.errors import InvalidSampler
from seedbed.sampling import portable
from seedbed.sampling.mass import Mass, lightest_first
from seedbed.sampling.processors.base import History, Processor, require_in, require_int, require_one_of
from seedbed.sampling.processors.filters import TopK
from seedbed.sampling.randomness import Purpose

if TYPE_CHECKING:
    from seedbed.sampling.candidates import Candidates

__all__ = ["EpsilonCutoff", "EtaCutoff", "TopH", "TopNSigma", "TypicalP", "Xtc"]


@dataclass(frozen=True, slots=True)
class TypicalP(Processor):
    """Keep the tokens whose surprise is nearest to the entropy, until their mass reaches ``p``.

    In ascending order of ``|-ln p_i - H|``, ties by lowest id, a token stays while the mass strictly before it is below ``p``. It may
    drop the most probable token.

    Args:
        p: in (0, 1]; 1 keeps every token.
        rule: "<" as said; "<=" keeps a token also when the mass before it is exactly ``p``.
        ties: "keep" keeps every token with the score of the last one kept; "exact" does not.
        min_keep: keep at least so many.

    Raises:
        InvalidSampler: p outside (0, 1], when constructed.
        TruncatedRow: tokens are not listed, so the entropy is unknown.

    Example:
        >>> TypicalP(0.5)([0.0, 0.0, 0.0, 0.0]).tolist()
        [0.0, 0.0, 0.0, 0.0]
        >>> TypicalP(0.5, ties="exact")([0.0, 0.0, 0.0, 0.0]).tolist()
        [0.0, 0.0, -inf, -inf]

    Source: Meister et al. 2022, arXiv:2202.00666. Hugging Face transformers: "<" and "keep"; llama.cpp: "<=" and "exact".
    """

    p: float
    rule: Literal["<", "<="] = "<"
    ties: Literal["keep", "exact"] = "keep"
    min_keep: int = 1

    def _check(self) -> None:
        require_in("typical_p", self.p, 0, 1, "(]")
        require_one_of("the rule of typical_p", self.rule, "<", "<=")
        require_one_of("ties", self.ties, "exact", "keep")
        require_int("min_keep", self.min_keep, 0)

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        if self.p == 1.0:
            return candidates
        candidates.refuse_tail("typical_p needs the whole row")
        mass = Mass.of(candidates)
        scores = np.abs(mass.depth + (portable.ln_scalar(mass.listed) - mass.entropy()))
        limit = self.p * mass.listed
        kept, _ = lightest_first(scores, mass.weights.__getitem__, limit, inclusive=self.rule == "<=", at_least=max(1, self.min_keep))
        if self.ties == "keep":
            kept = scores <= scores[kept].max()
        return candidates.keep(kept)


@dataclass(frozen=True, slots=True)
class EpsilonCutoff(Processor):
    """Keep the tokens with at least probability ``epsilon``, and the ties for the most probable.

    Args:
        epsilon: in [0, 1); 0 keeps every token. Typical values: 3e-4 to 9e-4.

    Raises:
        InvalidSampler: ``epsilon`` outside [0, 1), when constructed.
        TruncatedRow: a token that is not listed might be probable enough, or the most probable; or the unseen mass decides.

    Example:
        >>> EpsilonCutoff(0.25)([3.0, 3.0, 3.0, 0.0]).tolist()
        [3.0, 3.0, 3.0, -inf]

    Source: Hewitt et al. 2022, arXiv:2210.15191; Hugging Face transformers.
    """

    epsilon: float

    def _check(self) -> None:
        require_in("epsilon_cutoff", self.epsilon, 0, 1, "[)")

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        if self.epsilon == 0.0:
            return candidates
        what = f"epsilon_cutoff={self.epsilon}"
        return candidates.keep(Mass.of(candidates).at_least_or_best(candidates, float(self.epsilon), what, ties=True))


@dataclass(frozen=True, slots=True)
class EtaCutoff(Processor):
    """As ``EpsilonCutoff``, with a threshold that falls with the entropy H: ``min(epsilon, sqrt(epsilon) exp(-H))``.

    Args:
        epsilon: in [0, 1); 0 keeps every token. Typical values: 3e-4 to 4e-3.

    Raises:
        InvalidSampler: ``epsilon`` outside [0, 1), when constructed.
        TruncatedRow: tokens are not listed, so the entropy is unknown.

    Example:
        >>> EtaCutoff(0.25)([3.0, 3.0, 3.0, 0.0]).tolist()
        [3.0, 3.0, 3.0, -inf]

    Source: Hewitt et al. 2022, arXiv:2210.15191; Hugging Face transformers.
    """

    epsilon: float

    def _check(self) -> None:
        require_in("eta_cutoff", self.epsilon, 0, 1, "[)")

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        if self.epsilon == 0.0:
            return candidates
        candidates.refuse_tail("eta_cutoff needs the whole row")
        mass = Mass.of(candidates)
        epsilon = float(self.epsilon)
        threshold = min(epsilon, math.sqrt(epsilon) * portable.exp_scalar(-mass.entropy()))
        return candidates.keep(mass.at_least_or_best(candidates, threshold, f"eta_cutoff={self.epsilon}", ties=True))


@dataclass(frozen=True, slots=True)
class TopH(Processor):
    """Keep most probable tokens while the entropy they add up to stays within the share ``h`` of the whole.

    Among the 100 most probable tokens, renormalised: in descending order a token stays while the sum of ``-p ln p`` up to and with it is
    at most ``h`` times that of all 100. The best always stays.

    Args:
        h: in (0, 1].

    Raises:
        InvalidSampler: ``h`` outside (0, 1], when constructed.
        TruncatedRow: fewer than 100 tokens are listed, or of a smaller vocabulary not all.

    Example:
        >>> TopH(0.5)([0.0, 0.0, 0.0, 0.0]).tolist()
        [0.0, 0.0, -inf, -inf]

    Source: Potraghloo et al. 2025, arXiv:2509.02510; Hugging Face transformers.
    """

    h: float

    def _check(self) -> None:
        require_in("top_h", self.h, 0, 1, "(]")

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        best = TopK(100).apply(candidates, history)
        best.refuse_tail("top_h needs the 100 best tokens")
        mass = Mass.of(best)
        order = np.argsort(mass.depth, kind="stable")
        # -p ln p for p = w/W is w (depth + ln W) / W; the common W cancels.
        terms = (mass.weights * np.where(mass.weights > 0.0, mass.depth + portable.ln_scalar(mass.listed), 0.0))[order].cumsum()
        kept = np.zeros(order.shape, dtype=bool)
        kept[order[: max(1, int(np.searchsorted(terms, float(self.h) * terms[-1], side="right")))]] = True
        return best.keep(kept)


@dataclass(frozen=True, slots=True)
class TopNSigma(Processor):
    """Exclude the tokens whose logit is more than ``n`` standard deviations below the best.

    Mean and (population) deviation are over the finite logits, so temperature does not change what is kept.

    Args:
        n: in (0, inf).

    Raises:
        InvalidSampler: ``n`` not a positive number, when constructed.
        TruncatedRow: tokens are not listed, so the deviation is unknown.

    Example:
        >>> TopNSigma(1.0)([4.0, 2.0, 0.0, 2.0]).tolist()
        [4.0, -inf, -inf, -inf]

    Source: Tang et al. 2024, arXiv:2411.07641; llama.cpp, where, as here, excluded tokens still count as candidates further down.
    """

    n: float

    def _check(self) -> None:
        require_in("top_n_sigma", self.n, 0, math.inf, "()")

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        candidates.refuse_tail("top_n_sigma needs the whole row")
        logits = candidates.logits
        depth = logits.max() - logits[logits > -np.inf]
        mean = portable.total(depth) / depth.size
        sigma = math.sqrt(portable.total((depth - mean) ** 2) / depth.size)
        return replace(candidates, values=np.where(logits.max() - logits <= float(self.n) * sigma, logits, -np.inf))


@dataclass(frozen=True, slots=True)
class Xtc(Processor):
    """Exclude top choices: with a ``probability``, drop all tokens of at least ``threshold`` but the least probable of them.

    Args:
        probability: how often it fires, in [0, 1]; 0 is off. Decided by the step's own word of purpose XTC.
        threshold: in [0, 1]; above 0.5 it never finds two tokens and is off.
        min_keep: do nothing rather than keep fewer, tokens that are not listed counted too.

    Raises:
        InvalidSampler: a parameter outside [0, 1], when constructed; no address to decide by, when applied.
        TruncatedRow: a token that is not listed might reach ``threshold``, or the unseen mass decides.

    Example:
        >>> Xtc(1.0, 0.25)([2.0, 2.0, 2.0, -4.0]).tolist()
        [-inf, -inf, 2.0, -4.0]

    Source: p-e-w 2024, the "XTC" sampler; rules as llama.cpp, which decides by a stream of its own.
    """

    probability: float
    threshold: float = 0.1
    min_keep: int = 0

    def _check(self) -> None:
        require_in("xtc_probability", self.probability, 0, 1)
        require_in("xtc_threshold", self.threshold, 0, 1)
        require_int("min_keep", self.min_keep, 0)

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        if self.probability == 0.0 or self.threshold > 0.5 or not self._fires(history):
            return candidates
        mass = Mass.of(candidates)
        probable = mass.at_least(candidates, float(self.threshold), f"xtc_threshold={self.threshold}")
        above = np.flatnonzero(probable & (mass.depth < np.inf))
        order = above[np.argsort(mass.depth[above], kind="stable")]
        if order.size < 2 or candidates.count - (order.size - 1) < self.min_keep:
            return candidates
        kept = np.ones(mass.depth.shape, dtype=bool)
        kept[order[:-1]] = False
        return candidates.keep(kept, tail=True)

    def _fires(self, history: History) -> bool:
        if self.probability == 1.0:
            return True
        if history.address is None:
            raise InvalidSampler("whether xtc fires is drawn at each step: draw a token, or process with an address")
        return history.address.uniform(Purpose.XTC) <= self.probability
