"""Two recordings side by side."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.recording.samples import PREFIXES, TIERS, V, info_of, row_of, write, writer_of

from seedbed import TopLogprobs
from seedbed.errors import NonFiniteLogits, UsageError
from seedbed.recording import Run, open_recording
from seedbed.recording.compare import compare, furthest, same_row
from seedbed.recording.write import RecordingWriter


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


@pytest.mark.parametrize("tier", TIERS)
def test_recordings_of_other_vocabularies_are_not_compared(tmp_path: Path, tier: str) -> None:
    """Even where a list of the one would fit into a row of the other."""
    one = open_recording(write(tmp_path / "one", "full"))
    with RecordingWriter(tmp_path / "other", replace(info_of(tier), vocab_size=1000), 3 if tier == "top_k" else None) as writer:
        writer.append(
            PREFIXES[0], TopLogprobs([500, 501], [-1, -2], 1000) if tier == "top_k" else np.linspace(0, 1, 1000, dtype=np.float32)
        )
    other = open_recording(tmp_path / "other")
    for pair in ((one, other), (other, one)):
        with pytest.raises(UsageError, match=r"(one|other) is of a model with a vocabulary of (50|1000) tokens"):
            compare(*pair)


def test_rows_are_the_same_when_every_bit_is() -> None:
    zero, other_zero = np.float32([0.0, 1.0]), np.float32([-0.0, 1.0])
    certain, other_certain = (TopLogprobs([1], row[:1], V) for row in (zero, other_zero))
    nan = np.float32([math.nan, 1.0])

    assert same_row(zero, zero.copy())
    assert same_row(nan, nan.copy())
    assert same_row(certain, TopLogprobs([1], [0.0], V))
    assert not same_row(zero, other_zero)
    assert not same_row(certain, other_certain)
    assert not same_row(certain, TopLogprobs([1], [0.0], V + 1))
    assert not same_row(zero, zero[:1])
    assert not same_row(certain, zero)


def test_a_row_that_is_none_is_named_not_compared() -> None:
    row = row_of(1, "full").copy()
    row[3] = math.nan
    with pytest.raises(NonFiniteLogits, match="nan for token 3"):
        furthest(row, row_of(1, "full"))


def test_a_difference_of_one_bit_is_named_however_improbable_its_token() -> None:
    """As float32 both log-probabilities would be -999.9."""
    row, other = np.float32([1000.0, 0.1]), np.float32([1000.0, np.nextafter(np.float32(0.1), np.float32(1))])
    token_id, want, have = furthest(row, other)

    assert token_id == 1
    assert have - want == pytest.approx(float(other[1]) - float(row[1]), abs=1e-12)
