"""Sums over a recorded tree are what sampling would estimate; what is not recorded widens the interval, and the truth lies inside."""

from __future__ import annotations

import math
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seedbed import ModelInfo, RecordingLLM, ReplayLLM, Sampler, TinyLM, generate
from seedbed.errors import RecordingMiss, UsageError
from seedbed.recording.exact import Interval, expectation, expected_length, most_likely, probability
from seedbed.testing import ScriptedLLM

V, LENGTH = 4, 3
PROMPT = (3,)
INFO = ModelInfo(model="m", vocab_size=V, eos_token_ids=(0,))


def row_of(prefix: tuple[int, ...]) -> list[float]:
    """Normalised, since a repetition penalty is another one on logits that differ by a constant."""
    logits = np.random.default_rng([len(prefix), *prefix]).normal(size=V)
    return (logits - np.log(np.exp(logits).sum())).tolist()


def rows_of(prefix: tuple[int, ...]) -> list[float]:
    return [0.0, 1.0, 2.0, 3.0] if prefix == (0,) else row_of(prefix)


def all_sequences(stops: tuple[tuple[int, ...], ...] = ((0,),)) -> list[tuple[int, ...]]:
    """Every finished continuation, by brute force."""

    def is_finished(ids: tuple[int, ...]) -> bool:
        return len(ids) == LENGTH or any(ids[-len(stop) :] == stop for stop in stops)

    found = set()
    for ids in product(range(V), repeat=LENGTH):
        found.add(next(ids[:end] for end in range(1, LENGTH + 1) if is_finished(ids[:end])))
    return sorted(found)


def true_probability(ids: tuple[int, ...], sampler: Sampler) -> float:
    total = 1.0
    for at, token_id in enumerate(ids):
        total *= math.exp(sampler.process(np.float32(row_of((*PROMPT, *ids[:at]))), PROMPT, ids[:at])[token_id])
    return total


def recorded(path: Path, prefixes: list[tuple[int, ...]], tier: str = "full", top_k: int = 2) -> Path:
    async def main() -> None:
        async with RecordingLLM(ScriptedLLM(rows_of, info=INFO), path, tier, top_k) as llm:
            for prefix in prefixes:
                await llm.next_token_logits((*PROMPT, *prefix))

    trio.run(main)
    return path


UNFINISHED = [(), *product((1, 2, 3), repeat=1), *product((1, 2, 3), repeat=2)]
SAMPLERS = [
    Sampler(),
    Sampler(temperature=0.5),
    Sampler(top_k=2),
    Sampler(top_p=0.7),
    Sampler(repetition_penalty=1.5),
    Sampler(temperature=0),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("exact") / "whole", UNFINISHED)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_over_a_whole_tree_everything_is_exact(whole: Path, sampler: Sampler) -> None:
    truth = {ids: true_probability(ids, sampler) for ids in all_sequences()}
    rules = {"sampler": sampler, "max_new_tokens": LENGTH}
    ends = probability(whole, PROMPT, lambda ids: ids[-1] == 0, **rules)
    length = expected_length(whole, PROMPT, **rules)
    mean = expectation(whole, PROMPT, sum, bounds=(0, 9), **rules)
    likely = most_likely(whole, PROMPT, 5, **rules)
    best = sorted(truth.values(), reverse=True)[:5]

    assert ends == pytest.approx([sum(p for ids, p in truth.items() if ids[-1] == 0)] * 2, abs=1e-12)
    assert length == pytest.approx([sum(p * len(ids) for ids, p in truth.items())] * 2, abs=1e-12)
    assert mean == pytest.approx([sum(p * sum(ids) for ids, p in truth.items())] * 2, abs=1e-12)
    assert [s.probability.low for s in likely.sequences] == pytest.approx([p for p in best if p], abs=1e-12)
    assert all(s.probability == pytest.approx([truth[s.token_ids]] * 2, abs=1e-12) for s in likely.sequences)
    following = sorted(truth.values(), reverse=True)[len(likely.sequences)]
    assert following - 1e-12 <= likely.unlisted <= likely.sequences[-1].probability.high + 1e-12


def test_stop_rules_are_those_of_generate(whole: Path) -> None:
    stops = ((0,), (2,), (1, 3))
    truth = {ids: true_probability(ids, Sampler()) for ids in all_sequences(stops)}
    length = expected_length(whole, PROMPT, max_new_tokens=LENGTH, stop_token_ids=[2], stop_sequences=[[1, 3]])

    assert length == pytest.approx([sum(p * len(ids) for ids, p in truth.items())] * 2, abs=1e-12)


@pytest.mark.parametrize("tier", ["full", "top_k"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    kept=st.lists(st.sampled_from(UNFINISHED[1:]), unique=True),
    top_k=st.integers(1, V),
    which=st.sampled_from(SAMPLERS),
    wanted=st.sets(st.integers(0, V - 1)),
    is_early=st.booleans(),
)
def test_with_any_part_of_the_tree_and_of_the_rows_the_truth_lies_inside(
    tmp_path_factory: pytest.TempPathFactory,
    tier: str,
    kept: list[tuple[int, ...]],
    top_k: int,
    which: Sampler,
    wanted: set[int],
    is_early: bool,
) -> None:
    path = recorded(tmp_path_factory.mktemp("part") / "recording", [(), *kept], tier, top_k)
    truth = {ids: true_probability(ids, which) for ids in all_sequences()}
    rules = {"sampler": which, "max_new_tokens": LENGTH}
    early = (lambda ids: True if wanted.intersection(ids) else None) if is_early else None
    have = probability(path, PROMPT, lambda ids: bool(wanted.intersection(ids)), early=early, **rules)
    length = expected_length(path, PROMPT, **rules)
    likely = most_likely(path, PROMPT, 4, **rules)
    listed = {s.token_ids for s in likely.sequences}

    def contains(interval: Interval, value: float) -> bool:
        return interval.low - 1e-6 <= value <= interval.high + 1e-6

    assert contains(have, sum(p for ids, p in truth.items() if wanted.intersection(ids)))
    assert contains(length, sum(p * len(ids) for ids, p in truth.items()))
    assert all(contains(s.probability, truth[s.token_ids]) for s in likely.sequences)
    assert all(p <= likely.unlisted + 1e-6 for ids, p in truth.items() if ids not in listed)
    assert 0 <= have.low <= have.high <= 1 + 1e-12
    assert 1 - 1e-12 <= length.low <= length.high <= LENGTH + 1e-12


def test_more_of_the_tree_never_makes_it_wider(tmp_path: Path) -> None:
    widths = []
    for count in range(1, len(UNFINISHED) + 1):
        path = recorded(tmp_path / str(count), UNFINISHED[:count])
        widths.append(expected_length(path, PROMPT, max_new_tokens=LENGTH).width)

    assert all(one >= other - 1e-12 for one, other in pairwise(widths))
    assert widths[0] > 0.5
    assert widths[-1] < 1e-12


def test_what_decides_early_is_decided_without_the_rest_of_the_tree(tmp_path: Path) -> None:
    path = recorded(tmp_path / "root", [()])
    first_is = {t: true_probability((t,), Sampler()) for t in range(V)}
    late = probability(path, PROMPT, lambda ids: ids[0] == 2, max_new_tokens=LENGTH)
    early = probability(path, PROMPT, lambda ids: ids[0] == 2, max_new_tokens=LENGTH, early=lambda ids: ids[0] == 2)

    assert late == pytest.approx([0, 1 - first_is[0]])
    assert early == pytest.approx([first_is[2]] * 2)


async def test_sampling_agrees_with_the_sum(tmp_path: Path) -> None:
    """What a recording of 200 sequences says, and what 600 others do."""
    prompt, rules = list(b"The seed"), {"sampler": Sampler(top_k=3, temperature=1.2), "max_new_tokens": 6}
    async with RecordingLLM(TinyLM(), tmp_path / "recording", "full") as llm:
        await generate(prompt, llm, 200, seed=1, **rules)
    result = await generate(prompt, TinyLM(), 600, seed=2, **rules)
    share = sum(ord(",") in s.token_ids for s in result.sequences) / 600
    have = probability(tmp_path / "recording", prompt, lambda ids: ord(",") in ids, **rules)

    assert have.width < 0.05
    assert have.low - 0.04 < share < have.high + 0.04


def test_the_shipped_recording_tells_how_likely_its_own_sequences_are() -> None:
    path = Path(__file__).parents[2] / "fixtures" / "recordings" / "tiny-lm"
    prompt = list(b"The seed")
    likely = most_likely(path, prompt, 3, sampler=Sampler(0.9, 10), max_new_tokens=40)

    assert likely.sequences[0].probability.low > 0.001
    assert bytes(likely.sequences[0].token_ids[:-1]).isascii()
    assert ReplayLLM(path).recording.get(prompt) is not None


def test_nothing_to_generate_is_certain(whole: Path) -> None:
    assert probability(whole, PROMPT, lambda ids: ids == (), max_new_tokens=0) == (1, 1)
    assert most_likely(whole, PROMPT, max_new_tokens=0) == ((((), (1, 1)),), 0)


def test_mistakes_are_said(whole: Path) -> None:
    with pytest.raises(RecordingMiss):
        expected_length(whole, [1], max_new_tokens=3)
    with pytest.raises(UsageError, match="mirostat"):
        expected_length(whole, PROMPT, sampler=Sampler(mirostat=2), max_new_tokens=3)
    with pytest.raises(UsageError, match="xtc|address"):
        expected_length(whole, PROMPT, sampler=Sampler(xtc_probability=0.5), max_new_tokens=3)
    with pytest.raises(UsageError, match="max_new_tokens"):
        expected_length(whole, PROMPT, max_new_tokens=-1)
    with pytest.raises(UsageError, match="a stop sequence is empty"):
        expected_length(whole, PROMPT, max_new_tokens=1, stop_sequences=[[]])
    with pytest.raises(UsageError, match="'a' at place 0, which is no token id"):
        expected_length(whole, PROMPT, max_new_tokens=1, stop_token_ids=["a"])
    with pytest.raises(UsageError, match="n must be an int of 0 or more, not -1"):
        most_likely(whole, PROMPT, -1, max_new_tokens=1)
    for bounds in ((3, 1), (0, math.inf), (math.nan, 1)):
        with pytest.raises(UsageError, match="bounds must be two finite numbers, the least first"):
            expectation(whole, PROMPT, len, bounds=bounds, max_new_tokens=1)
    for value in (100.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="outside its bounds 0 to 1"):
            expectation(whole, PROMPT, lambda _, value=value: value, bounds=(0, 1), max_new_tokens=1)
