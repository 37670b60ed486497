"""The filters every engine has: what stays, at every boundary."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.errors import InvalidSampler, TruncatedRow
from seedbed.llm import TopLogprobs
from seedbed.sampling import History, MinP, Sampler, TopK, TopP, portable, softmax
from seedbed.sampling.candidates import Candidates
from seedbed.sampling.tail import Tail

ROWS = st.lists(st.one_of(st.integers(-12, 12).map(float), st.just(-math.inf)), min_size=1, max_size=20).filter(
    lambda r: max(r) > -math.inf
)


def kept(processor, row):
    return np.flatnonzero(processor(row) > -math.inf).tolist()


def ranked(row):
    return sorted(range(len(row)), key=lambda i: (-row[i], i))


@given(ROWS, st.integers(1, 25))
def test_top_k_keeps_exactly_k_the_lowest_ids_among_ties(row, k):
    finite = [i for i in ranked(row)[:k] if row[i] > -math.inf]

    assert kept(TopK(k), row) == sorted(finite)


@given(ROWS, st.integers(1, 25))
def test_top_k_keeping_ties_keeps_all_that_equal_the_kth(row, k):
    kth = row[ranked(row)[min(k, len(row)) - 1]]

    assert kept(TopK(k, ties="keep"), row) == [i for i, logit in enumerate(row) if logit >= kth and logit > -math.inf]


@given(ROWS, st.floats(0.0, 1.0), st.integers(0, 4))
def test_top_p_keeps_the_smallest_set_that_reaches_p(row, p, min_keep):
    probabilities, before, expected = softmax(row), 0.0, []
    for rank, i in enumerate(ranked(row)):
        if abs(before - p) < 1e-9:
            return  # at equality, see below
        if before < p or rank < max(1, min_keep):
            expected.append(i)
        before += probabilities[i]

    assert kept(TopP(p, min_keep=min_keep), row) == sorted(i for i in expected if row[i] > -math.inf)


@pytest.mark.parametrize(("rule", "count"), [("<", 8), ("<=", 9)])
def test_top_p_at_equality_follows_its_rule(rule, count):
    """16 equal tokens and p = 1/2: the eighth reaches p exactly; SGLang keeps one more."""
    assert kept(TopP(0.5, rule=rule), [0.0] * 16) == list(range(count))


@pytest.mark.parametrize("size", [1_500, 3_000, 20_000])
@pytest.mark.parametrize("spread", [0.2, 2.0, 8.0])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_of_a_long_row_is_the_one_of_the_portable_sums(size, spread, p):
    """Few best or binned, numpy's exponentials or portable ones: the same set."""
    row = np.random.Generator(np.random.PCG64(size)).normal(0, spread, size).astype(np.float32)
    order = np.argsort(-row, kind="stable")
    weights = portable.exp((row.astype(np.float64) - row.max())[order])
    count = int(np.searchsorted(np.concatenate(([0.0], weights.cumsum()))[:-1], p * weights.sum()))

    assert kept(TopP(p), row) == sorted(order[:count].tolist())
    assert kept(TopP(p, min_keep=count + 300), row) == sorted(order[: count + 300].tolist())


@pytest.mark.parametrize("rule", ["<", "<="])
@pytest.mark.parametrize("p", [1e-6, 0.25, 0.5, 0.75, 1 - 1e-6])
def test_top_p_of_a_vocabulary_is_the_one_of_the_sorted_row(p, rule):
    """Long rows take another way (numpy's exponentials, binned); equal logits make the boundary as sharp as it gets."""
    row = np.repeat(np.float32([0.0, -0.0, 0.0]), 2_000)
    whole = row.size * p
    count = math.floor(whole) + 1 if rule == "<=" else math.ceil(whole)

    assert kept(TopP(p, rule=rule), row) == list(range(count))


def test_top_p_0_keeps_the_best_alone():
    assert kept(TopP(0.0), [1.0, 2.0, 2.0]) == [1]


@given(ROWS, st.sampled_from([0.0, 2.0**-20, 0.1, 0.5, 1.0]), st.integers(0, 4))
def test_min_p_keeps_what_is_near_enough_to_the_best(row, p, min_keep):
    least = max(row) + (math.log(p) if p else -math.inf)
    expected = [i for i, logit in enumerate(row) if logit >= least and logit > -math.inf]
    if len(expected) < min_keep:
        expected = sorted(i for i in ranked(row)[:min_keep] if row[i] > -math.inf)

    assert kept(MinP(p, min_keep), row) == expected


def test_min_p_1_keeps_the_ties_for_the_top():
    assert kept(MinP(1.0), [2.0, 1.0, 2.0]) == [0, 2]


@given(ROWS, st.sampled_from([TopK(2), TopP(0.4), MinP(0.3), TopK(1, "keep")]))
def test_filters_keep_the_best_and_leave_what_they_keep_bit_identical(row, processor):
    values = np.array(row, dtype=np.float32)

    filtered = processor(values)

    assert ranked(row)[0] in kept(processor, row)
    assert filtered[filtered > -math.inf].tolist() == values[filtered > -math.inf].tolist()


@given(ROWS, st.floats(-100, 100, width=16))
def test_filters_do_not_care_about_an_additive_constant(row, constant):
    """Rows come as logits or as logprobs; quarter steps and whole shifts are exact in float32."""
    shifted = [logit + round(constant) for logit in row]

    for sampler in (Sampler(top_k=3), Sampler(top_p=0.7), Sampler(min_p=0.1)):
        assert np.array_equal(sampler.process(row) > -math.inf, sampler.process(shifted) > -math.inf)


@pytest.mark.parametrize(
    "construct",
    [
        lambda: TopK(0),
        lambda: TopK(-1),
        lambda: TopK(2.0),
        lambda: TopK(True),
        lambda: TopK(2, "some"),
        lambda: TopP(-0.1),
        lambda: TopP(1.1),
        lambda: TopP(math.nan),
        lambda: TopP("0.9"),
        lambda: TopP(0.9, "=="),
        lambda: TopP(0.9, min_keep=-1),
        lambda: MinP(-0.1),
        lambda: MinP(1.1),
        lambda: MinP(None),
        lambda: MinP(0.1, min_keep=1.5),
    ],
)
def test_a_parameter_outside_its_range_is_refused_at_construction(construct):
    with pytest.raises(InvalidSampler):
        construct()


def test_min_keep_adds_to_what_is_kept_and_takes_nothing():
    row = [5.0, 4.9, 4.8, 0.0, -1.0]

    assert [kept(MinP(0.5, min_keep), row) for min_keep in (1, 2, 3, 4)] == [[0, 1, 2]] * 3 + [[0, 1, 2, 3]]
    assert [kept(TopP(0.9, min_keep=min_keep), row) for min_keep in (1, 2, 3, 4)] == [[0, 1, 2]] * 3 + [[0, 1, 2, 3]]


def test_min_p_measures_in_float64_what_is_float32():
    """The depth 1 + 2**-26 is 1 in float32, and would pass."""
    assert kept(MinP(math.exp(-1 - 2.0**-27)), np.float32([1.0, -(2.0**-26), 0.5])) == [0, 2]


def test_min_p_refuses_where_a_token_that_is_not_listed_may_stand_just_at_the_limit():
    row = Candidates.of(TopLogprobs([0, 1], np.log([0.4, 0.4]), vocab_size=5))

    with pytest.raises(TruncatedRow, match="min_p=1.0 may keep a token that is not listed"):
        MinP(1.0).apply(row, History())


@pytest.mark.parametrize("before", [0, 300])
@pytest.mark.parametrize("size", [2_000, 6_000])
def test_top_p_orders_in_float64_what_is_float32(size, before):
    """Of two tokens 2**-27 apart, at a depth where float32 cannot tell them, the nearer one stays; both of a long row's ways."""
    row = np.full(size, -50.0, dtype=np.float32)
    row[-before - 1 :] = 1.0
    row[3], row[7] = -(2.0**-26), -(2.0**-27)
    ahead = before + 1
    p = (ahead + 0.2) / (ahead + 2 * math.exp(-1))

    assert kept(TopP(p), row) == [7, *range(size - ahead, size)]


def unseen(low, high, ceiling=0.0, after=5):
    """Two listed tokens of weight 1, and two that are not, of which the heavier weighs at most e**ceiling."""
    tail = Tail(listed=2, count=2, ceiling=ceiling, reference=0.0, low=low, high=high, after=after)
    return Candidates(np.array([0, 1]), np.zeros(2), 8, tail, 2)


def test_top_p_that_the_listed_tokens_just_reach_follows_its_rule():
    """Half of the mass: by "<=" the next one stays too, and it is not listed."""
    assert TopP(0.5).apply(unseen(2.0, 2.0), History()).values.size == 2
    with pytest.raises(TruncatedRow, match=r"top_p=0.5 reaches beyond .* at least 0.5000 of the mass\); .* ask it for top_k=3 or more"):
        TopP(0.5, rule="<=").apply(unseen(2.0, 2.0), History())


@pytest.mark.parametrize(
    ("row", "p", "says", "needed"),
    [
        (unseen(0.5, 0.5, after=-1), 0.5, "reaches beyond", 3),
        (unseen(0.1, 1.5), 0.4, "reaches beyond", 3),
        (unseen(0.5, 0.5 + 1e-5), 0.4, "the rounding of the listed logprobs decides", 8),
        (unseen(0.7, 0.7, -1.0), 0.9, "reaches beyond", 4),
    ],
    ids=["one may come before", "bounds far apart", "bounds near", "several more"],
)
def test_top_p_says_why_it_cannot_decide_and_how_many_tokens_it_takes(row, p, says, needed):
    with pytest.raises(TruncatedRow, match=says) as raised:
        TopP(p).apply(row, History())

    assert raised.value.needed == needed


def test_top_k_keeping_ties_for_the_impossible_keeps_what_is_not_listed_too():
    row = Candidates(np.array([0, 1]), np.array([0.0, -np.inf]), 8, None, 6)

    assert TopK(2, ties="keep").apply(row, History()) is TopK(5, ties="keep").apply(row, History()) is row
    assert TopK(2).apply(row, History()).count == 2


def test_top_k_refuses_where_one_that_is_not_listed_may_have_come_up():
    with pytest.raises(TruncatedRow, match="^after the biases and penalties, a token that is not listed may be among the top_k=2;"):
        TopK(2).apply(unseen(1.0, 1.0, after=0), History())
