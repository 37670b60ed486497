"""What many prefixes say together: each number with its standard error.

Prefixes of one sequence share their context and the server's cache, so they are not independent; sequences are. So a mean is one over
clusters of whole sequences, and its standard error comes from the differences between them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from seedbed.regression.figures import with_error
from seedbed.regression.quantiles import normal_cdf, t_quantile
from seedbed.regression.schema import finite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "NEAR",
    "Estimate",
    "clustered_mean",
    "expected_flips",
    "flip_tail",
    "is_near_tie",
    "perplexity_ratio",
    "rms_delta_p",
    "rows_needed",
]

NEAR = 5.0
"""Standard deviations of the noise within which a lead is a near tie."""
POWER = 0.9
"""How probable it shall be that as many prefixes as are asked for settle a verdict."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and how sure it is.

    Attributes:
        value: the estimate.
        standard_error: of it; inf when there is only one cluster to learn from.
        rows: how many prefixes it rests on.
        clusters: how many clusters of them are taken to be independent: sequences, short ones together, see ``clustered_mean``.
    """

    value: float
    standard_error: float
    rows: int
    clusters: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided confidence interval: Student's t with one degree of freedom less than there are clusters.

        Example:
            >>> Estimate(1.0, 0.1, 20, 11).interval()
            (0.7771861148..., 1.2228138851...)
        """
        if self.clusters < 2:
            return (-math.inf, math.inf)
        half = t_quantile(0.5 + confidence / 2, self.clusters - 1) * self.standard_error
        return (self.value - half, self.value + half)

    def bound(self, confidence: float) -> tuple[float, float]:
        """The one-sided lower and the one-sided upper confidence bound."""
        return self.interval(2 * confidence - 1)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; ``from_dict`` gives an equal estimate back."""
        return asdict(self) | {"value": finite(self.value), "standard_error": finite(self.standard_error)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What ``to_dict`` wrote."""
        value, error = values["value"], values["standard_error"]
        return cls(math.nan if value is None else value, math.inf if error is None else error, values["rows"], values["clusters"])

    def __str__(self) -> str:
        return with_error(self.value, self.standard_error)


def clustered_mean(values: ArrayLike, sequences: ArrayLike) -> Estimate:
    """The mean over the clusters of the mean over each one's prefixes: every cluster counts the same, however long it is.

    A cluster is a sequence, or, of those shorter than half the mean length, as many in a row as reach it. With w the mean over one cluster,
    m the mean of these and g the number of clusters::

        se^2 = sum of (w - m)^2 / (g (g - 1))

    Means of long and of short clusters are unequally noisy, and that makes no bound too narrow: of independent normal means, or mixtures
    of such, Student's t exceeds its quantile most often when their variances are equal, for any error of 4 % or less on a side. The mean
    over all prefixes has no such bound: one sequence that holds most of them sets it and, being near it, adds nothing to its error. A mean
    over sequences as they are would have it, and the noise of those with a single prefix.

    Args:
        values: shape (n,), n >= 1.
        sequences: shape (n,), which sequence each belongs to; ints that follow each other where sequences are neighbours.

    Example:
        >>> clustered_mean([1.0, 1.0, 3.0, 3.0, 3.0, 3.0, 3.0], [0, 0, 1, 1, 1, 1, 2])
        Estimate(value=2.0, standard_error=1.0, rows=7, clusters=2)

    Source: Ibragimov and Müller 2010, Journal of Business & Economic Statistics 28, who ask for group means in this way; the bound is
    Bakirov and Székely's, "Student's t-test for Gaussian scale mixtures", Journal of Mathematical Sciences 139, 2006.
    """
    v = np.asarray(values, dtype=np.float64)
    _, members, lengths = np.unique(np.asarray(sequences), return_inverse=True, return_counts=True)
    clusters = _clusters(lengths.tolist())[members]
    means = np.bincount(clusters, weights=v) / np.bincount(clusters)
    error = float(means.std(ddof=1)) / math.sqrt(means.size) if means.size > 1 else math.inf
    return Estimate(float(means.mean()), error, v.size, means.size)


def _clusters(lengths: Sequence[int]) -> NDArray[np.int64]:
    """The cluster of each sequence; what is left over at the end belongs to the last."""
    least = sum(lengths) / len(lengths) / 2
    found, cluster, held = [], 0, 0
    for length in lengths:
        if held >= least:
            cluster, held = cluster + 1, 0
        found.append(cluster)
        held += length
    if cluster and held < least:
        cluster -= 1
    return np.minimum(found, cluster)


def rms_delta_p(before: ArrayLike, after: ArrayLike, sequences: ArrayLike) -> Estimate:
    """Root of the mean squared difference of the probabilities of one token a prefix.

    Args:
        before, after: probabilities of the same tokens, shape (n,).
        sequences: shape (n,).

    Example:
        >>> rms_delta_p([0.5, 0.5], [0.25, 0.75], [0, 1]).value
        0.25

    Source: "RMS Δp" of llama.cpp's perplexity tool; the error of a root is the error of the mean square over twice the root.
    """
    square = clustered_mean((np.asarray(after) - np.asarray(before)) ** 2, sequences)
    root = math.sqrt(square.value)
    error = square.standard_error / (2 * root) if root else 0.0
    return Estimate(root, error, square.rows, square.clusters)


def perplexity_ratio(before: ArrayLike, after: ArrayLike, sequences: ArrayLike) -> Estimate:
    """Token perplexity after, divided by token perplexity before: ``exp(mean(log p_before - log p_after))``.

    Args:
        before, after: log-probabilities of the tokens that were taken, in nats, shape (n,).
        sequences: shape (n,).

    Example:
        >>> perplexity_ratio([-1.0, -1.0], [-1.0, -1.0], [0, 1])
        Estimate(value=1.0, standard_error=0.0, rows=2, clusters=2)

    Source: PPL(Q)/PPL(base) of llama.cpp's perplexity tool: paired, so what the text itself varies cancels.
    """
    log_ratio = clustered_mean(np.asarray(before) - np.asarray(after), sequences)
    ratio = math.exp(min(log_ratio.value, 700.0))
    return Estimate(ratio, ratio * log_ratio.standard_error, log_ratio.rows, log_ratio.clusters)


def is_near_tie(gaps: NDArray[np.float64], sigma: float) -> NDArray[np.bool_]:
    """Where the two best tokens are so close that noise may exchange them: within ``NEAR`` standard deviations of it.

    Args:
        gaps: how far the best leads the next in nats, shape (n,); an exact tie is 0.
        sigma: standard deviation of the difference of such gaps between two answers.

    Example:
        >>> is_near_tie(np.array([0.0, 0.1, 0.2]), 0.03).tolist()
        [True, True, False]
    """
    return np.asarray(gaps <= NEAR * sigma)


def expected_flips(gaps: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """The probability that noise exchanges the two best tokens, at each prefix: ``Phi(-gap / sigma)``; an exact tie is 1/2.

    Args:
        gaps: in nats, shape (n,).
        sigma: as in ``is_near_tie``; 0 flips nothing but exact ties.

    Example:
        >>> expected_flips(np.array([0.0, 1.0]), 1.0).round(4).tolist()
        [0.5, 0.1587]
    """
    if sigma <= 0:
        return np.where(gaps == 0, 0.5, 0.0)
    return np.array([normal_cdf(-gap / sigma) for gap in gaps])


def flip_tail(probabilities: NDArray[np.float64], observed: int) -> float:
    """P(at least ``observed`` flips) when flip t happens with ``probabilities[t]``, independently: the Poisson-binomial tail.

    Example:
        >>> flip_tail(np.array([0.5, 0.5]), 1)
        0.75

    Source: the convolution of the single distributions, Hong 2013, Computational Statistics & Data Analysis 59.
    """
    counts = np.zeros(observed + 1)  # P(0), ..., P(observed - 1), P(observed or more)
    counts[0] = 1.0
    for p in probabilities[probabilities > 0]:
        flipped = counts * p
        counts -= flipped
        counts[1:] += flipped[:-1]
        counts[-1] += flipped[-1]
    return float(counts[-1])


def rows_needed(estimate: Estimate, margin: float, *, alpha: float = 0.01) -> int | None:
    """About how many prefixes would settle on which side of the margin a drift lies: always more than there are.

    None if it lies on the margin, or if one cluster is all there is. With g clusters now, the fewest k > g for which::

        (t_(1 - e, k - 1) + t_(POWER, k - 1)) * se * sqrt(g / k) <= |margin - value|

    Args:
        estimate: the drift now; more clusters are taken to be as long as these.
        margin: what matters, nats.
        alpha: e above the margin, how often DRIFT may be said in error; below it e is 0.05, as in ``verdict.judge``.

    Example:
        >>> rows_needed(Estimate(0.0, 1e-4, 100, 10), 1e-4)
        880

    Source: the size of a one-sided t test; Cohen 1988, chapter 2.
    """
    distance = abs(margin - estimate.value)
    if distance == 0 or not math.isfinite(estimate.standard_error):
        return None
    error = alpha if estimate.value > margin else 0.05

    def settles(count: int) -> bool:
        quantiles = t_quantile(1 - error, count - 1) + t_quantile(POWER, count - 1)
        return quantiles * estimate.standard_error * math.sqrt(estimate.clusters / count) <= distance

    low, high = estimate.clusters, estimate.clusters + 1
    while not settles(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settles(middle) else (middle, high)
    return math.ceil(estimate.rows * high / estimate.clusters)
