"""Rows on their way to the wire and to disk: the k best of a full row, the full row of a complete list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seedbed.errors import TruncatedRow
from seedbed.llm.base import Row, TopLogprobs
from seedbed.sampling import portable
from seedbed.sampling.candidates import Candidates

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["full_row", "log_probabilities", "logprob_of", "top_logprobs"]


def log_probabilities(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural-log probabilities of a full row of logits: float32, rounded once from portable float64.

    Raises:
        RowError: NaN, +inf, or all -inf.
    """
    return portable.log_softmax(Candidates.of(row).logits).astype(np.float32)


def top_logprobs(row: Row, k: int) -> TopLogprobs:
    """The k best of a row, equal ones by lowest id; all of it when it has no more than k.

    Raises:
        TruncatedRow: the row lists fewer than k, though the vocabulary has them.
        RowError: NaN, +inf, or all -inf.

    Example:
        >>> top_logprobs(np.log(np.float32([0.25, 0.5, 0.25])), 2).token_ids.tolist()
        [1, 0]
    """
    if isinstance(row, TopLogprobs):
        if min(k, row.vocab_size) > len(row):
            raise TruncatedRow(f"{k} tokens were asked for, {len(row)} are known", needed=k)
        return TopLogprobs(row.token_ids[:k], row.logprobs[:k], row.vocab_size)
    values = log_probabilities(row)
    k = min(k, values.size)
    threshold = np.partition(values, -k)[-k]
    candidates = np.flatnonzero(values >= threshold)
    best = candidates[np.argsort(-values[candidates], kind="stable")][:k]
    return TopLogprobs(best, values[best], values.size)


def logprob_of(row: Row, token_id: int) -> float:
    """One token's log-probability; -inf when the row does not list it."""
    if isinstance(row, TopLogprobs):
        listed = row.logprobs[row.token_ids == token_id]
        return float(listed[0]) if listed.size else -np.inf
    return float(log_probabilities(row)[token_id]) if token_id < row.size else -np.inf


def full_row(row: Row) -> NDArray[np.float32]:
    """The row with a value for every token: itself, or the log-probabilities of a list that is complete.

    Raises:
        TruncatedRow: tokens are missing from the list.
    """
    if not isinstance(row, TopLogprobs):
        return row
    if len(row) < row.vocab_size:
        raise TruncatedRow(f"the full row was asked for, {len(row)} of {row.vocab_size} tokens are known", needed=row.vocab_size)
    dense = np.empty(row.vocab_size, dtype=np.float32)
    dense[row.token_ids] = row.logprobs
    return dense
