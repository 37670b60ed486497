"""The row on its way down the sampler chain: the tokens still in the race, and what is known of those not listed.

Rule 1: a row is never sorted and never renormalised; ids stay ascending. A filter drops tokens, a ban sets their logits to -inf.
Rule 2: everything computed is float64, from float32 input, so that no temperature or penalty overflows.
Rule 3: a processor that needs to know more of the unseen tail than can be known raises ``TruncatedRow``; it never guesses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from seedbed.errors import NonFiniteLogits, NothingToDraw, TruncatedRow
from seedbed.llm.base import Row, TopLogprobs
from seedbed.sampling.tail import Tail

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Candidates"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """One row at one point of the chain.

    Attributes:
        ids: int64, shape (k,), ascending; None while the row is the whole vocabulary, so that position = id.
        values: the logits, shape (k,), -inf = excluded: float32 as the model gave them, float64 once something was computed. For
            comparing only; whoever computes takes ``logits``. Never modified in place: processors hand on a new array.
        vocab_size: length of the full row.
        tail: the tokens a server did not list, or None when there are none or all are excluded for certain.
        unlisted: how many such tokens the whole row would still hold at this point, excluded ones too.
        gap: set by greedy choice: how far the best logit was ahead of the next.
    """

    ids: NDArray[np.int64] | None
    values: NDArray[np.float32] | NDArray[np.float64]
    vocab_size: int
    tail: Tail | None = None
    unlisted: int = 0
    gap: float | None = None

    @classmethod
    def of(cls, row: Row) -> Candidates:
        """The row as the model gave it.

        Raises:
            NonFiniteLogits: NaN or +inf; the message names the first such token.
            NothingToDraw: every entry is -inf.
        """
        if isinstance(row, TopLogprobs):
            order = np.argsort(row.token_ids, kind="stable")
            candidates = cls(row.token_ids[order], row.logprobs[order], row.vocab_size, Tail.of(row), row.vocab_size - len(row))
        else:
            candidates = cls(None, row, row.shape[0])
        candidates.refuse_unusable()
        return candidates

    @property
    def logits(self) -> NDArray[np.float64]:
        """The logits as float64: a new array while they are still the model's, so ask once."""
        return self.values.astype(np.float64, copy=False)

    @property
    def count(self) -> int:
        """How many tokens the whole row would hold at this point: all that no filter has dropped, excluded ones too, as engines count."""
        return self.values.size + self.unlisted

    def outranked(self, kept: NDArray[np.bool_]) -> bool:
        """Whether a token that is not listed may come before one of ``kept``, in descending order, equal ones by lowest id."""
        if self.tail is None:
            return False
        least = self.values[kept].min()
        if self.tail.ceiling != least:
            return bool(self.tail.ceiling > least)
        assert self.ids is not None
        return bool(self.ids[kept & (self.values == least)].max() > self.tail.after)

    def refuse_unusable(self, culprit: object = "the model's row") -> None:
        """Raise unless a token can be drawn; ``culprit`` says who made the row what it is."""
        top = self.values.max()
        if np.isfinite(top):
            return
        if top == -np.inf:
            if self.tail is not None:
                raise self.truncated(f"{culprit} excludes all that is listed")
            raise NothingToDraw(f"{culprit} excludes every token")
        position = int(np.flatnonzero(np.isnan(self.values) | np.isposinf(self.values))[0])
        raise NonFiniteLogits(f"{culprit} holds {self.values[position]} for token {self.token_id(position)}")

    def truncated(self, reason: str, *, more: int | None = 1) -> TruncatedRow:
        """The error to raise when a step needs ``more`` tokens than are listed; None: all of them."""
        assert self.tail is not None
        needed = self.vocab_size if more is None else min(self.vocab_size, self.tail.listed + more)
        ask = "full rows, or put a top_k first" if needed == self.vocab_size else f"top_k={needed} or more"
        return TruncatedRow(f"{reason}; the server listed {self.tail.listed} of {self.vocab_size} tokens: ask it for {ask}", needed=needed)

    def refuse_tail(self, reason: str) -> None:
        """Raise unless every token that is still in the race is listed; ``reason`` says who needs that."""
        if self.tail is not None:
            raise self.truncated(reason, more=None)

    def token_id(self, position: int) -> int:
        """The id of the token at ``position``."""
        return position if self.ids is None else int(self.ids[position])

    def locate(self, token_ids: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Where the listed ones of ``token_ids`` stand, and a mask that says which of them are listed."""
        if self.ids is None:
            listed = (token_ids >= 0) & (token_ids < self.vocab_size)
            return token_ids[listed].astype(np.intp), listed
        places = np.minimum(np.searchsorted(self.ids, token_ids), self.ids.size - 1)
        listed = self.ids[places] == token_ids
        return places[listed], listed

    def move(
        self, token_ids: NDArray[np.int64], new: Callable[[NDArray[np.float64], NDArray[np.bool_]], NDArray[np.float64]]
    ) -> Candidates:
        """Move the logits of some tokens; those outside the vocabulary are left out.

        Args:
            token_ids: distinct.
            new: (old logits of some of them, which of them) -> new logits; never lower for a higher old one.
        """
        logits = self.logits.copy()
        places, listed = self.locate(token_ids)
        logits[places] = new(logits[places], listed)
        tail = self.tail
        if tail is not None:
            unseen = ~listed & (token_ids >= 0) & (token_ids < self.vocab_size)
            unseen[unseen] = tail.holds(token_ids[unseen])
            tail = tail.moved(new(np.full(np.count_nonzero(unseen), tail.ceiling), unseen))
        return replace(self, values=logits, tail=tail)

    def ban(self, token_ids: NDArray[np.int64]) -> Candidates:
        """Exclude some tokens (distinct); those outside the vocabulary are left out."""
        places, listed = self.locate(token_ids)
        values = self.values.copy()
        values[places] = -np.inf
        tail = self.tail
        if tail is not None:
            tail = tail.without(token_ids[~listed & (token_ids >= 0) & (token_ids < self.vocab_size)])
        return replace(self, values=values, tail=tail)

    def keep(self, kept: NDArray[np.bool_], *, tail: bool = False) -> Candidates:
        """Drop every token that is not ``kept``; ``tail`` says whether the unseen ones stay in the race."""
        places = np.flatnonzero(kept)
        if places.size == kept.size and (tail or not self.unlisted):
            return self
        unseen = self.tail if tail else None
        if unseen is not None and self.ids is not None:
            unseen = replace(unseen, out=unseen.out.union(self.ids[~kept].tolist()))
        return replace(self.keep_at(places), tail=unseen, unlisted=self.unlisted if tail else 0)

    def keep_at(self, places: NDArray[np.intp]) -> Candidates:
        """Drop every token that does not stand at one of ``places``, ascending, and the unseen ones."""
        ids = places.astype(np.int64, copy=False) if self.ids is None else self.ids[places]
        return replace(self, ids=ids, values=self.values[places], tail=None, unlisted=0)

    def full_row(self) -> NDArray[np.float64]:
        """A new array of float64 logits over the whole vocabulary, -inf for what is dropped or not listed."""
        if self.ids is None:
            return self.values.astype(np.float64)
        row = np.full(self.vocab_size, -np.inf)
        row[self.ids] = self.values
        return row
