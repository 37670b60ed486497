"""What a server draws itself when it is asked for tokens instead of rows: with the order and rules of the engine whose words it speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from seedbed.llm.base import as_row
from seedbed.sampling.sampler import Sampler

if TYPE_CHECKING:
    from seedbed.llm.base import LLM
    from seedbed.protocols.exchange import Sample
    from seedbed.sampling.presets import Order

__all__ = ["Samples", "own_draws", "sampler_of"]


@runtime_checkable
class Samples(Protocol):
    """A model that draws tokens itself."""

    async def sample(self, question: Sample) -> tuple[tuple[int, ...], ...]:
        """The tokens drawn, of each of ``question.n`` samples."""


def sampler_of(question: Sample, order: Order | None) -> Sampler:
    """The chain that draws what is asked for, in an engine's order.

    Raises:
        InvalidSampler: a parameter that engine does not take.
    """
    return Sampler(question.temperature, question.top_k, question.top_p, question.min_p, order=order)


async def own_draws(llm: LLM, question: Sample, order: Order | None) -> tuple[tuple[int, ...], ...]:
    """The model's own draws, or addressed ones from its rows: sample i is sequence i of the seed.

    Raises:
        InvalidSampler, RowError: as ``Sampler``.

    Concurrency:
        As the model's ``next_token_logits``, one row after another.
    """
    if isinstance(llm, Samples):
        return await llm.sample(question)
    sampler = sampler_of(question, order)
    samples = []
    for index in range(question.n):
        drawn: list[int] = []
        while len(drawn) < question.tokens and not (drawn and drawn[-1] in llm.eos_token_ids):
            row = as_row(await llm.next_token_logits([*question.token_ids, *drawn]))
            drawn.append(sampler.draw(row, seed=question.seed, index=index, step=len(drawn)))
        samples.append(tuple(drawn))
    return tuple(samples)
