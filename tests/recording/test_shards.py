"""Full rows on disk: bit for bit what was given, in no more octets than that takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.recording.shards import DTYPES, HEADER, Shards, narrowed, shard_header, shard_name, widened

BITS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=8)


def float32(bits) -> np.ndarray:
    return np.array(bits, dtype=np.uint32).view(np.float32)


def restored(row: np.ndarray) -> tuple[str, list[int]]:
    dtype, data = narrowed(row)
    assert len(data) == row.size * DTYPES[dtype]
    return dtype, widened(dtype, np.frombuffer(data, np.uint8)).view(np.uint32).tolist()


@given(BITS)
def test_any_bits_survive_nan_infinities_and_minus_zero_among_them(bits: list[int]) -> None:
    assert restored(float32(bits))[1] == bits


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=8))
def test_every_bfloat16_row_is_stored_as_such(bits: list[int]) -> None:
    wide = [b << 16 for b in bits]

    assert restored(float32(wide)) == ("BF16", wide)


def test_every_float16_value_survives() -> None:
    """All 65,536, each in a row with one that is no bfloat16; signalling NaNs are kept as float32 where a conversion would quiet them."""
    for high in range(256):
        row = np.append(np.arange(high << 8, (high + 1) << 8, dtype=np.uint16), np.uint16(0x3C01)).view(np.float16)
        with np.errstate(invalid="ignore"):
            wide = row.astype(np.float32)
        dtype, bits = restored(wide)
        assert bits == wide.view(np.uint32).tolist()
        assert dtype == "F16" or np.isnan(wide).any()


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_the_library_that_defines_the_format_accepts_and_agrees(tmp_path: Path, dtype: str) -> None:
    from safetensors import safe_open

    rows = {"BF16": [[1, -2], [0.5, 3]], "F16": [[2**-10 + 1, 1]], "F32": [[0.1, 1], [0.2, 2], [0.3, 3]]}[dtype]
    shards = Shards(tmp_path, 2)
    for row in rows:
        shards.append(np.float32(row))
    shards.finish()
    file = tmp_path / shard_name(1)

    assert file.read_bytes()[:HEADER] == shard_header(dtype, len(rows), 2)
    with safe_open(file, "numpy") as opened:
        assert opened.get_slice("logits").get_dtype() == dtype
        if dtype != "BF16":  # numpy has no bfloat16 of its own
            assert np.array_equal(opened.get_tensor("logits").astype(np.float32), np.float32(rows))


def test_a_full_shard_is_followed_by_another_and_each_dtype_has_its_own(tmp_path: Path) -> None:
    shards = Shards(tmp_path, 4, max_shard=32)
    places = [shards.append(np.float32([value] * 4)) for value in (0.1, 1.0, 0.2, 0.3, 2.0, 0.4)]

    assert places == [(1, 0), (2, 0), (1, 1), (3, 0), (2, 1), (3, 1)]
    assert [float(shards.row(*place)[0]) for place in places] == [pytest.approx(v) for v in (0.1, 1.0, 0.2, 0.3, 2.0, 0.4)]
    assert shards.finish() == [{"dtype": "F32", "rows": 2}, {"dtype": "BF16", "rows": 2}, {"dtype": "F32", "rows": 2}]
    assert repr(shards) == "<Shards: 2 rows of F32, 2 rows of BF16, 2 rows of F32>"


def test_a_row_larger_than_a_shard_gets_one_of_its_own(tmp_path: Path) -> None:
    shards = Shards(tmp_path, 100, max_shard=10)

    assert [shards.append(np.float32([0.1] * 100)) for _ in range(2)] == [(1, 0), (2, 0)]


def test_a_float32_row_is_read_without_a_copy(tmp_path: Path) -> None:
    shards = Shards(tmp_path, 4)
    shards.append(np.float32([0.1] * 4))

    assert shards.row(1, 0).base is not None
    assert shards.row(1, 0).__array_interface__["data"] == shards.row(1, 0).__array_interface__["data"]
