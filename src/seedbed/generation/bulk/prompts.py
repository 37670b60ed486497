"""What is to be continued: a file with a prompt a line, read as it is needed.

A line is one JSON value: ``{"prompt": "text"}`` or ``{"token_ids": [1, 2]}``, with an ``"id"`` of your own if you like (text or a whole
number), and other keys, which are passed over; or a bare ``"text"`` or ``[1, 2]``. ``{"prompt": [1, 2]}`` is understood, too.

A prompt's index is the number of its line, from 0, blank lines counted. So its randomness belongs to the line, however the file is split.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from seedbed.errors import UsageError
from seedbed.llm.arguments import check_token_ids, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["BadLine", "Prompt", "PromptFile", "read_prompts"]

LINES = 'a line is {"prompt": "..."}, {"token_ids": [1, 2]}, a quoted text or [1, 2]'
MAX_LINE = 67_108_864  # octets; a prompt of a million ids is 8 MB


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line, understood.

    Attributes:
        index: the number of its line, from 0.
        tokens: token ids, or a text for the model to tokenize.
        name: the line's "id" as text, or None.
    """

    index: int
    tokens: tuple[int, ...] | str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class BadLine:
    """One line, not understood: why."""

    index: int
    problem: str


class PromptFile(NamedTuple):
    """A file as it is now, read once from end to end.

    Attributes:
        lines: how many it has, blank ones included.
        sha256: of its octets.
    """

    lines: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> PromptFile:
        """Count and hash.

        Raises:
            UsageError: it cannot be read.
        """
        digest, lines, last = hashlib.sha256(), 0, b"\n"
        with _opened(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
                lines += block.count(b"\n")
                last = block[-1:]
        return cls(lines + (last != b"\n"), digest.hexdigest())


def read_prompts(path: Path, start: int = 0, end: int | None = None) -> Iterator[Prompt | BadLine]:
    """The prompts of a file, in order, without the blank lines.

    Args:
        path: the file.
        start, end: the lines wanted, from 0, ``end`` left out; None is to the end.

    Raises:
        UsageError: the file cannot be read.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = pathlib.Path(directory, "prompts.jsonl")
        ...     _ = path.write_text('{"prompt": "The seed", "id": 7}' + chr(10) * 2 + '[1, 2]' + chr(10) + '{"text": 1}')
        ...     for prompt in read_prompts(path):
        ...         print(prompt)
        Prompt(index=0, tokens='The seed', name='7')
        Prompt(index=2, tokens=(1, 2), name=None)
        BadLine(index=3, problem='has neither "prompt" nor "token_ids", but "text"')
    """
    with _opened(path) as file:
        for index, line in enumerate(_lines(file)):
            if end is not None and index >= end:
                return
            if index >= start and (len(line) > MAX_LINE or line.strip()):
                yield _understood(index, line)


def _opened(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a directory, and no file of prompts")
        if not path.is_file():
            pipe = "is read once only, and prompts are read again: write them to a file first"
            raise UsageError(f"{path} {pipe}" if path.exists() else f"there is no file of prompts at {path}")
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Each line; one that is too long comes cut off, one octet over the bound, so that no line fills the memory."""
    while line := file.readline(MAX_LINE + 1):
        yield line
        while len(line) > MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE + 1)


def _understood(index: int, line: bytes) -> Prompt | BadLine:
    if len(line) > MAX_LINE:
        return BadLine(index, f"is longer than {MAX_LINE} octets")
    try:
        return _prompt_of(index, orjson.loads(line.removeprefix(b"\xef\xbb\xbf") if index == 0 else line))
    except orjson.JSONDecodeError as error:
        return BadLine(index, f"is no JSON: {str(error).partition(':')[0]}; {LINES}")
    except UsageError as error:
        return BadLine(index, error.message)


def _prompt_of(index: int, value: Any) -> Prompt:
    if not isinstance(value, dict):
        return Prompt(index, _tokens_of(value, "the line"))
    given = [key for key in ("prompt", "token_ids") if key in value]
    if len(given) != 1:
        keys = ", ".join(f'"{key}"' for key in value) or "nothing"
        raise UsageError('has both "prompt" and "token_ids"' if given else f'has neither "prompt" nor "token_ids", but {keys:.200}')
    name = value.get("id")
    if isinstance(name, bool) or not isinstance(name, (str, int, type(None))):
        raise UsageError(f'has an "id" that is neither text nor a whole number: {shown(name)}')
    return Prompt(index, _tokens_of(value[given[0]], f'"{given[0]}"'), None if name is None else str(name))


def _tokens_of(value: Any, what: str) -> tuple[int, ...] | str:
    if isinstance(value, str) and what != '"token_ids"':
        if not value:
            raise UsageError(f"{what} is an empty text")
        return value
    if not isinstance(value, list):
        raise UsageError(f"{what} is neither a text nor a list of token ids: {shown(value)}")
    return check_token_ids(value, what)
