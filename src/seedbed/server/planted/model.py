"""A model with a fault in it: it counts what is known of each question, and lets the fault strike where its place holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from seedbed.errors import UsageError
from seedbed.llm.base import TopLogprobs, as_row
from seedbed.llm.company import Company
from seedbed.server.planted.around import AroundLLM
from seedbed.server.planted.circumstances import Circumstances, NumericFault, Place
from seedbed.server.planted.places import Everywhere

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PlantedLLM"]


class PlantedLLM(AroundLLM):
    """A model with a fault in it.

    Args:
        llm: the model; must answer with full rows.
        fault: what goes wrong.
        where: where it does; the default is everywhere. A fault of the prefix cannot depend on concurrency, which is known only later.
        shape: what the server's batch shape is said to be, called at every answer; None derives it from the concurrency.

    Raises:
        UsageError: the model listed only its k best tokens.

    Concurrency:
        Any number of tasks; as the model inside. Concurrency is counted here, so a cancelled question no longer counts.

    Example:
        >>> import trio
        >>> from seedbed.server.models import TinyLM
        >>> from seedbed.server.planted import FromPosition, RoundTo
        >>> llm = PlantedLLM(TinyLM(), RoundTo("bfloat16"), where=FromPosition(3))
        >>> rows = [trio.run(llm.next_token_logits, list(b"The")[:n]) for n in (2, 3)]
        >>> [bool((row.view("u4") & 0xFFFF).any()) for row in rows]
        [True, False]
    """

    def __init__(self, llm: object, fault: NumericFault, *, where: Place | None = None, shape: Callable[[], int] | None = None) -> None:
        super().__init__(llm)
        self._fault, self._where, self._shape = fault, where if where is not None else Everywhere(), shape
        self._company = Company()
        self._asked: Counter[tuple[int, ...]] = Counter()  # {prefix: how often it was answered}
        self._previous: tuple[int, ...] = ()

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> NDArray[np.float32]:
        prefix = tuple(prev_token_ids)
        is_warm = any(prefix[:length] in self._asked for length in range(len(prefix), 0, -1))
        known = Circumstances(prefix, 1, is_warm, self._asked[prefix], previous=self._previous, answered=self._asked.total())
        asked = self._fault.misread(prefix) if self._where.holds(known) else prefix
        with self._company.counted() as under_way:
            row = as_row(await self._model.next_token_logits(list(asked)))
        if isinstance(row, TopLogprobs):
            raise UsageError("a fault is planted in full rows; ask the model for all of them")
        self._asked[prefix] += 1
        self._previous = prefix
        shape = 1 << (under_way.most - 1).bit_length() if self._shape is None else self._shape()
        circumstances = replace(known, concurrency=under_way.most, shape=shape)
        return self._fault.distort(row, circumstances) if self._where.holds(circumstances) else row

    def __repr__(self) -> str:
        return f"PlantedLLM({self._model!r}, {self._fault!r}, where={self._where!r})"
