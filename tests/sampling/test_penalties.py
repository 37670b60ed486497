"""What was seen, or said by hand, makes a token more or less likely: formula, scope and edge of each."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.errors import InvalidSampler
from seedbed.llm import TopLogprobs
from seedbed.sampling import Dry, FrequencyPenalty, History, LogitBias, PresencePenalty, RepetitionPenalty
from seedbed.sampling.candidates import Candidates

ROW = np.array([2.0, -1.0, 0.0, 4.0, -0.0, -np.inf], dtype=np.float32)


def test_a_bias_is_added_and_minus_infinity_excludes():
    assert LogitBias({0: 1.5, 3: -math.inf})(ROW).tolist() == [3.5, -1.0, 0.0, -math.inf, 0.0, -math.inf]


def test_a_bias_of_minus_100_is_not_a_ban():
    biased = LogitBias({3: -100.0})(ROW)

    assert biased[3] == -96.0


def test_an_empty_bias_changes_nothing():
    assert LogitBias({})(ROW).tolist() == ROW.tolist()


def test_no_bias_revives_what_the_model_excludes():
    assert LogitBias({5: 1e6})(ROW)[5] == -math.inf


def test_a_bias_outside_the_vocabulary_is_an_error_naming_both():
    with pytest.raises(InvalidSampler, match="token 6, outside the vocabulary of 6"):
        LogitBias({6: 1.0})(ROW)


@pytest.mark.parametrize("bias", [{-1: 1.0}, {0: math.nan}, {0: math.inf}, {0: "1"}, {True: 1.0}, {1.5: 1.0}, 7, [(0, 1.0), (0, 2.0)]])
def test_a_bias_that_is_none_is_refused(bias):
    with pytest.raises(InvalidSampler):
        LogitBias(bias)


def test_a_bias_is_the_same_in_whatever_order_it_was_given():
    assert LogitBias({3: 1.0, 0: 2.0}) == LogitBias([(0, 2.0), (3, 1.0)])
    assert hash(LogitBias({3: 1.0, 0: 2.0})) == hash(LogitBias({0: 2.0, 3: 1.0}))


def test_repetition_divides_above_zero_and_multiplies_below_once_per_token():
    history = History([0, 1, 0, 0], [1, 2, 4])

    assert RepetitionPenalty(2.0)(ROW, history).tolist() == [1.0, -2.0, 0.0, 4.0, 0.0, -math.inf]


def test_repetition_below_1_encourages():
    assert RepetitionPenalty(0.5)(ROW, History([0, 1])).tolist()[:2] == [4.0, -0.5]


def test_frequency_counts_and_presence_does_not():
    history = History([], [0, 0, 0, 3])

    assert FrequencyPenalty(0.5)(ROW, history).tolist()[:4] == [0.5, -1.0, 0.0, 3.5]
    assert PresencePenalty(0.5)(ROW, history).tolist()[:4] == [1.5, -1.0, 0.0, 3.5]


@pytest.mark.parametrize(("scope", "counted"), [("all", 5), ("output", 2), (4, 4), (1, 1), (0, 0), (99, 5)])
@pytest.mark.parametrize("penalty", [FrequencyPenalty, PresencePenalty, RepetitionPenalty])
def test_a_scope_says_whose_tokens_count(penalty, scope, counted):
    row, history = np.full(5, 8.0, dtype=np.float32), History([0, 1, 2], [3, 4])

    changed = np.flatnonzero(penalty(2.0, scope)(row, history) != 8.0)

    assert changed.tolist() == list(range(5 - counted, 5))


def test_tokens_of_the_history_outside_the_vocabulary_are_ignored():
    """Prompts hold ids of added tokens that a model's rows may not reach."""
    for penalty in (RepetitionPenalty(2.0), FrequencyPenalty(1.0, "all"), PresencePenalty(1.0, "all"), Dry(1.0, allowed_length=0)):
        assert np.isfinite(penalty(ROW[:3], History([100_000, 2], [100_000]))).all()


def longest_repeats(window, allowed, breakers):
    """{token: length of the repeat it would extend}, by comparing every two places: what the rule says, slowly."""
    limit = len(window)
    for start in range(len(window)):
        lengths = []
        for breaker in breakers:
            begin = len(window) - 1 - start
            if window[begin : begin + len(breaker)] == list(breaker):
                lengths.append(len(breaker))
        if lengths:
            limit = start + 1 - max(lengths)
            break
    longest = {}
    for end in range(1, len(window)):
        length = 0
        while length < end and window[end - 1 - length] == window[len(window) - 1 - length]:
            length += 1
        length = min(length, limit)
        if length >= allowed and [window[end]] not in [list(breaker) for breaker in breakers]:
            longest[window[end]] = max(longest.get(window[end], 0), length)
    return longest if limit >= allowed and len(window) > allowed else {}


@given(
    st.lists(st.integers(0, 3), max_size=24),
    st.integers(0, 4),
    st.one_of(st.none(), st.integers(0, 12)),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), max_size=2),
)
def test_dry_subtracts_by_the_longest_repeat_a_token_would_extend(seen, allowed, last_n, breakers):
    window = seen if last_n is None else seen[max(0, len(seen) - last_n) :]
    expected = np.zeros(4)
    for token, length in longest_repeats(window, allowed, breakers).items():
        expected[token] = -(2.0 ** (length - allowed))

    assert Dry(1.0, 2.0, allowed, last_n, breakers)(np.zeros(4), History(seen)).tolist() == expected.tolist()


def test_dry_never_overflows_and_takes_linear_time():
    penalised = Dry(1.0, 4.0)(np.zeros(2), History([1] * 20_000))

    assert -1e39 < penalised[1] < -1e37


@pytest.mark.parametrize(
    "construct",
    [
        lambda: RepetitionPenalty(0.0),
        lambda: RepetitionPenalty(-1.0),
        lambda: RepetitionPenalty(math.nan),
        lambda: RepetitionPenalty("1.2"),
        lambda: RepetitionPenalty(1.2, "prompt"),
        lambda: RepetitionPenalty(1.2, -1),
        lambda: FrequencyPenalty(math.inf),
        lambda: FrequencyPenalty(0.5, 1.5),
        lambda: PresencePenalty(None),
        lambda: Dry(-1.0),
        lambda: Dry(1.0, base=0.0),
        lambda: Dry(1.0, allowed_length=-1),
        lambda: Dry(1.0, last_n=-1),
        lambda: Dry(1.0, breakers=[[]]),
        lambda: Dry(1.0, breakers=["\n"]),
        lambda: Dry(1.0, breakers=5),
    ],
)
def test_a_parameter_outside_its_range_is_refused_at_construction(construct):
    with pytest.raises(InvalidSampler):
        construct()


def dry(seen, **more):
    """What is subtracted from each of ten tokens, base 2 and from one token on."""
    return (-Dry(1.0, **({"base": 2.0, "allowed_length": 1} | more))(np.zeros(10), History(seen))).tolist()


def only(token, penalty):
    return [penalty if i == token else 0.0 for i in range(10)]


def test_a_breaker_of_dry_is_all_of_its_tokens_in_order():
    again = [5, 1, 2, 5, 1, 2]

    assert dry(again) == only(5, 2.0**2)
    assert dry(again, breakers=[[1, 2]]) == only(5, 0.0)  # just now
    assert dry(again, breakers=[[5, 1]]) == only(5, 2.0**0)  # one token ago
    assert dry(again, breakers=[[1, 3]]) == only(5, 2.0**2)  # another
    assert dry(again, breakers=[[1, 2, 6]]) == only(5, 2.0**2)  # one that may still come


def test_a_breaker_that_has_only_begun_is_not_completed_by_the_oldest_token():
    assert dry([2, 9, 1, 9, 1], breakers=[[1, 2]]) == dry([2, 9, 1, 9, 1]) == only(9, 2.0**1)


def test_a_repeat_of_no_token_counts_where_none_is_free():
    assert dry([0, 1], allowed_length=0) == only(1, 2.0**0)


def test_repeats_that_overlap_themselves_count_in_full():
    assert dry([3, 3, 3]) == only(3, 2.0**1)
    assert dry([1, 2, 1, 1, 1]) == [0.0, 2.0**1, 2.0**0, *[0.0] * 7]


def test_powers_of_dry_stop_below_what_float32_can_hold():
    assert dry([3] * 300) == only(3, 2.0**127)


@pytest.mark.parametrize("bias", [-math.inf, -5.0])
def test_a_bias_of_minus_infinity_takes_a_token_out_of_those_not_listed_and_another_does_not(bias):
    row = Candidates.of(TopLogprobs([0, 1], np.log([0.5, 0.3]), 4))

    left = LogitBias({2: bias}).apply(row, History()).tail.count

    assert (row.tail.count, left) == (2, 1 if bias == -math.inf else 2)
