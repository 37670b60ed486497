"""JSON off the wire is not believed to be of the type it should be."""

from __future__ import annotations

import numpy as np
import pytest
from tests.protocols.wire import said

from seedbed.errors import BadRequest, BrokenAnswer, UsageError
from seedbed.protocols.fields import as_count, as_version, count_in, json_body, json_request, model_of, text_in, token_ids_in, token_ids_of


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


def test_numpys_numbers_are_numbers_on_the_wire() -> None:
    sent = json_request("/x", {"ids": (np.int64(3), 4), "values": np.float32([0.5, -np.inf])})

    assert (sent.method, sent.path, sent.body) == ("POST", "/x", b'{"ids":[3,4],"values":[0.5,null]}')
    with pytest.raises(UsageError, match="the request cannot be written as JSON: .*; token ids must be ints$"):
        json_request("/x", {"ids": {3}})


def test_a_request_is_believed_as_little() -> None:
    for body in (b"{", b"\xff"):
        with pytest.raises(BadRequest, match="^the request is not JSON: "):
            json_body(body)
    for ids in ([2**63], [-1], [True], [1.0], [], "1", None):
        with pytest.raises(BadRequest, match="^prompt must be a non-empty list of token ids"):
            token_ids_of(ids, "prompt")
    assert token_ids_of([0, 2**63 - 1], "prompt") == (0, 2**63 - 1)
    assert (model_of(5), model_of(None), model_of("m")) == (None, None, "m")


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("9" * 18, 10**18 - 1), ("1" + "0" * 18, None), ("", None), ("-1", None), ("1.0", None)]
)
def test_a_number_in_a_text_is_one_that_numpy_can_hold(text: str, count: int | None) -> None:
    assert count_in(text) == count


@pytest.mark.parametrize(
    ("text", "version"),
    [("0.11.0rc2.dev5+g1a2b3c", (0, 11, 0)), ("v1.2", (1, 2, 0)), ("0.5.14.post1", (0, 5, 14)), ("main", (0, 0, 0)), (5, (0, 0, 0))],
)
def test_a_release_is_read_off_its_name(text: object, version: tuple[int, int, int]) -> None:
    assert as_version(text) == version


@pytest.mark.parametrize(("value", "least", "count"), [(0, 0, 0), (0, 1, None), (-1, 0, None), (2**63, 0, None), (2**63 - 1, 1, 2**63 - 1)])
def test_a_count_is_one_that_numpy_can_hold(value: int, least: int, count: int | None) -> None:
    assert as_count(value, least) == count
    assert as_count(float(value), least) is None
