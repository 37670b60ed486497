"""How far two rows are from each other, in numbers that need no sampling."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seedbed.errors import MalformedRow
from seedbed.llm.base import Row, TopLogprobs, as_row
from seedbed.sampling.candidates import Candidates
from seedbed.sampling.sampler import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Drift", "common_logprobs", "flip_rate", "kl_of_logprobs", "noise_free_drift", "normalised", "total_variation"]

FLOOR = -50.0
"""Where log-probabilities end, in nats: a token of probability 2e-22 is as good as excluded, and a difference to it stays finite."""
TAIL_RESOLUTION = 1e-6
"""Smallest probability of an unlisted tail that is told from the rounding of the listed ones."""


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
    p, q = p[order], q[order]
    at_or_below = only_p + p.cumsum()
    above = only_q + q.sum() - q.cumsum()
    # Tokens of equal ratio may stand on either side: p_j / p_i and q_j / q_i are then one number.
    same = 1.0 / (at_or_below / p + np.maximum(above, 0.0) / q)
    return float(min(1.0, max(0.0, 1.0 - same.sum())))


def kl_of_logprobs(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(p || q) in nats, how many a token drawn from p costs under q beyond what it must: ``sum p (log p - log q)`` over the last axis.

    Args:
        p, q: normalised log-probabilities, -inf = excluded; not modified.

    Returns:
        0 or more, whatever rounding does; inf where q excludes a token that p does not.

    Source: Kullback and Leibler 1951.
    """
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q))
    return np.asarray(np.maximum(terms.sum(axis=-1), 0.0))


def common_logprobs(
    rows: Sequence[ArrayLike | TopLogprobs], *, union: bool = False
) -> tuple[NDArray[np.int64] | None, NDArray[np.float64]]:
    """Rows made comparable: the tokens that all of them list, then, if any of them is cut off, one bucket for the rest.

    Log-probabilities below ``FLOOR`` are set to it, so that differences stay finite. The KL of what comes out is, but for that, a lower
    bound of the KL of the whole rows, by the data-processing inequality; nothing is imputed.

    Args:
        rows: one or more, of one vocabulary; not modified.
        union: also the tokens that only some list. Where a row does not list one, it is at most as probable there as the row's least
            listed token, and as its whole tail; taken is that, or the least listed value if that is lower: no difference is counted but
            what is certain. Exchanging two rows exchanges two rows of the answer, nothing else.

    Returns:
        The token ids, ascending (None: all of them, in order), and float64 of shape (rows, tokens [+ 1]) in nats.

    Raises:
        RowError: a row that cannot be drawn from; ``MalformedRow`` when the vocabularies differ.

    Example:
        >>> ids, values = common_logprobs([TopLogprobs([3, 1], np.log([0.5, 0.25]), 9), TopLogprobs([3, 2], np.log([0.5, 0.25]), 9)])
        >>> ids.tolist(), np.exp(values).round(6).tolist()
        ([3], [[0.5, 0.5], [0.5, 0.5]])

    Source: Cover and Thomas, Elements of Information Theory, theorem 2.8.1, for the bound.
    """
    parsed = [_listed(as_row(row)) for row in rows]
    sizes = sorted({row.vocab_size for row in parsed})
    if len(sizes) > 1:
        raise MalformedRow(f"rows of {sizes[0]} and of {sizes[-1]} tokens cannot be compared")
    if all(row.ids is None for row in parsed):
        return None, np.maximum(np.stack([row.values for row in parsed]), FLOOR)
    listed = [row.ids if row.ids is not None else np.arange(row.vocab_size) for row in parsed]
    if union:
        ids = np.unique(np.concatenate(listed))
        kept = np.full((len(rows), ids.size), np.nan)
        for place, (own, row) in enumerate(zip(listed, parsed, strict=True)):
            kept[place, np.searchsorted(ids, own)] = row.values
    else:
        ids = functools.reduce(functools.partial(np.intersect1d, assume_unique=True), listed)
        kept = np.stack([row.values[np.searchsorted(own, ids)] for own, row in zip(listed, parsed, strict=True)])
    unlisted = np.isnan(kept)
    if unlisted.any():
        tails = [np.log(max(1.0 - float(np.exp(row.values).sum()), TAIL_RESOLUTION)) for row in parsed]
        bounds = np.minimum([float(row.values.min()) for row in parsed], tails)[:, None]
        kept = np.where(unlisted, np.minimum(np.nanmin(kept, axis=0), bounds), kept)
    # Below 1e-6 a tail is the rounding of float32 log-probabilities, not a fact.
    tails = np.log(np.maximum(1.0 - np.exp(kept).sum(axis=1), TAIL_RESOLUTION))
    return ids, np.maximum(np.column_stack([kept, tails]), FLOOR)


class _Listed(NamedTuple):
    """A row's log-probabilities: of all tokens, ``ids`` None, or of those listed, ascending."""

    ids: NDArray[np.int64] | None
    values: NDArray[np.float64]
    vocab_size: int


def _listed(row: Row) -> _Listed:
    if isinstance(row, TopLogprobs) and len(row) < row.vocab_size and row.logprobs[0] > -np.inf:
        # As ``Candidates`` has it, without the bounds of the tail, which cost more than all that is done with the list here.
        order = np.argsort(row.token_ids)
        return _Listed(row.token_ids[order], row.logprobs[order].astype(np.float64), row.vocab_size)
    candidates = Candidates.of(row)
    return _Listed(None, _log_softmax(candidates.logits), candidates.vocab_size)


class Drift(NamedTuple):
    """What two answers before and two after say of one prefix; arrays, one entry a prefix.

    Attributes:
        d: D, the drift free of noise, in nats; negative half the time when there is none.
        rho: D as a fraction of the differences seen, in [-1, 1]; 0 where there is no difference at all.
    """

    d: NDArray[np.float64]
    rho: NDArray[np.float64]


def noise_free_drift(a1: NDArray[np.float64], a2: NDArray[np.float64], b1: NDArray[np.float64], b2: NDArray[np.float64]) -> Drift:
    """The part of the difference between servers A and B that comes back when both are asked again.

    With r = sqrt(p), the square root of each probability, x = r(b1) - r(a1) and y = r(b2) - r(a2)::

        D = 2 sum x y          rho = sum x y / sqrt(sum x^2 * sum y^2)

    Noise that is independent between answers has no part in the mean of D, whatever its size: ``E D = 2 sum (E r(b) - E r(a))^2``, which
    for a shift of the logits is 1/2 Var_p(shift) = KL(A || B) up to the third order; at most 4. When A and B are one server under the
    same conditions, exchanging a1 and b1 changes nothing but the sign of both, so both are symmetric about 0.

    Args:
        a1, a2, b1, b2: log-probabilities in nats, shape (..., tokens); not modified. b1 was had as a1 was, b2 as a2.

    Returns:
        Of shape (...).

    Example:
        >>> before, after = np.log([[0.5, 0.5], [0.6, 0.4]])
        >>> drift = noise_free_drift(before, before, after, after)
        >>> drift.d.round(4).tolist(), drift.rho.tolist(), round(float(kl_of_logprobs(before, after)), 4)
        (0.0203, 1.0, 0.0204)

    Source: cross products of independent replicates, as in jackknifed cross spectra; D without noise is four times the squared Hellinger
    distance (Hellinger 1909), which is KL to second order. Logarithms in the place of the roots have the same second order, but products of
    infinities wherever one row excludes a token, and weights that share the noise of what they weigh.
    """
    x = np.exp(b1 / 2) - np.exp(a1 / 2)
    y = x if a2 is a1 and b2 is b1 else np.exp(b2 / 2) - np.exp(a2 / 2)
    d = 2 * (x * y).sum(axis=-1)
    size = 2 * np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    # Differences of single ulps of a float64 are the log-softmax's own rounding.
    real = size > 1e-24
    rho = np.where(real, d / np.where(real, size, 1.0), 0.0)
    return Drift(np.where(real, d, 0.0), np.clip(rho, -1.0, 1.0))


def normalised(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities of one row, none below ``FLOOR``."""
    return np.maximum(_log_softmax(logits), FLOOR)


def _log_softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    depth = values - values.max()
    return np.asarray(depth - np.log(np.exp(depth).sum()))


def _probabilities(logits_p: ArrayLike, logits_q: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, q = softmax(logits_p), softmax(logits_q)
    if p.shape != q.shape:
        raise MalformedRow(f"rows of {p.size} and of {q.size} tokens cannot be compared")
    return p, q
