"""Asking a live server what a recording holds, each question under the condition its recorded answer was had under."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from seedbed.errors import MalformedRow, UsageError
from seedbed.llm.base import LLM, TopLogprobs, as_row, row_length
from seedbed.llm.company import Company
from seedbed.llm.running import together
from seedbed.protocols.rows import top_logprobs
from seedbed.recording.steps import Asked
from seedbed.regression.compared import Answer
from seedbed.sampling.randomness import Address, Purpose

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from seedbed.llm.base import Row
    from seedbed.recording import Recording
    from seedbed.regression.targets import Target

__all__ = ["Asking", "OtherVocabulary", "refuse_short_rows"]

GROUPS = (2, 4, 8, 16)
"""How many questions are under way together, where a recorded answer was had in company: drawn anew for each group."""

SCORED = Asked(phase="scored").tags


class OtherVocabulary(MalformedRow):
    """The live rows are for another vocabulary than the recorded ones: to a check a finding, no failure."""


def refuse_short_rows(llm: LLM, recording: Recording) -> None:
    """Refuse a model that lists fewer tokens of each row than are recorded: every row would look changed.

    Raises:
        UsageError: it does.
    """
    vocab_size = recording.info.vocab_size
    limits = (getattr(llm, "top_k", None), llm.info.max_top_k if llm.info is not None else None)
    listed = min((limit for limit in limits if limit is not None), default=None)
    if listed is None or vocab_size is None or listed >= min(recording.top_k or vocab_size, vocab_size):
        return
    kept, wanted = ("whole rows", '"all"') if recording.top_k is None else (f"{recording.top_k} tokens of each row", recording.top_k)
    raise UsageError(
        f"{recording.path} keeps {kept}, and the model is asked for {listed}: rows cut shorter than recorded look changed; "
        f"connect with top_k={wanted}, or leave it to seedbed check"
    )


class Asking:
    """One check's questions to a model.

    Args:
        llm: the model.
        vocab_size: of the recording.
        top_k: how many tokens of each row the recording keeps, and no more are kept of the live ones; None is all.
        seed: of the order of questions and the sizes of groups.
        answered: called after every answer.

    Concurrency:
        For one task; asks up to 16 questions at once.
    """

    def __init__(
        self, llm: LLM, vocab_size: int, top_k: int | None = None, *, seed: int = 0, answered: Callable[[], None] = lambda: None
    ) -> None:
        self._llm, self._vocab_size, self._top_k = llm, vocab_size, top_k
        self._seed, self._answered = seed, answered
        self._known: set[tuple[int, ...]] = set()
        self._company = Company()
        self._batches = 0

    async def ask(self, targets: Sequence[Target], passes: int) -> None:
        """Ask for every target ``passes`` times, in random order, and keep the answers in it.

        In the first pass a prefix comes after its beginnings, so that what was recorded warm is warm again.

        Raises:
            ServerError, RowError: what the model raises.
            OtherVocabulary: a row of another one.
        """
        for place in range(passes):
            levels = [targets] if place else [[t for t in targets if t.depth == depth] for depth in sorted({t.depth for t in targets})]
            for level, members in enumerate(levels):
                words = Address(self._seed, index=place, step=self._batches << 32 | level).words(2 * len(members), Purpose.CHECK_ORDER)
                order = [members[i] for i in np.argsort(words[: len(members)], kind="stable")]
                sizes = iter((words[len(members) :] >> np.uint64(40)).tolist())
                await self._ask_in_groups([t for t in order if t.is_solo(place)], lambda: 1)
                await self._ask_in_groups([t for t in order if not t.is_solo(place)], partial(_next_size, sizes))
        self._batches += 1

    async def score(self, targets: Sequence[Target], passes: int) -> None:
        """Ask for whole sequences in one request each, where their recorded answers were had so and the model can.

        Raises:
            ServerError, RowError, OtherVocabulary: as ``ask``.
        """
        if not getattr(self._llm, "can_score", False):
            return
        scored = {target.prefix: target for target in targets if target.is_scored}
        order = sorted(scored)
        # In this order whatever begins with a prefix follows it.
        ends = [one for one, after in itertools.pairwise([*order, ()]) if after[: len(one)] != one]
        for prefix in ends:
            for place in range(passes):
                rows = await self._llm.score(list(prefix))  # type: ignore[attr-defined]
                for length, row in enumerate(rows, 1):
                    target = scored.get(prefix[:length])
                    if target is not None and sum(answer.tags == SCORED for answer in target.live) <= place:
                        target.live.append(Answer(self._kept(self._checked(row)), SCORED))

    async def _ask_in_groups(self, targets: Sequence[Target], size: Callable[[], int]) -> None:
        at = 0
        while at < len(targets):
            count = size()
            group = targets[at : at + count]
            at += count
            # A question that was not alone when it was recorded gets company, if need be of questions whose answers nobody needs.
            company = [group[i % len(group)].prefix for i in range(len(group), min(count, 2 * len(group)))]
            questions: list[Callable[[], Awaitable[object]]] = [partial(self._ask_target, target) for target in group]
            await together([*questions, *(partial(self.answer, prefix) for prefix in company)])

    async def _ask_target(self, target: Target) -> None:
        target.live.append(await self.answer(target.prefix))
        self._answered()

    async def answer(self, prefix: tuple[int, ...]) -> Answer:
        """One answer, with its condition."""
        is_warm = any(prefix[:length] in self._known for length in range(len(prefix), 0, -1))
        with self._company.counted() as question:
            row = self._checked(as_row(await self._llm.next_token_logits(list(prefix))))
        self._known.add(prefix)
        return Answer(self._kept(row), Asked(question.most, "warm" if is_warm else "cold").tags, question.most)

    def _checked(self, row: Row) -> Row:
        size = row_length(row)
        if size != self._vocab_size:
            raise OtherVocabulary(f"the live rows are for a vocabulary of {size} tokens, the recorded ones for {self._vocab_size}")
        return row

    def _kept(self, row: Row) -> Row:
        if self._top_k is not None and (not isinstance(row, TopLogprobs) or len(row) > self._top_k):
            return top_logprobs(row, self._top_k)
        # The model may use its buffer again.
        return row.copy() if not isinstance(row, TopLogprobs) and row.flags.writeable else row


def _next_size(words: Iterator[int]) -> int:
    return GROUPS[next(words) % len(GROUPS)]
