"""A model around a model: rows one by one, tokens and texts as inside, until a subclass says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seedbed.llm.base import LLM, ModelInfo, TopLogprobs
from seedbed.llm.threads import as_llm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

__all__ = ["AroundLLM"]


class AroundLLM(LLM):
    """Passes questions for one row on to the model inside, and what it says of itself and its tokens.

    Not what it does besides: rows ahead are had one by one, so that a subclass that changes a row changes each of them; and the counts of
    its costs are its own.

    Args:
        llm: that model.

    Concurrency:
        As the model inside.
    """

    def __init__(self, llm: object) -> None:
        self._model = as_llm(llm)
        self.top_k = self._model.top_k

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> ArrayLike | TopLogprobs:
        return await self._model.next_token_logits(prev_token_ids)

    def get_stop_token_id(self) -> int:
        return self._model.get_stop_token_id()

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self._model.eos_token_ids

    @property
    def info(self) -> ModelInfo | None:
        return self._model.info

    async def tokenize(self, text: str) -> list[int]:
        return await self._model.tokenize(text)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return await self._model.detokenize(token_ids)

    def token_bytes(self, token_id: int) -> bytes:
        return self._model.token_bytes(token_id)
