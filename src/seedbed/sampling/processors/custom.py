"""A processor of the user's own: any function of prefix and logits, so a grammar engine needs no adapter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from seedbed.errors import InvalidSampler
from seedbed.llm.token_ids import shown
from seedbed.sampling.processors.base import History, Processor

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from seedbed.sampling.candidates import Candidates

__all__ = ["Custom"]


@dataclass(frozen=True, slots=True)
class Custom(Processor):
    """A processor of the user's: ``function(prefix, logits) -> logits``, pure, called once a step.

    Args:
        function: gets prompt and continuation as one list of ids and the logits at this point of the chain (float64, shape
            (vocab_size,), a copy it may modify), and returns logits of that shape; -inf excludes. A mask for a grammar is one.

    Raises:
        InvalidSampler: ``function`` cannot be called, when constructed; or it returned no row of that shape.
        TruncatedRow: the row is not listed in full, so what it does to the rest cannot be known.

    Example:
        >>> Custom(lambda prefix, logits: np.where(np.arange(3) == prefix[-1], -np.inf, logits))([1.0, 1.0, 1.0], History([2])).tolist()
        [1.0, 1.0, -inf]
    """

    function: Callable[[list[int], NDArray[np.float64]], ArrayLike]

    def _check(self) -> None:
        if not callable(self.function):
            raise InvalidSampler(f"a processor is a function of (prefix, logits), not {shown(self.function)}")

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        candidates.refuse_tail("a function of your own needs the whole row")
        prefix = [*history.prompt_token_ids, *history.token_ids]
        answer = self.function(prefix, candidates.full_row())
        try:
            logits = np.asarray(answer, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidSampler(f"{self.function!r} returned {type(answer).__name__}, not logits") from error
        if logits.shape != (candidates.vocab_size,):
            raise InvalidSampler(f"{self.function!r} returned shape {logits.shape} for logits of shape ({candidates.vocab_size},)")
        return replace(candidates, ids=None, values=logits, unlisted=0, gap=None)
