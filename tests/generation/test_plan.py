"""Wrong arguments: one clear line each, before anything is sent."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from seedbed import ModelInfo, Sampler, generate, generate_token_ids, generate_token_ids_multiple, open_generation
from seedbed.errors import InvalidPrompt, InvalidSampler, InvalidSeed, UsageError
from seedbed.testing import ScriptedLLM

INFO = ModelInfo(vocab_size=4, eos_token_ids=(0,))

WRONG = [
    ("timeout", None, UsageError, "timeout must be seconds >= 0, or math.inf for no limit, not None"),
    ("timeout", "3", UsageError, "not '3'"),
    ("timeout", True, UsageError, "not True"),
    ("timeout", math.nan, UsageError, "not nan"),
    ("timeout", 10**400, UsageError, "not 1000"),
    ("sequence_timeout", 1j, UsageError, "sequence_timeout must be seconds"),
    ("stop_token_ids", 46, InvalidPrompt, "stop_token_ids must be a list of token ids, not 46"),
    ("stop_token_ids", None, InvalidPrompt, "not None"),
    ("stop_token_ids", {1: 2}, InvalidPrompt, "not {1: 2}"),
    ("stop_token_ids", [[1]], InvalidPrompt, r"holds \[1\] at place 0"),
    ("stop_token_ids", [1, 4], InvalidPrompt, "token id 4 at place 1; the model's vocabulary has ids 0 to 3"),
    ("stop_sequences", 46, UsageError, "stop_sequences must be several lists of token ids, not 46"),
    ("stop_sequences", None, UsageError, "not None"),
    ("stop_sequences", np.array(3), UsageError, r"not array\(3\)"),
    ("stop_sequences", "ab", UsageError, "not 'ab'"),
    ("stop_sequences", [1, 2], InvalidPrompt, "a stop sequence must be a list of token ids, not 1"),
    ("stop_sequences", [[9]], InvalidPrompt, "the model's vocabulary"),
    ("sampler", {"temperature": 0.5}, InvalidSampler, r"as Sampler\(temperature=0.8\) is one, not {'temperature': 0.5}"),
    ("sampler", Sampler, InvalidSampler, "not <class"),
    ("max_new_tokens", "4", UsageError, "max_new_tokens must be an int of 0 or more, or None, not '4'"),
    ("max_new_tokens", math.inf, UsageError, "not inf"),
    ("n", None, UsageError, "n must be an int of 0 or more, not None"),
    ("n", 10**30, UsageError, "n must be at most"),
    ("lookahead", None, UsageError, "lookahead must be"),
    ("lookahead", np.zeros(2), UsageError, "lookahead must be"),
    ("prefix_cache_bytes", 1e9, UsageError, "an int of 0 bytes or more"),
    ("resume", np.array(3), UsageError, "resume takes"),
    ("resume", {"sequences": []}, UsageError, "resume takes"),
]

NO_PROMPTS = [
    None,
    5,
    {1: 2},
    {1},
    [None],
    [[1], None],
    [1, [2]],
    [[[1]]],
    [1j],
    [{1, 2}],
    np.array(1),
    np.array([1.5]),
    np.zeros((2, 2, 2), int),
    [np.zeros((2, 2), int)],
    object(),
]


def one_line(caught: pytest.ExceptionInfo[UsageError]) -> bool:
    return "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize(("name", "value", "kind", "says"), WRONG, ids=[f"{name}={value!r:.20}" for name, value, _, _ in WRONG])
async def test_a_wrong_argument_is_one_clear_line_and_nothing_is_sent(name: str, value: object, kind: type[UsageError], says: str) -> None:
    llm = ScriptedLLM({}, info=INFO)
    with pytest.raises(kind, match=says) as caught:
        await generate([1], llm, **{name: value})

    assert type(caught.value) is kind
    assert one_line(caught)
    with pytest.raises(kind):
        async with open_generation([1], llm, **{name: value}):
            raise AssertionError("it was opened")
    if name in ("timeout", "sampler", "max_new_tokens"):
        with pytest.raises(kind, match=says):
            await generate_token_ids([1], llm, **{name: value})
    if name in ("timeout", "sampler", "max_new_tokens", "n"):
        with pytest.raises(kind, match=says):
            await generate_token_ids_multiple([1], llm, **{"n": 1, name: value})
    assert llm.asked == []


@pytest.mark.parametrize("prompt", NO_PROMPTS, ids=lambda prompt: " ".join(repr(prompt).split(" at 0x")[0].split())[:30])
async def test_what_is_no_prompt_is_named(prompt: object) -> None:
    llm = ScriptedLLM({}, info=INFO)
    for ask in (
        lambda: generate(prompt, llm),
        lambda: generate_token_ids(prompt, llm),
        lambda: generate_token_ids_multiple(prompt, llm, 2),
    ):
        with pytest.raises(InvalidPrompt) as caught:
            await ask()
        assert one_line(caught)
    assert llm.asked == []


@pytest.mark.parametrize(("name", "value", "kind", "says"), [row for row in WRONG if "timeout" not in row[0]])
async def test_no_prompt_at_all_is_no_excuse_for_a_wrong_argument(name: str, value: object, kind: type[UsageError], says: str) -> None:
    with pytest.raises(kind, match=says):
        await generate([], ScriptedLLM({}, info=INFO), **{name: value})


async def test_several_prompts_are_not_one() -> None:
    with pytest.raises(InvalidPrompt, match=r"the prompt holds \[1\] at place 0, which is no token id"):
        await generate_token_ids([[1], [2]], ScriptedLLM({}))
    with pytest.raises(InvalidPrompt, match="the prompt must be a list of token ids, not None"):
        await generate_token_ids(None, ScriptedLLM({}))


async def test_an_id_that_no_vocabulary_has_is_refused_though_none_is_known() -> None:
    with pytest.raises(InvalidPrompt, match=r"prompt 0 holds token id 9223372036854775808 at place 1; ids are 0 to 2\*\*63 - 1"):
        await generate([1, 2**63], ScriptedLLM({}))


@pytest.mark.parametrize("end", [None, "0", 1.0, [0]])
async def test_a_model_that_does_not_tell_its_end_in_ints_is_refused(end: object) -> None:
    """Compared with tokens it would never come, and every sequence would be as long as may be."""
    with pytest.raises(UsageError, match="what ends a sequence, the model must tell in ints") as caught:
        await generate([1], ScriptedLLM({}, stop_token_id=end))

    assert one_line(caught)


@pytest.mark.parametrize("index", [-1, 2**64, "x", 1.5, None, True])
async def test_an_index_that_names_no_sequence_is_refused(index: object) -> None:
    llm = ScriptedLLM({})
    with pytest.raises(InvalidSeed, match="index must be") as caught:
        await generate_token_ids([1], llm, index=index)

    assert "step" not in str(caught.value)
    assert llm.asked == []


async def test_numpys_numbers_are_numbers() -> None:
    llm = ScriptedLLM({}, default=[0.0, 1.0, 2.0, 3.0], info=INFO)
    plain = await generate([1, 2], llm, 2, seed=7, max_new_tokens=3, stop_token_ids=[3], timeout=9, lookahead=2, prefix_cache_bytes=9999)
    ids, i, f = np.array([1, 2], np.uint16), np.int64, np.float32
    numpys = await generate(
        ids, llm, i(2), seed=i(7), max_new_tokens=i(3), stop_token_ids={i(3)}, timeout=f(9), lookahead=i(2), prefix_cache_bytes=i(9999)
    )

    assert numpys == plain
    assert type(numpys.sequences[0].prompt_token_ids[0]) is int


async def test_more_sequences_than_can_be_counted_are_refused() -> None:
    with pytest.raises(UsageError, match="more than can be counted"):
        await generate([[1], [2]], ScriptedLLM({}), sys.maxsize)
