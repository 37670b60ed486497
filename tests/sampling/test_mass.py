"""Adding up mass: which tokens come before a limit, and which have at least a probability."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.errors import TruncatedRow
from seedbed.llm import TopLogprobs
from seedbed.sampling.candidates import Candidates
from seedbed.sampling.mass import FAST_ERROR, Mass, fast_total, kth_largest, lightest_first
from seedbed.sampling.tail import Tail

SIXTEENTHS = st.integers(0, 160).map(lambda n: n / 16)


def one_by_one(keys, weights, limit, inclusive, at_least):
    kept, before = np.zeros(len(keys), dtype=bool), 0.0
    for rank, i in enumerate(sorted(range(len(keys)), key=lambda i: (keys[i], i))):
        kept[i] = before < limit or (inclusive and before <= limit) or rank < at_least
        before += weights[i]
    return kept


@given(
    st.lists(st.tuples(SIXTEENTHS, st.integers(0, 8)), min_size=1, max_size=30),
    st.integers(0, 100),
    st.booleans(),
    st.integers(0, 5),
)
def test_lightest_first_is_the_walk_down_the_sorted_row(tokens, limit, inclusive, at_least):
    keys, weights = (np.array(column, dtype=np.float64) for column in zip(*tokens, strict=True))

    kept, _ = lightest_first(keys, weights.__getitem__, float(limit), inclusive=inclusive, at_least=at_least)

    assert np.array_equal(kept, one_by_one(keys, weights, float(limit), inclusive, at_least))


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.1, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("spread", [0.0, 0.01, 3.0, 300.0])
def test_a_long_row_is_not_sorted_and_gives_the_same_answer(share, spread):
    generator = np.random.Generator(np.random.PCG64(11))
    keys = np.abs(generator.normal(0.0, 1.0, 5_000)) * spread
    keys[::7] = np.inf
    weights = generator.integers(0, 4, 5_000).astype(np.float64)  # whole numbers: every order of addition is exact

    kept, _ = lightest_first(keys, weights.__getitem__, share * weights.sum())

    assert np.array_equal(kept, one_by_one(keys, weights, share * weights.sum(), False, 1))


@pytest.mark.parametrize("inclusive", [False, True])
def test_a_limit_between_two_bins_of_a_long_row_follows_the_rule_too(inclusive):
    keys = np.repeat([1.0, 0.0], 2_000)

    kept, _ = lightest_first(keys, np.ones(4_000).__getitem__, 2_000.0, inclusive=inclusive)

    assert np.array_equal(kept, one_by_one(keys, np.ones(4_000), 2_000.0, inclusive, 1))


def test_the_distance_says_how_near_another_answer_was():
    keys, weights = np.arange(4.0), np.ones(4)

    _, distance = lightest_first(keys, weights.__getitem__, 1.75)

    assert distance == 0.25


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40), st.data())
def test_the_kth_largest_is_that_of_the_sorted_row(values, data):
    k = data.draw(st.integers(1, len(values)))

    assert kth_largest(np.array(values, dtype=np.float32), k) == sorted(values, reverse=True)[k - 1]


@pytest.mark.parametrize("k", [1, 2, 50, 256, 257, 5_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_kth_largest_of_a_long_row_is_found_by_its_column_maxima(k, dtype):
    values = np.random.Generator(np.random.PCG64(3)).integers(-40, 40, 20_001).astype(dtype)
    values[5] = -np.inf

    assert kth_largest(values, k) == np.sort(values)[-k]


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20))
def test_entropy_is_that_of_the_renormalised_row(values):
    row = np.array(values, dtype=np.float32)
    p = np.exp(row.astype(np.float64) - row.max())
    p /= p.sum()

    assert Mass.of(Candidates.of(row)).entropy() == pytest.approx(-(p * np.log(np.maximum(p, 1e-300))).sum(), abs=1e-12)


def test_excluded_tokens_weigh_nothing_and_add_no_entropy():
    mass = Mass.of(Candidates.of(np.array([1.0, -np.inf, 1.0], dtype=np.float32)))

    assert mass.weights.tolist() == [1.0, 0.0, 1.0]
    assert mass.entropy() == pytest.approx(math.log(2), abs=1e-15)


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0, 40.0])
def test_numpy_s_exponentials_stay_within_the_error_said_of_them(spread):
    row = np.random.Generator(np.random.PCG64(5)).normal(0, spread, 152_000).astype(np.float32)

    exact = Mass.of(Candidates.of(row)).listed

    assert abs(fast_total(row, float(row.max())) - exact) < FAST_ERROR * exact / 1000


def test_a_probability_that_the_unseen_tokens_could_reach_is_refused():
    listed = Candidates.of(TopLogprobs([0, 1], np.log([0.5, 0.25]), vocab_size=8))

    assert Mass.of(listed).at_least(listed, 0.4, "the filter").tolist() == [True, False]
    with pytest.raises(TruncatedRow, match="the filter"):
        Mass.of(listed).at_least(listed, 0.1, "the filter")


def test_a_probability_whose_reach_the_unseen_mass_decides_is_refused():
    """Token 1 has 0.25 of the whole if the unseen ones are light, and not if they are heavy."""
    tail = Tail(listed=2, count=100, ceiling=-3.0, reference=0.0, low=0.1, high=2.0)
    candidates = Candidates(np.array([0, 1]), np.array([0.0, -0.5]), 102, tail)

    with pytest.raises(TruncatedRow, match="mass of the tokens that are not listed decides"):
        Mass.of(candidates).at_least(candidates, 0.25, "the filter")
    assert Mass.of(candidates).at_least(candidates, 0.1, "the filter").tolist() == [True, True]


@pytest.mark.parametrize(
    ("ceiling", "high"),
    [(0.0, 2.0), (-1.0, 2.4)],
    ids=["one not listed may have just a quarter", "one listed has just a quarter, or less"],
)
def test_a_probability_that_may_be_just_reached_is_refused(ceiling, high):
    tail = Tail(listed=2, count=90, ceiling=ceiling, reference=0.0, low=2.0, high=high)
    candidates = Candidates(np.array([0, 1]), np.zeros(2), 92, tail)

    with pytest.raises(TruncatedRow):
        Mass.of(candidates).at_least(candidates, 0.25, "the filter")


def test_the_best_is_kept_where_none_is_probable_enough_unless_it_may_be_one_that_is_not_listed():
    even = Candidates(np.array([1, 3]), np.zeros(2), 9, Tail(listed=2, count=3, ceiling=0.0, reference=0.0, low=3.0, high=3.0, after=3))

    assert Mass.of(even).at_least_or_best(even, 0.3, "the filter").tolist() == [True, False]
    with pytest.raises(TruncatedRow, match="the filter may keep the best token alone, which may be one that is not listed"):
        Mass.of(even).at_least_or_best(even, 0.3, "the filter", ties=True)
    whole = Candidates.of(np.zeros(4, dtype=np.float32))
    assert Mass.of(whole).at_least_or_best(whole, 0.3, "the filter", ties=True).tolist() == [True] * 4
    assert Mass.of(whole).at_least_or_best(whole, 0.3, "the filter").tolist() == [True, False, False, False]
