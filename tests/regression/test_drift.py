"""Drift free of noise: what is planted comes out, noise does not, and leaving out the tail only makes it smaller."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed import TopLogprobs
from seedbed.errors import MalformedRow
from seedbed.regression.metrics import common_logprobs, kl_of_logprobs, noise_free_drift
from seedbed.sampling import softmax

ROWS = st.lists(st.tuples(st.floats(-8, 8, width=32), st.floats(-8, 8, width=32)), min_size=2, max_size=12)


def simulated(seed, prefixes, *, noise, shift, vocab_size=256):
    """Log-probabilities of two answers before and two after, shape (prefixes, vocab_size) each."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    logits = generator.normal(0, 3, (prefixes, vocab_size))
    change = generator.normal(0, shift, logits.shape) if shift else 0.0
    rows = [logits + generator.normal(0, noise, logits.shape) + moved for moved in (0.0, 0.0, change, change)]
    return [row - np.log(np.exp(row).sum(axis=-1, keepdims=True)) for row in rows], logits, change


def kl_divergence(row_p, row_q):
    _, (p, q) = common_logprobs([row_p, row_q])
    return float(kl_of_logprobs(p, q))


def kl_rows(p, q):
    return (np.exp(p) * (p - q)).sum(axis=-1)


class TestKL:
    @given(ROWS)
    def test_it_is_the_sum_it_is_said_to_be(self, pairs):
        p, q = zip(*pairs, strict=True)
        P, Q = softmax(p), softmax(q)  # noqa: N806 - as in the formula

        assert kl_divergence(p, q) == pytest.approx(float((P * np.log(P / Q)).sum()), abs=1e-12)

    @given(st.lists(st.tuples(st.floats(-2, 2, width=32), st.floats(-2, 2, width=32)), min_size=2, max_size=12), st.integers(1, 12))
    def test_a_list_of_the_best_gives_a_lower_bound(self, pairs, k):
        p, q = (np.float32(row) for row in zip(*pairs, strict=True))
        k = min(k, len(p))

        def best(row):
            logprobs = np.log(softmax(row))
            ids = np.argsort(-logprobs, kind="stable")[:k]
            return TopLogprobs(ids, np.minimum(logprobs[ids], 0), len(row))

        for one, other in ((best(p), best(q)), (p, best(q)), (best(p), q)):
            assert kl_divergence(one, other) <= kl_divergence(p, q) + 1e-3  # float32 lists leave a tail that far off

    def test_an_excluded_token_is_infinitely_far_and_between_rows_made_comparable_finitely(self):
        both, one = np.log([0.5, 0.5]), np.array([0.0, -math.inf])

        assert (kl_of_logprobs(both, one), kl_of_logprobs(one, both)) == (math.inf, pytest.approx(math.log(2)))
        assert kl_divergence(both, one) == pytest.approx(25 - math.log(2))
        assert kl_divergence(one, both) == pytest.approx(math.log(2))

    def test_vocabularies_that_differ_are_refused(self):
        with pytest.raises(MalformedRow, match="rows of 2 and of 3 tokens"):
            kl_divergence([0.0, 1.0], [0.0, 1.0, 2.0])

    def test_the_tail_is_one_bucket(self):
        one, other = TopLogprobs([0, 1], np.log([0.5, 0.2]), 100), TopLogprobs([0, 2], np.log([0.5, 0.3]), 100)
        ids, values = common_logprobs([one, other])

        assert ids.tolist() == [0]
        assert np.exp(values) == pytest.approx(np.full((2, 2), 0.5), abs=1e-6)


class TestNoiseFreeDrift:
    def test_without_noise_it_is_the_kl(self):
        for shift in (0.003, 0.03):
            (a1, a2, b1, b2), *_ = simulated(1, 50, noise=0.0, shift=shift)
            drift = noise_free_drift(a1, a2, b1, b2)

            assert drift.d.mean() == pytest.approx(kl_rows(a1, b1).mean(), rel=0.02)
            assert drift.rho == pytest.approx(np.ones(50))

    def test_noise_has_no_part_in_its_mean(self):
        """Drift at half of the noise: the plain KL says three times the drift, D says the drift."""
        rows, logits, change = simulated(2, 800, noise=0.0175, shift=0.0175)
        plain = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        moved = logits + change
        truth = kl_rows(plain, moved - np.log(np.exp(moved).sum(axis=-1, keepdims=True))).mean()
        d = noise_free_drift(*rows).d
        error = d.std() / math.sqrt(d.size)

        assert abs(d.mean() - truth) < 3 * error
        assert error < 0.12 * truth
        assert kl_rows(rows[0], rows[2]).mean() == pytest.approx(3 * truth, rel=0.1)

    def test_without_drift_it_is_symmetric_about_0(self):
        rows, *_ = simulated(3, 800, noise=0.0175, shift=0.0)
        d, rho = noise_free_drift(*rows)

        assert abs(d.mean()) < 3 * d.std() / math.sqrt(d.size)
        assert abs(rho.mean()) < 3 * rho.std() / math.sqrt(rho.size)
        assert abs((rho > 0).sum() - 400) < 3 * math.sqrt(200)

    @given(st.integers(0, 1000))
    def test_exchanging_a_recorded_and_a_live_answer_flips_the_sign(self, seed):
        """The symmetry that the tests' false-alarm rate rests on, exactly."""
        (a1, a2, b1, b2), *_ = simulated(seed, 3, noise=0.5, shift=0.5, vocab_size=8)
        drift, flipped = noise_free_drift(a1, a2, b1, b2), noise_free_drift(b1, a2, a1, b2)

        assert flipped.d == pytest.approx(-drift.d, abs=1e-14)
        assert flipped.rho == pytest.approx(-drift.rho, abs=1e-12)
        assert (np.abs(drift.rho) <= 1).all()

    def test_a_tail_cut_off_is_drift(self):
        """With the logarithms' weights from the mean of the logits, the tokens cut off would have none, and the drift would be 0."""
        row = np.linspace(0.0, 4.0, 40)
        cut = np.where(row > 2.0, row, -np.inf)
        _, values = common_logprobs([row, row, cut, cut])

        assert noise_free_drift(*values).d == pytest.approx(4 * (1 - math.sqrt(softmax(row)[row > 2.0].sum())))

    @pytest.mark.parametrize("shared", [(0, 0, 2, 3), (0, 1, 2, 2), (0, 0, 2, 2)], ids=["before", "after", "both"])
    def test_an_answer_that_stands_twice_counts_as_two_equal_ones(self, shared):
        """Of one array in two places less is computed, and the same comes out."""
        rows, _, _ = simulated(11, 20, noise=0.3, shift=0.1)
        same = [rows[i] for i in shared]
        drift, apart = noise_free_drift(*same), noise_free_drift(*(row.copy() for row in same))

        assert (drift.d.tolist(), drift.rho.tolist()) == (apart.d.tolist(), apart.rho.tolist())

    def test_equal_rows_have_none(self):
        (a, *_), *_ = simulated(4, 5, noise=0.1, shift=0.0)
        drift = noise_free_drift(a, a, a, a)

        assert (drift.d.tolist(), drift.rho.tolist()) == ([0.0] * 5, [0.0] * 5)

    def test_the_twenty_best_lose_little(self):
        rows, *_ = simulated(5, 400, noise=0.0, shift=0.03)
        full = noise_free_drift(*rows).d.mean()
        top = []
        for prefix in range(400):
            lists = []
            for row in rows:
                ids = np.argsort(-row[prefix])[:20]
                lists.append(TopLogprobs(ids, row[prefix][ids], 256))
            top.append(noise_free_drift(*common_logprobs(lists)[1]).d)

        assert 0.85 * full < np.mean(top) < full
