"""``texts.jsonl``: what the model's tokenizer made of texts and of token ids, so that a program that gives it either replays offline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from seedbed.recording import lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["TEXTS", "Texts"]

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

    def add(self, text: str, token_ids: Sequence[int], *, is_tokenized: bool) -> bytes | None:
        """Note an answer; returns its line, or None when the question was answered before."""
        ids = tuple(token_ids)
        if is_tokenized and text not in self.tokenized:
            self.tokenized[text] = ids
            return lines.checked({"tokenized": text, "token_ids": ids})
        if not is_tokenized and ids not in self.detokenized:
            self.detokenized[ids] = text
            return lines.checked({"detokenized": ids, "text": text})
        return None

    def take(self, line: bytes) -> None:
        """Read a line.

        Raises:
            ValueError, TypeError, KeyError: damaged, or not what ``add`` writes.
        """
        data: dict[str, Any] = lines.parse(line)
        is_tokenized = "tokenized" in data
        text, ids = (data["tokenized"], data["token_ids"]) if is_tokenized else (data["text"], data["detokenized"])
        if not isinstance(text, str) or not isinstance(ids, list) or not all(type(token_id) is int for token_id in ids):
            raise ValueError("text or token ids are wrong")
        self.add(text, ids, is_tokenized=is_tokenized)
