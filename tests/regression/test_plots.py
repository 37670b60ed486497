"""Plots: what stands at their axes."""

import re
from types import SimpleNamespace

import pytest

from seedbed.regression.plots import evidence_plot, position_plot
from seedbed.regression.result import Prefix


def texts(plot, anchor):
    return re.findall(rf'text-anchor="{anchor}">([^<]+)<', plot)


@pytest.mark.parametrize(
    ("longest", "labels"),
    [
        (200, ["0", "50", "100", "150", "200"]),
        (400_000, ["0", "10⁵", "2·10⁵", "3·10⁵", "4·10⁵"]),
        (2_000_000, ["0", "5·10⁵", "10⁶", "1.5·10⁶", "2·10⁶"]),
    ],
)
def test_a_great_number_is_a_mantissa_times_a_power_of_ten(longest, labels):
    prefixes = tuple(Prefix(position, 0, 1e-3, 1e-3, 1.0, False) for position in (10, longest))

    assert texts(position_plot(SimpleNamespace(prefixes=prefixes, margin=1e-4)), "middle")[:-1] == labels


def test_small_numbers_of_either_sign_have_the_typographer_s_minus():
    prefixes = tuple(Prefix(position, 0, d, 1e-3, 1.0, False) for position, d in ((10, -3e-4), (20, 1e-3)))
    labels = texts(position_plot(SimpleNamespace(prefixes=prefixes, margin=2e-4)), "end")

    assert labels[:4] == ["−10⁻⁴", "−10⁻⁵", "0", "10⁻⁵"]


def test_evidence_beyond_a_float_has_its_own_power():
    labels = texts(evidence_plot(SimpleNamespace(path=(0.0, 2000.0), alpha=0.01)), "end")

    assert labels[:-1] == ["1", "10²⁰⁰", "10⁴⁰⁰", "10⁶⁰⁰", "10⁸⁰⁰"]
