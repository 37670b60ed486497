"""Gumbel-max: the token of an address never changes, near ties are settled the same everywhere, and the margin means what it says."""

import json
import threading
from decimal import ROUND_UP, Context, Decimal, FloatOperation, Inexact, Rounded, Subnormal, localcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.llm import TopLogprobs
from seedbed.sampling import Address, Custom, History, Mirostat, Purpose, Sampler, Temperature, TopK, portable
from seedbed.sampling import draw as draw_module
from seedbed.sampling.candidates import Candidates
from seedbed.sampling.draw import gumbel_argmax, gumbel_max
from seedbed.sampling.randomness import uniform

KNOWN = json.loads((Path(__file__).parents[2] / "fixtures" / "known_answers" / "philox.json").read_text())


def by_the_book(row, address):
    """argmax(logit - ln(-ln u)) over the whole row, in 40 digits."""
    words = address.words(len(row), Purpose.GUMBEL)
    with localcontext(prec=40):
        scores = [
            Decimal(logit) - (-Decimal(u).ln()).ln() if logit > -np.inf else Decimal("-Infinity")
            for logit, u in zip(row.tolist(), uniform(words).tolist(), strict=True)
        ]
    order = sorted(range(len(row)), key=lambda v: (-scores[v], v))
    return order[0], float(scores[order[0]] - scores[order[1]])


@pytest.mark.parametrize("golden", KNOWN["golden_draws"], ids=lambda g: f"V{g['vocab']}")
def test_the_golden_draws_never_change(golden):
    """Tokens published with the format: old seeds give old tokens in every later version."""
    size = golden["vocab"]
    row = ((np.arange(size) * 7919) % size * 8 / size).astype(np.float32)
    sampler = Sampler(temperature=golden["temperature"])

    tokens = [
        sampler.draw(row, seed=golden["seed"], prompt_index=golden["prompt_index"], index=golden["sequence"], step=step)
        for step in range(12)
    ]

    assert tokens == golden["gumbel_tokens"]


@given(
    st.lists(st.one_of(st.floats(-20, 20, width=32), st.just(-np.inf)), min_size=2, max_size=40).filter(lambda row: max(row) > -np.inf),
    st.integers(0, 2**64),
)
def test_the_token_is_the_one_of_the_formula_in_forty_digits(values, seed):
    row = np.array(values, dtype=np.float32)
    token, lead = by_the_book(row, Address(seed))

    drawn = Sampler().sample(row, Address(seed))

    assert drawn.token_id == token
    assert drawn.margin == pytest.approx(lead, abs=1e-12)


SEVERAL_PIECES = 70_000  # words are made 32,768 at a time


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0, 40.0])
def test_pruning_the_noise_of_a_long_row_changes_no_token_and_no_margin(monkeypatch, spread, dtype):
    generator = np.random.Generator(np.random.PCG64(17))
    row = (generator.normal(0, spread, SEVERAL_PIECES) + 1_000.0).astype(dtype)
    row[generator.integers(0, row.size // 64, 50) * 64 + 1] = -np.inf  # not where a row is looked at to see whether much of it is
    candidates = Candidates(None, row, row.size)
    pruned = _calls(monkeypatch, "_gumbel_max_whole")

    drawn = [gumbel_max(candidates, Address(3, step=step)) for step in range(20)]
    assert len(pruned) == 20
    monkeypatch.setattr(draw_module, "PRUNE_FROM", 10**9)

    assert drawn == [gumbel_max(candidates, Address(3, step=step)) for step in range(20)]
    assert len(pruned) == 20


def test_pruning_loses_nobody_to_the_steps_of_float32(monkeypatch):
    """At 2**20 they are an eighth of a nat wide, and the bar below which nobody is looked at falls between two of them."""
    height, size = np.float32(2**20), draw_module.PRUNE_FROM
    for seed in range(60):
        gains = -np.log(-np.log(uniform(Address(seed).words(size, Purpose.GUMBEL))))
        unlucky = int(np.where(gains < draw_module.UNLUCKY_GAIN - 0.009, gains, -np.inf).argmax())
        runner_up = int(gains.argmax())
        row = np.full(size, height - 100, dtype=np.float32)
        row[0 if unlucky else 1] = height + 100  # far ahead, so that the margin shows who is second
        row[runner_up] = height
        row[unlucky] = height + np.ceil((gains[runner_up] - gains[unlucky]) * 8) / np.float32(8)
        pruned = gumbel_max(Candidates.of(row), Address(seed))
        with monkeypatch.context() as patch:
            patch.setattr(draw_module, "PRUNE_FROM", 10**9)

            assert pruned == gumbel_max(Candidates.of(row), Address(seed))


def _calls(monkeypatch, name):
    """The arguments of every call of a function of the module, from now on."""
    calls, function = [], getattr(draw_module, name)
    monkeypatch.setattr(draw_module, name, lambda *args: calls.append(args) or function(*args))
    return calls


def test_a_lone_spike_leaves_the_runner_up_to_luck_and_the_margin_is_still_right(monkeypatch):
    row = np.zeros(30_000, dtype=np.float32)
    row[12_345] = 60.0

    pruned = gumbel_max(Candidates.of(row), Address(3))
    monkeypatch.setattr(draw_module, "PRUNE_FROM", 10**9)

    assert pruned == gumbel_max(Candidates.of(row), Address(3))
    assert pruned.position == 12_345


def test_without_luck_every_token_is_looked_at(monkeypatch):
    """As when no word of thousands is among the luckiest."""
    row = np.random.Generator(np.random.PCG64(19)).normal(0, 1, draw_module.PRUNE_FROM).astype(np.float32)
    want = [gumbel_max(Candidates.of(row), Address(3, step=step)) for step in range(20)]
    monkeypatch.setattr(draw_module, "LUCKY_WORD", np.uint64(2**64 - 1))

    assert [gumbel_max(Candidates.of(row), Address(3, step=step)) for step in range(20)] == want


def test_pruning_leaves_few_to_take_logarithms_of(monkeypatch):
    """What it is for: of a peaked row some hundred tokens may come first or second, of 70,000."""
    row = np.random.Generator(np.random.PCG64(18)).normal(0, 4, SEVERAL_PIECES).astype(np.float32)
    looked_at = _calls(monkeypatch, "gumbel_argmax")
    for step in range(20):
        gumbel_max(Candidates.of(row), Address(3, step=step))

    assert np.median([len(z) for z, _ in looked_at]) < 1000


WORD = 2**63


def test_equal_logits_whose_words_differ_below_the_52_bits_give_the_lowest_id():
    words = np.array([WORD, WORD + 1, WORD + 4095], dtype=np.uint64)

    assert gumbel_argmax(np.zeros(3), uniform(words)).position == 0
    assert gumbel_argmax(np.zeros(3), uniform(words[::-1])).position == 0
    assert gumbel_argmax(np.zeros(3), uniform(words)).margin == 0.0


@pytest.mark.parametrize("base", [2**12, 2**40, WORD, 2**64 - 2**20])
def test_one_step_apart_in_the_52_bits_the_larger_uniform_wins(base):
    """A lead of 1e-16 and less, far below what float64 logarithms agree on: decimal decides."""
    words = np.array([base, base + 4096], dtype=np.uint64)

    assert gumbel_argmax(np.zeros(2), uniform(words)).position == 1
    assert gumbel_argmax(np.zeros(2), uniform(words[::-1])).position == 0


def test_a_near_tie_by_construction_is_settled_by_the_fortieth_digit():
    """The second logit makes up for the second word to float64's last bit; which of the two leads, only more digits can tell."""
    u = uniform(np.array([WORD, WORD // 3], dtype=np.uint64))
    gains = -np.log(-np.log(u))

    for ulps in range(-4, 5):
        z = np.array([0.0, gains[0] - gains[1] + ulps * 2.0**-53]) - 1.0
        with localcontext(prec=40):
            scores = [Decimal(float(logit)) - (-Decimal(float(number)).ln()).ln() for logit, number in zip(z, u, strict=True)]

        assert gumbel_argmax(z, u).position == scores.index(max(scores))


@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=12), st.integers(0, 2**32), st.data())
def test_a_change_of_less_than_half_the_margin_changes_no_token(values, seed, data):
    row = np.array(values, dtype=np.float64)
    drawn = gumbel_max(Candidates(None, row, row.size), Address(seed))
    signs = np.array(data.draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=row.size, max_size=row.size)))

    moved = row + signs * 0.499 * drawn.margin

    assert gumbel_max(Candidates(None, moved, row.size), Address(seed)).position == drawn.position


def test_a_token_alone_has_an_infinite_margin_unless_it_was_chosen_greedily():
    row = np.array([0.0, 2.5, 1.0], dtype=np.float32)

    assert Sampler(top_k=1).sample(row, Address(7)).margin == np.inf
    for scheme in ("gumbel", "inverse-cdf", "vllm", "sglang", "llama.cpp"):
        assert Sampler(temperature=0, draw=scheme).sample(row, Address(7)).margin == 1.5
        assert Sampler(chain=[Temperature(0.0), TopK(1)], draw=scheme).sample(row, Address(7)).margin == 1.5
    assert Sampler(temperature=0).sample(np.float32([0.0, -np.inf]), Address(7)).margin == np.inf


def test_a_function_that_brings_tokens_back_after_a_greedy_choice_is_drawn_from():
    sampler = Sampler(chain=[Temperature(0.0), Custom(lambda prefix, logits: np.zeros_like(logits))])
    row = np.array([0.0, 2.5, 1.0], dtype=np.float32)

    assert {sampler.draw(row, seed=seed) for seed in range(20)} == {0, 1, 2}


def test_a_longer_vocabulary_or_a_list_gives_the_same_noise_to_the_same_id():
    """Padding, masks and lists change who takes part, never whose noise is whose."""
    row = np.linspace(0.0, 3.0, 500).astype(np.float32)
    padded = np.concatenate([row, np.full(20_000, -np.inf, dtype=np.float32)])
    logprobs = row - np.float32(np.log(np.exp(row.astype(np.float64)).sum()))

    for step in range(20):
        token = Sampler().draw(row, seed=7, step=step)

        assert Sampler().draw(padded, seed=7, step=step) == token
        assert Sampler().draw(TopLogprobs(np.arange(500), logprobs - 1e-6, 501), seed=7, step=step) == token
        assert Sampler(allowed_token_ids=[token, 3]).draw(row, seed=7, step=step) == token


def test_a_token_the_model_excludes_is_never_drawn():
    row = np.full(8, -np.inf, dtype=np.float32)
    row[5] = -1e30

    assert {Sampler().draw(row, seed=seed) for seed in range(50)} == {5}


def test_threads_do_not_share_scratch():
    row = np.zeros(60_000, dtype=np.float32)
    sampler, tokens = Sampler(), {}

    def draw(thread):
        tokens[thread] = [sampler.draw(row, seed=thread, step=step) for step in range(20)]

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert tokens == {number: [sampler.draw(row, seed=number, step=step) for step in range(20)] for number in range(4)}


def test_a_very_long_row_is_drawn_from_without_keeping_scratch_for_it(monkeypatch):
    monkeypatch.setattr(draw_module, "KEEP_SCRATCH", 5_000)
    row = np.zeros(9_000, dtype=np.float32)

    assert Sampler().draw(row, seed=7) == by_the_book(row, Address(7))[0]


HOSTILE = [
    Context(prec=1),
    Context(prec=6, rounding=ROUND_UP),
    Context(prec=28, Emin=-1, Emax=1),
    Context(traps=[FloatOperation, Inexact, Rounded, Subnormal]),
]


@pytest.mark.parametrize("context", HOSTILE, ids=repr)
def test_digits_and_traps_that_the_caller_s_decimals_have_change_no_token(context):
    """Six digits called the scores of two words equal, and a trap for inexact results came out of the draw."""
    words = np.array([WORD, WORD + 4096], dtype=np.uint64)
    zipf = -1.2 * np.log(np.arange(1, 501))
    portable.ln.cache_clear()

    with localcontext(context):
        assert gumbel_argmax(np.zeros(2), uniform(words)).position == 1
        assert gumbel_argmax(np.zeros(2), np.array([0.0, 1.0]), 2.0**-53).position == 1
        kept = [np.isfinite(Mirostat()(zipf, History(state=mu))).sum() for mu in (4.5, 6.0, 8.0)]
        assert portable.ln(3.0) == 1.0986122886681098
        assert portable.power(3.0, 0.3) == 1.3903891703159093

    assert kept == [4, 11, 35]  # by hand: (0.2 * 2**mu / (1 - 500**-0.2)) ** (1 / 1.2)


def test_a_near_tie_of_an_engine_whose_u_reaches_1_is_settled_by_the_rates_themselves() -> None:
    """u = 1 has the least rate there is, 2**-53; u = 1 - 2**-53 has one larger by 2**-107, which no float64 logarithm shows."""
    u = np.array([1 - 2.0**-53, 1.0])

    assert gumbel_argmax(np.zeros(2), u, 2.0**-53).position == 1
    assert gumbel_argmax(np.zeros(2), u[::-1], 2.0**-53).position == 0
