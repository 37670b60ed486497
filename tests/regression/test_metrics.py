"""Distances between two rows: closed forms against what they are said to be, by brute force and by drawing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed import TopLogprobs
from seedbed.errors import MalformedRow, NonFiniteLogits
from seedbed.regression.metrics import common_logprobs, flip_rate, kl_of_logprobs, normalised, total_variation
from seedbed.sampling import Sampler, softmax

LOGIT = st.one_of(st.floats(-8, 8, width=32), st.integers(-3, 3).map(float), st.just(-math.inf))
PAIRS = st.lists(st.tuples(LOGIT, LOGIT), min_size=1, max_size=12).filter(
    lambda pairs: max(p for p, _ in pairs) > -math.inf and max(q for _, q in pairs) > -math.inf
)


def one_by_one(logits_p, logits_q):
    p, q = softmax(logits_p), softmax(logits_q)
    same = 0.0
    for i in range(p.size):
        if p[i] > 0 and q[i] > 0:
            same += 1 / sum(max(p[j] / p[i], q[j] / q[i]) for j in range(p.size))
    return 1 - same


@given(PAIRS)
def test_the_flip_rate_in_closed_form_is_the_double_sum(pairs):
    logits_p, logits_q = zip(*pairs, strict=True)

    assert flip_rate(logits_p, logits_q) == pytest.approx(one_by_one(logits_p, logits_q), abs=1e-9)


@given(PAIRS)
def test_the_flip_rate_lies_between_the_total_variation_and_its_bound(pairs):
    logits_p, logits_q = zip(*pairs, strict=True)
    tv = total_variation(logits_p, logits_q)

    assert tv - 1e-12 <= flip_rate(logits_p, logits_q) <= 2 * tv / (1 + tv) + 1e-12


@given(PAIRS)
def test_both_are_symmetric_and_0_for_equal_rows(pairs):
    logits_p, logits_q = zip(*pairs, strict=True)

    for metric in (flip_rate, total_variation):
        assert metric(logits_p, logits_q) == pytest.approx(metric(logits_q, logits_p), abs=1e-12)
        assert metric(logits_p, logits_p) == pytest.approx(0.0, abs=1e-14)


def test_both_ignore_an_additive_constant():
    p, q = np.array([0.0, 1.0, 2.0]), np.array([0.5, 1.0, 0.0])

    assert flip_rate(p + 4, q - 8) == pytest.approx(flip_rate(p, q), abs=1e-12)
    assert total_variation(p + 4, q - 8) == pytest.approx(total_variation(p, q), abs=1e-12)


def test_rows_with_no_token_in_common_always_differ():
    p, q = [0.0, -math.inf], [-math.inf, 3.0]

    assert (flip_rate(p, q), total_variation(p, q)) == (1.0, 1.0)


def test_leaving_out_the_tail_flips_exactly_as_often_as_the_tail_is_drawn():
    """Why a top-k list lines up with the whole row: the token changes only when it is not listed."""
    row = np.linspace(0, 5, 200)
    listed = np.where(row >= np.sort(row)[-20], row, -np.inf)
    tail = softmax(row)[listed == -np.inf].sum()

    assert flip_rate(row, listed) == pytest.approx(tail, abs=1e-12)


def test_the_predicted_rate_is_the_one_that_draws_show():
    generator = np.random.Generator(np.random.PCG64(8))
    p = generator.normal(0, 1.5, 40)
    q = p + generator.normal(0, 0.3, 40)
    predicted, steps = flip_rate(p, q), 6_000
    sampler = Sampler()

    flips = sum(sampler.draw(p, seed=7, step=step) != sampler.draw(q, seed=7, step=step) for step in range(steps))

    assert abs(flips / steps - predicted) < 4 * math.sqrt(predicted * (1 - predicted) / steps)


def test_rows_that_cannot_be_compared_are_refused():
    with pytest.raises(MalformedRow, match="rows of 2 and of 3 tokens"):
        flip_rate([0.0, 1.0], [0.0, 1.0, 2.0])
    with pytest.raises(NonFiniteLogits):
        total_variation([0.0, math.nan], [0.0, 1.0])


TOPS = st.lists(st.integers(1, 100), min_size=2, max_size=6).flatmap(
    lambda weights: st.permutations(range(12)).map(lambda ids: TopLogprobs(ids[: len(weights)], np.log(np.array(weights) / 700), 12))
)


@given(TOPS, TOPS)
def test_the_union_counts_no_difference_but_what_is_certain(one, other):
    """A token that only one row lists is, in the other, at most as probable as that one's least listed token, and as its tail."""
    ids, (p, q) = common_logprobs([one, other], union=True)
    _, (q_again, p_again) = common_logprobs([other, one], union=True)

    assert set(ids.tolist()) == {*one.token_ids.tolist(), *other.token_ids.tolist()}
    assert (p.tolist(), q.tolist()) == (p_again.tolist(), q_again.tolist())
    for row, values, others in ((one, p, q), (other, q, p)):
        own = dict(zip(row.token_ids.tolist(), row.logprobs.tolist(), strict=True))
        bound = min(row.logprobs.min(), np.log(row.tail_mass)) + 1e-5
        for place, token_id in enumerate(ids.tolist()):
            if token_id in own:
                assert values[place] == pytest.approx(own[token_id], abs=1e-6)
            else:
                assert values[place] <= min(bound, others[place] + 1e-12)


def test_rows_of_other_vocabularies_are_not_compared():
    with pytest.raises(MalformedRow, match="rows of 2 and of 3 tokens"):
        common_logprobs([[0.0, 1.0], [0.0, 1.0, 2.0]])


def test_what_is_not_listed_is_taken_as_probable_as_it_can_be_and_no_more_than_where_it_is():
    """Of three rows; by hand. The second has hardly any tail, so what it does not list is at most that."""
    rows = [
        TopLogprobs([0, 1], np.log([0.5, 0.25]), 9),
        TopLogprobs([0, 2], np.log([0.75, 0.249]), 9),
        TopLogprobs([0, 3], np.log([0.5, 0.001]), 9),
    ]
    ids, values = common_logprobs(rows, union=True)
    listed = np.exp(values[:, :-1])

    assert ids.tolist() == [0, 1, 2, 3]
    assert listed[0] == pytest.approx([0.5, 0.25, 0.249, 0.001], rel=1e-5)  # 0.25 at most, and as where it is listed
    assert listed[1] == pytest.approx([0.75, 0.001, 0.249, 0.001], rel=1e-4)  # its tail is 0.001
    assert listed[2] == pytest.approx([0.5, 0.001, 0.001, 0.001], rel=1e-5)  # its least listed token is


def test_the_lengths_named_are_the_least_and_the_greatest():
    with pytest.raises(MalformedRow, match="rows of 2 and of 4 tokens"):
        common_logprobs([[0.0, 1.0], [0.0, 1.0, 2.0], [0.0] * 4])


def test_a_constant_added_to_a_row_changes_nothing_however_large():
    _, far = common_logprobs([[1000.0, 1001.0], [-1000.0, -1001.0]])
    _, near = common_logprobs([[0.0, 1.0], [0.0, -1.0]])

    assert far == pytest.approx(near, rel=1e-9)


def test_a_row_made_normal_sums_to_1_and_ends_at_the_floor():
    row = normalised(np.array([1.0, 1.0, -math.inf, -1000.0]))

    assert row == pytest.approx([-math.log(2), -math.log(2), -50.0, -50.0])


def test_the_divergence_of_many_rows_is_one_number_a_row():
    rows = np.log([[0.5, 0.5], [0.25, 0.75]])

    assert kl_of_logprobs(rows, rows[::-1]).shape == (2,)
    assert kl_of_logprobs(rows, rows).tolist() == [0.0, 0.0]
