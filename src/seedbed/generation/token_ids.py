"""The smallest interface: prompt and model in, token ids out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from seedbed.errors import DeadlineExceeded
from seedbed.generation.nursery import Generation
from seedbed.generation.plan import Deadlines, Plan, check_count, check_index, check_prompt
from seedbed.llm.running import require_trio
from seedbed.llm.threads import as_llm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.llm.base import LLM
    from seedbed.sampling.sampler import Sampler

__all__ = ["generate_token_ids", "generate_token_ids_multiple"]


async def generate_token_ids(
    input_token_ids: Sequence[int],
    llm: object,
    *,
    sampler: Sampler | None = None,
    seed: int | None = None,
    index: int = 0,
    max_new_tokens: int | None = None,
    timeout: float = math.inf,
) -> list[int]:
    """Sample one sequence; returns the generated ids, the stop token last. Raises when the deadline fires.

    Args:
        input_token_ids: the prompt; not modified, and not part of what is returned.
        index: which of the seed's sequences: what ``generate_token_ids_multiple`` returns at that place.

    The others are those of ``generate``.

    Raises:
        UsageError: a wrong argument, as ``generate`` says.
        DeadlineExceeded: not done after ``timeout`` seconds; ``.result`` has what there was.

    Concurrency:
        As ``generate``.

    Example:
        >>> import trio
        >>> from seedbed.testing import ScriptedLLM
        >>> async def main():
        ...     return await generate_token_ids([1], ScriptedLLM({}, default=[0.0, 1.0, 2.0]), seed=7, index=1)
        >>> trio.run(main)
        [2, 1, 2, 2, 2, 1, 2, 2, 1, 2, 0]
    """
    require_trio()
    model = as_llm(llm)
    prompt, index = check_prompt(input_token_ids), check_index(index)
    plan = Plan.of([prompt], model, range(index, index + 1), sampler=sampler, seed=seed, max_new_tokens=max_new_tokens)
    return (await _token_ids_within(plan, model, timeout))[0]


async def generate_token_ids_multiple(
    input_token_ids: Sequence[int],
    llm: object,
    n: int,
    *,
    sampler: Sampler | None = None,
    seed: int | None = None,
    max_new_tokens: int | None = None,
    timeout: float = math.inf,
) -> list[list[int]]:
    """Sample n sequences of one prompt; returns their generated ids in order. Raises when the deadline fires.

    Arguments and errors are those of ``generate_token_ids``, n and ``DeadlineExceeded`` for all of them together included.

    Concurrency:
        As ``generate``.

    Example:
        >>> import trio
        >>> from seedbed.testing import ScriptedLLM
        >>> async def main():
        ...     return await generate_token_ids_multiple([1], ScriptedLLM({}, default=[0.0, 1.0, 2.0]), 2, seed=7, max_new_tokens=3)
        >>> trio.run(main)
        [[2, 1, 1], [2, 1, 2]]
    """
    require_trio()
    model = as_llm(llm)
    prompt = check_prompt(input_token_ids)
    plan = Plan.of([prompt], model, range(check_count(n)), sampler=sampler, seed=seed, max_new_tokens=max_new_tokens)
    return await _token_ids_within(plan, model, timeout)


async def _token_ids_within(plan: Plan, model: LLM, timeout: float) -> list[list[int]]:
    result = await Generation(plan, model, Deadlines(timeout, math.inf), raises=True).run()
    if any(sequence.finish_reason == "deadline" for sequence in result.sequences):
        error = DeadlineExceeded(f"not done after {timeout} s; .result has the {result.stats.tokens} tokens there were")
        error.result = result
        raise error
    return result.token_ids
