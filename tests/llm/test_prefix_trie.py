"""The prefix trie agrees with a dictionary, and knows how far a prefix is known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seedbed.llm.prefix_trie import Nearest, PrefixTrie

prefixes = st.lists(st.integers(0, 3), max_size=6).map(tuple)


@given(st.dictionaries(prefixes, st.integers()), prefixes)
def test_it_agrees_with_a_dictionary(known: dict[tuple[int, ...], int], asked: tuple[int, ...]) -> None:
    trie: PrefixTrie[int] = PrefixTrie()
    for prefix, value in known.items():
        trie.insert(prefix, value)
    begins = [asked[:length] for length in range(len(asked) + 1) if asked[:length] in known]

    assert trie.get(asked) == known.get(asked)
    assert len(trie) == len(known)
    assert trie.nearest(asked) == (Nearest(len(begins[-1]), known[begins[-1]]) if begins else Nearest(0, None))
    assert list(trie) == sorted(known.items(), key=lambda item: (len(item[0]), item[0]))


def test_inserting_again_replaces() -> None:
    trie: PrefixTrie[str] = PrefixTrie()
    trie.insert([1], "a")
    trie.insert([1], "b")

    assert (trie.get([1]), len(trie)) == ("b", 1)
