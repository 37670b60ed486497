"""The row on its way down the sampler chain: the tokens still in the race, their logits, and what is known of the tokens not listed.

Rule 1: a row is never sorted and never renormalised; a filter sets logits to -inf, and the ids stay where they were, ascending.
Rule 2: everything is float64, from float32 input, so that no temperature or penalty overflows.
Rule 3: a filter that needs to know more of the unseen tail than can be known raises ``TruncatedRow``; it never guesses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from seedbed.errors import NonFiniteLogits, NothingToDraw
from seedbed.llm.base import Row, TopLogprobs
from seedbed.sampling import portable

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Candidates", "Tail"]


@dataclass(frozen=True, slots=True)
class Tail:
    """What is known of the tokens a server did not list.

    Attributes:
        mass: their probability together under the model, in [0, 1].
        count: how many they are.
        ceiling: none of them has a logprob above this one under the model.
        temperature: the product of the temperatures applied so far; the tail has been scaled with the rest.
    """

    mass: float
    count: int
    ceiling: float
    temperature: float = 1.0

    @property
    def logit_ceiling(self) -> float:
        """None of the unseen tokens has a logit above this one, at this point of the chain."""
        return self.ceiling / self.temperature

    def weight_bounds(self) -> tuple[float, float]:
        """Least and most that the unseen tokens' e**logit can sum to, at this point of the chain.

        With exponent a = 1/temperature and masses q_j <= c that sum to M over n tokens, the sum of q_j**a is extreme when the mass is
        spread evenly, n (M/n)**a, and when it is packed into as few tokens as the ceiling allows.
        """
        if self.temperature == 1.0 or self.mass == 0.0:
            return self.mass, self.mass
        exponent, ceiling = 1.0 / self.temperature, float(np.exp(self.ceiling))
        full = min(self.count, math.floor(self.mass / ceiling))
        packed = full * portable.power(ceiling, exponent) + portable.power(max(0.0, self.mass - full * ceiling), exponent)
        even = self.count * portable.power(self.mass / self.count, exponent)
        return min(packed, even), max(packed, even)


@dataclass(frozen=True, slots=True)
class Candidates:
    """One row at one point of the chain.

    Attributes:
        ids: int64, shape (k,), ascending; None when the row is the whole vocabulary, so position = id.
        logits: float64, shape (k,); -inf = excluded. Never modified in place: processors hand on a new array.
        vocab_size: length of the full row.
        tail: the unseen tokens, or None when there are none or a filter has excluded them exactly.
        gap: set by greedy choice: how far the best logit was ahead of the next.
    """

    ids: NDArray[np.int64] | None
    logits: NDArray[np.float64]
    vocab_size: int
    tail: Tail | None = None
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
            candidates = cls(row.token_ids[order], row.logprobs[order].astype(np.float64), row.vocab_size, _tail_of(row))
        else:
            candidates = cls(None, row.astype(np.float64), row.shape[0])
        candidates.refuse_unusable()
        return candidates

    def refuse_unusable(self, culprit: str = "the model's row") -> None:
        """Raise unless a token can be drawn; ``culprit`` says who made the row what it is."""
        top = self.logits.max()
        if np.isfinite(top):
            return
        if top == -np.inf:
            raise NothingToDraw(f"{culprit} excludes every token")
        position = int(np.flatnonzero(np.isnan(self.logits) | np.isposinf(self.logits))[0])
        raise NonFiniteLogits(f"{culprit} holds {self.logits[position]} for token {self.token_id(position)}")

    def token_id(self, position: int) -> int:
        """The id of the token at ``position``."""
        return position if self.ids is None else int(self.ids[position])

    def positions(self, token_ids: NDArray[np.int64]) -> NDArray[np.intp]:
        """Where the listed ones of ``token_ids`` (distinct) stand; those not listed are left out."""
        if self.ids is None:
            return token_ids[(token_ids >= 0) & (token_ids < self.vocab_size)].astype(np.intp)
        return np.flatnonzero(np.isin(self.ids, token_ids))

    def with_logits(self, logits: NDArray[np.float64]) -> Candidates:
        """The same tokens with other logits."""
        return replace(self, logits=logits)

    def keep(self, kept: NDArray[np.bool_], *, tail: bool) -> Candidates:
        """Exclude every token that is not ``kept``; ``tail`` says whether the unseen ones stay in the race."""
        return replace(self, logits=np.where(kept, self.logits, -np.inf), tail=self.tail if tail else None)

    def weights(self) -> NDArray[np.float64]:
        """e**(logit - best logit), portable, float64: what a filter by mass adds up."""
        return portable.exp(self.logits - self.logits.max())


def _tail_of(row: TopLogprobs) -> Tail | None:
    count = row.vocab_size - len(row)
    if not count:
        return None
    listed = portable.total(portable.exp(np.minimum(row.logprobs.astype(np.float64), 0.0)))
    return Tail(mass=max(0.0, 1.0 - listed), count=count, ceiling=float(row.logprobs[-1]))
