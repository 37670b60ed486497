"""Asking ahead changes how often the model is asked, and nothing else."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed import HashLM, PrefixCache, Sampler, TinyLM, as_llm, generate
from seedbed.errors import NothingToDraw, UsageError
from seedbed.generation.lookahead import MOST, Reach
from seedbed.llm import LLM, BlockingLLM
from seedbed.testing import ScriptedLLM, schedules

V = 12
COLD, WARM = Sampler(temperature=0.3), Sampler(temperature=1.0)


class Proposing(LLM):
    """HashLM's rows along tokens it proposes: the best ones ("greedy"), any ("random"), the worst ("wrong"); fewer than it could."""

    def __init__(self, how: str = "greedy", *, gives: int = 99, surplus: int = 0, delay: float = 0.0, stop: int = V) -> None:
        self.stop = stop
        self.inner, self.how, self.gives, self.surplus, self.delay = HashLM(V), how, gives, surplus, delay
        self.asked: list[tuple[tuple[int, ...], int]] = []  # (prefix, rows asked for)

    async def next_token_logits(self, prev_token_ids):
        self.asked.append((tuple(prev_token_ids), 1))
        await trio.sleep(self.delay)
        return await self.inner.next_token_logits(prev_token_ids)

    async def logits_ahead(self, prev_token_ids, count):
        self.asked.append((tuple(prev_token_ids), count))
        await trio.sleep(self.delay)
        prefix, proposed, rows = list(prev_token_ids), [], []
        for _ in range(min(count, self.gives)):
            rows.append(await self.inner.next_token_logits(prefix))
            proposed.append(self._propose(rows[-1], len(prefix)))
            prefix.append(proposed[-1])
        return proposed[: len(rows) - 1 + self.surplus], rows

    def _propose(self, row: np.ndarray, length: int) -> int:
        if self.how == "greedy":
            return int(row.argmax())
        return int(row.argmin()) if self.how == "wrong" else (7 * length) % V

    def get_stop_token_id(self) -> int:
        return self.stop


async def sampled(llm: object, **changes: object):
    arguments = {"n": 5, "seed": 7, "max_new_tokens": 10, "sampler": COLD} | changes
    return await generate([[3, 1], [4]], llm, **arguments)


@cache
def row_by_row(sampler: Sampler):
    return trio.run(lambda: sampled(HashLM(V, eos_token_id=V), sampler=sampler))


proposers = st.builds(
    Proposing, st.sampled_from(["greedy", "random", "wrong"]), gives=st.sampled_from([1, 2, 3, 99]), surplus=st.integers(0, 1)
)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    proposers,
    st.sampled_from([1, 2, 3, 8, 64, "auto"]),
    st.sampled_from([0, 3000, 2**28]),
    st.sampled_from([COLD, WARM, Sampler(mirostat=2, mirostat_tau=2.0), Sampler(temperature=0)]),
)
def test_the_result_is_that_of_asking_row_by_row(schedule: int, llm: Proposing, lookahead, kept: int, sampler: Sampler) -> None:
    (run,) = schedules(1, first=schedule)
    result = run(lambda: sampled(llm, lookahead=lookahead, prefix_cache_bytes=kept, sampler=sampler))

    assert result == row_by_row(sampler)
    assert all(len(prefix) + count <= (12 if prefix[0] == 3 else 11) for prefix, count in llm.asked)  # no row past max_new_tokens


async def test_accepted_proposals_save_round_trips(autojump_clock: trio.testing.MockClock) -> None:
    """At temperature 0 every draw is what was proposed: 10 tokens, 4 rows at a time, a second each."""
    llm = Proposing(delay=1.0)
    result = await generate([3], llm, sampler=Sampler(temperature=0), max_new_tokens=10, lookahead=4)

    assert [count for _, count in llm.asked] == [4, 4, 2]
    assert result.sequences[0].finished == 3.0
    assert (result.stats.tokens, result.stats.rows, result.stats.round_trips, result.stats.waited) == (10, 3, 3, 3.0)


async def test_rejected_proposals_cost_none(autojump_clock: trio.testing.MockClock) -> None:
    llm = Proposing("wrong", delay=1.0)
    result = await generate([3], llm, sampler=Sampler(temperature=0), max_new_tokens=10, lookahead=4)

    assert result.sequences[0].finished == 10.0
    assert result.stats.round_trips == 10


async def test_siblings_share_what_was_asked_ahead(autojump_clock: trio.testing.MockClock) -> None:
    """Ten greedy sequences are one: whoever is first asks for all of them."""
    llm = Proposing(delay=1.0)
    result = await generate([3], llm, n=10, sampler=Sampler(temperature=0), max_new_tokens=8, lookahead=4)

    assert len(llm.asked) == 2
    assert (result.stats.tokens, result.stats.round_trips, result.stats.cache_hits) == (80, 2, 18)


async def test_automatic_lookahead_asks_for_more_where_it_is_right_and_stops_where_it_is_wrong() -> None:
    right, wrong = Proposing("greedy"), Proposing("wrong")
    for llm in (right, wrong):
        await generate([3], llm, sampler=Sampler(temperature=0), max_new_tokens=200, lookahead="auto")

    assert len(right.asked) < 20
    assert max(count for _, count in right.asked) == MOST
    single = [count == 1 for _, count in wrong.asked[40:]]
    assert 0.75 < sum(single) / len(single) < 0.95  # it tries again now and then


async def test_a_real_model_needs_half_the_round_trips_and_less() -> None:
    class Ahead(TinyLM):
        async def logits_ahead(self, prev_token_ids, count):
            prefix, rows = list(prev_token_ids), []
            for _ in range(count):
                rows.append(await self.next_token_logits(prefix))
                prefix.append(int(rows[-1].argmax()))
            return prefix[len(prev_token_ids) :], rows

    arguments = {"n": 8, "seed": 7, "max_new_tokens": 60, "sampler": Sampler(temperature=0.7), "prefix_cache_bytes": 0}
    ahead = await generate(list(b"The seed"), Ahead(), lookahead="auto", **arguments)
    one = await generate(list(b"The seed"), TinyLM(), **arguments)

    assert ahead == one
    assert ahead.stats.round_trips < one.stats.round_trips / 2


async def test_a_stop_token_ahead_ends_it_there() -> None:
    async def along(prev_token_ids, count):
        await trio.lowlevel.checkpoint()
        return [2, 0, 2], [[-9.0, -9.0, 99.0], [99.0, -9.0, -9.0], [-9.0, -9.0, 99.0]]

    llm = ScriptedLLM({})
    llm.logits_ahead = along
    result = await generate([1], llm, lookahead=3)

    assert result.token_ids == [[2, 0]]


@pytest.mark.parametrize("lookahead", [1, 3])
async def test_a_row_ahead_that_cannot_be_drawn_from_fails_at_its_own_step(lookahead: int) -> None:
    class Spoilt(Proposing):
        async def next_token_logits(self, prev_token_ids):
            (_, rows) = await self.logits_ahead(prev_token_ids, 1)
            return rows[0]

        async def logits_ahead(self, prev_token_ids, count):
            proposed, rows = await super().logits_ahead(prev_token_ids, count)
            return proposed, [row if len(prev_token_ids) + j != 4 else np.full(V, -np.inf) for j, row in enumerate(rows)]

    with pytest.raises(NothingToDraw, match=r"\[prompt 0, sequence 0, step 2\]") as caught:
        await generate([3, 1], Spoilt(), sampler=Sampler(temperature=0), lookahead=lookahead)

    assert len(caught.value.result.sequences[0].token_ids) == 2


async def test_a_model_that_cannot_propose_is_asked_row_by_row() -> None:
    llm = ScriptedLLM({}, default=[0.0, 1.0, 2.0])
    result = await generate([1], llm, seed=7, lookahead=8)

    assert result == await generate([1], llm, seed=7)


class _Shape:
    def get_stop_token_id(self) -> int:
        return 0


class Awaits(_Shape):
    async def next_token_logits(self, prev_token_ids):
        return [0.0, 9.0]

    async def logits_ahead(self, prev_token_ids, count):
        return [1], [[0.0, 9.0], [9.0, 0.0]]


class Blocks(_Shape, BlockingLLM):
    def next_token_logits(self, prev_token_ids):
        return [0.0, 9.0]

    def logits_ahead(self, prev_token_ids, count):
        return [1], [[0.0, 9.0], [9.0, 0.0]]


class BlocksWithout(_Shape, BlockingLLM):
    def next_token_logits(self, prev_token_ids):
        return [0.0, 9.0]


async def test_look_alikes_and_blocking_models_may_look_ahead() -> None:
    for llm in (Awaits(), Blocks()):
        assert await as_llm(llm).logits_ahead([1], 2) == ([1], [[0.0, 9.0], [9.0, 0.0]])
    assert await as_llm(BlocksWithout()).logits_ahead([1], 2) == ((), [[0.0, 9.0]])


class Foresees(HashLM):
    """Told what will be drawn with, it proposes just that; a look-alike or an LLM, behind a cache or not."""

    def __init__(self) -> None:
        super().__init__(V, eos_token_id=V)
        self.asked: list[tuple[int, int]] = []  # (length of the prefix, rows asked for)

    async def logits_along(self, prev_token_ids, count, drawing):
        self.asked.append((len(prev_token_ids), count))
        prefix, rows = list(prev_token_ids), []
        for _ in range(count):
            rows.append(await self.next_token_logits(prefix))
            token_id, drawing = drawing.take(rows[-1], prefix)
            prefix.append(token_id)
        return prefix[len(prev_token_ids) :], rows


class LooksAlike:
    def __init__(self, llm: Foresees) -> None:
        self.next_token_logits, self.logits_along, self.get_stop_token_id = llm.next_token_logits, llm.logits_along, llm.get_stop_token_id


@pytest.mark.parametrize("wrapped", [lambda llm: llm, LooksAlike], ids=["LLM", "look-alike"])
@pytest.mark.parametrize("sampler", [WARM, Sampler(mirostat=2, mirostat_tau=2.0), Sampler(repetition_penalty=1.5, draw="inverse-cdf")])
async def test_a_model_told_what_will_be_drawn_with_is_never_wrong(wrapped, sampler: Sampler) -> None:
    llm = Foresees()
    async with PrefixCache(wrapped(llm)) as cached:
        result = await generate([3, 1], cached, seed=7, max_new_tokens=10, sampler=sampler, lookahead=4)
        again = await generate([9], cached, seed=7, max_new_tokens=3, sampler=sampler, lookahead=4)

    assert llm.asked == [(2, 4), (6, 4), (10, 2), (1, 3)]
    assert result == await generate([3, 1], HashLM(V, eos_token_id=V), seed=7, max_new_tokens=10, sampler=sampler)
    assert again == await generate([9], HashLM(V, eos_token_id=V), seed=7, max_new_tokens=3, sampler=sampler)


async def test_resumed_it_is_told_where_the_sequence_is() -> None:
    llm, arguments = Foresees(), {"seed": 7, "sampler": Sampler(mirostat=2, mirostat_tau=2.0)}
    part = await generate([3, 1], llm, max_new_tokens=3, lookahead=8, **arguments)
    whole = await generate([3, 1], llm, max_new_tokens=9, lookahead=8, resume=part, **arguments)

    assert llm.asked == [(2, 3), (5, 6)]
    assert whole == await generate([3, 1], HashLM(V, eos_token_id=V), max_new_tokens=9, **arguments)


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "all", None])
async def test_lookahead_is_a_number_of_rows_or_auto(wrong: object) -> None:
    with pytest.raises(UsageError, match="lookahead"):
        await generate([1], ScriptedLLM({}), lookahead=wrong)


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20), st.booleans())), st.integers(1, 40))
def test_the_pace_is_a_function_of_what_was_seen_and_never_beyond_the_room(seen: list, room: int) -> None:
    one, other = Reach("auto"), Reach("auto")
    for rows, drawn, is_finished in seen:
        for reach in (one, other):
            reach.learn(rows, min(rows, drawn), is_finished=is_finished)
        assert 1 <= one.count(room) <= min(MOST, room)
        assert one.count(room) == other.count(room)
    assert Reach(64).count(room) == room


def test_the_pace_rises_with_the_rate_of_acceptance() -> None:
    counts = []
    for accepted in range(9):  # of eight
        reach = Reach("auto")
        for _ in range(20):
            for trial in range(8):
                reach.learn(2, 2 if trial < accepted else 1, is_finished=False)
        counts.append(reach.count(99))

    assert all(fewer <= more for fewer, more in pairwise(counts))
    assert (counts[0], counts[-1]) == (1, MOST)
