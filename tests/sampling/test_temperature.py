"""How flat the distribution is made, from greedy to very flat, without overflow on the way."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.errors import InvalidSampler
from seedbed.llm import TopLogprobs
from seedbed.sampling import Address, DynamicTemperature, History, Sampler, Temperature, softmax
from seedbed.sampling.candidates import Candidates


def test_temperature_0_is_the_lowest_id_among_the_best_and_uses_no_randomness():
    row = [1.0, 3.0, 3.0, -math.inf]

    assert {Sampler(temperature=0).draw(row, seed=seed, step=seed) for seed in range(20)} == {1}


def test_a_greedy_choice_leads_by_the_distance_to_the_next_and_without_one_by_any():
    assert Sampler(temperature=0).sample(np.float32([1.0, 3.5, 2.0]), Address(7)).margin == 1.5
    assert Sampler(temperature=0).sample(np.float32([3.0, 1.0, 3.0]), Address(7)).margin == 0.0
    assert Sampler(temperature=0).sample(np.float32([3.0]), Address(7)).margin == math.inf


def test_temperature_1_changes_no_bit():
    row = np.array([0.1, 0.2, -math.inf], dtype=np.float32)

    assert Temperature(1.0)(row).tolist() == row.astype(np.float64).tolist()


@pytest.mark.parametrize("t", [5e-324, 1e-300, 1e-30, 1e-5])
def test_a_tiny_temperature_is_nearly_greedy_and_never_overflows(t):
    row = np.array([3e38, 2.9e38, -3e38, 3e38], dtype=np.float32)

    logprobs = Sampler(temperature=t).process(row)

    assert logprobs[[0, 3]].tolist() == [-math.log(2)] * 2
    assert logprobs[1] < -1e3


def test_a_huge_temperature_is_nearly_uniform():
    assert Sampler(temperature=1e300).process([9.0, -9.0]).tolist() == [-math.log(2)] * 2


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12), st.floats(0.01, 100))
def test_the_distribution_is_the_softmax_of_the_divided_row(values, t):
    expected = np.array(values) / t

    logprobs = Sampler(temperature=t).process(values)

    assert logprobs == pytest.approx(expected - expected.max() - math.log(np.exp(expected - expected.max()).sum()), abs=1e-9)


def test_dynamic_temperature_is_low_where_the_model_is_sure_and_high_where_it_is_not():
    step = DynamicTemperature(1.0, 0.5)

    assert step([5.0, 5.0]).tolist() == [5.0 / 1.5] * 2
    assert step([800.0, 0.0]).tolist() == [1600.0, 0.0]


def test_dynamic_temperature_may_fall_to_greedy():
    assert DynamicTemperature(0.5, 0.5)([800.0, 0.0]).tolist() == [800.0, -math.inf]


@given(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=12), st.floats(0.1, 2), st.floats(0.01, 2), st.floats(0, 3))
def test_dynamic_temperature_follows_its_formula(values, t, spread, exponent):
    p = softmax(values)
    share = -(p * np.log(np.maximum(p, 1e-300))).sum() / math.log(len(values))
    low = max(0.0, t - spread)
    expected = low + (t + spread - low) * share**exponent

    heated = DynamicTemperature(t, spread, exponent)(values)

    if expected > 1e-6:
        assert heated == pytest.approx(np.array(values, dtype=np.float32).astype(float) / expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("t", [-1e-9, math.nan, math.inf, "1", None, True])
def test_a_temperature_that_is_none_is_refused(t):
    for construct in (
        Temperature,
        lambda t: DynamicTemperature(t, 0.1),
        lambda t: DynamicTemperature(1.0, t),
        lambda t: Sampler(temperature=t),
    ):
        with pytest.raises(InvalidSampler):
            construct(t)


def test_a_dynamic_temperature_of_no_range_or_of_one_token_is_a_plain_one():
    """So it needs no entropy, of which a list has none and one token has 0 of 0."""
    listed = Candidates.of(TopLogprobs([5, 2], np.log([0.5, 0.2]), 9))

    assert DynamicTemperature(0.5, 0.0).apply(listed, History()).values.tolist() == (2 * listed.values).tolist()
    assert DynamicTemperature(0.5, 0.2)([3.0]).tolist() == [6.0]
