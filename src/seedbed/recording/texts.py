"""``texts.jsonl``: what the model's tokenizer made of texts and of token ids, so that a program that gives it either replays offline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from seedbed.recording import lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["TEXTS", "Texts", "text_line"]

TEXTS = "texts.jsonl"


@dataclass(slots=True)
class Texts:
    """The questions to a tokenizer that are recorded. Two maps, since not every text comes back as it went.

    Attributes:
        tokenized: {text: its token ids}.
        detokenized: {token ids: their text}.
    """

    tokenized: dict[str, tuple[int, ...]] = field(default_factory=dict)
    detokenized: dict[tuple[int, ...], str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokenized) + len(self.detokenized)

    def missing_from(self, other: Texts) -> Iterator[tuple[str, tuple[int, ...], bool]]:
        """(text, token ids, whether it was tokenized) of what only this one has."""
        for text, token_ids in self.tokenized.items():
            if text not in other.tokenized:
                yield text, token_ids, True
        for token_ids, text in self.detokenized.items():
            if token_ids not in other.detokenized:
                yield text, token_ids, False

    def know(self, text: str, token_ids: Sequence[int], *, is_tokenized: bool) -> bool:
        """Whether the question was answered before: of a text, or, not ``is_tokenized``, of token ids."""
        return text in self.tokenized if is_tokenized else tuple(token_ids) in self.detokenized

    def add(self, text: str, token_ids: Sequence[int], *, is_tokenized: bool) -> None:
        """Note an answer; the first to a question is the one that counts."""
        ids = tuple(token_ids)
        if is_tokenized:
            self.tokenized.setdefault(text, ids)
        else:
            self.detokenized.setdefault(ids, text)

    def take(self, line: bytes) -> None:
        """Read a line.

        Raises:
            ValueError, TypeError, KeyError: damaged, or not what ``text_line`` makes.
        """
        data: dict[str, Any] = lines.parse(line)
        is_tokenized = "tokenized" in data
        text, ids = (data["tokenized"], data["token_ids"]) if is_tokenized else (data["text"], data["detokenized"])
        if not isinstance(text, str) or not isinstance(ids, list) or not all(type(token_id) is int for token_id in ids):
            raise ValueError("text or token ids are wrong")
        self.add(text, ids, is_tokenized=is_tokenized)


def text_line(text: str, token_ids: Sequence[int], *, is_tokenized: bool) -> bytes:
    """An answer as a line of ``texts.jsonl``."""
    ids = tuple(token_ids)
    return lines.checked({"tokenized": text, "token_ids": ids} if is_tokenized else {"detokenized": ids, "text": text})
