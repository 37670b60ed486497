"""A file of prompts is read line by line, and what is no prompt is said so, by its line."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.errors import UsageError
from seedbed.generation.bulk import BadLine, Prompt, PromptFile, prompts, read_prompts

EXPECTED = 'a line is {"prompt": "..."}, {"token_ids": [1, 2]}, a quoted text or [1, 2]'


def read(path: Path, data: str | bytes, *args):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return list(read_prompts(path, *args))


def test_every_form_of_a_line(tmp_path: Path) -> None:
    lines = ['{"prompt": "a", "id": "x", "more": [1]}', '{"token_ids": [1, 2], "id": 7}', "", '"b"', "  ", "[3]", '{"prompt": [4]}']

    assert read(tmp_path / "p", "\n".join(lines)) == [
        Prompt(0, "a", "x"), Prompt(1, (1, 2), "7"), Prompt(3, "b"), Prompt(5, (3,)), Prompt(6, (4,)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "is no JSON: unexpected end of data"),
        ("The seed", "is no JSON: unexpected character"),  # of which releases of orjson say more or less
        ("null", "the line is neither a text nor a list of token ids: None"),
        ("{}", 'has neither "prompt" nor "token_ids", but nothing'),
        ('{"prompt": "a", "token_ids": [1]}', 'has both "prompt" and "token_ids"'),
        ('{"prompt": ""}', '"prompt" is an empty text'),
        ('{"token_ids": "a"}', "\"token_ids\" is neither a text nor a list of token ids: 'a'"),
        ('{"token_ids": []}', '"token_ids" is empty: at least one token id is needed'),
        ("[1, -1]", "the line holds token id -1 at place 1; ids are 0 to 2**63 - 1"),
        ("[true]", "the line holds True at place 0, which is no token id"),
        ("[1.0]", "the line holds 1.0 at place 0, which is no token id"),
        ('{"prompt": "a", "id": [1]}', 'has an "id" that is neither text nor a whole number: [1]'),
        (b'"\xff"', "is no JSON: str is not valid UTF-8"),
    ],
)
def test_what_is_no_prompt_is_said(tmp_path: Path, line: str | bytes, problem: str) -> None:
    (bad,) = read(tmp_path / "p", line)

    assert isinstance(bad, BadLine)
    assert bad.problem.startswith(problem)


def test_a_text_without_quotes_is_told_what_a_line_is(tmp_path: Path) -> None:
    (bad,) = read(tmp_path / "p", "The seed")

    assert isinstance(bad, BadLine)
    assert bad.problem.endswith(f"; {EXPECTED}")


def test_a_line_without_end_fills_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "MAX_LINE", 8)
    (long, short) = read(tmp_path / "p", '"' + "a" * 100 + '"\n"b"')

    assert (long, short) == (BadLine(0, "is longer than 8 octets"), Prompt(1, "b"))


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert read(tmp_path / "p", b'\xef\xbb\xbf"a"\r\n"b"\r\n') == [Prompt(0, "a"), Prompt(1, "b")]


@given(st.lists(st.sampled_from(['"a"', "[1]", "", "{"]), max_size=8), st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_any_part_of_a_file_reads_as_it_does_in_the_whole(tmp_path_factory, lines, start, length, ends_open) -> None:
    path = tmp_path_factory.getbasetemp() / "p"
    everything = read(path, "\n".join(lines) + ("" if ends_open or not lines else "\n"))

    assert list(read_prompts(path, start, start + length)) == [p for p in everything if start <= p.index < start + length]
    assert PromptFile.of(path).lines >= len(everything)


def test_lines_are_counted_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "p"
    counts = []
    for data in (b"", b"a", b"a\n", b"a\n\nb"):
        path.write_bytes(data)
        counts.append(PromptFile.of(path).lines)

    assert counts == [0, 1, 1, 3]
    assert PromptFile.of(path).sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none", "there is no file of prompts at"),
        (".", "is a directory, and no file of prompts"),
        ("pipe", "is read once only, and prompts are read again: write them to a file first"),
    ],
)
def test_a_file_that_is_none_is_said(tmp_path: Path, name: str, says: str) -> None:
    if name == "pipe":
        os.mkfifo(tmp_path / "pipe")  # of which an open would wait for a writer
    with pytest.raises(UsageError, match=says):
        PromptFile.of(tmp_path / name)
