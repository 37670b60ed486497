"""Rows on their way to the wire and off it: the k best of a full row, the full row of a complete list, and what makes a list no row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from seedbed.errors import BrokenAnswer, DishonestAnswer, MalformedRow, NonFiniteAtServer, NonFiniteLogits, TruncatedRow
from seedbed.llm.base import NORMALISATION_TOLERANCE, Row, TopLogprobs, row_length
from seedbed.sampling import portable
from seedbed.sampling.candidates import Candidates

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "LOWEST",
    "check_choice",
    "check_logits",
    "complete_row",
    "full_row",
    "listed_row",
    "log_probabilities",
    "logprob_of",
    "numbers",
    "row_of",
    "token_id_array",
    "top_logprobs",
]

LOWEST = float(np.finfo(np.float32).min)
"""How SGLang and llama.cpp spell -inf."""
HIGHEST = -LOWEST
_INTS = frozenset({int})
_NUMBERS = frozenset({float, int})
_NUMBERS_OR_NULL = frozenset({float, int, type(None)})
LONG_ROW = 64  # a vocabulary, not a toy's


def log_probabilities(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """Natural-log probabilities of a full row of logits: float32, rounded once from portable float64.

    Raises:
        RowError: NaN, +inf, or all -inf.
    """
    with np.errstate(over="ignore"):  # what float32 cannot hold is impossible as far as it can tell
        return portable.log_softmax(Candidates.of(row).logits).astype(np.float32)


def top_logprobs(row: Row, k: int | None) -> TopLogprobs:
    """The k best of a row, equal ones by lowest id; all of it when it has no more than k, or k is None.

    Raises:
        TruncatedRow: the row lists fewer than k, though the vocabulary has them.
        RowError: NaN, +inf, or all -inf.

    Example:
        >>> top_logprobs(np.log(np.float32([0.25, 0.5, 0.25])), 2).token_ids.tolist()
        [1, 0]
    """
    k = row_length(row) if k is None else min(k, row_length(row))
    if isinstance(row, TopLogprobs):
        if k > len(row):
            raise TruncatedRow(f"{k} tokens were asked for, {len(row)} are known", needed=k)
        return TopLogprobs(row.token_ids[:k], row.logprobs[:k], row.vocab_size)
    values = log_probabilities(row)
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


# Off the wire.


def token_id_array(ids: list[Any]) -> NDArray[np.int64]:
    """Token ids out of an answer's JSON.

    Raises:
        BrokenAnswer: one of them is no int, or beyond 64 bits.
    """
    if not set(map(type, ids)) <= _INTS:
        raise BrokenAnswer("the token ids are no integers")
    try:
        return np.array(ids, dtype=np.int64)
    except OverflowError as error:
        raise BrokenAnswer(f"a token id is beyond 64 bits: {error}") from error


def numbers(values: list[Any], lowest: float = LOWEST, null: float | None = None) -> NDArray[np.float32]:
    """Logits or logprobs out of an answer's JSON: doubles, rounded to float32; what is ``lowest`` or less is -inf.

    Args:
        values: what is to be numbers.
        lowest: how the server spells -inf.
        null: what null means.

    Raises:
        NonFiniteLogits: null among them, which is how JSON writers spell NaN, unless it has a meaning; or a number beyond float32.
        BrokenAnswer: anything else that is no number.
    """
    kinds = set(map(type, values))
    if not kinds <= _NUMBERS:
        if not kinds <= _NUMBERS_OR_NULL:
            raise BrokenAnswer("the values are no numbers")
        if null is None:
            raise NonFiniteLogits(f"value {values.index(None)} of {len(values)} is null, which is how servers write NaN")
        values = [null if value is None else value for value in values]
    if values and (greatest := max(values)) > HIGHEST:  # not shown: an int of hundreds of digits may be
        raise NonFiniteLogits(f"value {values.index(greatest)} of {len(values)} is beyond float32")
    if values and ((least := min(values)) <= lowest or least < LOWEST):
        values = [-math.inf if value <= lowest or value < LOWEST else value for value in values]
    return np.array(values, dtype=np.float32)  # rounded once: numpy makes a C double of each, then a float


def listed_row(token_ids: NDArray[np.int64], logprobs: NDArray[np.float32], vocab_size: int) -> TopLogprobs:
    """The k best, as far as they can be: a list of logprobs whose unlisted rest has somewhere to be.

    No unlisted token is more probable than the last listed one, so ``sum + (vocab_size - k) p_k`` of a true list is at least 1. Logits
    taken for logprobs, and lists that were cut or scaled on the way, are found out by it even where they sum to less than 1.

    Args:
        token_ids, logprobs: taken over, as by ``TopLogprobs.taking``.

    Raises:
        MalformedRow: no such list can come from a distribution.
    """
    row = TopLogprobs.taking(token_ids, logprobs, vocab_size)
    unlisted = (vocab_size - len(row)) * math.exp(row.logprobs[-1])
    if unlisted < 1:
        listed = float(np.exp(row.logprobs, dtype=np.float64).sum())
        if listed + unlisted < 1 - NORMALISATION_TOLERANCE:
            raise MalformedRow(
                f"the {len(row)} tokens listed have probability {listed:.6g} together, and the {vocab_size - len(row)} less probable ones "
                f"at most {unlisted:.6g}: that is no distribution; are these logits, or is vocab_size wrong?"
            )
    return row


def complete_row(token_ids: NDArray[np.int64], values: NDArray[np.float32], vocab_size: int, *, logprobs: bool) -> NDArray[np.float32]:
    """The full row of a list that claims to be complete.

    Raises:
        DishonestAnswer: ids outside the vocabulary, repeated or missing.
        NonFiniteLogits: NaN or +inf among the values.
        MalformedRow: they are to be logprobs, and do not sum to 1.
    """
    if token_ids.size != vocab_size or values.size != vocab_size or token_ids.min() < 0 or token_ids.max() >= vocab_size:
        raise DishonestAnswer(f"the row claims to be full, but its {token_ids.size} ids are not those of a vocabulary of {vocab_size}")
    row = np.empty(vocab_size, dtype=np.float32)
    row[token_ids] = values
    there = np.zeros(vocab_size, dtype=bool)
    there[token_ids] = True
    if not there.all():
        raise DishonestAnswer(f"the row claims to be full, but token {there.argmin()} of {vocab_size} is missing: another stands twice")
    if not row.max() < np.inf:
        raise NonFiniteLogits(f"the server's value of token {np.flatnonzero(~(row < np.inf))[0]} is NaN or +inf")
    if logprobs:
        with np.errstate(over="ignore"):
            mass = float(np.exp(row, dtype=np.float64).sum())
        # A float32 sum from the most probable on loses what is below half a unit in the last place of 1/2: for llama.cpp and 262,144
        # tokens that was 1.1e-3 in all, with room for 7.8e-3.
        tolerance = max(NORMALISATION_TOLERANCE, vocab_size * 2.0**-25)
        if not abs(mass - 1) <= tolerance or row.max() > NORMALISATION_TOLERANCE:
            other = "probabilities" if row.min() >= 0 and abs(float(row.sum(dtype=np.float64)) - 1) <= tolerance else "logits"
            raise MalformedRow(f"the full row sums to probability {mass:.6g}, not 1: that is no distribution; are these {other}?")
    return row


def row_of(
    token_ids: NDArray[np.int64],
    values: NDArray[np.float32],
    vocab_size: int,
    *,
    full: bool,
    kind: Literal["logits", "logprobs"] = "logprobs",
) -> Row:
    """What a server lists, as the row that was asked for: the full one, or the k best. Of logits only a full row can be made.

    Raises:
        DishonestAnswer, RowError: as ``complete_row`` and ``listed_row``.
    """
    if full or kind == "logits":
        return complete_row(token_ids, values, vocab_size, logprobs=kind == "logprobs")
    return listed_row(token_ids, values, vocab_size)


def check_logits(row: Row) -> None:
    """Whether the logits of a full row can be what they are said to be; that they are probabilities is all that can be seen of them.

    Drawn from as if they were logits, probabilities are next to nothing but noise: no two tokens differ by more than a factor of e. Short
    rows and single certain tokens are let pass: somebody may mean such logits.

    Raises:
        DishonestAnswer: they are probabilities.

    Example:
        >>> check_logits(np.full(100, 0.01, dtype=np.float32))
        Traceback (most recent call last):
        seedbed.errors.DishonestAnswer: the server's logits are probabilities: none is below 0 and they sum to 1; have it send its logits
    """
    if isinstance(row, TopLogprobs) or row.size < LONG_ROW or row.min() < 0 or np.count_nonzero(row) < 2:
        return
    if abs(float(row.sum(dtype=np.float64)) - 1) <= NORMALISATION_TOLERANCE:
        raise DishonestAnswer("the server's logits are probabilities: none is below 0 and they sum to 1; have it send its logits")


def check_choice(chosen: object, row: Row, *, forced: int | None = None) -> int:
    """Whether the token the server took greedily is the best of the row, or as good as the best: ids and values then belong together.

    Args:
        forced: the token it was made to take instead.

    Raises:
        NonFiniteAtServer: even the best is impossible, which is how vLLM writes a row of NaN.
        DishonestAnswer: it is not.
    """
    if isinstance(row, TopLogprobs):
        best, top = int(row.token_ids[0]), float(row.logprobs[0])
    else:
        best = int(row.argmax())
        top = float(row[best])
    if top == -math.inf:
        raise NonFiniteAtServer("the server holds every token impossible: its model gave NaN for this prefix", status=200)
    if forced is not None:
        if chosen != forced:
            raise DishonestAnswer(f"the server was made to take token {forced} and took {chosen!r:.40}: is a grammar set on it?")
        return forced
    if type(chosen) is int and chosen == best:
        return best
    as_good = row.token_ids[row.logprobs == top] if isinstance(row, TopLogprobs) else np.flatnonzero(row == top)
    if type(chosen) is not int or chosen not in as_good:
        raise DishonestAnswer(
            f"the server's greedy choice is token {chosen!r:.40}, the best it lists is token {best}: is a logit bias or grammar set on it?"
        )
    return chosen
