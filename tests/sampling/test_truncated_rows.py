"""A row of top logprobs: what is decided on it is what the whole row would have decided, or an error says how long a list it takes."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.errors import NothingToDraw, TruncatedRow
from seedbed.llm import TopLogprobs
from seedbed.sampling import (
    Address,
    AllowedTokenIds,
    Custom,
    Dry,
    DynamicTemperature,
    EpsilonCutoff,
    EtaCutoff,
    FrequencyPenalty,
    LogitBias,
    MinP,
    MinTokens,
    Mirostat,
    MirostatV2,
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
    Sampler,
    Temperature,
    TopH,
    TopK,
    TopNSigma,
    TopP,
    TypicalP,
    Xtc,
    softmax,
)

LOGITS = st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=4, max_size=30, unique=True)
IDS = st.lists(st.integers(0, 29), min_size=1, max_size=6)
STEPS = st.one_of(
    st.builds(Temperature, st.sampled_from([0.0, 0.4, 0.9, 1.0, 1.5])),
    st.builds(TopK, st.integers(1, 12), st.sampled_from(["exact", "keep"])),
    st.builds(TopP, st.sampled_from([0.05, 0.3, 0.61, 0.9, 0.99]), st.sampled_from(["<", "<="]), st.integers(1, 3)),
    st.builds(MinP, st.sampled_from([0.01, 0.2, 0.5, 1.0]), st.integers(1, 3)),
    st.builds(LogitBias, st.dictionaries(st.integers(0, 3), st.sampled_from([-3.0, 2.0, -math.inf]), max_size=3)),
    st.builds(AllowedTokenIds, st.lists(st.integers(0, 3), min_size=1, max_size=4)),
    st.builds(RepetitionPenalty, st.sampled_from([0.7, 1.3])),
    st.builds(FrequencyPenalty, st.sampled_from([-0.5, 0.5]), st.sampled_from(["all", "output", 3])),
    st.builds(PresencePenalty, st.sampled_from([-0.5, 1.5])),
    st.builds(NoRepeatNgram, st.integers(1, 2)),
    st.builds(MinTokens, st.integers(0, 4), st.lists(st.integers(0, 29), min_size=1, max_size=3)),
    st.builds(Dry, st.just(1.0), allowed_length=st.integers(0, 2)),
    st.builds(EpsilonCutoff, st.sampled_from([0.003, 0.05, 0.3])),
    st.builds(Xtc, st.just(1.0), st.sampled_from([0.05, 0.2])),
    st.builds(MirostatV2, st.sampled_from([0.5, 1.5, 3.0])),
)


def listed(logprobs, k):
    best = np.argsort(-logprobs, kind="stable")[:k]
    return TopLogprobs(best, logprobs[best], vocab_size=logprobs.size)


@given(LOGITS, st.data(), st.lists(STEPS, max_size=4), IDS, IDS)
def test_what_a_chain_keeps_of_a_list_is_what_it_keeps_of_the_whole_row(values, data, steps, prompt, output):
    """Unless it says TruncatedRow. This is the promise of the whole matter."""
    full = np.log(softmax(np.array(values))).astype(np.float32)
    k = data.draw(st.integers(1, len(values) - 1))
    steps = [step for step in steps if not isinstance(step, MirostatV2)] + [step for step in steps if isinstance(step, MirostatV2)][:1]
    sampler, row = Sampler(chain=steps), listed(full, k)

    try:
        logprobs = sampler.process(row, prompt, output)
    except TruncatedRow as error:
        needed = error.needed
    except NothingToDraw:
        with pytest.raises(NothingToDraw):
            sampler.process(full, prompt, output)
        return
    else:
        needed = None
    if needed is not None:
        assert k < needed <= len(values)
        return

    expected = sampler.process(full, prompt, output)
    assert np.array_equal(logprobs > -np.inf, expected > -np.inf)
    kept = logprobs > -np.inf
    assert logprobs[kept] == pytest.approx(expected[kept], abs=1e-6)


@given(LOGITS, st.data(), st.integers(0, 2**32))
def test_a_list_gives_the_whole_row_s_token_unless_that_is_not_on_it(values, data, seed):
    full = np.log(softmax(np.array(values))).astype(np.float32)
    row = listed(full, data.draw(st.integers(1, len(values))))
    token = Sampler().draw(full, seed=seed)

    drawn = Sampler().sample(row, Address(seed))

    if token in row.token_ids:
        assert drawn.token_id == token
    assert drawn.tail_mass == pytest.approx(row.tail_mass, abs=1e-5)
    assert drawn.logprob == full[drawn.token_id]


def test_a_step_that_left_the_tail_out_is_marked_and_has_no_processed_logprob():
    row = TopLogprobs([3, 5], np.log([0.5, 0.25]), vocab_size=100)

    inexact, exact = (Sampler(top_k=top_k).sample(row, Address(7)) for top_k in (0, 2))

    assert (inexact.tail_mass, inexact.processed_logprob) == (pytest.approx(0.25, abs=1e-6), None)
    assert exact.tail_mass == 0.0
    assert exact.processed_logprob == pytest.approx(math.log(2 / 3 if exact.token_id == 3 else 1 / 3), abs=1e-6)


ROW = TopLogprobs([3, 5, 6, 8], np.log([0.4, 0.2, 0.1, 0.05]), vocab_size=1000)


@pytest.mark.parametrize(
    ("chain", "needed"),
    [
        ([TopK(7)], 7),
        ([TopP(0.9)], 7),  # 0.15 is missing; at most 0.05 each
        ([TopP(0.5), TopP(0.75), TopK(2)], None),
        ([TopP(0.74)], None),
        ([MinP(0.1)], 5),
        ([MinP(0.2)], None),
        ([EpsilonCutoff(0.01)], 5),
        ([EpsilonCutoff(0.06)], None),
        ([Temperature(0.0)], None),
        ([LogitBias({9: 3.0}), Temperature(0.0)], 5),  # 0.05 e**3 > 0.4: token 9 might be the best
        ([LogitBias({9: 1.0}), Temperature(0.0)], None),
        ([LogitBias({9: 1.0}), TopK(2)], None),  # at most 0.136
        ([LogitBias({9: 1.0}), TopK(3)], 5),
        ([LogitBias({3: -9.0}), TopK(4)], 5),  # token 3 has fallen below what is not listed
        ([LogitBias({3: -9.0}), TopK(3)], None),
        ([AllowedTokenIds([3, 9]), Temperature(0.0)], None),
        ([AllowedTokenIds([3, 8]), TopP(0.99)], None),  # nothing unseen is left
        ([Temperature(0.5), TopP(0.8)], None),
        ([Temperature(0.5), TopP(0.9)], 5),
        ([Temperature(3.0), TopP(0.5)], 6),
        ([TypicalP(0.5)], 1000),
        ([EtaCutoff(0.01)], 1000),
        ([TopH(0.5)], 100),
        ([TopNSigma(1.0)], 1000),
        ([DynamicTemperature(1.0, 0.5)], 1000),
        ([TopK(3), TypicalP(0.5), EtaCutoff(0.01), TopNSigma(1.0), DynamicTemperature(1.0, 0.5)], None),
        ([Custom(lambda prefix, logits: logits)], 1000),
        ([TopK(4), Custom(lambda prefix, logits: logits)], None),
        ([Mirostat()], 100),
        ([MirostatV2(tau=0.5)], None),
        ([MirostatV2(tau=5.0)], 5),
        ([Xtc(1.0, 0.15)], None),
        ([Xtc(1.0, 0.01)], 5),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", repr(value)),
)
def test_the_error_says_how_long_a_list_it_takes(chain, needed):
    sampler = Sampler(chain=chain)

    if needed is None:
        sampler.draw(ROW, seed=7)
        return
    with pytest.raises(TruncatedRow) as raised:
        sampler.draw(ROW, seed=7, index=2, step=4)
    assert raised.value.needed >= needed
    assert (raised.value.index, raised.value.step) == (2, 4)


SLOPE = np.log(softmax(-0.01 * np.arange(400))).astype(np.float32)


def needed_for(sampler, row):
    try:
        sampler.process(row)
    except TruncatedRow as error:
        return error.needed
    return None


def test_asking_again_for_what_the_error_says_ends_with_the_whole_row_s_answer():
    """``needed`` is a lower bound, so it may take a few rounds, but every round gets further."""
    sampler, asked = Sampler(top_p=0.85), [20]

    while (needed := needed_for(sampler, listed(SLOPE, asked[-1]))) is not None:
        asked.append(needed)

    assert asked == sorted(set(asked))
    assert len(asked) < 8
    assert np.array_equal(sampler.process(listed(SLOPE, asked[-1])) > -np.inf, sampler.process(SLOPE) > -np.inf)


def test_a_cut_that_the_rounding_of_the_list_decides_takes_the_whole_row():
    """Here 0.9 lies 9e-8 from the mass of the 215 best, nearer than float32 logprobs can tell."""
    assert needed_for(Sampler(top_p=0.9), listed(SLOPE, 300)) == 400


def test_xtc_leaves_the_unseen_tokens_in_the_race():
    row = TopLogprobs([3, 5, 6], np.log([0.4, 0.3, 0.1]), vocab_size=1000)

    drawn = Sampler(chain=[Xtc(1.0, 0.2)]).sample(row, Address(7))

    assert drawn.token_id in (5, 6)
    assert drawn.tail_mass == pytest.approx(0.2 / 0.6, abs=1e-5)
