"""Several rows for one question: along what the client is going to draw itself, or else the best tokens."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from seedbed.errors import SeedbedError
from seedbed.llm.base import LLM, Ahead, ModelInfo, Row, TopLogprobs, as_ahead
from seedbed.protocols.rows import full_row, top_logprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.protocols.exchange import Ask

__all__ = ["MAX_VALUES", "rows_ahead"]

MAX_VALUES = 1 << 20
"""The most values that an answer of several rows holds, all together: in JSON that is some 60 MB, and a request for it a few octets. One
row may be longer."""


async def rows_ahead(ask: Ask, llm: LLM, info: ModelInfo) -> Ahead:
    """Row after row, until a token ends a sequence, the context is full, or there are ``MAX_VALUES`` values.

    What goes wrong beyond the first row ends them there: it is for the client to meet, if it gets so far.

    Raises:
        SeedbedError: the first row cannot be had.

    Concurrency:
        As the model's ``logits_ahead``, which is asked as often as it takes.
    """
    walk = _Walk(ask, llm.eos_token_ids)
    room = _room(ask, info)
    while len(walk.rows) < room and not walk.is_over:
        try:
            ahead = await _ask_ahead(llm, walk, room - len(walk.rows), info)
            walk.follow(ahead)
        except SeedbedError:
            if not walk.rows:
                raise
            break
    return Ahead(tuple(walk.proposed), tuple(walk.rows))


def _room(ask: Ask, info: ModelInfo) -> int:
    """For how many rows there is room in the context and in an answer."""
    values = min((most for most in (ask.top_k, info.vocab_size) if most is not None), default=1)
    room = min(ask.ahead, max(1, MAX_VALUES // values))
    return room if info.context_length is None else min(room, info.context_length - len(ask.token_ids))


async def _ask_ahead(llm: LLM, walk: _Walk, count: int, info: ModelInfo) -> Ahead:
    if walk.drawing is None:
        answer = await llm.logits_ahead(walk.prefix, count)
    else:
        answer = await llm.logits_along(walk.prefix, count, walk.drawing)
    return as_ahead(answer, count, info.vocab_size)


class _Walk:
    """The rows a client is going to see, and the tokens it is thought to take from them."""

    def __init__(self, ask: Ask, ends: Sequence[int]) -> None:
        self.prefix, self.drawing, self.is_over = list(ask.token_ids), ask.drawing, False
        self.proposed: list[int] = []
        self.rows: list[Row] = []
        self._top_k, self._ends = ask.top_k, ends

    def follow(self, ahead: Ahead) -> None:
        """Take the rows, as far as the model behind proposed the same."""
        for proposed, row in zip_longest(ahead.proposed[: len(ahead.rows) - 1], ahead.rows):
            token_id = self._take(row)
            self.is_over = token_id in self._ends
            if token_id != proposed or self.is_over:
                return

    def _take(self, row: Row) -> int:
        if self.drawing is None:
            self.rows.append(row)
            token_id = int(row.token_ids[0]) if isinstance(row, TopLogprobs) else int(row.argmax())
        else:
            # As the client will see it: it draws from the k best, if those are what it asked for.
            self.rows.append(seen := full_row(row) if self._top_k is None else top_logprobs(row, self._top_k))
            token_id, self.drawing = self.drawing.take(seen, self.prefix)
        self.proposed.append(token_id)
        self.prefix.append(token_id)
        return token_id
