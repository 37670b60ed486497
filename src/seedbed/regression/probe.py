"""Under which condition does a server first stop giving the same bits for the same question, and by how much?

A ladder, from what every client does to what only a busy server sees: the same question twice in a row, the same question after others,
from the prompt cache, in company. Each rung is asked at prompts of many lengths around block sizes, and where it breaks it is bisected to
the length, and in company to the number of questions, at which it begins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from seedbed.errors import UsageError
from seedbed.http.model import HTTPModel
from seedbed.llm.base import LLM, Row, as_row
from seedbed.llm.running import require_trio, together
from seedbed.llm.threads import as_llm
from seedbed.recording.compare import same_row
from seedbed.regression.metrics import common_logprobs, kl_of_logprobs
from seedbed.regression.probe_report import CONDITIONS, Break, Condition, ProbeProgress, ProbeReport, place_of
from seedbed.sampling.randomness import Address, Purpose, check_seed, fresh_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["lengths_around_blocks", "probe"]

ROUNDS = 2
"""How often every prompt is asked in company, at every number of questions: each time with other neighbours."""


async def probe(
    llm: object,
    *,
    max_length: int = 257,
    max_concurrency: int = 16,
    prompts: int = 2,
    seed: int | None = None,
    progress: Callable[[ProbeProgress], None] | None = None,
) -> ProbeReport:
    """Find the first condition under which a server stops giving the same bits for the same question.

    Prompts are random tokens, so none has a beginning the server has seen before: it is cold at first. Four rungs:

    - repeats: a question again at once, nothing in between.
    - history: again after other questions; an answer that is neither the first nor the repeated one.
    - prompt cache: the first answer against the repeated one; where a protocol can forbid the cache, against an answer without it.
    - concurrency: in company of up to ``max_concurrency`` questions, against the answers had alone.

    The length a break begins at is found by bisection, which takes for granted that it holds from there on.

    Args:
        llm: the live model.
        max_length: of the prompts, in tokens; at least 4, and less than the model's context.
        max_concurrency: the most questions at once; 1 leaves that rung out.
        prompts: how many of each length: more find what only some prompts show.
        seed: of the prompts; None is a fresh one, which is what finds a server cold that was probed before.
        progress: called after every question.

    Raises:
        UsageError: an argument outside its range, or a model that does not tell its vocabulary's size.
        ServerError, RowError: what the model raises.

    Concurrency:
        Needs the server to itself: other traffic is another condition.

    Example:
        >>> import trio
        >>> from seedbed.server.models import HashLM
        >>> from seedbed.server.planted import AboveConcurrency, Noise, PlantedLLM
        >>> report = trio.run(partial(probe, PlantedLLM(HashLM(64), Noise(0.1), where=AboveConcurrency(5)), max_length=8, seed=1))
        >>> report.first.condition, report.first.concurrency
        ('concurrency', 6)
    """
    require_trio()
    model = as_llm(llm)
    limit = model.info.context_length if model.info is not None else None
    if not 4 <= max_length < (limit or max_length + 1):
        raise UsageError(f"max_length must be 4 or more, and less than the model's context of {limit} tokens, not {max_length}")
    if max_concurrency < 1 or prompts < 1:
        raise UsageError("max_concurrency and prompts must be 1 or more")
    prober = _Prober(model, fresh_seed() if seed is None else check_seed(seed), prompts, progress)
    await prober.climb(lengths_around_blocks(max_length), max_concurrency)
    return prober.report(max_concurrency)


def lengths_around_blocks(most: int) -> tuple[int, ...]:
    """1, 2, 3, and every power of two with its neighbours, up to ``most``, which is the last.

    Example:
        >>> lengths_around_blocks(20)
        (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 20)
    """
    around = {(1 << power) + off for power in range(most.bit_length()) for off in (-1, 0, 1)}
    return tuple(sorted({length for length in around if 1 <= length <= most} | {most}))


@dataclass(slots=True, eq=False)
class _Prompt:
    """One prompt and what was answered to it.

    Attributes:
        prefix: its token ids.
        alone: answers had alone, each different one once: any of them is right in company; empty when no answer came twice.
        pairs: {condition: [(answer before, answer under the condition)]}.
    """

    prefix: tuple[int, ...]
    alone: list[Row] = field(default_factory=list)
    pairs: dict[Condition, list[tuple[Row, Row]]] = field(default_factory=dict)

    def note(self, condition: Condition, before: Row, after: Row) -> bool:
        """Keep a pair; whether the two differ."""
        self.pairs.setdefault(condition, []).append((before, after))
        return not same_row(before, after)

    def is_broken(self, condition: Condition) -> bool:
        """Whether any answer differed under it."""
        return any(not same_row(before, after) for before, after in self.pairs.get(condition, ()))

    def like(self, row: Row) -> Row:
        """The answer had alone that equals ``row``, or else the first."""
        return next((known for known in self.alone if same_row(known, row)), self.alone[0])


class _Prober:
    """The questions of one probe, and what came of them."""

    def __init__(self, model: LLM, seed: int, prompts: int, progress: Callable[[ProbeProgress], None] | None) -> None:
        # Without a cache where that can be had, and with it.
        self._model, self._warm = model, model.reusing_cache() if isinstance(model, HTTPModel) else model
        self._seed, self._prompts, self._progress = seed, prompts, progress
        self._doing, self._made, self._questions = "", 0, 0
        self._by_length: dict[int, list[_Prompt]] = {}
        self._level = 0  # the fewest questions at once that broke anything
        info = model.info
        if info is None or info.vocab_size is None:
            raise UsageError("only a model that tells its vocabulary's size can be probed")
        self._usable = [token_id for token_id in range(info.vocab_size) if token_id not in model.eos_token_ids]

    async def climb(self, lengths: Sequence[int], max_concurrency: int) -> None:
        """All rungs at all lengths, then the bisections."""
        for length in lengths:
            await self._examine(length)
        await self._alone_again("alone, after all others")
        if max_concurrency > 1:
            await self._in_company(self._steady(), max_concurrency)
            self._level = await self._fewest(max_concurrency)
            await self._alone_again("alone, after the crowd")
        for condition in CONDITIONS:
            self._doing = f"{condition}: bisecting the length"
            await self._bisect_length(condition, max_concurrency)

    async def _examine(self, length: int) -> list[_Prompt]:
        """Prompts of one length, alone: repeats, history and cache."""
        self._doing = f"alone, {length} tokens"
        fresh = [_Prompt(self._prefix(length)) for _ in range(self._prompts)]
        self._by_length.setdefault(length, []).extend(fresh)
        for prompt in fresh:
            if self._warm is self._model:
                await self._examine_with_cache(prompt)
            else:
                await self._examine_without(prompt)
        return fresh

    async def _examine_with_cache(self, prompt: _Prompt) -> None:
        """The first answer is cold; those after it may be warm."""
        cold, warm, again = [await self._ask(prompt) for _ in range(3)]
        if not await self._comes_twice(prompt, warm, again):
            return
        prompt.alone = [cold, again]
        if not await self._depends_on_history(prompt):
            prompt.note("prompt cache", cold, again)

    async def _examine_without(self, prompt: _Prompt) -> None:
        """The cache can be forbidden, so cold and warm are asked for by name."""
        cold, again = [await self._ask(prompt) for _ in range(2)]
        if not await self._comes_twice(prompt, cold, again):
            return
        prompt.alone = [again]
        if not await self._depends_on_history(prompt):
            # Twice, since the slot that holds the prompt may not be the one that is taken first.
            for _ in range(2):
                prompt.note("prompt cache", again, await self._ask(prompt, self._warm))

    async def _comes_twice(self, prompt: _Prompt, one: Row, other: Row) -> bool:
        """Whether a question asked again at once has the same answer. A server that changed for good in between still repeats itself."""
        if not same_row(one, other):
            third, fourth = [await self._ask(prompt) for _ in range(2)]
            if same_row(other, third) and same_row(third, fourth):
                prompt.note("history", one, other)
                prompt.note("repeats", third, fourth)
                prompt.alone = [other]
                return False
        return not prompt.note("repeats", one, other)

    async def _depends_on_history(self, prompt: _Prompt) -> bool:
        """Whether an answer after other traffic is none of those had before. A server whose cache forgets goes back to the cold one."""
        after = []
        for length in (len(prompt.prefix) + 1, 2):
            await self._ask(_Prompt(self._prefix(length)))
            after.append(await self._ask(prompt))
        changed = [prompt.note("history", prompt.like(row), row) for row in after]
        # The cold one and the warm one in turn: the question before decides, not whether the prompt is known.
        changed.append(prompt.note("history", after[0], after[1]))
        prompt.alone += [row for row, is_new in zip(after, changed, strict=False) if is_new]
        return any(changed)

    async def _in_company(self, prompts: Sequence[_Prompt], size: int, *, wrong_is_enough: bool = False) -> bool:
        """Ask all of them in groups of ``size``, each with other neighbours in each round; whether any answer differed."""
        self._doing = f"{size} at once"
        is_broken = False
        for place in range(ROUNDS):
            words = Address(self._seed, index=place, step=self._made).words(len(prompts), Purpose.CHECK_ORDER)
            order = [prompts[i] for i in np.argsort(words, kind="stable")]
            for at in range(0, len(order), size):
                group = [order[(at + i) % len(order)] for i in range(size)] if len(order) >= size else self._filled(order, size)
                answers: list[Row | None] = [None] * len(group)
                await together([partial(self._answer_into, answers, i, prompt) for i, prompt in enumerate(group)])
                for prompt, row in zip(group, answers, strict=True):
                    if prompt.alone and row is not None:
                        is_broken |= prompt.note("concurrency", prompt.like(row), row)
                if is_broken and wrong_is_enough:
                    return True
        return is_broken

    def _filled(self, prompts: list[_Prompt], size: int) -> list[_Prompt]:
        """With prompts of which nothing is known beside them."""
        return [*prompts, *(_Prompt(self._prefix(len(prompts[i % len(prompts)].prefix))) for i in range(size - len(prompts)))]

    async def _answer_into(self, answers: list[Row | None], place: int, prompt: _Prompt) -> None:
        answers[place] = await self._ask(prompt)

    async def _fewest(self, most: int) -> int:
        """By bisection the fewest questions at once that change an answer; 0 when none do."""
        wrong = [prompt for prompt in self._steady() if prompt.is_broken("concurrency")]
        if not wrong:
            return 0
        right, broken = 1, most
        while broken - right > 1:
            middle = (right + broken) // 2
            # As many answers as at first, so that what strikes seldom is not taken for gone.
            if await self._in_company((wrong * most)[: max(len(wrong), 2 * middle)], middle, wrong_is_enough=True):
                broken = middle
            else:
                right = middle
        return broken

    async def _alone_again(self, doing: str) -> None:
        """The same questions after much else: a server may not be what it was."""
        self._doing = doing
        for prompt in self._steady():
            row = await self._ask(prompt)
            if prompt.note("history", prompt.like(row), row):
                prompt.alone.append(row)

    async def _bisect_length(self, condition: Condition, max_concurrency: int) -> None:
        """More lengths between the longest one that is right and the first one that is wrong, where all above are wrong."""
        wrong, right = self._lengths(condition)
        below = [length for length in right if length < min(wrong, default=0)]
        if not wrong or not below or max(right) > min(wrong):
            return
        low, high = max(below), min(wrong)
        while high - low > 1:
            middle = (low + high) // 2
            fresh = await self._examine(middle)
            if condition == "concurrency":
                await self._in_company(fresh * max(1, max_concurrency // len(fresh)), max_concurrency)
            if any(prompt.is_broken(condition) for prompt in fresh):
                high = middle
            else:
                low = middle

    def _lengths(self, condition: Condition) -> tuple[list[int], list[int]]:
        """Lengths at which it changed an answer, and those at which it did not."""
        tried = {
            length: any(prompt.is_broken(condition) for prompt in prompts)
            for length, prompts in sorted(self._by_length.items())
            if any(condition in prompt.pairs for prompt in prompts)
        }
        return [length for length, broken in tried.items() if broken], [length for length, broken in tried.items() if not broken]

    def report(self, max_concurrency: int) -> ProbeReport:
        """What was found."""
        breaks, untold = [], []
        for condition in CONDITIONS:
            wrong, right = self._lengths(condition)
            if not wrong and not right and not (condition == "concurrency" and max_concurrency == 1):
                untold.append(condition)
            if wrong:
                breaks.append(self._break(condition, wrong, right))
        can_force_cold = self._warm is not self._model
        lengths = tuple(sorted(self._by_length))
        return ProbeReport(tuple(breaks), tuple(untold), lengths, max_concurrency, can_force_cold, self._questions, self._seed)

    def _break(self, condition: Condition, wrong: list[int], right: list[int]) -> Break:
        pairs = [pair for prompts in self._by_length.values() for prompt in prompts for pair in prompt.pairs.get(condition, ())]
        off = [(before, after) for before, after in pairs if not same_row(before, after)]
        sizes = [_size(before, after) for before, after in off]
        return Break(
            condition,
            place_of(wrong, right),
            min(wrong),
            self._level if condition == "concurrency" else 1,
            len(off),
            len(pairs),
            max(kl for kl, _, _ in sizes),
            max(difference for _, difference, _ in sizes),
            sum(flipped for _, _, flipped in sizes),
        )

    def _steady(self) -> list[_Prompt]:
        """Prompts whose answers alone are known for certain."""
        return [prompt for prompts in self._by_length.values() for prompt in prompts if prompt.alone and not prompt.is_broken("history")]

    def _prefix(self, length: int) -> tuple[int, ...]:
        """Random tokens, none of which ends a sequence; as long as there are tokens left, no two prompts begin with the same one."""
        words = Address(self._seed, prompt_index=1, index=self._made).words(length, Purpose.CHECK_ORDER).tolist()
        self._made += 1
        words[0] = self._seed + self._made
        return tuple(self._usable[word % len(self._usable)] for word in words)

    async def _ask(self, prompt: _Prompt, model: LLM | None = None) -> Row:
        row = as_row(await (model or self._model).next_token_logits(list(prompt.prefix)))
        self._questions += 1
        if self._progress is not None:
            self._progress(ProbeProgress(self._doing, self._questions))
        return row.copy() if isinstance(row, np.ndarray) else row


def _size(before: Row, after: Row) -> tuple[float, float, bool]:
    """KL in nats, the largest difference of a log-probability that both list, and whether another token is best."""
    _, (p, q) = common_logprobs([before, after], union=True)
    ids, (one, other) = common_logprobs([before, after])
    shared = one.size if ids is None else ids.size
    difference = float(np.abs(one[:shared] - other[:shared]).max(initial=0.0))
    return float(kl_of_logprobs(p, q)), difference, int(p.argmax()) != int(q.argmax())
