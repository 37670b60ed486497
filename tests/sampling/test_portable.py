"""The portable exponentials and logarithms are right, and add up one way only."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.sampling import portable


def ulps_from_exact(x, value):
    exact = portable.DIGITS.exp(Decimal(x))
    return abs((Decimal(value) - exact) / Decimal(math.ulp(float(exact))))


@given(st.lists(st.floats(-708.0, 0.0), min_size=1, max_size=20))
def test_exp_is_within_one_unit_in_the_last_place(xs):
    values = portable.exp(np.array(xs))

    for x, value in zip(xs, values.tolist(), strict=True):
        assert ulps_from_exact(x, value) < 1


def test_exp_does_not_care_how_long_its_array_is():
    """Chunks are an optimisation, and so is doing a few one by one: every element is computed alone."""
    x = -np.linspace(0.0, 750.0, 40_001)

    whole = portable.exp(x)

    for parts in (7, 40_001 // portable.FEW):
        assert np.array_equal(whole, np.concatenate([portable.exp(part) for part in np.array_split(x, parts)]))
    assert np.array_equal(whole[:6].reshape(2, 3), portable.exp(x[:6].reshape(2, 3)))
    assert np.array_equal(whole.reshape(1, -1), portable.exp(x.reshape(1, -1)))


def test_exp_of_nothing_much_is_0_and_of_0_is_1():
    assert portable.exp(np.array([0.0, -0.0, -708.0001, -1e300, -math.inf])).tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert portable.exp(np.array([])).tolist() == []


@given(st.floats(-745.0, 709.7))
def test_exp_of_one_number_is_within_one_unit_in_the_last_place(x):
    assert ulps_from_exact(x, portable.exp_scalar(x)) <= 1


def test_exp_of_one_number_is_that_of_an_array():
    """Python's floats and numpy's, one operation at a time, round alike, to the last bit of twenty thousand."""
    x = -np.linspace(0.0, 708.0, 20_011)

    assert portable.exp(x).tolist() == [portable.exp_scalar(one) for one in x.tolist()]


@pytest.mark.parametrize(
    ("x", "expected"),
    [(709.782712893384, pytest.approx(1.797693134862e308)), (709.79, math.inf), (-745.1, 5e-324), (-745.2, 0.0), (0.0, 1.0)],
)
def test_exp_of_one_number_leaves_float64_at_its_ends(x, expected):
    assert portable.exp_scalar(x) == expected


@given(st.one_of(st.floats(5e-324, 1e308), st.floats(0.5, 2.0), st.floats(1 - 1e-9, 1 + 1e-9)))
def test_ln_of_one_number_is_within_one_unit_in_the_last_place(x):
    exact = portable.DIGITS.ln(Decimal(x))

    assert abs((Decimal(portable.ln_scalar(x)) - exact) / Decimal(math.ulp(float(exact)))) < 1
    assert portable.ln_scalar(x) == pytest.approx(portable.ln(x), rel=2.3e-16)


def test_ln_of_one_number_at_its_ends():
    assert [portable.ln_scalar(x) for x in (1.0, 2.0, 5e-324, math.inf, 0.0)] == [0.0, math.log(2), math.log(5e-324), math.inf, -math.inf]


@given(st.floats(5e-324, 1e308))
def test_ln_and_exp_of_one_number_undo_each_other(x):
    assert portable.exp_scalar(portable.ln(x)) == pytest.approx(x, rel=1e-12)


@given(st.floats(1e-300, 1e300), st.floats(-3.0, 3.0))
def test_power_is_that_of_the_platform_to_its_last_digits(x, exponent):
    expected = math.exp(exponent * math.log(x)) if abs(exponent * math.log(x)) < 700 else None

    if expected:
        assert portable.power(x, exponent) == pytest.approx(expected, rel=1e-9)


def test_powers_of_zero():
    assert (portable.power(0.0, 0.0), portable.power(0.0, 2.0), portable.power(2.0, 10.0)) == (1.0, 0.0, 1024.0)


@given(st.lists(st.floats(0.0, 1.0), max_size=50))
def test_total_is_the_sum(xs):
    assert portable.total(np.array(xs)) == pytest.approx(math.fsum(xs), rel=1e-14)


def test_log_softmax_is_a_distribution_and_keeps_excluded_tokens_excluded():
    values = portable.log_softmax(np.array([3.0, -math.inf, 1.0, 3.0]))

    assert values[1] == -math.inf
    assert np.exp(values).sum() == pytest.approx(1.0, abs=1e-15)
    assert values[0] == values[3]
