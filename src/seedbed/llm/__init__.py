"""Prompt -> logits: the interface every model is met through."""

from seedbed.llm.base import LLM, BlockingLLM, ModelInfo, Row, TopLogprobs, as_row
from seedbed.llm.threads import as_llm

__all__ = ["LLM", "BlockingLLM", "ModelInfo", "Row", "TopLogprobs", "as_llm", "as_row"]
