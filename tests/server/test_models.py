"""The models in the box: honest to the contract, and the same rows on every CPU."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest

from seedbed import HashLM, TinyLM, generate
from seedbed.errors import InvalidPrompt, UsageError
from seedbed.testing import check_llm

TINY = TinyLM()


@pytest.mark.parametrize("llm", [TINY, HashLM(1), HashLM(33)], ids=repr)
async def test_it_keeps_the_contract(llm) -> None:
    await check_llm(llm, [(0,), (0, 0), (0,)])


async def test_tiny_lm_counts_what_it_says_it_counts() -> None:
    """Against a count of our own, for the last two characters of "garden ": the formula of the class docstring, order 2."""
    text = files("seedbed.server").joinpath("tiny_lm.txt").read_text("utf-8")
    documents = [[256, *line.encode(), 256] for line in text.splitlines()]
    counts = [Counter(tuple(d[i - k : i + 1]) for d in documents for i in range(max(1, k), len(d))) for k in range(3)]
    context = tuple(b"n ")
    want = [
        math.log(1 + sum(32**k * counts[k][(*context[len(context) - k :], v)] for k in range(3)))
        for v in range(257)
    ]  # fmt: skip
    row = await TinyLM(order=2).next_token_logits(list(b"garden "))

    assert row.tolist() == pytest.approx(want, rel=1e-6)


async def test_tiny_lm_rows_are_these_very_bits() -> None:
    """Pinned, since recordings and hashes depend on it: rows come from integers and correctly rounded logarithms alone."""
    digest = hashlib.sha256()
    for prefix in (b"The seed", b"In ", b"q", bytes([200, 201])):
        digest.update((await TINY.next_token_logits(list(prefix))).tobytes())

    assert digest.hexdigest() == "0fcfb275c022342860402abe6832482142d87f03031ddc568ef61c75537698b5"


async def test_hash_lm_rows_are_these_very_bits() -> None:
    digest = hashlib.sha256()
    for prefix in ([0], [0, 0], [1 << 40], list(range(100))):
        digest.update((await HashLM(1001).next_token_logits(prefix)).tobytes())

    assert digest.hexdigest() == "20148e60a12cd130463e96e956d266bf326add2b72601321a257ed84b1173266"


async def test_tiny_lm_text_survives_its_tokenizer() -> None:
    ids = await TINY.tokenize("naïve 🙂<|end|>")

    assert ids[-1] == 256
    assert await TINY.detokenize(ids) == "naïve 🙂"
    assert await TINY.detokenize([0xF0, 0x9F]) == "\ufffd"
    assert b"".join(map(TINY.token_bytes, ids)).decode() == "naïve 🙂<|end|>"


async def test_tiny_lm_knows_no_octets_of_tokens_it_does_not_have() -> None:
    """They may be asked about: a recorder spells every token of the prefixes it was asked for."""
    assert [TINY.token_bytes(token_id) for token_id in (-1, 257, 2**70)] == [b""] * 3


@pytest.mark.parametrize("llm", [TINY, HashLM(33)], ids=repr)
@pytest.mark.parametrize("wrong", [None, "ab", ["x"], [2.5j], [2**70], [2**63], [1.5], ["12"], [-1], {1: 2}], ids=repr)
async def test_what_is_no_prefix_is_named(llm, wrong: object) -> None:
    with pytest.raises(InvalidPrompt, match="the prefix"):
        await llm.next_token_logits(wrong)


async def test_tiny_lm_names_what_is_no_text_and_what_are_no_tokens() -> None:
    for wrong in (None, 5, b"ab", ["ab"]):
        with pytest.raises(UsageError, match="what is to be tokenized must be text"):
            await TINY.tokenize(wrong)
    for wrong in (None, 5, "ab", [1.5], [-1], {1}):
        with pytest.raises(InvalidPrompt, match="what is to be detokenized"):
            await TINY.detokenize(wrong)


async def test_tiny_lm_writes_words_of_its_text() -> None:
    text = files("seedbed.server").joinpath("tiny_lm.txt").read_text("utf-8")
    words = set(text.replace(".", " ").replace(",", " ").replace(":", " ").split())
    result = await generate(list(b"The "), TINY, n=40, seed=7)
    said = [word for s in result.sequences for word in bytes(t for t in s.token_ids if t < 256).decode("utf-8", "replace").split()[1:-1]]

    assert all(s.finish_reason == "stop" for s in result.sequences)
    assert sum(word.strip(".,:") in words for word in said) > 0.95 * len(said)


async def test_hash_lm_is_flat_enough_to_be_load() -> None:
    rows = np.concatenate([await HashLM(1000).next_token_logits([i]) for i in range(20)])

    assert (rows.min() >= -8, rows.max() < 8) == (True, True)
    assert abs(rows.mean()) < 0.2


async def test_a_prefix_may_be_an_array() -> None:
    for llm in (TINY, HashLM(33)):
        assert np.array_equal(await llm.next_token_logits(np.uint16([84, 104])), await llm.next_token_logits([84, 104]))


@pytest.mark.parametrize("wrong", ["x", -1, 2.5, True, None], ids=repr)
def test_tiny_lm_names_an_order_that_is_none(wrong: object) -> None:
    with pytest.raises(UsageError, match="order must be an int of 0 or more"):
        TinyLM(wrong)
    with pytest.raises(UsageError, match="context_length must be an int of 1 or more"):
        TinyLM(context_length=wrong)
    with pytest.raises(UsageError, match="eos_token_id must be an int of 0 or more"):
        HashLM(9, eos_token_id=wrong)


@pytest.mark.parametrize("wrong", ["x", -1, 0, 2.5, True, None], ids=repr)
def test_hash_lm_names_a_size_that_is_none(wrong: object) -> None:
    with pytest.raises(UsageError, match="vocab_size must be an int of 1 or more"):
        HashLM(wrong)
    with pytest.raises(UsageError, match="context_length must be an int of 1 or more"):
        HashLM(9, context_length=wrong)
