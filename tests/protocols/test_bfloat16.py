"""bfloat16: the nearest one, and the same one back."""

from __future__ import annotations

import numpy as np

from seedbed.protocols.bfloat16 import narrowed, widened


def test_each_one_survives_the_round_trip() -> None:
    """All 65,536 of them; a NaN as some NaN."""
    bits = np.arange(2**16, dtype=np.uint16)
    values = widened(bits)
    again = narrowed(values)
    is_nan = np.isnan(values)

    assert np.array_equal(again[~is_nan], bits[~is_nan])
    assert np.isnan(widened(again[is_nan])).all()


def test_it_is_the_nearest_one_and_ties_go_to_even() -> None:
    values = np.array([0x3F807FFF, 0x3F808000, 0x3F808001, 0x3F818000, 0x7F7FFFFF, 0xBF808001], np.uint32).view(np.float32)

    assert narrowed(values).tolist() == [0x3F80, 0x3F80, 0x3F81, 0x3F82, 0x7F80, 0xBF81]


def test_what_it_is_given_is_not_changed_and_need_not_lie_in_one_piece() -> None:
    values = np.float32([1.0, 5.0, 1.00390625, 5.0])
    assert narrowed(values[::2]).tolist() == [0x3F80, 0x3F80]
    assert values.tolist() == [1.0, 5.0, 1.00390625, 5.0]
