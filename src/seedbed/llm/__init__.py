"""Prompt -> logits: the interface every model is met through."""

from seedbed.llm.base import LLM, Ahead, BlockingLLM, ModelInfo, Row, TopLogprobs, as_ahead, as_row
from seedbed.llm.prefix_cache import PrefixCache
from seedbed.llm.threads import as_llm

__all__ = ["LLM", "Ahead", "BlockingLLM", "ModelInfo", "PrefixCache", "Row", "TopLogprobs", "as_ahead", "as_llm", "as_row"]
