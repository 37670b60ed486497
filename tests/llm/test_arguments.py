"""What is no token id, text or end of a sequence is named in one line, with its place."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seedbed.errors import InvalidPrompt, UsageError
from seedbed.llm.arguments import check_end_token_ids, check_seconds, check_text, check_token_ids, check_whole_number, shown


def test_numpys_ints_become_plain_ones() -> None:
    checked = check_token_ids(np.array([3, 1], dtype=np.uint16), "the prompt")

    assert checked == (3, 1)
    assert {type(token_id) for token_id in checked} == {int}
    assert check_token_ids((token_id for token_id in [2**63 - 1]), "the prompt") == (2**63 - 1,)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ("text", "must be token ids, not text"), (b"text", "not text"), (None, "must be a list of token ids, not None"), (5, "not 5"),
        ({1: 2}, "not {1: 2}"), ({1}, "not {1}"), (np.array(1), r"not array\(1\)"), ([[1]], r"holds \[1\] at place 0"),
        ([1, 2.5], "holds 2.5 at place 1, which is no token id"), ([True], "holds True"), (["x"], "holds 'x'"), ([None], "holds None"),
        ([-1], r"token id -1 at place 0; ids are 0 to 2\*\*63 - 1"), ([2**63], "token id 9223372036854775808 at place 0; ids are"),
        ([10**5000], "token id a int too long to show"), ([], "is empty: at least one"),
    ],
)  # fmt: skip
def test_what_is_no_token_id_is_named(ids: object, says: str) -> None:
    with pytest.raises(InvalidPrompt, match=says) as caught:
        check_token_ids(ids, "the prompt")

    assert len(str(caught.value)) < 200


def test_a_known_vocabulary_bounds_them() -> None:
    assert check_token_ids([3], "the prompt", vocab_size=4) == (3,)
    with pytest.raises(InvalidPrompt, match="token id 4 at place 0; the model's vocabulary has ids 0 to 3"):
        check_token_ids([4], "the prompt", vocab_size=4)


def test_none_at_all_is_legal_where_it_is_said_to_be() -> None:
    assert check_token_ids([], "what there is", may_be_empty=True) == ()


@pytest.mark.parametrize("ids", [None, 5, [None], ["x"], [1.5], [True], np.array(3), [[1]]])
def test_what_ends_a_sequence_is_told_in_ints(ids: object) -> None:
    with pytest.raises(UsageError, match="what ends a sequence, the model must tell in ints, not"):
        check_end_token_ids(ids)


def test_a_model_may_have_no_end_or_one_that_never_comes() -> None:
    assert check_end_token_ids(()) == ()
    assert check_end_token_ids(np.array([-1, 2**40])) == (-1, 2**40)


@pytest.mark.parametrize("text", [None, 5, b"x", ["x"]])
def test_what_is_no_text_is_named(text: object) -> None:
    with pytest.raises(UsageError, match="what is to be tokenized must be text, not"):
        check_text(text)


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", None, True, np.True_, [1], -(10**5000)], ids=lambda value: type(value).__name__)
def test_what_is_no_number_of_things_is_named(value: object) -> None:
    with pytest.raises(UsageError, match="^window must be an int of 1 or more, not ") as caught:
        check_whole_number("window", value, least=1)

    assert len(str(caught.value)) < 130
    assert [check_whole_number("window", number) for number in (0, np.uint8(3), 2**70)] == [0, 3, 2**70]


@pytest.mark.parametrize("value", [0, -1, math.nan, "3", None, True, 1j, 10**400, -(10**5000)], ids=lambda value: type(value).__name__)
def test_what_is_no_time_limit_is_named(value: object) -> None:
    with pytest.raises(UsageError, match="^wait must be more than 0 seconds, or math.inf for no limit, not ") as caught:
        check_seconds(timeout=1, wait=value)

    assert len(str(caught.value)) < 150
    check_seconds(timeout=math.inf, wait=np.float32(0.5))
    check_seconds(timeout=0, above_zero=False)


def test_whatever_it_is_it_is_shown_in_one_short_line() -> None:
    assert shown(np.zeros((3, 3))) == "array([[0., 0., 0.], [0., 0., 0.], [0., 0., 0.]])"
    assert shown("x" * 1000) == "'" + "x" * 76 + "..."
    assert shown("x" * 78) == repr("x" * 78)
