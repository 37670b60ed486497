"""Tests of whether anything changed: their false alarms are counted, and their power."""

import itertools
import math

import numpy as np
import pytest

from seedbed.errors import UsageError
from seedbed.regression.evidence import (
    BETS,
    ONE_AGAINST_TWO,
    TWO_AGAINST_TWO,
    EProcess,
    odd_one_out,
    parting_p_value,
    sequence_scores,
    sparse_corruption,
)


class TestEProcess:
    def test_it_is_the_mean_over_bets_of_the_products(self):
        process, scores = EProcess(), [0.5, -0.25, 1.0, -1.0, 0.75]
        for score in scores:
            process.add(score)

        assert process.e_value == pytest.approx(np.mean([math.prod(1 + bet * w for w in scores) for bet in BETS]))

    def test_its_mean_is_1_when_nothing_changed_exactly(self):
        """Over all signs of any magnitudes: the whole of Ville's condition."""
        magnitudes = [0.3, 1.0, 0.05, 0.7, 0.9]
        values = []
        for signs in itertools.product((-1, 1), repeat=5):
            process = EProcess()
            for sign, magnitude in zip(signs, magnitudes, strict=True):
                process.add(sign * magnitude)
            values.append(process.e_value)

        assert np.mean(values) == pytest.approx(1.0)

    def test_looking_after_every_sequence_gives_no_more_false_alarms(self):
        generator = np.random.Generator(np.random.Philox(key=1))
        scores = np.clip(generator.normal(0, 0.35, (2000, 200)), -1, 1)
        wealth = np.mean([np.cumprod(1 + bet * scores, axis=1) for bet in BETS], axis=0)

        assert (wealth.max(axis=1) >= 20).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
        assert (wealth.max(axis=1) >= 100).mean() <= 0.01

    def test_it_is_what_it_is_now(self):
        """That it was higher before counts for nothing, or evidence of several checks would have to count it too."""
        process = EProcess()
        for _ in range(12):
            process.add(1.0)
        assert process.is_alarm(0.01)
        for _ in range(40):
            process.add(-0.9)

        assert max(process.path) > math.log(100)
        assert not process.is_alarm(0.01)

    def test_wealth_beyond_a_float_is_no_error(self):
        process = EProcess()
        for _ in range(3000):
            process.add(1.0)

        assert (process.e_value, process.log_e_value > 1000) == (math.inf, True)

    def test_a_score_outside_its_range_is_refused(self):
        with pytest.raises(UsageError, match=r"must be in \[-1, 1\]"):
            EProcess().add(1.5)


class TestParting:
    """Answers that are the same on either side, and another on the other: by chance less often than one time in six."""

    @pytest.mark.parametrize("values", [2, 3, 4])
    def test_no_flickering_server_parts_more_often_than_that(self, values):
        generator = np.random.Generator(np.random.Philox(key=values))
        worst = 0.0
        for _ in range(3000):
            one, other = generator.dirichlet([generator.choice([0.2, 0.5, 1.0, 3.0])] * values, size=2)
            both = np.outer(one * other, one * other)
            u, v = 1 - (one**2).sum(), 1 - (other**2).sum()
            worst = max(worst, (both.sum() - np.trace(both)) / (u + v - u * v))

        assert worst <= TWO_AGAINST_TWO
        half = np.full(2, 0.5)
        assert (np.outer(half**2, half**2).sum() - 2 / 16) / 0.75 == pytest.approx(TWO_AGAINST_TWO)  # and it is reached

    def test_it_is_the_binomial_tail(self):
        for parted, differing, chance in ((3, 3, TWO_AGAINST_TWO), (2, 9, TWO_AGAINST_TWO), (5, 7, ONE_AGAINST_TWO)):
            tail = sum(math.comb(differing, k) * chance**k * (1 - chance) ** (differing - k) for k in range(parted, differing + 1))
            assert parting_p_value(parted, differing, chance) == pytest.approx(tail)

    def test_where_nothing_can_be_told_nothing_is(self):
        assert parting_p_value(0, 9, TWO_AGAINST_TWO) == parting_p_value(0, 0, 1.0) == parting_p_value(9, 9, 1.0) == 1.0


def test_the_odd_one_out_has_mean_0_over_the_three_places():
    distances = {(0, 1): 0.4, (0, 2): 0.9, (1, 2): 0.7}

    def between(i, j):
        return distances[min(i, j), max(i, j)]

    scores = [odd_one_out([between(r, l1), between(r, l2)], between(l1, l2)) for r, l1, l2 in ((0, 1, 2), (1, 0, 2), (2, 0, 1))]

    assert sum(scores) == pytest.approx(0.0)
    assert odd_one_out([0.0, 0.0], 0.0) == 0.0


def test_the_scores_of_sequences_are_means_in_the_order_seen():
    assert sequence_scores([0.5, 0.1, 0.7, 0.3], ["b", "a", "b", "a"]) == pytest.approx([0.6, 0.2])


class TestSparseCorruption:
    def test_answers_far_off_in_opposite_directions_are_seen(self):
        """Neither is nearer to what was recorded, and D is below 0."""
        d, kl = np.zeros(40), np.zeros((40, 2))
        d[7], kl[7] = -0.1, (0.2, 0.21)
        found = sparse_corruption(d, kl, np.full(40, 1e-4), margin=1e-4)

        assert (found.persistent, found.transient, found.is_alarm) == ((), (7,), True)

    def test_the_highest_of_n_is_above_the_highest_of_n_half_the_time(self):
        """So a conformal p-value of a maximum is never small, however many prefixes there are."""
        generator = np.random.Generator(np.random.Philox(key=4))
        recorded, live = generator.gamma(1.5, 1.0, (2, 4000, 200)).max(axis=2)

        assert abs((live > recorded).mean() - 0.5) < 3 * 0.5 / math.sqrt(4000)

    def test_noise_with_a_tail_of_power_2_seldom_fires(self):
        """The worst that is allowed for: Pareto noise of tail index 2 in everything."""
        generator = np.random.Generator(np.random.Philox(key=6))
        alarms = 0
        for _ in range(2000):
            d, noise, *kl = 1 + generator.pareto(2.0, (4, 200))
            alarms += sparse_corruption(d, np.transpose(kl), noise, margin=0.0).is_alarm

        assert alarms / 2000 <= 0.01

    def test_one_in_two_hundred_is_found(self):
        generator = np.random.Generator(np.random.Philox(key=7))
        found = 0
        for _ in range(500):
            noise, *kl = generator.gamma(1.5, 1e-4, (3, 200))
            d = generator.normal(0, 1e-4, 200)
            d[17] = kl[0][17] = kl[1][17] = generator.uniform(0.06, 1.0)
            found += sparse_corruption(d, np.transpose(kl), noise, margin=1e-4).persistent == (17,)

        assert found >= 495

    def test_a_change_of_dtype_is_no_corruption(self):
        """Single rows at 488 times the mean, as bf16 against fp16 has them."""
        assert not sparse_corruption([0.0122, 2.5e-5], [[0.0122] * 2, [2.5e-5] * 2], [0.0], margin=1e-4).is_alarm


@pytest.mark.parametrize("noise", [[], [1e-9], [2e-4] * 29], ids=["none", "one", "twenty-nine"])
def test_of_a_noisy_server_with_few_repeats_no_single_row_is_called_wrong(noise):
    sparse = sparse_corruption([0.0, 0.3], [[0.0, 0.0], [0.3, 0.3]], noise, margin=1e-4)

    assert (sparse.is_alarm, sparse.threshold, sparse.rate) == (False, None, (0.0, 1.0))


def test_of_an_exact_server_one_repeat_is_enough():
    assert sparse_corruption([0.0, 0.3], [[0.0, 0.0], [0.3, 0.3]], [0.0], margin=1e-4).persistent == (1,)


def test_the_fewer_noise_values_for_the_rows_the_further_off_a_row_must_be():
    few, many = (sparse_corruption([0.0] * 120, [[0.0, 0.0]] * 120, [0.01] * count, margin=1e-9) for count in (30, 120))

    assert (few.threshold, many.threshold) == (pytest.approx(0.4), pytest.approx(0.2))
