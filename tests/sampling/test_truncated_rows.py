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
    BadWords,
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
    StatefulProcessor,
    Temperature,
    TopH,
    TopK,
    TopNSigma,
    TopP,
    TypicalP,
    Xtc,
    softmax,
)
from seedbed.sampling.configuration import NAMED

LOGITS = st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=4, max_size=30)  # so near each other that many are equal
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
    st.builds(EtaCutoff, st.sampled_from([0.003, 0.3])),
    st.builds(TypicalP, st.sampled_from([0.3, 0.9]), ties=st.sampled_from(["exact", "keep"])),
    st.builds(TopH, st.sampled_from([0.3, 0.9])),
    st.builds(TopNSigma, st.sampled_from([0.5, 2.0])),
    st.builds(DynamicTemperature, st.just(1.0), st.just(0.8)),
    st.builds(Xtc, st.just(1.0), st.sampled_from([0.0, 0.05, 0.2]), st.sampled_from([0, 3])),
    st.builds(MirostatV2, st.sampled_from([0.5, 1.5, 3.0])),
    st.builds(Mirostat, st.sampled_from([0.5, 1.5, 3.0])),
)


def without_addresses(value):
    return re.sub(r" at 0x\w+", "", repr(value))


def listed(logprobs, k):
    best = np.argsort(-logprobs, kind="stable")[:k]
    return TopLogprobs(best, logprobs[best], vocab_size=logprobs.size)


@given(LOGITS, st.data(), st.lists(STEPS, max_size=4), IDS, IDS)
def test_what_a_chain_keeps_of_a_list_is_what_it_keeps_of_the_whole_row(values, data, steps, prompt, output):
    """Unless it says TruncatedRow. This is the promise of the whole matter."""
    full = np.log(softmax(np.array(values))).astype(np.float32)
    k = data.draw(st.integers(1, len(values) - 1))
    last = [step for step in steps if isinstance(step, StatefulProcessor)][:1]
    steps = [step for step in steps if not isinstance(step, StatefulProcessor)] + last
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


EACH = [
    AllowedTokenIds([1, 4]),
    BadWords([[0], [2, 3]]),
    Custom(lambda prefix, logits: logits / 2),
    Dry(2.0, allowed_length=0),
    DynamicTemperature(1.0, 0.9),
    EpsilonCutoff(0.5),
    EpsilonCutoff(0.12),
    EtaCutoff(0.3),
    FrequencyPenalty(0.5),
    LogitBias({1: -math.inf, 5: 0.5}),
    MinP(0.7),
    MinP(0.9, min_keep=3),
    MinTokens(4, [0]),
    Mirostat(tau=0.6),
    MirostatV2(tau=0.5),
    MirostatV2(tau=1.6),
    NoRepeatNgram(1),
    PresencePenalty(0.5),
    RepetitionPenalty(1.3),
    Temperature(0.0),
    Temperature(0.7),
    TopH(0.5),
    TopH(1.0),
    TopK(2),
    TopK(2, ties="keep"),
    TopNSigma(1.0),
    TopP(0.5),
    TopP(0.3, "<=", min_keep=3),
    TypicalP(0.5),
    TypicalP(0.5, "<=", "exact"),
    Xtc(1.0, 0.1),
    Xtc(1.0, 0.1, min_keep=3),
    Xtc(1.0, 0.0),
]
AFTER_A_BIAS = [Sampler(chain=[LogitBias({0: -1.0, 5: 0.5}), step]) for step in EACH]
AFTER_A_MASK = [Sampler(chain=[AllowedTokenIds([0, 1, 3]), step]) for step in EACH if not isinstance(step, AllowedTokenIds)]
PRESETS = [
    Sampler(0.7, top_p=0.6),
    Sampler(0.7, 3, order="hf"),
    Sampler(1.0, 3, 0.8, repetition_penalty=1.2, order="hf"),
    Sampler(1.0, 3, 0.8, 0.1, order="vllm"),
    Sampler(0.7, 3, 0.6, draw="vllm", frequency_penalty=0.5, order="vllm"),
    Sampler(0.7, 3, 0.6, draw="sglang", order="sglang"),
    Sampler(1.3, 3, 0.8, xtc_probability=1.0, min_keep=2, order="llama.cpp"),
    Sampler(1.3, 3, 0.8, draw="llama.cpp", order="llama.cpp"),
    Sampler(1.0, 3, draw="inverse-cdf"),
    Sampler(0.0, order="llama.cpp"),
]
SHAPES = [
    [0.4, 0.2, 0.2, 0.2, 0.0, 0.0],
    [0.3, 0.25, 0.2, 0.15, 0.05, 0.05],
    [0.09, 0.1, 0.09, 0.1, 0.09, 0.09, 0.1, 0.09, 0.09, 0.09, 0.07],
    [1.0] * 8,
    (1.0 / np.arange(1, 121) ** 1.2).tolist(),
]


@pytest.mark.parametrize("sampler", [Sampler(chain=[step]) for step in EACH] + AFTER_A_BIAS + AFTER_A_MASK + PRESETS, ids=without_addresses)
def test_a_draw_from_a_list_of_any_length_is_the_whole_row_s_or_says_that_it_cannot_be_known(sampler):
    """A step whose tail could not take part is marked, and by Gumbel it draws the whole row's token wherever that is listed."""
    for shape in SHAPES:
        with np.errstate(divide="ignore"):
            full = np.log(np.array(shape) / np.sum(shape)).astype(np.float32)
        for step in range(2):
            where = (Address(7, step=step), [2, 3], [2, 3][:step])
            expected = sampler.sample(full, *where)
            for k in sorted({1, 2, 3, 5, len(shape) - 1}):
                row = listed(full, k)
                try:
                    drawn = sampler.sample(row, *where)
                except TruncatedRow:
                    continue
                if drawn.tail_mass == 0.0:
                    assert (drawn.token_id, drawn.state) == (expected.token_id, expected.state)
                elif sampler.scheme == "gumbel" and expected.token_id in row.token_ids:
                    assert drawn.token_id == expected.token_id


def test_every_processor_is_drawn_with():
    assert {type(step) for step in EACH} == {*NAMED.values(), Custom}


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
        ([TopK(7, "keep")], 8),
        ([TopK(4, "keep")], 5),  # the fifth may equal the fourth
        ([TopK(3, "keep")], None),
        ([TopP(0.9)], 7),  # 0.15 is missing; at most 0.05 each
        ([TopP(0.5), TopP(0.75), TopK(2)], None),
        ([TopP(0.74)], None),
        ([MinP(0.1)], 5),
        ([MinP(0.2)], None),
        ([EpsilonCutoff(0.01)], 5),
        ([EpsilonCutoff(0.06)], None),
        ([LogitBias({9: 3.0, 3: -1.0}), EpsilonCutoff(0.9)], 5),  # none is so probable, and token 9 might be the best
        ([LogitBias({9: 2.0, 3: -1.0}), MirostatV2(tau=0.05)], 5),
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
    ids=without_addresses,
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


def test_of_equal_tokens_those_listed_have_the_lowest_ids_unless_one_was_moved_among_them():
    full = np.log([0.2, 0.2, 0.2, 0.4]).astype(np.float32)
    level, row = float(full[0]) - float(full[3]), listed(full, 2)

    assert [Sampler(temperature=0, allowed_token_ids=[0, 1, 2]).draw(either, seed=7) for either in (full, row)] == [0, 0]
    for step in (Temperature(0.0), TopK(1), TopP(0.1), MirostatV2(tau=0.0)):
        sampler = Sampler(chain=[LogitBias({0: -math.inf, 3: level}), step])
        assert sampler.draw(full, seed=7) == 1
        with pytest.raises(TruncatedRow):
            sampler.draw(row, seed=7)


def test_tokens_that_were_excluded_without_being_listed_count_as_candidates_where_listed_ones_do():
    full = np.log([0.3, 0.25, 0.2, 0.15, 0.05, 0.05]).astype(np.float32)

    for steps in ([DynamicTemperature(1.0, 0.9)], [TopK(4), DynamicTemperature(1.0, 0.9)], [TopP(0.99), DynamicTemperature(1.0, 0.9)]):
        sampler = Sampler(chain=[AllowedTokenIds([0, 1]), *steps])
        assert np.array_equal(sampler.process(listed(full, 3)), sampler.process(full))


def test_xtc_leaves_the_unseen_tokens_in_the_race():
    row = TopLogprobs([3, 5, 6], np.log([0.4, 0.3, 0.1]), vocab_size=1000)

    drawn = Sampler(chain=[Xtc(1.0, 0.2)]).sample(row, Address(7))

    assert drawn.token_id in (5, 6)
    assert drawn.tail_mass == pytest.approx(0.2 / 0.6, abs=1e-5)


@pytest.mark.parametrize(
    ("step", "exact"),
    [
        (LogitBias({3: -math.inf}), True),
        (BadWords([[3]]), True),
        (BadWords([[2**40], [4]]), False),
        (BadWords([[0]]), False),
        (LogitBias({3: -1.0}), False),
    ],
    ids=repr,
)
def test_what_is_banned_from_the_unlisted_is_no_longer_in_the_race(step, exact):
    """Token 3 is the only one that is not listed; once it is out, what is drawn from is known exactly."""
    row = TopLogprobs([1, 0, 2], np.log(np.float32([0.5, 0.25, 0.125])), vocab_size=4)

    assert (Sampler(chain=[step]).sample(row, Address(7)).tail_mass == 0.0) == exact
