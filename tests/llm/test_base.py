"""The interface: what a row may be, what a list of the k best may say, and the defaults an LLM inherits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.errors import MalformedRow, UsageError
from seedbed.llm import LLM, ModelInfo, TopLogprobs, as_ahead, as_row
from seedbed.llm.base import check_awaitable


class TestRows:
    def test_arrays_lists_and_other_dtypes_become_float32(self) -> None:
        for answer in ([0.5, -1], (0.5, -1), np.array([0.5, -1]), np.array([0.5, -1], dtype=np.float16)):
            row = as_row(answer)
            assert (row.dtype, row.tolist()) == (np.float32, [0.5, -1.0])

    def test_a_float32_row_is_not_copied_and_not_modified(self) -> None:
        row = np.array([1.0, 2.0], dtype=np.float32)
        row.flags.writeable = False

        assert as_row(row) is row

    @pytest.mark.parametrize(
        "answer",
        [[], [[1.0]], 1.0, None, "ab", ["a"], [1 + 2j], {"a": 1}, [None], np.array(["2020"], dtype="datetime64[Y]"), [[1], [1, 2]]],
    )
    def test_what_is_no_row_is_refused(self, answer: object) -> None:
        with pytest.raises(MalformedRow):
            as_row(answer)

    def test_a_row_of_another_length_is_refused(self) -> None:
        with pytest.raises(MalformedRow, match="vocabulary of 2 tokens, the model's has 3"):
            as_row([1.0, 2.0], 3)
        with pytest.raises(MalformedRow):
            as_row(TopLogprobs([0], [-1.0], 2), 3)


class TestTopLogprobs:
    def test_the_order_given_does_not_matter(self) -> None:
        """Servers order equal values as they like."""
        one = TopLogprobs([5, 2, 9], [-2.0, -2.0, -1.0], 10)
        other = TopLogprobs([9, 2, 5], [-1.0, -2.0, -2.0], 10)

        assert one == other
        assert hash(one) == hash(other)
        assert one.token_ids.tolist() == [9, 2, 5]

    def test_it_cannot_be_modified_and_does_not_modify(self) -> None:
        ids, values = np.array([1, 0]), np.array([-1.0, -2.0], dtype=np.float32)
        row = TopLogprobs(ids, values, 4)
        with pytest.raises(ValueError, match="read-only"):
            row.logprobs[0] = 0
        ids[0] = 3

        assert row.token_ids.tolist() == [1, 0]

    @pytest.mark.parametrize(
        ("ids", "values"),
        [
            ([], []), ([1], [-1.0, -2.0]), ([1, 1], [-1.0, -2.0]), ([10], [-1.0]), ([-1], [-1.0]), ([1], [0.5]), ([1], [math.nan]),
            ([1, 2], [-1.0, math.nan]), ([1], [math.inf]), ([1, 2, 3], [-0.5, -0.5, -0.5]), ([[1]], [[-1.0]]),
        ],
    )  # fmt: skip
    def test_what_is_no_list_of_log_probabilities_is_refused(self, ids: list[int], values: list[float]) -> None:
        with pytest.raises(MalformedRow):
            TopLogprobs(ids, values, 10)

    @pytest.mark.parametrize(
        ("ids", "values", "vocab_size", "says"),
        [
            ([1.5], [-1.0], 9, "must be ints, not"), ([True], [-1.0], 9, "must be ints"), ([2**70], [-1.0], 9, "must be ints"),
            (["x"], [-1.0], 9, "must be ints"), (None, [-1.0], 9, "not shapes"), ([[1], [2, 3]], [-1.0], 9, "are ids and as many numbers"),
            ([1], ["x"], 9, "are ids and as many numbers"), ([1], [10**400], 9, "are ids and as many"), ([1], None, 9, "not shapes"),
            ([1], [-1.0], None, "vocab_size must be an int, not None"), ([1], [-1.0], 9.5, "vocab_size must be an int, not 9.5"),
        ],
    )  # fmt: skip
    def test_what_is_of_another_type_is_named(self, ids: object, values: object, vocab_size: object, says: str) -> None:
        """An id is never rounded to one."""
        with pytest.raises(MalformedRow, match=says):
            TopLogprobs(ids, values, vocab_size)

    def test_a_number_beyond_float32_is_what_it_is_rounded_to(self) -> None:
        """And says so by an error, never by a warning of numpy's; as found by fuzzing."""
        assert TopLogprobs([0, 1], [-0.5, -1e300], 9).logprobs.tolist() == [-0.5, -math.inf]
        with pytest.raises(MalformedRow, match="no log-probability"):
            TopLogprobs([0, 1], [-0.5, 1e300], 9)

    @given(st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=40), st.data())
    def test_the_tail_of_a_row_cut_from_a_full_one_is_its_true_tail(self, logits: list[float], data: st.DataObject) -> None:
        x = np.array(logits, dtype=np.float64)
        logprobs = x - x.max() - np.log(np.exp(x - x.max()).sum())
        k = data.draw(st.integers(1, len(logits)))
        best = np.argsort(-logprobs, kind="stable")[:k]
        row = TopLogprobs(best, logprobs[best], len(logits))

        assert row.tail_mass == pytest.approx(1 - np.exp(logprobs[best]).sum(), abs=1e-6)
        assert 0 <= row.tail_mass <= 1

    def test_a_complete_list_has_no_tail(self) -> None:
        assert TopLogprobs([0, 1], [math.log(0.5), math.log(0.4999)], 2).tail_mass == 0.0

    def test_the_sloppy_sums_of_real_servers_are_accepted(self) -> None:
        """llama.cpp's normaliser is off by up to 2e-4."""
        assert TopLogprobs([0, 1], [math.log(0.6) + 2e-4, math.log(0.4) + 2e-4], 3).tail_mass == 0.0

    def test_it_shows_itself(self) -> None:
        assert repr(TopLogprobs([3, 1], [-0.5, -1.25], 9)) == "TopLogprobs(2 of 9: 3: -0.5000, 1: -1.2500)"
        assert TopLogprobs([3], [-0.5], 9) != "something else"


class Least(LLM):
    """The least an implementer writes."""

    async def next_token_logits(self, prev_token_ids):
        return [0.0]

    def get_stop_token_id(self) -> int:
        return 5


class TestDefaults:
    async def test_an_llm_needs_two_methods(self) -> None:
        llm = Least()

        assert (llm.eos_token_ids, llm.info, llm.counters(), llm.token_bytes(3)) == ((5,), None, {}, b"")
        with pytest.raises(UsageError, match="token ids instead of text"):
            await llm.tokenize("x")
        with pytest.raises(UsageError, match="no tokenizer"):
            await llm.detokenize([1])

    def test_notes_do_not_make_models_differ(self) -> None:
        assert ModelInfo(model="a", notes=("x",)) == ModelInfo(model="a")


class TestRowsAhead:
    def test_ids_become_plain_ints_and_rows_float32(self) -> None:
        ahead = as_ahead((np.array([2, 1]), [[0.0, 1.0], [1.0, 0.0]]), count=2)

        assert ahead.proposed == (2, 1)
        assert [type(token_id) for token_id in ahead.proposed] == [int, int]
        assert [row.dtype for row in ahead.rows] == [np.float32, np.float32]

    @pytest.mark.parametrize(
        ("answer", "count", "says"),
        [
            (([], []), 3, "asked for 1 to 3 rows and returned 0"),
            (([1, 1], [[0.0], [0.0], [0.0]]), 2, "asked for 1 to 2 rows and returned 3"),
            (([], [[0.0], [0.0]]), 2, "2 rows along 0 proposed tokens"),
            (([0.5], [[0.0]]), 2, "must return"),
            (None, 2, "must return"),
            (([1],), 2, "must return"),
            ({1: 2}, 2, "must return"),
            (([2**63], [[0.0]]), 2, "must return"),
            (([1], [[0.0], [0.0, 1.0]]), 2, "vocabulary of 2 tokens, the model's has 1"),
        ],
    )
    def test_what_breaks_the_contract_is_refused(self, answer: object, count: int, says: str) -> None:
        with pytest.raises(MalformedRow, match=says):
            as_ahead(answer, count, 1)


async def test_a_method_that_is_not_async_is_named() -> None:
    class Blocking(LLM):
        def next_token_logits(self, prev_token_ids):  # type: ignore[override, no-untyped-def]
            return [0.0]

        def get_stop_token_id(self) -> int:
            return 0

    model = Blocking()
    with pytest.raises(UsageError, match=r"next_token_logits of .* is not async, .*inherit BlockingLLM"):
        check_awaitable(model.next_token_logits([1]), model, "next_token_logits")
