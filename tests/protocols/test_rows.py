"""Rows on their way to the wire and off it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from tests.protocols import wire

from seedbed.errors import (
    BrokenAnswer,
    DishonestAnswer,
    MalformedRow,
    NonFiniteAtServer,
    NonFiniteLogits,
    NothingToDraw,
    SeedbedError,
    TruncatedRow,
)
from seedbed.llm.base import TopLogprobs
from seedbed.protocols.rows import (
    LOWEST,
    check_choice,
    check_logits,
    complete_row,
    full_row,
    listed_row,
    log_probabilities,
    logprob_of,
    numbers,
    row_of,
    token_id_array,
    top_logprobs,
)


@wire.thorough
@given(wire.full_rows(), wire.small_ints)
def test_the_k_best_are_the_first_k_of_the_sorted_row(row: np.ndarray[Any, Any], k: int) -> None:
    """By value, equal ones by lowest id; their values are those of the full log-softmax."""
    values = log_probabilities(row)
    order = sorted(range(row.size), key=lambda token_id: (-values[token_id], token_id))[:k]
    top = top_logprobs(row, k)

    assert top.token_ids.tolist() == order
    assert top.logprobs.tolist() == values[order].tolist()


@wire.thorough
@given(wire.full_rows(), wire.small_ints)
def test_the_tail_of_a_cut_row_is_the_probability_of_what_was_cut(row: np.ndarray[Any, Any], k: int) -> None:
    """To 1e-6: no more is lost to float32."""
    row64 = row.astype(np.float64)
    p = np.exp(row64 - row64.max())
    p /= p.sum()
    true = np.sort(p)[: max(0, row.size - k)].sum()

    assert abs(top_logprobs(row, k).tail_mass - true) < 1e-6


@wire.thorough
@given(wire.full_rows(), wire.small_ints)
def test_every_list_cut_from_a_distribution_is_believed(row: np.ndarray[Any, Any], k: int) -> None:
    """The check that the unlisted rest has somewhere to be refuses no true list."""
    top = top_logprobs(row, k)

    assert listed_row(top.token_ids, top.logprobs, row.size) == top


def test_a_list_is_cut_further_but_never_extended() -> None:
    """More than is known is an error that says how much would be needed, unless there is no more."""
    known = TopLogprobs([2, 1], [-0.5, -1.5], vocab_size=3)

    assert top_logprobs(known, 1).token_ids.tolist() == [2]
    with pytest.raises(TruncatedRow, match="^3 tokens were asked for, 2 are known$") as caught:
        top_logprobs(known, 3)
    assert caught.value.needed == 3
    complete = TopLogprobs([1, 0], [-0.5, -0.9333], vocab_size=2)
    assert top_logprobs(complete, 50) == complete


def test_a_complete_list_is_a_full_row_and_no_other_list_is() -> None:
    """Values stand at their ids."""
    row = full_row(TopLogprobs([1, 0], [-0.5, -0.9333], vocab_size=2))

    assert wire.same_row(row, np.float32([-0.9333, -0.5]))
    with pytest.raises(TruncatedRow, match="^the full row was asked for, 1 of 2 tokens are known$") as caught:
        full_row(TopLogprobs([1], [-0.5], vocab_size=2))
    assert caught.value.needed == 2


def test_one_tokens_logprob_is_that_of_the_full_log_softmax() -> None:
    """-inf where a list does not have it, or no row could."""
    assert logprob_of(np.log(np.float32([0.25, 0.75])), 0) == float(np.float32(np.log(0.25)))
    assert logprob_of(TopLogprobs([2], [-0.5], vocab_size=3), 2) == -0.5
    assert logprob_of(TopLogprobs([2], [-0.5], vocab_size=3), 1) == -np.inf
    assert logprob_of(np.float32([0, 0]), 2) == -np.inf


@pytest.mark.parametrize(("row", "kind"), [([np.nan, 1], NonFiniteLogits), ([np.inf, 1], NonFiniteLogits), ([-np.inf] * 2, NothingToDraw)])
def test_a_row_nothing_can_be_drawn_from_has_no_k_best(row: list[float], kind: type[SeedbedError]) -> None:
    """NaN, +inf and nothing at all stay the model's error."""
    with pytest.raises(kind):
        top_logprobs(np.float32(row), 1)


def test_numbers_are_rounded_once_and_sentinels_are_minus_infinity() -> None:
    """Doubles to float32; whatever is at or below the sentinel, an int, or beyond float32."""
    assert numbers([-0.25889989733695984, -2, -3.4028234663852886e38, -1e300]).tolist() == [
        float(np.float32(-0.25889989733695984)),
        -2.0,
        -np.inf,
        -np.inf,
    ]
    assert numbers([-9998.0, -9999.0], -9998.5).tolist() == [-9998.0, -np.inf]
    assert numbers([-1e300, 0.5], -np.inf).tolist() == [-np.inf, 0.5]
    with pytest.raises(NonFiniteLogits, match="beyond float32"):
        numbers([0.5, 1e300])
    with pytest.raises(NonFiniteLogits, match="value 1 of 2 is beyond float32"):
        numbers([-math.inf, 10**400])
    assert float(LOWEST) == -3.4028234663852886e38
    assert numbers([3.4028234663852886e38]).tolist() == [3.4028234663852886e38]


@pytest.mark.parametrize("values", [["1"], [True], [[1.0]], [{}], ["x", None]])
def test_what_is_no_number_is_no_value(values: list[Any]) -> None:
    """numpy would take strings and booleans for numbers."""
    with pytest.raises(BrokenAnswer, match="^the values are no numbers$"):
        numbers(values)


def test_null_is_how_json_spells_nan() -> None:
    """Named with its place."""
    with pytest.raises(NonFiniteLogits, match="value 1 of 3 is null"):
        numbers([0.5, None, 1])


@pytest.mark.parametrize("ids", [["1"], [True], [1.0], [None], [[1]], [2**63], [-(2**63) - 1]])
def test_what_is_no_int_is_no_token_id(ids: list[Any]) -> None:
    """numpy would take booleans for ints, and raise its own errors for the rest."""
    with pytest.raises(BrokenAnswer, match="^(the token ids are no integers$|a token id is beyond 64 bits: )"):
        token_id_array(ids)


@pytest.mark.parametrize(
    ("ids", "values", "vocab_size"),
    [
        ([0, 1], [-33.0, -35.0], 50_257),  # GPT-2's logits are all negative and sum to nearly nothing
        ([0, 1], [-0.9, -2.0], 4),
        ([0, 1], [-0.7, -1.4], 2),
        ([0], [-np.inf], 10),
    ],
)
def test_logits_that_could_pass_for_logprobs_are_found_out_by_the_rest(ids: list[int], values: list[float], vocab_size: int) -> None:
    """What is not listed is at most (vocab_size - k) times as probable as the last listed token."""
    words = (
        f"^the {len(ids)} tokens listed have probability .* together, and the {vocab_size - len(ids)} less probable ones .* no distribution"
    )
    with pytest.raises(MalformedRow, match=words):
        listed_row(np.array(ids), np.float32(values), vocab_size)


@pytest.mark.parametrize("ids", [[0, 1], [0, 1, 1], [0, 1, 3], [0, 1, -1], [0, 1, 2, 3], []])
def test_a_row_that_claims_to_be_full_has_every_id_once(ids: list[int]) -> None:
    """A missing id is an error and never -inf."""
    with pytest.raises(DishonestAnswer, match="claims to be full"):
        complete_row(np.array(ids, dtype=np.int64), np.zeros(len(ids), np.float32), 3, logprobs=False)


def test_a_complete_row_stands_at_its_ids_and_is_finite() -> None:
    """In any order; NaN and +inf are named with their token."""
    ids = np.array([2, 0, 1])
    assert complete_row(ids, np.float32([7, 5, 6]), 3, logprobs=False).tolist() == [5, 6, 7]
    for bad in (np.nan, np.inf):
        with pytest.raises(NonFiniteLogits, match="token 0"):
            complete_row(ids, np.float32([7, bad, 6]), 3, logprobs=False)


def test_a_complete_row_has_a_value_for_each_id() -> None:
    with pytest.raises(DishonestAnswer, match="its 3 ids are not those of a vocabulary of 3"):
        complete_row(np.arange(3), np.zeros(2, np.float32), 3, logprobs=False)


@pytest.mark.parametrize(
    ("values", "taken_for"), [([0.5, 0.5, 0.0], "probabilities"), ([0.5, 0.6, 0.0], "logits"), ([1.0, 0.5, -0.5], "logits")]
)
def test_what_a_row_of_logprobs_may_be_instead_is_asked(values: list[float], taken_for: str) -> None:
    with pytest.raises(MalformedRow, match=f"that is no distribution; are these {taken_for}"):
        complete_row(np.arange(3), np.float32(values), 3, logprobs=True)


@wire.same_every_time
@given(wire.full_rows())
def test_a_complete_row_of_logprobs_sums_to_one(row: np.ndarray[Any, Any]) -> None:
    """The log-softmax of any row does; shifted, or taken for it, another does not."""
    values, ids = log_probabilities(row), np.arange(row.size)

    assert wire.same_row(complete_row(ids, values, row.size, logprobs=True), values)
    for shift in (-0.01, 0.01, 200.0):
        with pytest.raises(MalformedRow, match="sums to probability"):
            complete_row(ids, values + np.float32(shift), row.size, logprobs=True)


def test_a_large_vocabulary_summed_in_float32_is_believed() -> None:
    """As llama.cpp sums: from the most probable on, which loses 1.1e-3 of 262,144 tokens."""
    x = np.random.default_rng(0).normal(0, 3, 262_144)
    x[0] = 20.0
    weights = np.exp(np.sort(x)[::-1] - x.max()).astype(np.float32)
    values = np.log(weights / np.cumsum(weights, dtype=np.float32)[-1])

    assert np.exp(values, dtype=np.float64).sum() > 1.001
    assert wire.same_row(complete_row(np.arange(x.size), values, x.size, logprobs=True), values)


def test_of_logits_only_a_full_row_is_made() -> None:
    """A list of all of them is one, however many were asked for."""
    ids, logits = np.array([1, 0]), np.float32([7, 5])

    assert wire.same_row(row_of(ids, logits, 2, full=False, kind="logits"), np.float32([5, 7]))
    with pytest.raises(DishonestAnswer):
        row_of(ids, logits, 3, full=False, kind="logits")
    assert row_of(ids, np.float32([-0.5, -1.5]), 3, full=False) == TopLogprobs([1, 0], [-0.5, -1.5], 3)


def test_logits_that_are_probabilities_are_named() -> None:
    """Short rows and single certain tokens may be meant; what is below 0 or sums otherwise is no distribution."""
    p = np.random.default_rng(7).dirichlet(np.ones(64)).astype(np.float32)
    for distribution in (p, np.float32([0.5, 0.5] + [0] * 62)):
        with pytest.raises(DishonestAnswer, match="logits are probabilities"):
            check_logits(distribution)
    for row in (p[:63] / p[:63].sum(), np.eye(1, 64, 5, dtype=np.float32)[0], p - 0.01, p * 1.01, np.log(p), np.zeros(64, np.float32)):
        check_logits(row)
    check_logits(TopLogprobs([4], [-1.0], vocab_size=100))


def test_a_row_of_nothing_but_impossible_tokens_is_the_models_fault() -> None:
    with pytest.raises(NonFiniteAtServer, match="^the server holds every token impossible: its model gave NaN for this prefix$") as caught:
        check_choice(0, np.full(3, -np.inf, np.float32))

    assert caught.value.status == 200


def test_the_greedy_choice_must_be_as_good_as_the_best() -> None:
    """Ties are as good; a bool, a string or nothing is no token."""
    listed, dense = TopLogprobs([4, 7, 2], [-1.0, -1.0, -2.0], vocab_size=9), np.float32([0, 5, 5])
    assert (check_choice(4, listed), check_choice(7, listed), check_choice(1, dense), check_choice(2, dense)) == (4, 7, 1, 2)
    for chosen in (2, 5, None, "4", 4.0, True):
        with pytest.raises(DishonestAnswer, match="the best it lists is token 4"):
            check_choice(chosen, listed)
    for chosen in (0, True, 1.0):
        with pytest.raises(DishonestAnswer, match="the best it lists is token 1"):
            check_choice(chosen, dense)
    with pytest.raises(NonFiniteAtServer):
        check_choice(0, np.full(3, -np.inf, np.float32))
