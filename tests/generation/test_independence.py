"""The tokens are independent draws from the model's own distribution: tests with known probabilities, fixed seeds and exact thresholds.

They run on the whole path, model to result. The equality tests of ``test_invariance`` cannot be replaced by these, nor these by them: one
generator a sequence, seeded by its index, passes all of these and shares its sequences between runs.
"""

from __future__ import annotations

import numpy as np
import pytest
import trio

from seedbed import generate
from seedbed.llm import LLM
from seedbed.testing import assert_same_distribution

V, SEQUENCES, STEPS = 9, 100, 100
P = np.array([0, 0.30, 0.20, 0.15, 0.12, 0.10, 0.06, 0.04, 0.03])
ALPHA = 1e-3


class Constant(LLM):
    """Tokens 1 to 8 with known probabilities after every prefix; never the stop token, 0."""

    def __init__(self, p: np.ndarray = P) -> None:
        with np.errstate(divide="ignore"):
            self.row = np.log(p).astype(np.float32)

    async def next_token_logits(self, prev_token_ids):
        await trio.lowlevel.checkpoint()
        return self.row

    def get_stop_token_id(self) -> int:
        return 0


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    """10,000 draws, (sequence, step); without the prefix cache, which would keep 10,000 rows that nobody asks for again."""
    result = trio.run(lambda: generate([1], Constant(), n=SEQUENCES, seed=2026, max_new_tokens=STEPS, prefix_cache_bytes=0))
    return np.array(result.token_ids)


def pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.bincount((first * V + second).ravel(), minlength=V * V)


def test_every_draw_has_the_models_distribution(tokens: np.ndarray) -> None:
    assert_same_distribution(np.bincount(tokens.ravel(), minlength=V), P, alpha=ALPHA)


def test_successive_draws_are_independent(tokens: np.ndarray) -> None:
    """Finds re-seeding at every step."""
    assert_same_distribution(pairs(tokens[:, :-1], tokens[:, 1:]), np.outer(P, P).ravel(), alpha=ALPHA)


@pytest.mark.parametrize("distance", [1, 2])
def test_sequences_are_independent_at_the_same_step(tokens: np.ndarray, distance: int) -> None:
    """Finds noise shared across sequences, or seeded by the step."""
    assert_same_distribution(pairs(tokens[:-distance], tokens[distance:]), np.outer(P, P).ravel(), alpha=ALPHA)


def test_the_diagonal_is_independent(tokens: np.ndarray) -> None:
    """Finds seeding by index + step."""
    assert_same_distribution(pairs(tokens[:-1, 1:], tokens[1:, :-1]), np.outer(P, P).ravel(), alpha=ALPHA)


def test_runs_of_neighbouring_seeds_share_no_sequence() -> None:
    """Finds seed + index: with it 31 of 32 are shared."""
    uniform = Constant(np.append(0, np.full(255, 1 / 255)))
    runs = [trio.run(lambda seed=seed: generate([1], uniform, n=32, seed=seed, max_new_tokens=16)) for seed in (41, 42)]
    mine, other = ({tuple(tokens) for tokens in run.token_ids} for run in runs)

    assert len(mine) == len(other) == 32
    assert not mine & other


def test_these_tests_would_notice() -> None:
    """The sketch's faults fail them: one noise a sequence, one noise a step, index + step."""
    uniform = np.random.default_rng(1).random(SEQUENCES + STEPS)
    cdf = P.cumsum()
    index, step = np.indices((SEQUENCES, STEPS))
    for noise, first, second in (
        (index, (slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        (step, (slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        (index + step, (slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))),
    ):
        broken = np.searchsorted(cdf, uniform[noise], side="right")
        with pytest.raises(AssertionError, match="p = 0 < 0.001"):
            assert_same_distribution(pairs(broken[first], broken[second]), np.outer(P, P).ravel(), alpha=ALPHA)
