"""Statistics with exact p-values, so that no test depends on a statistics package."""

import math

import numpy as np
import pytest


def chi_square_tail(statistic, df):
    """P(a chi-square variable with ``df`` degrees of freedom exceeds ``statistic``): the finite sums, exact for every df."""
    half = statistic / 2
    if df % 2 == 0:
        term = total = math.exp(-half)
        for i in range(1, df // 2):
            term *= half / i
            total += term
        return total
    total = math.erfc(math.sqrt(half))
    term = math.exp(-half) * math.sqrt(half) / math.gamma(1.5)
    for i in range((df - 1) // 2):
        total += term
        term *= half / (i + 1.5)
    return total


@pytest.fixture(scope="session")
def goodness_of_fit():
    """p-value of counts under probabilities, cells with fewer than 5 expected merged into one; what cannot occur must not have."""

    def p_value(counts, probabilities):
        counts, expected = np.asarray(counts), np.asarray(probabilities) * np.sum(counts)
        assert not counts[expected == 0].any()
        large = expected >= 5
        observed, wanted = counts[large].astype(float), expected[large]
        if expected[~large].sum() >= 5:
            observed, wanted = np.append(observed, counts[~large].sum()), np.append(wanted, expected[~large].sum())
        return chi_square_tail(float(((observed - wanted) ** 2 / wanted).sum()), observed.size - 1)

    return p_value


@pytest.fixture(scope="session")
def tail_probability():
    return chi_square_tail
