"""Which rows are kept: within the bound always, and the ones asked for again before the others."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seedbed import TopLogprobs
from seedbed.llm.kept_rows import OVERHEAD, KeptRows, size_of, unspoilable


def row(floats: int, value: float = 0.0) -> np.ndarray:
    return np.full(floats, value, dtype=np.float32)


COST = size_of(row(100))


def test_what_was_asked_for_least_recently_goes_first() -> None:
    kept = KeptRows(3 * COST)
    for key in (b"a", b"b", b"c"):
        kept.put(key, row(100), again=True)
    kept.get(b"a")
    kept.put(b"d", row(100), again=True)

    assert [kept.get(key) is not None for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert (kept.taken, kept.bytes_taken, kept.evictions) == (4, 4 * COST, 1)


def test_rows_that_nobody_asks_for_again_push_out_none_that_were() -> None:
    kept = KeptRows(8 * COST)
    for number in range(6):
        kept.put(b"again%d" % number, row(100), again=True)
    for number in range(1000):
        kept.put(b"once%d" % number, row(100))

    assert len(kept) == 8
    assert all(kept.get(b"again%d" % number) is not None for number in range(6))
    assert kept.get(b"once999") is not None


def test_a_row_asked_for_a_second_time_stays_like_the_others() -> None:
    kept = KeptRows(8 * COST)
    kept.put(b"mine", row(100))
    assert kept.get(b"mine") is not None
    for number in range(1000):
        kept.put(b"%d" % number, row(100))

    assert kept.get(b"mine") is not None


def test_the_first_answer_is_the_one_that_counts() -> None:
    kept = KeptRows(8 * COST)
    kept.put(b"a", row(100, 1.0))
    kept.put(b"a", row(100, 2.0))
    kept.get(b"a")
    kept.put(b"a", row(100, 3.0))

    assert kept.get(b"a")[0] == 1.0
    assert (len(kept), kept.taken) == (1, 1)


def test_the_newest_row_is_kept_if_it_fits_at_all() -> None:
    kept = KeptRows(COST)
    kept.put(b"a", row(100))
    kept.put(b"b", row(101))
    kept.put(b"c", row(99))

    assert [kept.get(key) is not None for key in (b"a", b"b", b"c")] == [False, False, True]


rows = st.integers(1, 40).map(row) | st.integers(1, 9).map(lambda k: TopLogprobs(range(k), [-9.0] * k, 100))
actions = st.tuples(st.sampled_from(["put", "put again", "get"]), st.integers(0, 9), rows)


@given(st.integers(0, 6000), st.lists(actions, max_size=60))
def test_it_never_takes_more_than_the_bound_and_never_gives_what_was_not_put(bound: int, program: list) -> None:
    kept, first = KeptRows(bound), {}
    for action, number, new in program:
        key = b"%d" % number
        if action == "get":
            have = kept.get(key)
            assert have is None or have is first[key]
        else:
            if kept.get(key) is None:
                first[key] = new
            kept.put(key, new, again=action == "put again")
        assert kept.bytes <= bound
        assert kept.taken == len(kept) + kept.evictions
    assert kept.bytes == sum(size_of(kept.get(key)) for key in first if kept.get(key) is not None)
    kept.clear()
    assert (len(kept), kept.bytes) == (0, 0)


def test_what_a_row_costs() -> None:
    assert size_of(row(1000)) == 4000 + OVERHEAD
    assert size_of(TopLogprobs(range(50), [-9.0] * 50, 100)) == 50 * 12 + OVERHEAD


def test_a_row_that_its_owner_can_change_is_copied_and_no_other() -> None:
    mine, whole = row(4), row(8)
    fixed, top = row(4), TopLogprobs([1], [-1.0], 4)
    fixed.flags.writeable = whole.flags.writeable = False

    for given_row in (mine, whole[:4], np.frombuffer(bytes(16), dtype=np.float32)):
        have = unspoilable(given_row)
        assert np.array_equal(have, given_row)
        assert have is not given_row
        assert have.base is None
        assert not have.flags.writeable
    assert mine.flags.writeable
    assert unspoilable(fixed) is fixed
    assert unspoilable(top) is top
