"""Exact answers over a recorded tree: what sampling would estimate, summed up instead, with no draw and no server.

Every recorded prefix has a distribution, so the probability of a continuation is a product and an expectation a sum over the tree. What
the tree does not hold (a token nobody drew, the tail of a row that was cut to its k best) is not guessed: it goes into the width of the
interval that is returned. The truth under the model and the sampler lies inside it, up to rounding of float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from seedbed.errors import UsageError
from seedbed.generation.plan import check_count
from seedbed.recording.exact.likeliest import LikelySequence, MostLikely, likeliest
from seedbed.recording.exact.mean import mean_over
from seedbed.recording.exact.tree import Interval, Tree

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from seedbed.recording.format import Recording
    from seedbed.sampling import Sampler

__all__ = ["Interval", "LikelySequence", "MostLikely", "expectation", "expected_length", "most_likely", "probability"]


def probability(
    recording: Recording | str | os.PathLike[str],
    prompt: Sequence[int],
    predicate: Callable[[tuple[int, ...]], bool],
    *,
    max_new_tokens: int,
    sampler: Sampler | None = None,
    stop_token_ids: Sequence[int] = (),
    stop_sequences: Sequence[Sequence[int]] = (),
    early: Callable[[tuple[int, ...]], bool | None] | None = None,
) -> Interval:
    """The probability that a sampled continuation satisfies a predicate.

    Args:
        recording: where the rows are.
        prompt: a recorded prompt.
        predicate: called with the generated ids of a finished sequence.
        max_new_tokens: as in ``generate``.
        sampler: as in ``generate``; mirostat and xtc, whose rows depend on earlier draws, are refused.
        stop_token_ids, stop_sequences: as in ``generate``.
        early: called with the generated ids of an unfinished sequence; True or False when that is the predicate's value whatever follows,
            None when it is open. Without it, what was never recorded stays undecided even if its first token decides.

    Raises:
        RecordingMiss: the prompt was not recorded.
        UsageError: a wrong argument.
        RowError: a recorded row that the sampler cannot process.

    Example:
        >>> from seedbed.testing import ScriptedLLM
        >>> import tempfile, trio
        >>> from seedbed import ModelInfo, RecordingLLM
        >>> coin = ScriptedLLM({}, default=[0.0, 0.0], info=ModelInfo(vocab_size=2, eos_token_ids=(0,)))
        >>> async def record(path):
        ...     async with RecordingLLM(coin, path, tier="full") as model:
        ...         for prefix in [[1], [1, 1]]:
        ...             row = await model.next_token_logits(prefix)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     trio.run(record, directory + "/coin")
        ...     probability(directory + "/coin", [1], lambda ids: len(ids) == 2, max_new_tokens=9)
        Interval(low=0.25, high=0.5)
    """

    def value(token_ids: tuple[int, ...]) -> float:
        return float(bool(predicate(token_ids)))

    def early_value(token_ids: tuple[int, ...]) -> float | None:
        assert early is not None
        decided = early(token_ids)
        return None if decided is None else float(bool(decided))

    tree = Tree(recording, prompt, sampler, max_new_tokens, stop_token_ids, stop_sequences)
    return mean_over(tree, value, lambda _: Interval(0.0, 1.0), None if early is None else early_value)


def expected_length(
    recording: Recording | str | os.PathLike[str],
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    sampler: Sampler | None = None,
    stop_token_ids: Sequence[int] = (),
    stop_sequences: Sequence[Sequence[int]] = (),
) -> Interval:
    """How many tokens a sampled continuation has on average, the stop token included.

    Arguments and errors are those of ``probability``.
    """
    tree = Tree(recording, prompt, sampler, max_new_tokens, stop_token_ids, stop_sequences)
    return mean_over(tree, lambda token_ids: float(len(token_ids)), lambda length: Interval(length, max_new_tokens))


def expectation(
    recording: Recording | str | os.PathLike[str],
    prompt: Sequence[int],
    value: Callable[[tuple[int, ...]], float],
    *,
    bounds: tuple[float, float],
    max_new_tokens: int,
    sampler: Sampler | None = None,
    stop_token_ids: Sequence[int] = (),
    stop_sequences: Sequence[Sequence[int]] = (),
) -> Interval:
    """The mean of any value of a sampled continuation.

    Args:
        value: called with the generated ids of a finished sequence.
        bounds: the least and the most that ``value`` can be, for the sequences that were never recorded.

    The other arguments and the errors are those of ``probability``; also wrong is a value outside its bounds.
    """
    low, high = map(float, bounds)
    if not -math.inf < low <= high < math.inf:
        raise UsageError(f"bounds must be two finite numbers, the least first, not {bounds!r}")

    def bounded(token_ids: tuple[int, ...]) -> float:
        number = float(value(token_ids))
        if not low <= number <= high:
            raise UsageError(f"the value of {list(token_ids)} is {number}, outside its bounds {low:g} to {high:g}")
        return number

    tree = Tree(recording, prompt, sampler, max_new_tokens, stop_token_ids, stop_sequences)
    return mean_over(tree, bounded, lambda _: Interval(low, high))


def most_likely(
    recording: Recording | str | os.PathLike[str],
    prompt: Sequence[int],
    count: int = 10,
    *,
    max_new_tokens: int,
    sampler: Sampler | None = None,
    stop_token_ids: Sequence[int] = (),
    stop_sequences: Sequence[Sequence[int]] = (),
) -> MostLikely:
    """The ``count`` most probable finished continuations among those recorded, and how probable any other can be at most.

    The other arguments and the errors are those of ``probability``.
    """
    tree = Tree(recording, prompt, sampler, max_new_tokens, stop_token_ids, stop_sequences)
    return likeliest(tree, check_count(count))
