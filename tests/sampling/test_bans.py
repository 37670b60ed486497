"""Which tokens are impossible by rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.errors import InvalidSampler, NothingToDraw
from seedbed.sampling import AllowedTokenIds, BadWords, History, MinTokens, NoRepeatNgram, Sampler


def excluded(processor, size, *history):
    return np.flatnonzero(processor(np.zeros(size), History(*history)) == -np.inf).tolist()


@given(st.lists(st.integers(0, 4), max_size=20), st.integers(1, 4))
def test_no_ngram_is_ever_repeated(seen, n):
    ngrams = {tuple(seen[i : i + n]) for i in range(len(seen) - n + 1)}

    banned = excluded(NoRepeatNgram(n), 5, seen)

    assert banned == [token for token in range(5) if len(seen) >= n - 1 and (*seen[len(seen) - n + 1 :], token) in ngrams]


@pytest.mark.parametrize(
    ("prompt", "output", "scope", "banned"),
    [
        ([1], [2], "all", [0, 3]),
        ([1], [2], "output", [0]),
        ([], [1, 2], "output", [0, 3]),
        ([2], [1], "all", [0]),
        ([], [], "all", [0]),
    ],
)
def test_the_last_token_of_a_word_is_excluded_after_the_others(prompt, output, scope, banned):
    assert excluded(BadWords([[0], [1, 2, 3]], scope), 5, prompt, output) == banned


def test_stop_tokens_wait_for_the_least_number_of_tokens():
    assert excluded(MinTokens(2, [3, 1]), 5, [9, 9, 9], [0]) == [1, 3]
    assert excluded(MinTokens(2, [3, 1]), 5, [], [0, 0]) == []


def test_bans_outside_the_vocabulary_exclude_nothing():
    assert excluded(MinTokens(2, [7]), 5) == []
    assert excluded(BadWords([[7]]), 5) == []


def test_only_the_allowed_tokens_are_left():
    assert excluded(AllowedTokenIds([3, 1, 3]), 5) == [0, 2, 4]
    with pytest.raises(InvalidSampler, match="allowed token 5 is outside the vocabulary of 5"):
        excluded(AllowedTokenIds([5]), 5)


def test_bans_that_leave_nothing_say_whose_doing_it_was():
    sampler = Sampler(allowed_token_ids=[0, 1], bad_words=[[0], [1]])

    with pytest.raises(NothingToDraw, match=r"BadWords\(words=\(\(0,\), \(1,\)\), scope='all'\) excludes every token") as raised:
        sampler.draw([0.0, 0.0, 0.0], seed=7, prompt_index=1, index=2, step=3)
    assert (raised.value.prompt_index, raised.value.index, raised.value.step) == (1, 2, 3)


@pytest.mark.parametrize(
    "construct",
    [
        lambda: AllowedTokenIds([]),
        lambda: AllowedTokenIds([-1]),
        lambda: AllowedTokenIds("12"),
        lambda: AllowedTokenIds(5),
        lambda: BadWords([[]]),
        lambda: BadWords([5]),
        lambda: BadWords(5),
        lambda: BadWords([[1]], "prompt"),
        lambda: BadWords([[1]], 64),
        lambda: BadWords([[True]]),
        lambda: MinTokens(-1, [0]),
        lambda: MinTokens(2, []),
        lambda: MinTokens(2.0, [0]),
        lambda: NoRepeatNgram(0),
        lambda: NoRepeatNgram(True),
    ],
)
def test_a_parameter_outside_its_range_is_refused_at_construction(construct):
    with pytest.raises(InvalidSampler):
        construct()
