"""Numbers as people read them."""

import math

import pytest

from seedbed.regression.figures import percent, significant, with_error


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (999.4, 3, "999"),
        (999.6, 3, "1000"),
        (-999.6, 3, "-1000"),
        (99.7, 2, "100"),
        (1000.0, 3, "1000"),
        (999_999_999.4, 3, "999999999"),
        (999_999_999.6, 3, "1e9"),
        (0.9996, 3, "1"),
        (9.996e-5, 3, "0.0001"),
        (math.inf, 3, "inf"),
        (math.nan, 3, "nan"),
    ],
)
def test_whole_numbers_are_whole_however_they_are_rounded(value, digits, text):
    assert significant(value, digits) == text


def test_what_rounds_to_a_power_of_ten_has_no_exponent_anywhere():
    assert percent(0.997, 2) == "100 %"
    assert with_error(5000.0, 99.7) == "5000 ± 100"
