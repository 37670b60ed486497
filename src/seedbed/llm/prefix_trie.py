"""A tree of prefixes: what is known after these tokens, and how far into a prefix anything is known at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Nearest", "PrefixTrie"]

T = TypeVar("T")


@dataclass(slots=True)
class _Node(Generic[T]):
    children: dict[int, _Node[T]] = field(default_factory=dict)
    value: T | None = None


@dataclass(frozen=True, slots=True)
class Nearest(Generic[T]):
    """The longest known beginning of a prefix.

    Attributes:
        length: its length in tokens.
        value: what is known there; None when not even the empty prefix is.
    """

    length: int
    value: T | None


class PrefixTrie(Generic[T]):
    """Values by prefix of token ids.

    Example:
        >>> trie = PrefixTrie()
        >>> trie.insert([1, 2], "a")
        >>> trie.get([1, 2]), trie.get([1]), trie.nearest([1, 2, 3])
        ('a', None, Nearest(length=2, value='a'))
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._size = 0

    def insert(self, prefix: Sequence[int], value: T) -> None:
        """Set what is known after ``prefix``; replaces what was."""
        node = self._root
        for token_id in prefix:
            node = node.children.setdefault(token_id, _Node())
        self._size += node.value is None
        node.value = value

    def get(self, prefix: Sequence[int]) -> T | None:
        """What is known after exactly ``prefix``, or None."""
        node: _Node[T] | None = self._root
        for token_id in prefix:
            assert node is not None
            node = node.children.get(token_id)
            if node is None:
                return None
        return node.value if node is not None else None

    def nearest(self, prefix: Sequence[int]) -> Nearest[T]:
        """The longest beginning of ``prefix`` after which something is known."""
        node, best = self._root, Nearest(0, self._root.value)
        for length, token_id in enumerate(prefix, 1):
            child = node.children.get(token_id)
            if child is None:
                break
            node = child
            if node.value is not None:
                best = Nearest(length, node.value)
        return best

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], T]]:
        """Prefixes and values, shorter before longer, then by token id."""
        level: list[tuple[tuple[int, ...], _Node[T]]] = [((), self._root)]
        while level:
            for prefix, node in level:
                if node.value is not None:
                    yield prefix, node.value
            level = [((*prefix, token_id), node.children[token_id]) for prefix, node in level for token_id in sorted(node.children)]
