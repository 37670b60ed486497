"""A line ends with a checksum of itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.recording.lines import checked, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=40)
@given(data=st.dictionaries(st.text(min_size=1).filter(lambda name: name != "crc32"), VALUES, min_size=1, max_size=5), indent=st.booleans())
def test_what_was_written_is_read(data: dict[str, object], indent: bool) -> None:
    line = checked(data, indent=indent)
    have = parse(line, indent=indent)
    have.pop("crc32")

    assert have == data
    assert line.endswith(b"}\n")
    assert indent or line.count(b"\n") == 1


def test_float32_is_written_in_the_shortest_form_that_gives_it_back() -> None:
    assert checked({"x": np.array([0.1, -np.inf, -0.0], dtype=np.float32)}).startswith(b'{"x":[0.1,null,-0.0],')


@pytest.mark.parametrize("indent", [False, True])
def test_every_changed_bit_and_every_cut_is_noticed(indent: bool) -> None:
    line = checked({"step": 1, "tokens": [1, 2], "text": "ä\n"}, indent=indent)
    for place in range(len(line)):
        with pytest.raises(ValueError):
            parse(line[:place], indent=indent)
        for bit in range(8):
            changed = bytearray(line)
            changed[place] ^= 1 << bit
            with pytest.raises(ValueError):
                parse(bytes(changed), indent=indent)
