"""Two recordings side by side."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from tests.recording.samples import PREFIXES, TIERS, V, row_of, write, writer_of

from seedbed import TopLogprobs
from seedbed.recording import Run, open_recording
from seedbed.recording.compare import compare, furthest, same_row


@pytest.mark.parametrize("tier", TIERS)
def test_what_differs_is_found_prefix_by_prefix(tmp_path: Path, tier: str) -> None:
    one = open_recording(write(tmp_path / "one", tier))
    with writer_of(tmp_path / "other", tier) as writer:
        writer.append((9,), row_of(9, tier))
        for number, prefix in enumerate(PREFIXES[1:], 1):
            writer.append(prefix, row_of(number if number != 2 else 7, tier))
        writer.note(Run("r", ((1,),)))
    other = open_recording(tmp_path / "other")
    found = compare(one, other)

    assert (found.same, found.is_same, found.runs) == (3, False, ("r",))
    assert [(c.one.prefix, c.other.number) for c in found.changed] == [((4,), 2)]
    assert [s.prefix for s in found.only_in_one] == [(1, 2)]
    assert [s.prefix for s in found.only_in_other] == [(9,)]
    assert compare(one, one).is_same


def test_the_largest_difference_is_named(tmp_path: Path) -> None:
    row = row_of(1, "full").astype(np.float64)
    other = row.copy()
    other[7] += 0.5
    token_id, want, have = furthest(np.float32(row), np.float32(other + 3.0))  # a constant is no difference

    assert token_id == 7
    assert want == pytest.approx(row[7] - np.log(np.exp(row).sum()), abs=1e-5)
    assert have > want
    assert not same_row(np.float32(row), np.float32(other))


def test_a_token_that_only_one_lists_differs_most() -> None:
    one, other = TopLogprobs([1, 2], [-0.5, -2.0], V), TopLogprobs([1, 3], [-0.1, -3.0], V)

    assert furthest(one, other) == (2, -2.0, -math.inf)
    assert furthest(other, one) == (2, -math.inf, -2.0)


def test_a_list_is_compared_with_a_whole_row_on_what_both_have() -> None:
    row = np.zeros(V, dtype=np.float32)
    listed = TopLogprobs([3, 5], [-math.log(V), -math.log(V) - 1], V)

    assert furthest(row, listed) == pytest.approx((5, -math.log(V), -math.log(V) - 1))
    assert not same_row(row, listed)
