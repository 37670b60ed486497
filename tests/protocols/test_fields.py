"""JSON off the wire is not believed to be of the type it should be."""

from __future__ import annotations

import pytest
from tests.protocols.wire import said

from seedbed.errors import BrokenAnswer
from seedbed.protocols.fields import as_count, text_in, token_ids_in


@pytest.mark.parametrize("data", [[], None, "text", {}, {"other": "x"}, {"text": 5}, {"text": [-1]}, {"text": [True]}])
def test_an_answer_without_what_was_asked_for_is_broken(data: object) -> None:
    with pytest.raises(BrokenAnswer, match="the answer has no text under 'text' or 'content'"):
        text_in(said(data), "text", "content")
    with pytest.raises(BrokenAnswer, match="the answer has no list of token ids under 'text'"):
        token_ids_in(said(data), "text")


def test_a_text_stands_under_the_first_of_its_names_that_there_is() -> None:
    assert text_in(said({"content": "b", "text": "a"}), "text", "content") == "a"
    assert text_in(said({"content": "b"}), "text", "content") == "b"
    assert token_ids_in(said({"tokens": [0, 2**40]}), "tokens") == [0, 2**40]


@pytest.mark.parametrize(("value", "least", "count"), [(0, 0, 0), (0, 1, None), (-1, 0, None), (2**63, 0, None), (2**63 - 1, 1, 2**63 - 1)])
def test_a_count_is_one_that_numpy_can_hold(value: int, least: int, count: int | None) -> None:
    assert as_count(value, least) == count
    assert as_count(float(value), least) is None
