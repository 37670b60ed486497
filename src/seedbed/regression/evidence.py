"""Whether a difference is more than noise: tests whose false alarms are bounded by proof, not by tuning.

The unit is the sequence. Let W be the mean of rho over the prefixes of one sequence (``metrics.noise_free_drift``). When nothing changed,
W is symmetric about 0 given everything before it, since exchanging the recorded answer and the live one flips its sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from seedbed.errors import UsageError
from seedbed.regression.quantiles import beta_cdf, clopper_pearson

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike

__all__ = ["ONE_AGAINST_TWO", "TWO_AGAINST_TWO", "EProcess", "Sparse", "odd_one_out", "parting_p_value", "sparse_corruption"]

BETS = (0.1, 0.2, 0.35, 0.5, 0.8)
"""The stakes lambda that are averaged over: whatever the drift, one of them is near the best."""


@dataclass(slots=True)
class EProcess:
    """The evidence of one check against "nothing changed", which may be looked at after every sequence.

    ``E_n = mean over lambda of prod_{s <= n} (1 + lambda W_s)``. When nothing changed each factor has mean 1 or less given the past, so
    ``P(E ever reaches 1/alpha) <= alpha``: stopping early, or going on after a look, inflates nothing. Another check of the same recording
    must not multiply into it, see ``Evidence``.

    Attributes:
        log_wealths: the natural log of each product, one for each of ``BETS``.
        path: the natural log of E after each sequence so far.

    Example:
        >>> process = EProcess()
        >>> for _ in range(16):
        ...     process.add(0.6)
        >>> process.e_value > 100, process.is_alarm(0.01), process.sequences
        (True, True, 16)

    Source: Ville 1939; Shafer and Vovk 2019; Ramdas et al. 2023, "Game-theoretic statistics and safe anytime-valid inference".
    """

    log_wealths: list[float] = field(default_factory=lambda: [0.0] * len(BETS))
    path: list[float] = field(default_factory=list)

    def add(self, w: float) -> None:
        """Take in one sequence.

        Args:
            w: in [-1, 1].

        Raises:
            UsageError: outside that.
        """
        if not -1.0 <= w <= 1.0:
            raise UsageError(f"the score of a sequence must be in [-1, 1], not {w}")
        self.log_wealths = [wealth + math.log1p(bet * w) for wealth, bet in zip(self.log_wealths, BETS, strict=True)]
        self.path.append(log_mean(self.log_wealths))

    @property
    def sequences(self) -> int:
        """How many W were taken in."""
        return len(self.path)

    @property
    def log_e_value(self) -> float:
        """The natural log of E now."""
        return self.path[-1] if self.path else 0.0

    @property
    def e_value(self) -> float:
        """E now; inf beyond what a float64 holds."""
        return exp(self.log_e_value)

    def is_alarm(self, alpha: float) -> bool:
        """Whether E is 1/alpha or more now."""
        return self.log_e_value >= -math.log(alpha)


def log_mean(logs: Sequence[float]) -> float:
    """The natural log of the mean of numbers whose natural logs these are."""
    top = max(logs)
    return top + math.log(sum(math.exp(log - top) for log in logs) / len(logs))


def exp(log: float) -> float:
    """``math.exp``, but inf beyond what a float64 holds."""
    return math.exp(log) if log < 709 else math.inf


def odd_one_out(recorded: Sequence[float], live: float) -> float:
    """The score of a sequence of which one answer a prefix was recorded, in [-1, 1/2]; mean 0 when nothing changed.

    Three answers, one recorded and two live, are exchangeable when nothing changed. With d_i the distance of answer i to the other two,
    the score is ``d_recorded / mean(d) - 1``: the recorded one is not more often the odd one out than either of the others.

    Args:
        recorded: the distances of the recorded answer to the two live ones, by any metric; taken are Hellinger's.
        live: the distance between the live ones.

    Example:
        >>> odd_one_out([1.0, 1.0], 0.0), odd_one_out([1.0, 1.0], 1.0)
        (0.5, 0.0)
    """
    to_recorded = sum(recorded)
    mean = 2 * (to_recorded + live) / 3
    # By the triangle inequality never above 1/2, but for rounding.
    return min(0.5, to_recorded / mean - 1) if mean else 0.0


ONE_AGAINST_TWO, TWO_AGAINST_TWO = 1 / 3, 1 / 6


def parting_p_value(parted: int, differing: int, chance: float) -> float:
    """How probable it is, when nothing changed, that so many of the differing prefixes are parted: old answers all the same, new ones too.

    A server that now and then gives other bits does so among recorded and live answers alike. Each answer being had anew, some value a with
    probability p_s(a) under condition s, let u and v be the chances that the live answer of a first and of a second pair is not the
    recorded one. Then any answers of two pairs differ with probability ``u + v - u v`` or more, and are parted with probability
    ``sum over a != b of p_1(a) p_1(b) p_2(a) p_2(b)``, at most ``min(u, v) / 2`` times the smaller of ``max(u, v)``, 1/2 and
    ``1 - max(u, v)``: never more than 1/6 of the former, as of two equally probable values. Of three answers under one condition the lone
    one is the odd one out in 1/3 of all cases. So as many prefixes, or more, are parted with the probability of a binomial variable.

    Args:
        parted, differing: how many prefixes are parted, of those whose answers are not all the same.
        chance: the greatest of these bounds that holds for one of them.

    Example:
        >>> round(parting_p_value(3, 3, TWO_AGAINST_TWO), 4), parting_p_value(0, 3, TWO_AGAINST_TWO)
        (0.0046, 1.0)
    """
    return beta_cdf(chance, parted, differing - parted + 1) if parted and chance < 1 else 1.0


PERSISTENT, TRANSIENT = 20.0, 25.0
"""How many times the greatest noise recorded a single row must be off; see ``sparse_corruption``."""
SPARSE_FLOOR = 500.0
"""The same in margins: a change of dtype has single rows 488 times its mean (bf16 against fp16, Llama-3-8B: mean 2.5e-5, max .0122;
README of llama.cpp's perplexity tool), and such a change must pass."""
FEWEST_REPEATS = 30
"""So many noise values must be known of a noisy server, before the greatest of them says how large noise gets."""


@dataclass(frozen=True, slots=True)
class Sparse:
    """Rows that are far off while the others are not.

    Attributes:
        persistent: places of prefixes that are off in both pairs of answers.
        transient: places of prefixes off in some answers, and not in all of them in the same way.
        threshold: the KL beyond which a row is far off, in nats; None where too little is known of the noise to say.
        answers: how many live answers were looked at.
        rate: 95 % confidence interval of how often an answer is off (Clopper-Pearson).
    """

    persistent: tuple[int, ...]
    transient: tuple[int, ...]
    threshold: float | None
    answers: int
    rate: tuple[float, float]

    @property
    def is_alarm(self) -> bool:
        """Whether any row is far off."""
        return bool(self.persistent or self.transient)


def sparse_corruption(d: ArrayLike, kl: ArrayLike, noise: ArrayLike, *, margin: float) -> Sparse:
    """Find the request in two hundred that was answered wrongly, which leaves every mean where it was.

    A row is far off when its D is beyond 20 times, or a single answer's KL beyond 25 times, the greatest KL between recorded repeats, and
    both beyond 500 margins. With n rows and fewer noise values, m, both factors are sqrt(n / m) times as large.

    The greatest of n new values is above the greatest of n earlier ones half the time when nothing changed, whatever n is; so no p-value of
    a maximum can be small without knowing how fast the noise falls off. Taken is that it falls off like a power of 2 or faster: then the
    greatest of n exceeds c times the greatest of m with probability about n / (n + m c^2): of as many, 0.25 % at 20, and for twice as many
    at 25, 0.32 %. Nothing is said of a noisy server of which fewer than 30 noise values are known, nor where none is: the greatest of a few
    is no scale, since rows of one model differ a thousandfold in how noisy they are.

    Args:
        d: D of each prefix, shape (n,), in nats.
        kl: KL(recorded || live) of each pair of answers, shape (n, pairs); NaN where a prefix has fewer.
        noise: KL between recorded repeats; where nothing was recorded twice, between live ones; any shape.
        margin: the drift that is material, in nats.

    Example:
        >>> sparse_corruption([0.0, 0.3, 0.0], [[0.0, 0.0], [0.3, 0.3], [0.0, 0.4]], [1e-4, 2e-4] * 15, margin=1e-4)
        Sparse(persistent=(1,), transient=(2,), threshold=0.05, answers=6, rate=(0.11811..., 0.88188...))

    Source: for independent maxima of equally many values with tail index alpha, the ratio's distribution is log-logistic; de Haan and
    Ferreira 2006, section 1.2.
    """
    drift, pairs = np.asarray(d, dtype=np.float64), np.asarray(kl, dtype=np.float64)
    earlier = np.asarray(noise, dtype=np.float64)
    answers = int((~np.isnan(pairs)).sum())
    if not earlier.size or (earlier.any() and earlier.size < FEWEST_REPEATS):
        return Sparse((), (), None, answers, (0.0, 1.0))
    greatest = float(earlier.max()) * math.sqrt(max(1.0, drift.size / earlier.size))
    floor = SPARSE_FLOOR * margin
    persistent = drift > max(PERSISTENT * greatest, floor)
    off = pairs > max(TRANSIENT * greatest, floor)
    transient = off.any(axis=1) & ~persistent
    wrong = int(off[persistent | transient].sum())
    return Sparse(
        tuple(np.flatnonzero(persistent).tolist()),
        tuple(np.flatnonzero(transient).tolist()),
        max(PERSISTENT * greatest, floor),
        answers,
        clopper_pearson(wrong, answers),
    )


def sequence_scores(rho: ArrayLike, sequences: ArrayLike) -> Iterable[float]:
    """W of each sequence in the order the sequences first come: the mean of rho over its prefixes."""
    values, members = np.asarray(rho, dtype=np.float64), np.asarray(sequences)
    return [float(np.clip(values[members == member].mean(), -1.0, 1.0)) for member in dict.fromkeys(members.tolist())]
