"""The rarer filters, each against its formula written out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.errors import InvalidSampler
from seedbed.sampling import Address, EpsilonCutoff, EtaCutoff, Purpose, Sampler, TopH, TopNSigma, TypicalP, Xtc, softmax

ROWS = st.lists(st.one_of(st.integers(-24, 24).map(lambda n: n / 4), st.just(-math.inf)), min_size=1, max_size=20).filter(
    lambda row: max(row) > -math.inf
)


def kept(processor, row):
    return np.flatnonzero(processor(row) > -math.inf).tolist()


def entropy(p):
    return -(p[p > 0] * np.log(p[p > 0])).sum()


def away_from(numbers, threshold):
    """Whether rounding cannot decide."""
    return all(abs(number - threshold) > 1e-9 for number in numbers)


@given(ROWS, st.floats(0.001, 0.999), st.booleans())
def test_typical_keeps_what_is_nearest_to_the_entropy(row, p, keep_ties):
    probabilities = softmax(row)
    finite = [i for i, logit in enumerate(row) if logit > -math.inf]
    scores = {i: round(abs(-math.log(probabilities[i]) - entropy(probabilities)), 9) for i in finite}
    order = sorted(finite, key=lambda i: (scores[i], i))
    before = np.concatenate(([0.0], probabilities[order].cumsum()))[:-1]
    if not away_from(before, p):
        return
    expected = [i for i, mass in zip(order, before, strict=True) if mass < p or i == order[0]]
    if keep_ties:
        expected = [i for i in finite if scores[i] <= scores[expected[-1]]]
        assert kept(TypicalP(p), row) == sorted(expected)
    else:
        have = kept(TypicalP(p, ties="exact"), row)
        # Scores that are equal in exact arithmetic may differ in the last bit, so which of them stay is not asked.
        assert sorted(scores[i] for i in have) == sorted(scores[i] for i in expected)


def test_typical_s_rules_differ_where_the_mass_before_a_token_is_exactly_p():
    even = np.zeros(4, dtype=np.float32)

    assert np.isfinite(TypicalP(0.5, rule="<", ties="exact")(even)).sum() == 2
    assert np.isfinite(TypicalP(0.5, rule="<=", ties="exact")(even)).sum() == 3


def test_typical_can_drop_the_most_probable_token():
    row = np.log([0.5, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05])

    assert kept(TypicalP(0.2), row) == [0]
    assert kept(TypicalP(0.2), np.log([0.4] + [0.02] * 30)) == list(range(1, 31))


@given(ROWS, st.floats(0.0001, 0.9))
def test_epsilon_keeps_what_is_probable_enough(row, epsilon):
    probabilities = softmax(row)
    if away_from(probabilities, epsilon):
        assert kept(EpsilonCutoff(epsilon), row) == [i for i, p in enumerate(probabilities) if p >= epsilon or row[i] == max(row)]


@given(ROWS, st.floats(0.0001, 0.9))
def test_eta_s_threshold_falls_with_the_entropy(row, epsilon):
    probabilities = softmax(row)
    threshold = min(epsilon, math.sqrt(epsilon) * math.exp(-entropy(probabilities)))
    if away_from(probabilities, threshold):
        assert kept(EtaCutoff(epsilon), row) == [i for i, p in enumerate(probabilities) if p > 0 and (p >= threshold or row[i] == max(row))]


def test_eta_keeps_more_of_a_flat_row_than_epsilon():
    row = np.linspace(0.0, -1.0, 400)

    assert len(kept(EtaCutoff(0.003), row)) > len(kept(EpsilonCutoff(0.003), row))


def test_eta_keeps_the_ties_for_the_best_where_rounding_leaves_the_threshold_above_them():
    """As epsilon nears 1, e**-H of equal tokens is their probability, or the next number above it."""
    nearly_1 = math.nextafter(1.0, 0.0)

    for size in range(1, 100):
        assert kept(EtaCutoff(nearly_1), np.zeros(size)) == list(range(size))


@given(ROWS, st.floats(0.01, 1.0))
def test_top_h_keeps_its_share_of_the_entropy(row, h):
    probabilities = softmax(row)
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    terms = np.array([-p * math.log(p) if p > 0 else 0.0 for p in probabilities[order]]).cumsum()
    if away_from(terms, h * terms[-1]):
        count = max(1, int(np.count_nonzero(terms <= h * terms[-1])))
        assert kept(TopH(h), row) == sorted(i for i in order[:count] if row[i] > -math.inf)


def test_top_h_looks_at_the_hundred_best_alone():
    assert kept(TopH(1.0), [0.0] * 150) == list(range(100))


@given(ROWS, st.floats(0.1, 4.0))
def test_n_sigma_is_measured_over_the_finite_logits(row, n):
    finite = np.array([logit for logit in row if logit > -math.inf])
    least = finite.max() - n * finite.std()
    if away_from(finite, least) or finite.std() == 0:
        assert kept(TopNSigma(n), row) == [i for i, logit in enumerate(row) if logit >= least and logit > -math.inf]


@pytest.mark.parametrize("t", [0.5, 2.0, 16.0])
def test_n_sigma_keeps_the_same_at_every_temperature(t):
    row = np.array([4.0, 3.0, 1.0, 0.0, -2.0])

    assert kept(TopNSigma(1.0), row / t) == kept(TopNSigma(1.0), row)


@given(ROWS, st.floats(0.01, 0.5))
def test_xtc_drops_the_top_choices_but_the_least_probable_of_them(row, threshold):
    probabilities = softmax(row)
    if not away_from(probabilities, threshold):
        return
    above = sorted((i for i, p in enumerate(probabilities) if p >= threshold), key=lambda i: (-row[i], i))

    assert kept(Xtc(1.0, threshold), row) == [i for i, logit in enumerate(row) if i not in above[:-1] and logit > -math.inf]


def test_xtc_at_threshold_0_keeps_the_least_probable_of_those_that_are_possible():
    assert kept(Xtc(1.0, 0.0), [0.0, 1.0, -math.inf]) == [0]


def test_equal_tokens_are_taken_by_id():
    even = np.zeros(50, dtype=np.float32)

    assert np.flatnonzero(np.isfinite(TopH(0.5)(even))).tolist() == list(range(25))
    assert np.flatnonzero(np.isfinite(Xtc(1.0, 0.01)(even))).tolist() == [49]


def test_equal_tokens_among_others_are_taken_by_id():
    """Three kinds of them, mixed: enough for a sort that is not stable to take others."""
    row = np.random.Generator(np.random.PCG64(3)).integers(0, 3, 90).astype(np.float32)
    order = sorted(range(row.size), key=lambda i: (-row[i], i))

    assert kept(TopH(0.1), row) == sorted(order[: len(kept(TopH(0.1), row))])
    assert 0 < len(kept(TopH(0.1), row)) < np.count_nonzero(row == 2.0)
    possible = [i for i, p in enumerate(softmax(row)) if p >= 0.005]
    assert kept(Xtc(1.0, 0.005), row) == sorted({*range(row.size)} - {*sorted(possible, key=lambda i: (-row[i], i))[:-1]})


def test_xtc_fires_also_at_the_very_number_it_draws():
    u = Address(7).uniform(Purpose.XTC)

    assert [np.isneginf(Sampler(xtc_probability=p).process([0.0, 0.0], address=Address(7))).any() for p in (u, np.nextafter(u, 0.0))] == [
        True,
        False,
    ]


def test_xtc_keeps_exactly_min_keep_if_it_must():
    even = np.zeros(4, dtype=np.float32)

    assert np.isfinite(Xtc(1.0, 0.1, min_keep=1)(even)).sum() == 1
    assert np.isfinite(Xtc(1.0, 0.1, min_keep=2)(even)).sum() == 4


def test_xtc_fires_as_often_as_it_is_told_to_by_words_of_its_own():
    sampler = Sampler(xtc_probability=0.25, xtc_threshold=0.1)
    row = np.log([0.5, 0.3, 0.2])

    fired = sum(bool(np.isneginf(sampler.process(row, address=Address(7, step=step))).any()) for step in range(4_000))

    assert abs(fired - 1_000) < 4 * math.sqrt(4_000 * 0.25 * 0.75)


def test_xtc_that_might_fire_needs_to_know_where():
    with pytest.raises(InvalidSampler, match="^whether xtc fires is drawn at each step: draw a token, or process with an address$"):
        Sampler(xtc_probability=0.5).process([0.0, 0.0])


@pytest.mark.parametrize("step", [Xtc(1.0, 0.6), Xtc(0.0, 0.1), Xtc(1.0, 0.1, min_keep=3)])
def test_xtc_that_is_off_or_would_keep_too_few_does_nothing(step):
    assert step([0.0, 0.0, 0.0]).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "construct",
    [
        lambda: TypicalP(0.0),
        lambda: TypicalP(1.1),
        lambda: TypicalP(0.5, ">"),
        lambda: TypicalP(0.5, ties="some"),
        lambda: EpsilonCutoff(1.0),
        lambda: EpsilonCutoff(-0.1),
        lambda: EtaCutoff("0.1"),
        lambda: TopH(0.0),
        lambda: TopH(1.5),
        lambda: TopNSigma(0.0),
        lambda: TopNSigma(math.inf),
        lambda: Xtc(1.5),
        lambda: Xtc(0.5, -0.1),
        lambda: Xtc(0.5, 0.1, -1),
    ],
)
def test_a_parameter_outside_its_range_is_refused_at_construction(construct):
    with pytest.raises(InvalidSampler):
        construct()


@pytest.mark.parametrize("step", [TypicalP(1.0), EpsilonCutoff(0.0), EtaCutoff(0.0)])
def test_off_changes_nothing(step):
    assert step([1.0, 2.0]).tolist() == [1.0, 2.0]


def test_xtc_looks_at_tokens_of_just_one_half_and_of_no_more():
    """Of two equal ones the first goes; above one half there cannot be two."""
    assert kept(Xtc(1.0, 0.5), [0.0, 0.0]) == [1]
    assert kept(Xtc(1.0, 0.6), [0.0, 0.0]) == [0, 1]
