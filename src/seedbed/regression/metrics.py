"""How far two rows are from each other, in numbers that need no sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seedbed.errors import MalformedRow
from seedbed.sampling.sampler import softmax

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["flip_rate", "total_variation"]


def total_variation(logits_p: ArrayLike, logits_q: ArrayLike) -> float:
    """Half the absolute difference of the two distributions: no way of drawing makes two tokens differ less often.

    Args:
        logits_p, logits_q: rows of the same length, each up to an additive constant, -inf = impossible; not modified.

    Returns:
        In [0, 1].

    Raises:
        RowError: a row that cannot be drawn from; ``MalformedRow`` when the lengths differ.

    Example:
        >>> total_variation([0.0, 0.0], [0.0, float("-inf")])
        0.5
    """
    p, q = _probabilities(logits_p, logits_q)
    return min(1.0, float(np.abs(p - q).sum()) / 2)


def flip_rate(logits_p: ArrayLike, logits_q: ArrayLike) -> float:
    """How often the two rows give different tokens at the same address, under the default draw.

    In closed form: Gumbel-max with shared noise gives both the token i with probability ``1 / sum_j max(p_j / p_i, q_j / q_i)``. The
    maximum is the second ratio exactly where ``q_j / p_j`` exceeds ``q_i / p_i``, so after sorting by that ratio the sums are running
    sums: O(V log V). At most ``2 TV / (1 + TV)``, and never below the total variation TV.

    Args:
        logits_p, logits_q: as they are drawn from, after the sampler's chain (``Sampler.process`` gives them): rows of the same length,
            each up to an additive constant, -inf = excluded; not modified.

    Returns:
        In [0, 1].

    Raises:
        RowError: a row that cannot be drawn from; ``MalformedRow`` when the lengths differ.

    Example:
        >>> flip_rate([0.0, 0.0], [0.0, float("-inf")])
        0.5

    Source: the coupling is Gumbel-max with common noise (Maddison et al. 2014, arXiv:1411.0030); the sum follows from the minimum of
    exponential variables.
    """
    p, q = _probabilities(logits_p, logits_q)
    both = (p > 0.0) & (q > 0.0)
    only_q = float(q[(p == 0.0)].sum())  # an infinite ratio: above all others
    only_p = float(p[(q == 0.0)].sum())  # a ratio of 0: below all others
    p, q = p[both], q[both]
    ratio = np.log(q) - np.log(p)
    order = np.argsort(ratio, kind="stable")
    p, q, ratio = p[order], q[order], ratio[order]
    at_or_below = only_p + p.cumsum()
    above = only_q + q.sum() - q.cumsum()
    # Within a group of equal ratios all of its members count as at or below, which is the group's last running sum.
    last = np.searchsorted(ratio, ratio, side="right") - 1
    same = 1.0 / (at_or_below[last] / p + np.maximum(above[last], 0.0) / q)
    return float(min(1.0, max(0.0, 1.0 - same.sum())))


def _probabilities(logits_p: ArrayLike, logits_q: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, q = softmax(logits_p), softmax(logits_q)
    if p.shape != q.shape:
        raise MalformedRow(f"rows of {p.size} and of {q.size} tokens cannot be compared")
    return p, q
