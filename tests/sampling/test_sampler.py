"""The sampler as a whole: its repr is its configuration, it is pure, and its errors say where."""

import copy
import math
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import seedbed.sampling
from seedbed.errors import (
    InvalidPrompt,
    InvalidSampler,
    InvalidSeed,
    MalformedRow,
    NonFiniteLogits,
    NothingToDraw,
    TruncatedRow,
    UsageError,
)
from seedbed.llm import TopLogprobs
from seedbed.llm.arguments import shown
from seedbed.sampling import Address, Custom, LogitBias, MirostatV2, Sampler, Temperature, TopK, TopP, portable, softmax

ROW = np.array([0.5, 2.0, -1.0, 1.0], dtype=np.float32)
SAMPLERS = [
    Sampler(),
    Sampler(0.8, 50, 0.95, 0.05),
    Sampler(order="hf", top_k=5, typical_p=0.9, no_repeat_ngram_size=2, bad_words=[[1], [2, 3]]),
    Sampler(order="vllm", logit_bias={3: -100.0, 1: 2.5}, min_tokens=3, stop_token_ids=[0], frequency_penalty=0.5),
    Sampler(order="sglang", draw="sglang", top_p=0.9, repetition_penalty=1.2),
    Sampler(order="llama.cpp", draw="llama.cpp", dry_multiplier=0.8, dry_breakers=[[1, 2], [3]], xtc_probability=0.5, dynatemp_range=0.3),
    Sampler(mirostat=1, mirostat_tau=3.0, allowed_token_ids=[0, 1]),
    Sampler(logit_bias={1: -math.inf}),
    Sampler(eta_cutoff=0.001, epsilon_cutoff=0.001, top_h=0.5, top_n_sigma=1.5, min_keep=2, top_p=0.5),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_the_repr_is_the_whole_configuration(sampler):
    again = eval(repr(sampler), {**vars(seedbed.sampling), "inf": math.inf})

    assert again == sampler
    assert hash(again) == hash(sampler)
    assert repr(again) == repr(sampler)


def test_the_repr_is_short():
    """How it draws is said only where that is not the default."""
    assert repr(Sampler()) == "Sampler(chain=[])"
    assert repr(Sampler(top_k=5, draw="vllm")) == "Sampler(chain=[TopK(k=5, ties='exact')], draw='vllm')"


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_a_sampler_is_a_value_that_travels(sampler):
    assert pickle.loads(pickle.dumps(sampler)) == sampler
    assert copy.deepcopy(sampler) == sampler


def test_samplers_that_differ_in_anything_are_not_equal():
    assert len(set(SAMPLERS)) == len(SAMPLERS)
    assert Sampler() != Sampler(draw="vllm")
    assert Sampler() != "Sampler(chain=[])"


def test_the_chain_is_the_configuration_and_the_parameters_are_sugar():
    assert Sampler(0.8, top_p=0.9) == Sampler(chain=[Temperature(0.8), TopP(0.9)])


@pytest.mark.parametrize("beside", [{"temperature": 0.5}, {"top_k": 3}, {"order": "hf"}, {"bad_words": [[1]]}, {"processors": [len]}])
def test_a_chain_beside_parameters_is_refused(beside):
    with pytest.raises(InvalidSampler, match="either a chain or its parameters"):
        Sampler(chain=[TopK(3)], **beside)


def test_a_chain_of_what_is_no_processor_is_refused():
    with pytest.raises(InvalidSampler, match=r"wrap a function in Custom"):
        Sampler(chain=[lambda prefix, logits: logits])
    for wrong in (5, TopK(3), np.array(3)):
        with pytest.raises(InvalidSampler, match=r"a chain holds processors, as in chain=\[Temperature"):
            Sampler(chain=wrong)


@given(st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=20), st.sampled_from(SAMPLERS[:3]))
def test_what_process_returns_is_the_log_of_a_distribution(values, sampler):
    logprobs = sampler.process(values, [0], [0])

    assert logprobs.dtype == np.float64
    assert logprobs.shape == (len(values),)
    assert np.exp(logprobs).sum() == pytest.approx(1.0, abs=1e-12)


@given(st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=20), st.sampled_from(SAMPLERS[:3]), st.integers(0, 2**40))
def test_what_is_drawn_has_mass_and_the_probability_it_says(values, sampler, seed):
    logprobs = sampler.process(values, [0], [0])

    drawn = sampler.sample(np.array(values, dtype=np.float32), Address(seed), [0], [0])

    assert drawn.processed_logprob == pytest.approx(logprobs[drawn.token_id], abs=2e-6)
    assert drawn.logprob == pytest.approx(math.log(softmax(values)[drawn.token_id]), abs=2e-6)
    assert drawn.tail_mass == 0.0
    assert drawn.token_id == sampler.draw(values, seed=seed, prompt_token_ids=[0], token_ids=[0])


@pytest.mark.parametrize("row", [ROW, ROW.astype(np.float64), ROW.astype(np.float16), ROW.tolist(), tuple(ROW.tolist())], ids=type)
def test_any_form_of_a_row_gives_the_same_token(row):
    assert [Sampler().draw(row, seed=7, step=step) for step in range(20)] == [Sampler().draw(ROW, seed=7, step=step) for step in range(20)]


def test_nothing_that_is_handed_in_is_modified():
    row, prompt, output = ROW.copy(), [1, 2], [3]

    Sampler(order="llama.cpp", temperature=0.5, top_k=3, repetition_penalty=1.5, logit_bias={0: 1.0}).draw(
        row, seed=7, prompt_token_ids=prompt, token_ids=output
    )

    assert (row.tolist(), prompt, output) == (ROW.tolist(), [1, 2], [3])


def test_global_random_state_is_neither_read_nor_written():
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    tokens = [Sampler(draw=scheme).draw(ROW, seed=7) for scheme in ("gumbel", "inverse-cdf", "vllm", "sglang", "llama.cpp")]

    assert np.random.get_state()[1].tolist() == before
    np.random.seed(2)
    assert [Sampler(draw=scheme).draw(ROW, seed=7) for scheme in ("gumbel", "inverse-cdf", "vllm", "sglang", "llama.cpp")] == tokens


def test_a_change_of_sampler_under_one_seed_changes_few_tokens():
    """Common random numbers: what two samplers agree on, they draw alike, so comparing them needs few samples."""
    row = np.linspace(0, 4, 50).astype(np.float32)

    one, other = ([Sampler(top_p=p).draw(row, seed=7, step=step) for step in range(300)] for p in (1.0, 0.95))

    assert sum(a != b for a, b in zip(one, other, strict=True)) < 30


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ([0.0, math.nan], NonFiniteLogits),
        ([0.0, math.inf], NonFiniteLogits),
        ([-math.inf, -math.inf], NothingToDraw),
        ([1e39, 0.0], NonFiniteLogits),  # beyond float32
    ],
)
@pytest.mark.parametrize("sampler", [Sampler(), Sampler(0.5, 2, 0.9), Sampler(temperature=0), Sampler(draw="vllm")], ids=repr)
def test_an_unusable_row_is_a_typed_error_that_says_where(sampler, row, error):
    with pytest.raises(error) as raised:
        sampler.draw(row, seed=7, prompt_index=1, index=2, step=3)

    assert (raised.value.prompt_index, raised.value.index, raised.value.step) == (1, 2, 3)
    assert str(raised.value).endswith("[prompt 1, sequence 2, step 3]")


@pytest.mark.parametrize("row", [[], [[1.0]], "logits", 5, None, [1j]])
def test_what_is_no_row_is_a_typed_error(row):
    with pytest.raises(MalformedRow):
        Sampler().draw(row, seed=7)


@pytest.mark.parametrize("address", [{"seed": -1}, {"seed": 7, "step": -1}, {"seed": 7, "index": 2**64}, {"seed": 7, "prompt_index": 1.0}])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(InvalidSeed):
        Sampler().draw(ROW, **address)


@pytest.mark.parametrize("ids", [None, 5, "ab", [1.5], [None], [[1]], [-1], [2**63], {1: 2}])
def test_what_came_before_are_token_ids_or_that_is_said(ids):
    sampler = Sampler(repetition_penalty=1.5)
    for name in ("prompt_token_ids", "token_ids"):
        with pytest.raises(InvalidPrompt, match=f"^{name} "):
            sampler.draw(ROW, seed=7, **{name: ids})
        with pytest.raises(InvalidPrompt, match=f"^{name} "):
            sampler.process(ROW, **{name: ids})


def test_what_is_no_state_or_address_is_named():
    for state in ("x", [1.0], math.nan, True):
        with pytest.raises(UsageError, match=f"state must be None or the number that Draw.state was, not {re.escape(shown(state))}$"):
            Sampler(mirostat=2).draw(ROW, seed=7, state=state)
    with pytest.raises(UsageError, match=r"address must be an Address, as in Address\(seed=7\), not 7$"):
        Sampler(xtc_probability=0.5).process(ROW, address=7)


def test_processing_goes_on_with_a_state():
    kept = [np.isfinite(Sampler(mirostat=2).process(ROW, state=mu)).sum() for mu in (0.0, 100.0)]

    assert kept == [1, np.isfinite(ROW).sum()]


def test_what_is_left_of_a_list_has_no_probabilities_while_the_rest_is_in_the_race():
    with pytest.raises(TruncatedRow, match="^the normaliser is unknown; the server listed 2 of 9 tokens"):
        Sampler().process(TopLogprobs([5, 2], np.log([0.5, 0.2]), 9))


def test_the_probability_of_a_token_of_a_long_row_counts_all_of_it():
    row = np.zeros(3 * portable.CHUNK, dtype=np.float32)
    drawn = Sampler().sample(row, Address(7))

    assert drawn.logprob == drawn.processed_logprob == pytest.approx(-math.log(row.size), abs=1e-6)


def test_minus_zero_equals_zero():
    for sampler in (Sampler(), Sampler(top_k=1), Sampler(top_p=0.5), Sampler(temperature=0)):
        assert sampler.process([-0.0, 0.0, -1.0]).tolist() == sampler.process([0.0, -0.0, -1.0]).tolist()


def test_softmax_is_a_distribution_in_float64_and_keeps_impossible_tokens_impossible():
    p = softmax([1.0, -math.inf, 1.0, 1000.0])

    assert p.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert softmax([2.0, 2.0]).dtype == np.float64
    with pytest.raises(NonFiniteLogits):
        softmax([math.nan])


def test_the_public_names_are_sorted_and_there():
    assert seedbed.sampling.__all__ == sorted(seedbed.sampling.__all__, key=lambda name: (name[0].islower(), name))
    assert all(hasattr(seedbed.sampling, name) for name in seedbed.sampling.__all__)


def test_a_hash_needs_no_more_than_the_steps_can_give():
    assert Sampler(processors=[len]).chain == (Custom(len),)
    assert len({hash(Sampler(top_k=k, draw=draw)) for k in (1, 2) for draw in ("gumbel", "vllm")}) > 1
    assert hash(Sampler(chain=[LogitBias({1: 2.0}), MirostatV2()])) == hash(Sampler(chain=[LogitBias([(1, 2.0)]), MirostatV2()]))
