"""The statistics the other tests rest on."""

import pytest


@pytest.mark.parametrize(
    ("critical", "df", "p"),
    [(3.841, 1, 0.05), (5.991, 2, 0.05), (16.266, 3, 0.001), (27.877, 9, 0.001), (82.529, 63, 0.05), (103.442, 63, 0.001)],
)
def test_the_tail_probability_gives_the_tabled_critical_values(tail_probability, critical, df, p):
    assert tail_probability(critical, df) == pytest.approx(p, rel=2e-3)


def test_a_wrong_distribution_is_found_and_the_right_one_is_not_refused(goodness_of_fit):
    assert goodness_of_fit([5_000, 5_000], [0.5, 0.5]) == 1.0
    assert goodness_of_fit([5_200, 4_800], [0.5, 0.5]) < 1e-4
