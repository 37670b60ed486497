"""A model that also draws tokens itself, rightly or wrongly: with other parameters than it was asked for, or with the wrong seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from seedbed.server.draws import addressed_draws
from seedbed.server.planted.around import AroundLLM

if TYPE_CHECKING:
    from seedbed.protocols.exchange import Sample
    from seedbed.sampling.presets import Order

__all__ = ["PlantedSampler", "SeedRule"]

SeedRule = Literal["right", "ignored", "constant", "low bits", "plus index", "plus step", "one for all"]


class PlantedSampler(AroundLLM):
    """A server's own sampler with a fault in it.

    Args:
        llm: the model.
        order: whose order and rules it follows.
        seeds: "right" as they should be; "ignored", "constant"; "low bits": of the seed count 8; "plus index": sample i of a request has
            the randomness of seed + i, as vLLM and llama.cpp do it; "plus step": step t that of seed + t; "one for all": all samples of
            a request have the same.
        changes: parameters that take the place of those asked for, such as ``temperature=1.1``.

    Concurrency:
        As the model inside.

    Example:
        >>> import trio
        >>> from seedbed.protocols.exchange import Sample
        >>> from seedbed.server.models import TinyLM
        >>> greedy = PlantedSampler(TinyLM(), temperature=0.0)
        >>> bytes(trio.run(greedy.sample, Sample(tuple(b"The se"), tokens=4))[0])
        b'rver'
    """

    def __init__(self, llm: object, order: Order | None = None, *, seeds: SeedRule = "right", **changes: Any) -> None:
        super().__init__(llm)
        self._order, self._seeds, self._changes = order, seeds, changes
        self._draws = 0

    async def sample(self, question: Sample) -> tuple[tuple[int, ...], ...]:
        """The tokens drawn, of each of ``question.n`` samples."""
        return await addressed_draws(self._model, replace(question, **self._changes), self._order, self._address)

    def _address(self, seed: int, index: int, step: int) -> tuple[int, int, int]:
        self._draws += 1
        return {
            "right": (seed, index, step),
            "ignored": (0, self._draws, 0),
            "constant": (0, index, step),
            "low bits": (seed % 256, index, step),
            "plus index": (seed + index, 0, step),
            "plus step": (seed + step, index, 0),
            "one for all": (seed, 0, step),
        }[self._seeds]

    def __repr__(self) -> str:
        return f"PlantedSampler({self._model!r}, {self._order!r}, seeds={self._seeds!r}, {self._changes!r})"
