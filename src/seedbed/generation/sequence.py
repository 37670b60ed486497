"""One sequence as a state machine without I/O: rows go in, tokens come out, until something ends it.

Rule 1: all state of a sequence is in this file; nothing here waits, reads a clock, or knows who answers.
Rule 2: a token is a function of (row, seed, prompt index, index, step) alone; the state machine adds nothing of its own.
Rule 3: the state changes by ``TRANSITIONS`` and in no other way. An event that is not listed there raises, and changes nothing.

::

    asking ──token──> asking          a token that ends nothing
           ──stop───> stop            a stop token, or the last token of a stop sequence
           ──length─> length          the token that fills max_new_tokens
           ──deadline, error, cancel──> deadline, error, cancelled

All right-hand states but "asking" are final, and are the ``finish_reason``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

from seedbed.generation.result import FinishReason, ResumePoint, SampledSequence
from seedbed.sampling.configuration import configuration_of
from seedbed.sampling.drawing import Drawing
from seedbed.sampling.randomness import Address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.llm.base import Ahead, Row
    from seedbed.sampling.sampler import Sampler

__all__ = ["TRANSITIONS", "FollowedSequence", "IllegalEvent", "StopRules"]

State = Literal["asking"] | FinishReason
Event = Literal["token", "stop", "length", "deadline", "error", "cancel"]

TRANSITIONS: dict[State, dict[Event, State]] = {
    "asking": {
        "token": "asking",
        "stop": "stop",
        "length": "length",
        "deadline": "deadline",
        "error": "error",
        "cancel": "cancelled",
    },
    "stop": {},
    "length": {},
    "deadline": {},
    "error": {},
    "cancelled": {},
}


class IllegalEvent(RuntimeError):
    """An event the state does not allow: a fault in the caller's code, not in the model or the user's input."""


@dataclass(frozen=True, slots=True)
class StopRules:
    """What ends a sequence before its length does; only generated tokens count, never the prompt.

    Attributes:
        token_ids: any of these ends it; the token is kept.
        sequences: any of these token-id sequences ends it once the last tokens equal it; they are kept.
    """

    token_ids: frozenset[int] = frozenset()
    sequences: tuple[tuple[int, ...], ...] = ()

    def first_match(self, token_ids: Sequence[int]) -> int | None:
        """How many of these tokens it takes until one of the rules applies; None when none ever does."""
        if not self.sequences and self.token_ids.isdisjoint(token_ids):
            return None
        longest = max(map(len, self.sequences), default=1)
        ends = range(1, len(token_ids) + 1)
        return next((end for end in ends if self.match(token_ids[max(0, end - longest) : end])), None)

    def match(self, token_ids: Sequence[int]) -> tuple[int, ...] | None:
        """What the last token completed: a stop token, else the longest stop sequence, else None."""
        if token_ids[-1] in self.token_ids:
            return (token_ids[-1],)
        ended = [stop for stop in self.sequences if tuple(token_ids[-len(stop) :]) == stop]
        return max(ended, key=len, default=None)


class FollowedSequence:
    """A sequence while it is being followed.

    Args:
        seed, prompt_index, index: the address of its randomness.
        prompt_token_ids: the prompt; not modified.
        sampler: draws its tokens.
        stop: what ends it.
        max_new_tokens: the most tokens it may have; 0 ends it at once.
        resume: an earlier sequence of the same address and prompt, whose tokens it starts with.
        configuration: the sampler's, when the caller has it already.
    """

    def __init__(
        self,
        seed: int,
        prompt_index: int,
        index: int,
        prompt_token_ids: tuple[int, ...],
        *,
        sampler: Sampler,
        stop: StopRules,
        max_new_tokens: int,
        resume: SampledSequence | None = None,
        configuration: str | None = None,
    ) -> None:
        self.seed, self.prompt_index, self.index = seed, prompt_index, index
        self.prompt_token_ids = prompt_token_ids
        self.started: float | None = None
        self.finished: float | None = None
        self._sampler, self._stop, self._max_new_tokens = sampler, stop, max_new_tokens
        self._state: State = "asking"
        self._token_ids: list[int] = []
        self._logprobs: list[float | None] = []
        self._processed_logprobs: list[float | None] = []
        self._margins: list[float] = []
        self._tail_masses: list[float] = []
        self._configuration = configuration_of(sampler) if configuration is None else configuration
        self._sampler_state: float | None = None
        self._stop_match: tuple[int, ...] | None = None
        self._error: str | None = None
        if resume is not None:
            self._take_up(resume)
        elif not max_new_tokens:
            self._process("length")

    @property
    def state(self) -> State:
        """ "asking", or the finish reason."""
        return self._state

    @property
    def is_finished(self) -> bool:
        """Whether no further row is wanted."""
        return not TRANSITIONS[self._state]

    @property
    def step(self) -> int:
        """The number of tokens generated, so the index of the next."""
        return len(self._token_ids)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens generated, those it was resumed with included."""
        return tuple(self._token_ids)

    @property
    def room(self) -> int:
        """How many tokens it may still get."""
        return self._max_new_tokens - self.step

    def prefix(self) -> list[int]:
        """The question: prompt and tokens so far, a new list each time."""
        return [*self.prompt_token_ids, *self._token_ids]

    def drawing(self) -> Drawing:
        """What the next token is going to be drawn with."""
        return Drawing(self._sampler, self._address(), self._sampler_state)

    def receive(self, row: Row) -> int:
        """The answer: draw the next token from it, and return it.

        Raises:
            RowError: no token can be drawn; the sequence is unchanged.
            IllegalEvent: the sequence is finished.
        """
        self._require("token")
        draw = self._sampler.sample(row, self._address(), self.prompt_token_ids, self._token_ids, state=self._sampler_state)
        self._sampler_state = draw.state
        self._token_ids.append(draw.token_id)
        self._logprobs.append(draw.logprob)
        self._processed_logprobs.append(draw.processed_logprob)
        self._margins.append(draw.margin)
        self._tail_masses.append(draw.tail_mass)
        self._process(self._event_of_last_token())
        return draw.token_id

    def receive_ahead(self, ahead: Ahead) -> None:
        """Several answers at once: draw from row after row, for as long as what is drawn is what was proposed.

        Raises:
            RowError: no token can be drawn from the row whose turn it is; the tokens drawn before it are kept.
            IllegalEvent: the sequence is finished.
        """
        for proposed, row in zip_longest(ahead.proposed[: len(ahead.rows) - 1], ahead.rows):
            if self.receive(row) != proposed or self.is_finished:
                return

    def expire(self) -> None:
        """A deadline fired before it was done."""
        self._process("deadline")

    def fail(self, error: BaseException) -> None:
        """It cannot go on; what it has is kept."""
        self._process("error")
        self._error = f"{type(error).__name__}: {error}"

    def cancel(self) -> None:
        """It is not wanted any more; what it has is kept."""
        self._process("cancel")

    def result(self) -> SampledSequence:
        """The sequence as a value. While it is unfinished it reads "cancelled": what would be left if it stopped now."""
        return SampledSequence(
            prompt_index=self.prompt_index,
            index=self.index,
            prompt_token_ids=self.prompt_token_ids,
            token_ids=tuple(self._token_ids),
            logprobs=tuple(self._logprobs),
            processed_logprobs=tuple(self._processed_logprobs),
            margins=tuple(self._margins),
            tail_masses=tuple(self._tail_masses),
            finish_reason="cancelled" if self._state == "asking" else self._state,
            resume=ResumePoint(self.seed, self._sampler_state, self._configuration),
            stop_match=self._stop_match,
            error=self._error,
            started=self.started,
            finished=self.finished,
        )

    def _address(self) -> Address:
        return Address(self.seed, self.prompt_index, self.index, self.step)

    def _event_of_last_token(self) -> Event:
        self._stop_match = self._stop.match(self._token_ids)
        if self._stop_match is not None:
            return "stop"
        return "length" if self.step >= self._max_new_tokens else "token"

    def _take_up(self, earlier: SampledSequence) -> None:
        self._token_ids = list(earlier.token_ids)
        self._logprobs = list(earlier.logprobs)
        self._processed_logprobs = list(earlier.processed_logprobs)
        self._margins = list(earlier.margins)
        self._tail_masses = list(earlier.tail_masses)
        self._sampler_state = earlier.resume.sampler_state
        if self._token_ids:
            self._process(self._event_of_last_token())
        elif not self._max_new_tokens:
            self._process("length")

    def _require(self, event: Event) -> State:
        after = TRANSITIONS[self._state].get(event)
        if after is None:
            raise IllegalEvent(f"a sequence in state {self._state!r} takes no {event!r}")
        return after

    def _process(self, event: Event) -> None:
        self._state = self._require(event)
