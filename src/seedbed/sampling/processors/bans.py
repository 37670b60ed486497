"""Which tokens are impossible by rule: all but some, some words, stop tokens too early, repeated n-grams."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from seedbed.errors import InvalidSampler
from seedbed.sampling.processors.base import History, Processor, require_int, require_one_of, require_sequences, require_token_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.sampling.candidates import Candidates

__all__ = ["AllowedTokenIds", "BadWords", "MinTokens", "NoRepeatNgram"]


@dataclass(frozen=True, slots=True)
class AllowedTokenIds(Processor):
    """Exclude every token but these.

    Args:
        token_ids: at least one; ids outside the vocabulary are an error when a row is met.

    On a row of top logprobs an allowed token that is not listed stays in the unseen tail.

    Raises:
        InvalidSampler: no ids, or a negative one, when constructed; one at or above vocab_size, when applied.

    Example:
        >>> AllowedTokenIds([0, 2])([1.0, 3.0, 2.0]).tolist()
        [1.0, -inf, 2.0]

    Source: vLLM, where it comes before logit_bias, so that a bias cannot revive a token.
    """

    token_ids: Sequence[int]

    def _check(self) -> None:
        ids = require_token_ids("allowed_token_ids", self.token_ids)
        if not ids:
            raise InvalidSampler("allowed_token_ids must hold at least one id")
        object.__setattr__(self, "token_ids", tuple(sorted(set(ids))))

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        ids = np.array(self.token_ids, dtype=np.int64)
        if ids[-1] >= candidates.vocab_size:
            raise InvalidSampler(f"allowed token {ids[-1]} is outside the vocabulary of {candidates.vocab_size}")
        places, listed = candidates.locate(ids)
        values = np.full_like(candidates.values, -np.inf)
        values[places] = candidates.values[places]
        tail = candidates.tail
        if tail is not None:
            tail = tail.restricted(ids[~listed])
        return replace(candidates, values=values, tail=tail)


@dataclass(frozen=True, slots=True)
class BadWords(Processor):
    """Exclude the last token of each word whose other tokens have just been seen.

    Args:
        words: sequences of token ids; a word of one token is always excluded.
        scope: "all": the beginning of a word may lie in the prompt (Hugging Face); "output": it may not (vLLM).

    Raises:
        InvalidSampler: an empty word, something that is no token id, or another scope, when constructed.

    Example:
        >>> BadWords([[1], [2, 0]])([1.0, 3.0, 2.0], History([2])).tolist()
        [-inf, -inf, 2.0]
    """

    words: Sequence[Sequence[int]]
    scope: Literal["all", "output"] = "all"

    def _check(self) -> None:
        require_one_of("the scope of bad_words", self.scope, "all", "output")
        object.__setattr__(self, "words", require_sequences("bad_words", self.words))

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        seen = tuple(history.token_ids) if self.scope == "output" else (*history.prompt_token_ids, *history.token_ids)
        banned = {word[-1] for word in self.words if tuple(word[:-1]) == seen[len(seen) - len(word) + 1 :]}
        return candidates.ban(np.array(sorted(banned), dtype=np.int64))


@dataclass(frozen=True, slots=True)
class MinTokens(Processor):
    """Exclude the stop tokens while fewer than ``n`` tokens have been generated.

    Args:
        n: in tokens, the prompt not counted.
        stop_token_ids: what would end the sequence.

    Raises:
        InvalidSampler: n < 0, no stop tokens, or something that is no token id, when constructed.

    Example:
        >>> MinTokens(2, [0])([1.0, 3.0], History(token_ids=[1])).tolist()
        [-inf, 3.0]

    Source: vLLM (min_tokens), Hugging Face transformers and SGLang (min_new_tokens).
    """

    n: int
    stop_token_ids: Sequence[int]

    def _check(self) -> None:
        require_int("min_tokens", self.n, 0)
        ids = require_token_ids("stop_token_ids", self.stop_token_ids)
        if not ids:
            raise InvalidSampler("min_tokens needs stop_token_ids: the tokens to hold back")
        object.__setattr__(self, "stop_token_ids", tuple(sorted(set(ids))))

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        if len(history.token_ids) >= self.n:
            return candidates
        return candidates.ban(np.array(self.stop_token_ids, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class NoRepeatNgram(Processor):
    """Exclude every token that would repeat an n-gram of prompt and output.

    Args:
        n: length of the n-gram; 1 excludes every token that was seen.

    Raises:
        InvalidSampler: n < 1, when constructed.

    Example:
        >>> NoRepeatNgram(2)([1.0, 1.0, 1.0], History([0, 2, 0])).tolist()
        [1.0, 1.0, -inf]

    Source: Paulus et al. 2017, arXiv:1705.04304; Hugging Face transformers.
    """

    n: int

    def _check(self) -> None:
        require_int("no_repeat_ngram_size", self.n, 1)

    def apply(self, candidates: Candidates, history: History) -> Candidates:
        seen = history.within("all")
        if seen.size < self.n:
            return candidates
        matches = np.ones(seen.size - self.n + 1, dtype=bool)
        for offset in range(self.n - 1):
            matches &= seen[offset : offset + matches.size] == seen[seen.size - self.n + 1 + offset]
        return candidates.ban(np.unique(seen[self.n - 1 :][matches]))
