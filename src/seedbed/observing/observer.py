"""What is told, and to whom.

Rule 1: an observer changes nothing. No result depends on whether one listens.
Rule 2: who listens is known by where the code runs (a context variable), so no function passes observers on, and whatever is begun inside
        an ``observe`` block tells them: generations, the questions they ask, the requests those become.
Rule 3: where nobody listens, an event costs one look at an empty tuple and is never made.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BulkBegan",
    "Event",
    "GenerationBegan",
    "GenerationEnded",
    "Observer",
    "PromptFinished",
    "QuestionTaken",
    "RequestBegan",
    "RequestEnded",
    "RequestRepeated",
    "SequenceBegan",
    "SequenceEnded",
    "TaskBegan",
    "TaskEnded",
    "TokensDrawn",
    "observe",
    "observers",
]


@dataclass(frozen=True, slots=True)
class GenerationBegan:
    """A generation of so many sequences begins; told in the task that ends it."""

    sequences: int
    seed: int


@dataclass(frozen=True, slots=True)
class GenerationEnded:
    """It is over: so many of its sequences came to an end of their own, with so many tokens; ``error`` is what ended it, or ""."""

    finished: int
    tokens: int
    error: str


@dataclass(frozen=True, slots=True)
class SequenceBegan:
    """A sequence begins, with the tokens it was resumed with; told in its own task."""

    prompt_index: int
    index: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokensDrawn:
    """A sequence had an answer, and drew from it.

    Attributes:
        prompt_index, index: which sequence.
        token_ids: what was drawn; with lookahead there may be several, and none when drawing failed.
        rows: how many rows the answer had: ``rows - 1`` tokens were proposed, ``len(token_ids) - 1`` of them accepted.
        waited: seconds from the question to the answer, on trio's clock.
    """

    prompt_index: int
    index: int
    token_ids: tuple[int, ...]
    rows: int
    waited: float


@dataclass(frozen=True, slots=True)
class SequenceEnded:
    """A sequence ended, for a reason that ``SampledSequence.finish_reason`` names; told in its own task, always.

    One that the deadline for everything cut off reads "cancelled" here, and "deadline" in the result.
    """

    prompt_index: int
    index: int
    tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class QuestionTaken:
    """The prefix cache took a question: it knew the row, somebody else's question was under way, or the model is asked."""

    outcome: Literal["known", "shared", "asked"]


@dataclass(frozen=True, slots=True)
class RequestBegan:
    """A request is sent; told in the task that waits for its answer, which sends one at a time."""

    where: str


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """It was answered, or not.

    Attributes:
        where: the server, without secrets.
        status: of the answer; None when there was none.
        octets: of the answer's body.
        seconds: from sending to the end of the answer, on trio's clock.
        error: the class of what went wrong on the way, or "".
    """

    where: str
    status: int | None
    octets: int
    seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class RequestRepeated:
    """The request that follows repeats one that failed."""

    where: str


@dataclass(frozen=True, slots=True)
class BulkBegan:
    """A file of prompts is begun, or gone on with.

    Attributes:
        prompts: how many lines the file has.
        finished: how many of them were done in earlier runs.
        sequences: from each prompt.
    """

    prompts: int
    finished: int
    sequences: int


@dataclass(frozen=True, slots=True)
class PromptFinished:
    """A prompt's rows are in the output; or it was skipped, for the problem named. Told in the order of the file."""

    prompt_index: int
    tokens: int
    problem: str


@dataclass(frozen=True, slots=True)
class TaskBegan:
    """So many prompts are given out to a cluster as one task. What happens in it is told there, where nobody listens."""

    prompts: int


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """A task is back, with its prompts told as finished before this; or it failed, or is wanted no more."""


Event: TypeAlias = (
    GenerationBegan
    | GenerationEnded
    | SequenceBegan
    | TokensDrawn
    | SequenceEnded
    | QuestionTaken
    | RequestBegan
    | RequestEnded
    | RequestRepeated
    | BulkBegan
    | PromptFinished
    | TaskBegan
    | TaskEnded
)
"""All there is to notice. Later versions may tell more: match what you know, and pass over the rest."""


class Observer(Protocol):
    """Somebody who wants to know what happens."""

    def notice(self, event: Event) -> None:
        """Called at every event, in the trio thread. It must return soon, and not raise: what it raises strikes where it happened."""


_observers: ContextVar[tuple[Observer, ...]] = ContextVar("seedbed observers", default=())


def observers() -> tuple[Observer, ...]:
    """Who listens here: those of all ``observe`` blocks that this code was begun in."""
    return _observers.get()


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Tell an observer, besides those already listening, what is begun inside the block.

    Concurrency:
        Tasks begun inside go on telling after the block. Blocks in different tasks do not know of each other.

    Example:
        >>> import trio
        >>> from seedbed import TinyLM, generate
        >>> class Counting:
        ...     tokens = 0
        ...     def notice(self, event):
        ...         if isinstance(event, TokensDrawn):
        ...             self.tokens += len(event.token_ids)
        >>> counting = Counting()
        >>> async def main():
        ...     with observe(counting):
        ...         return await generate(list(b"The seed"), TinyLM(), n=2, seed=7, max_new_tokens=5)
        >>> trio.run(main).stats.tokens, counting.tokens
        (10, 10)
    """
    before = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(before)
