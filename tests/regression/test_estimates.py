"""Numbers over many prefixes and their errors, against simulation and against values known by other means."""

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from seedbed.regression.estimates import (
    Estimate,
    clustered_mean,
    expected_flips,
    flip_tail,
    is_near_tie,
    perplexity_ratio,
    rms_delta_p,
    rows_needed,
)
from seedbed.regression.quantiles import beta_cdf, clopper_pearson, normal_cdf, t_quantile
from seedbed.regression.verdict import Verdict, judge


class TestQuantiles:
    @pytest.mark.parametrize(
        ("p", "degrees", "value"),
        [(0.975, 1, 12.7062047), (0.95, 2, 2.9199856), (0.975, 5, 2.5705818), (0.995, 30, 2.7499957), (0.9, 120, 1.2886462)],
    )
    def test_students_t_is_the_table_s(self, p, degrees, value):
        """Abramowitz and Stegun, table 26.10."""
        assert t_quantile(p, degrees) == pytest.approx(value, abs=1e-6)
        assert t_quantile(1 - p, degrees) == pytest.approx(-value, abs=1e-6)

    @given(st.integers(1, 30), st.integers(1, 30), st.floats(0.01, 0.99))
    def test_the_incomplete_beta_function_is_a_binomial_tail(self, a, n, x):
        """I_x(a, n - a + 1) = P(Binomial(n, x) >= a)."""
        a = min(a, n)
        tail = sum(math.comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(a, n + 1))

        assert beta_cdf(x, a, n - a + 1) == pytest.approx(tail, abs=1e-11)

    def test_clopper_pearson_is_exact_at_its_bounds(self):
        low, high = clopper_pearson(3, 50)

        assert 1 - sum(math.comb(50, k) * low**k * (1 - low) ** (50 - k) for k in range(3)) == pytest.approx(0.025, abs=1e-9)
        assert sum(math.comb(50, k) * high**k * (1 - high) ** (50 - k) for k in range(4)) == pytest.approx(0.025, abs=1e-9)
        assert clopper_pearson(50, 50)[1] == 1.0


class TestClusteredMean:
    def test_its_interval_covers_the_truth_as_often_as_it_says(self):
        """Values that share a part within their sequence: the error of independent values would cover 60 %."""
        generator = np.random.Generator(np.random.Philox(key=1))
        sequences = np.repeat(np.arange(20), 8)
        covered = 0
        for _ in range(1000):
            values = generator.normal(0, 1, 20)[sequences] + generator.normal(0, 1, 160)
            low, high = clustered_mean(values, sequences).interval()
            covered += low < 0 < high

        assert 930 <= covered <= 970

    def test_one_long_sequence_among_short_ones_is_not_believed_beyond_the_others(self):
        """Nothing but noise, one of five sequences holds most prefixes: above 0 for certain at most as often as promised."""
        generator = np.random.Generator(np.random.Philox(key=3))
        sequences = np.repeat([0, 1, 2, 3, 4], [4, 4, 4, 4, 60])
        above = 0
        for _ in range(2000):
            # One answer before and one after make the signs, and a Gaussian mixture of two others the sizes, as in D.
            values = generator.normal(0, 1, 5)[sequences] * np.abs(generator.normal(0, 1, 76))
            above += clustered_mean(values, sequences).bound(0.99)[0] > 0

        assert above <= 20

    @pytest.mark.parametrize(
        ("lengths", "clusters"),
        [
            ([8, 8, 8], [[0], [1], [2]]),
            ([5, 10, 20, 40], [[0, 1], [2], [3]]),
            ([1, 19, 19, 1], [[0, 1], [2, 3]]),
            ([1, 1, 20], [[0, 1, 2]]),
            ([20, 1, 1], [[0, 1, 2]]),
            ([1, 1, 1, 1, 1, 1, 40], [[0, 1, 2, 3], [4, 5, 6]]),
        ],
    )
    def test_every_sequence_counts_the_same_short_ones_together(self, lengths, clusters):
        values = np.arange(len(lengths)) ** 2.0
        means = [sum(values[i] * lengths[i] for i in members) / sum(lengths[i] for i in members) for members in clusters]

        estimate = clustered_mean(np.repeat(values, lengths), np.repeat(np.arange(len(lengths)), lengths))
        assert (estimate.value, estimate.clusters) == (pytest.approx(np.mean(means)), len(clusters))

    def test_stubs_beside_long_sequences_cost_no_precision(self):
        """Twelve sequences, and one of a single prefix, whose noise by itself would be four times that of the others together."""
        generator = np.random.Generator(np.random.Philox(key=4))
        lengths = [1, *[19] * 12]
        sequences = np.repeat(np.arange(13), lengths)
        errors = [clustered_mean(generator.normal(0, 1, sequences.size), sequences).standard_error for _ in range(200)]

        assert np.mean(errors) == pytest.approx(sequences.size**-0.5, rel=0.05)

    def test_with_one_value_a_sequence_it_is_the_usual_standard_error(self):
        values = np.array([1.0, 2.0, 4.0, 9.0])

        assert clustered_mean(values, range(4)).standard_error == pytest.approx(values.std(ddof=1) / 2)

    def test_one_sequence_says_nothing_of_its_error(self):
        estimate = clustered_mean([1.0, 2.0], [7, 7])

        assert Estimate.from_dict(json.loads(json.dumps(estimate.to_dict()))) == estimate
        assert (estimate.value, estimate.standard_error, estimate.interval()) == (1.5, math.inf, (-math.inf, math.inf))


def test_the_root_and_the_ratio_carry_the_error_that_repetition_shows():
    generator = np.random.Generator(np.random.Philox(key=2))
    roots, ratios = [], []
    for _ in range(400):
        before = generator.uniform(0.2, 0.6, 100)
        after = before * np.exp(generator.normal(0.01, 0.1, 100))
        roots.append(rms_delta_p(before, after, range(100)))
        ratios.append(perplexity_ratio(np.log(before), np.log(after), range(100)))

    for estimates in (roots, ratios):
        spread = np.std([estimate.value for estimate in estimates])
        assert np.mean([estimate.standard_error for estimate in estimates]) == pytest.approx(spread, rel=0.1)
    assert np.mean([estimate.value for estimate in ratios]) == pytest.approx(math.exp(-0.01), abs=0.002)


class TestNearTies:
    def test_a_lead_within_five_standard_deviations_is_one(self):
        assert is_near_tie(np.array([0.0, 0.1, 0.101]), 0.02).tolist() == [True, True, False]
        assert is_near_tie(np.array([0.0, 0.1]), 0.0).tolist() == [True, False]

    def test_flips_are_foretold(self):
        """Gaps spread evenly, noise on both sides: the sum of Phi is what drawing shows."""
        generator = np.random.Generator(np.random.Philox(key=3))
        true_gaps = generator.uniform(-0.5, 0.5, 20_000)
        first, second = (true_gaps + generator.normal(0, 0.02, true_gaps.size) for _ in range(2))
        flips = (np.sign(first) != np.sign(second)).sum()
        foretold = expected_flips(np.abs(first), 0.02 * math.sqrt(2))

        assert abs(flips - foretold.sum()) < 3 * math.sqrt((foretold * (1 - foretold)).sum())
        assert flip_tail(foretold[:500], int((np.sign(first) != np.sign(second))[:500].sum())) > 0.01

    def test_an_exact_tie_is_a_coin(self):
        assert expected_flips(np.array([0.0, 1.0]), 0.0).tolist() == [0.5, 0.0]

    def test_the_tail_of_equal_chances_is_the_binomial_s(self):
        tail = sum(math.comb(30, k) * 0.2**k * 0.8 ** (30 - k) for k in range(9, 31))

        assert flip_tail(np.full(30, 0.2), 9) == pytest.approx(tail)
        assert flip_tail(np.full(30, 0.2), 0) == pytest.approx(1.0)


def test_normal_cdf_is_symmetric():
    assert normal_cdf(-1.3) == pytest.approx(1 - normal_cdf(1.3))


class TestRowsNeeded:
    @settings(max_examples=50)
    @given(
        value=st.floats(-1e-3, 1e-3),
        error=st.floats(1e-9, 1e-2),
        sequences=st.integers(2, 60),
        alpha=st.sampled_from([0.001, 0.01, 0.05]),
    )
    def test_they_settle_what_the_rows_at_hand_do_not(self, value, error, sequences, alpha):
        margin = 1e-4
        estimate = Estimate(value, error, 7 * sequences, sequences)
        needed = rows_needed(estimate, margin, alpha=alpha)
        assume(needed is not None)
        more = Estimate(value, error * math.sqrt(estimate.rows / needed), needed, needed // 7)

        assert needed > estimate.rows
        assert _is_settled(more, margin, alpha)

    def test_they_are_the_tables_of_the_one_sided_test_where_there_are_many(self):
        assert rows_needed(Estimate(0.5, 0.2, 10_000, 2_000), 0.51, alpha=0.05) == pytest.approx(
            10_000 * (2.9264 * 0.2 / 0.01) ** 2, rel=1e-3
        )

    def test_none_where_no_number_would(self):
        assert rows_needed(Estimate(0.5, 0.2, 100, 20), 0.5) is None
        assert rows_needed(Estimate(0.5, math.inf, 5, 1), 1.0) is None


def _is_settled(estimate, margin, alpha):
    return (
        judge(estimate, margin=margin, alpha=alpha, is_identical=False, is_exact=False, is_changed=False, is_corrupt=False)
        is not Verdict.INCONCLUSIVE
    )


def test_an_estimate_is_shown_with_its_error():
    assert str(Estimate(0.5123, 0.2, 100, 20)) == "0.51 ± 0.2"
    assert str(Estimate(3.71e-7, 2.2e-8, 100, 20)) == "3.71e-7 ± 2.2e-8"
    assert str(Estimate(1e-3, math.inf, 100, 1)) == "0.001 ± inf"
