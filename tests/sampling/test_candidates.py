"""The row on its way down the chain: what is refused, what is dropped, what is moved."""

import numpy as np
import pytest

from seedbed.errors import NonFiniteLogits, NothingToDraw, TruncatedRow
from seedbed.llm import TopLogprobs
from seedbed.sampling.candidates import Candidates


def row(*values):
    return np.array(values, dtype=np.float32)


def ids(*values):
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_no_distribution_is_refused_by_its_first_bad_token(bad):
    with pytest.raises(NonFiniteLogits, match=r"holds (nan|inf) for token 2"):
        Candidates.of(row(0.0, -np.inf, bad, 1.0, bad))


def test_a_row_that_excludes_everything_is_refused():
    with pytest.raises(NothingToDraw, match="the model's row excludes every token"):
        Candidates.of(row(-np.inf, -np.inf))


def test_a_listed_row_stands_in_the_order_of_ids():
    candidates = Candidates.of(TopLogprobs([7, 2], [-0.5, -1.5], vocab_size=10))

    assert candidates.ids.tolist() == [2, 7]
    assert candidates.values.tolist() == [-1.5, -0.5]


@pytest.mark.parametrize("listed", [row(0.0, 1.0, 2.0, 3.0), TopLogprobs([0, 1, 2, 3], np.log([0.1, 0.2, 0.3, 0.4]), 4)])
def test_tokens_are_found_and_those_outside_the_vocabulary_left_out(listed):
    candidates = Candidates.of(listed)

    places, found = candidates.locate(ids(-1, 0, 2, 4, 9))

    assert places.tolist() == [0, 2]
    assert found.tolist() == [False, True, True, False, False]


def test_dropped_tokens_are_gone_and_kept_ones_bit_identical():
    before = Candidates.of(row(0.1, 0.2, 0.3))

    after = before.keep(np.array([True, False, True])).keep(np.array([False, True]))

    assert after.ids.tolist() == [2]
    assert after.values.tolist() == row(0.3).tolist()
    assert after.full_row().tolist() == [-np.inf, -np.inf, float(np.float32(0.3))]
    assert before.values.tolist() == row(0.1, 0.2, 0.3).tolist()


def test_keeping_everything_costs_nothing():
    candidates = Candidates.of(row(1.0, 2.0))

    assert candidates.keep(np.array([True, True])) is candidates


def test_moving_a_dropped_token_does_not_bring_it_back():
    dropped = Candidates.of(row(1.0, 2.0, 3.0)).keep(np.array([True, False, True]))

    moved = dropped.move(ids(0, 1), lambda logits, which: logits + np.array([1.0, 5.0])[which])

    assert moved.full_row().tolist() == [2.0, -np.inf, 3.0]


def test_banning_all_that_is_listed_is_not_banning_all_there_is():
    listed = Candidates.of(TopLogprobs([1, 4], np.log([0.5, 0.25]), vocab_size=10))

    with pytest.raises(TruncatedRow, match="excludes all that is listed; the server listed 2 of 10 tokens: ask it for top_k=3") as raised:
        listed.ban(ids(1, 4)).refuse_unusable("a ban")
    assert raised.value.needed == 3


def test_nothing_that_is_handed_in_is_modified():
    given = row(1.0, 2.0, 3.0)
    candidates = Candidates.of(given)

    candidates.ban(ids(0))
    candidates.move(ids(1), lambda logits, _: logits - 1.0)
    candidates.full_row()[2] = 9.0

    assert given.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("token_id", [0, 9])
def test_the_first_and_the_last_token_there_is_can_be_banned_unlisted(token_id):
    listed = Candidates.of(TopLogprobs([1, 4], np.log([0.5, 0.25]), vocab_size=10))

    assert (listed.tail.count, listed.ban(ids(token_id)).tail.count) == (8, 7)
    assert [listed.ban(ids(outside)).tail.count for outside in (-1, 10)] == [8, 8]
    assert listed.move(ids(-1, 1, 10), lambda logits, _: logits - 9.0).tail == listed.tail


def test_a_token_dropped_while_those_not_listed_stay_is_none_of_them():
    listed = Candidates.of(TopLogprobs([1, 4], np.log([0.5, 0.25]), vocab_size=10))
    dropped = listed.keep(np.array([False, True]), tail=True)

    assert (listed.count, dropped.count) == (10, 9)
    assert dropped.tail.holds(ids(0, 1)).tolist() == [True, False]
    assert dropped.ban(ids(1)).tail == dropped.move(ids(1), lambda logits, _: logits + 9.0).tail == dropped.tail
    again = Candidates.of(TopLogprobs([1, 4, 6], np.log([0.5, 0.25, 0.125]), vocab_size=10)).keep(np.array([False, True, True]), tail=True)
    assert again.keep(np.array([False, True]), tail=True).tail.holds(ids(0, 1, 4)).tolist() == [True, False, False]


def test_tokens_kept_by_their_places_are_all_there_are():
    listed = Candidates.of(TopLogprobs([1, 4, 6], np.log([0.5, 0.25, 0.125]), vocab_size=10))

    kept = listed.keep_at(np.array([0, 2]))

    assert (kept.ids.tolist(), kept.tail, kept.count) == ([1, 6], None, 2)
