"""The tokens a server draws in one test: which seed was sent after which prefix, and what came."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from seedbed.llm.running import together

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.llm.base import LLM
    from seedbed.protocols.exchange import Sample
    from seedbed.regression.contexts import Context
    from seedbed.sampling.presets import Order
    from seedbed.server.draws import Samples

__all__ = ["AT_ONCE", "ServerDraws"]

AT_ONCE = 8
SHARE = 1_000_000  # seeds of one prefix


@dataclass(slots=True)
class ServerDraws:
    """Draws of one server.

    Attributes:
        model: the server, for its rows; ``server``, for its draws.
        asked: the parameters, and the first seed.
        order: whose order and rules are expected.
        contexts: the prefixes drawn after.
        drawn: every draw for the distribution, in order.
        by_seed: {(place of the context, how many seeds after its first): token}.
    """

    model: LLM
    server: Samples
    asked: Sample
    order: Order | None
    contexts: Sequence[Context]
    drawn: list[tuple[Context, int]] = field(default_factory=list)
    by_seed: dict[tuple[int, int], int] = field(default_factory=dict)

    def sample(self, place: int, after: int, **changes: Any) -> Sample:
        """A question: no two contexts share a seed, and those of one follow each other."""
        return replace(self.asked, token_ids=self.contexts[place].prefix, seed=self.asked.seed + place * SHARE + after, **changes)

    async def together(self, questions: Sequence[Sample]) -> list[tuple[tuple[int, ...], ...]]:
        """The answers to all, at most eight under way at once."""
        answers: list[tuple[tuple[int, ...], ...]] = [()] * len(questions)

        async def ask(place: int, question: Sample) -> None:
            answers[place] = await self.server.sample(question)

        for at in range(0, len(questions), AT_ONCE):
            await together([partial(ask, at + i, question) for i, question in enumerate(questions[at : at + AT_ONCE])])
        return answers

    @property
    def is_constant(self) -> bool:
        """Whether each prefix has one draw for all seeds; where that is the best token it may as well be greedy."""
        by_context: dict[int, set[int]] = {}
        for (place, _), token_id in self.by_seed.items():
            by_context.setdefault(place, set()).add(token_id)
        if any(len(drawn) > 1 for drawn in by_context.values()) or len(self.drawn) < 2 * len(by_context):
            return False
        return any(int(self.contexts[place].logprobs.argmax()) not in drawn for place, drawn in by_context.items())

    def chance(self, place: int, token_id: int) -> float:
        """That a draw is this token by chance: by the row, or by what was drawn, whichever is more, should the distribution be wrong."""
        context = self.contexts[place]
        here = [drawn for at, drawn in self.drawn if at is context]
        return max(context.probability(token_id), here.count(token_id) / len(here))
