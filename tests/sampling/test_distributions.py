"""What is drawn has the distribution it is said to have, and no draw knows of another. All seeds are fixed: a failure is a change."""

import math

import numpy as np
import pytest

from seedbed.sampling import Sampler, softmax

ROW = np.array([1.5, 0.0, 1.0, -1.0, 0.5, 1.25, -2.0, 0.75], dtype=np.float32)
DRAWS = 8_000  # what was drawn from is told exactly by process(), which the oracles test; the draw is the same after every chain
DRAWS_OF_CHAINS = 3_000
PRESETS = [
    Sampler(),
    Sampler(temperature=1.7),
    Sampler(temperature=0.6, top_k=5, top_p=0.9, min_p=0.02),
    Sampler(order="hf", temperature=0.8, top_k=6, typical_p=0.9),
    Sampler(order="vllm", temperature=0.8, top_k=6, top_p=0.95, logit_bias={3: 2.0}),
    Sampler(order="sglang", temperature=0.8, top_k=6, top_p=0.9),
    Sampler(order="llama.cpp", temperature=1.5, top_k=6, top_p=0.95, min_p=0.05),
    Sampler(mirostat=2, mirostat_tau=1.5),
]


def tokens(sampler, steps, **place):
    return [sampler.draw(ROW, seed=11, step=step, **place) for step in range(steps)]


@pytest.mark.parametrize("sampler", PRESETS, ids=repr)
def test_every_preset_draws_from_the_distribution_it_reports(sampler, goodness_of_fit):
    counts = np.bincount(tokens(sampler, DRAWS_OF_CHAINS if sampler.chain else DRAWS), minlength=ROW.size)

    assert goodness_of_fit(counts, np.exp(sampler.process(ROW))) > 1e-3


def test_a_larger_vocabulary_is_drawn_from_right_where_noise_is_pruned(goodness_of_fit):
    row = np.repeat(ROW, 1_000)

    drawn = [Sampler().draw(row, seed=5, step=step) // 1_000 for step in range(4_000)]

    assert goodness_of_fit(np.bincount(drawn, minlength=ROW.size), softmax(ROW)) > 1e-3


def test_sequences_steps_prompts_and_seeds_are_independent_of_each_other(tail_probability):
    """The chance that two independent draws agree is sum p**2; shared randomness anywhere would show as more."""
    side = 64
    table = np.array([[Sampler().draw(ROW, seed=3, index=index, step=step) for step in range(side)] for index in range(side)])
    other = np.array([[Sampler().draw(ROW, seed=4, index=index, step=step) for step in range(side)] for index in range(side)])
    agree = float((softmax(ROW) ** 2).sum())
    pairs = {
        "next step": (table[:, :-1], table[:, 1:]),
        "next sequence": (table[:-1], table[1:]),
        "next but one": (table[:-2], table[2:]),
        "diagonal": (table[1:, :-1], table[:-1, 1:]),
        "next seed": (table, other),
        "next seed, sequence before": (table[1:], other[:-1]),
    }

    for name, (one, two) in pairs.items():
        z = (np.count_nonzero(one == two) - one.size * agree) / math.sqrt(one.size * agree * (1 - agree))
        assert tail_probability(z * z, 1) > 1e-3, name


def test_no_stream_of_one_seed_is_a_stream_of_the_next():
    """The fault of seeding by seed + index, which no test of frequencies can see."""
    row = np.zeros(256, dtype=np.float32)

    runs = [{tuple(Sampler().draw(row, seed=seed, index=index, step=step) for step in range(8)) for index in range(32)} for seed in (7, 8)]

    assert not runs[0] & runs[1]
    assert len(runs[0]) == len(runs[1]) == 32


def test_a_sequence_does_not_know_its_siblings():
    """Eight sequences are the first eight of sixty-four, in any order of drawing."""
    few = {index: tokens(Sampler(), 10, index=index) for index in range(8)}
    many = {index: tokens(Sampler(), 10, index=index) for index in reversed(range(64))}

    assert all(many[index] == few[index] for index in few)


MARKOV = {0: np.float32([math.log(0.3), math.log(0.7)]), 1: np.float32([math.log(0.6), math.log(0.4)])}


def test_whole_sequences_of_a_two_state_model_have_their_exact_probabilities(goodness_of_fit):
    """8,000 sequences of 6 steps of a Markov chain: all 64 outcomes, so 63 degrees of freedom, against products of probabilities."""
    length, count = 6, 8_000
    probabilities = {state: softmax(row) for state, row in MARKOV.items()}
    expected = np.zeros(2**length)
    for outcome in range(2**length):
        state, p = 0, 1.0
        for step in range(length):
            token = outcome >> step & 1
            p *= probabilities[state][token]
            state = token
        expected[outcome] = p
    sampler, counts = Sampler(), np.zeros(2**length, dtype=int)
    for index in range(count):
        state = outcome = 0
        for step in range(length):
            state = sampler.draw(MARKOV[state], seed=2024, index=index, step=step)
            outcome |= state << step
        counts[outcome] += 1

    assert goodness_of_fit(counts, expected) > 1e-3


def test_sequences_that_stop_have_their_exact_probabilities_by_length(goodness_of_fit):
    """Token 0 ends the sequence; what is cut at 6 tokens is an outcome of its own."""
    stop, sampler, lengths = float(softmax(MARKOV[0])[0]), Sampler(), np.zeros(7, dtype=int)
    for index in range(4_000):
        step = 0
        while step < 6 and sampler.draw(MARKOV[0], seed=5, index=index, step=step) != 0:
            step += 1
        lengths[step] += 1

    assert goodness_of_fit(lengths, [stop * (1 - stop) ** n for n in range(6)] + [(1 - stop) ** 6]) > 1e-3
