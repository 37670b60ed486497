"""The draws of other engines: addressed by step where the engine's state allows it, and with margins that mean the same."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed import TopLogprobs
from seedbed.errors import InvalidSampler, InvalidSeed
from seedbed.sampling import Address, Purpose, Sampler
from seedbed.sampling.candidates import Candidates
from seedbed.sampling.engines import hash32, inverse_cdf, llamacpp, sglang, vllm

ROW = np.array([0.5, 2.0, -1.0, 1.0, 0.0, 1.5], dtype=np.float32)
SCHEMES = ["vllm", "sglang", "inverse-cdf", "llama.cpp"]


@pytest.mark.parametrize("shift", [-4096.0, 4096.0])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_shift_of_all_logits_changes_no_token(scheme, shift):
    sampler = Sampler(draw=scheme)

    assert [sampler.draw(ROW + np.float32(shift), seed=7, step=step) for step in range(20)] == [
        sampler.draw(ROW, seed=7, step=step) for step in range(20)
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_draw_is_a_function_of_its_address(scheme):
    sampler = Sampler(draw=scheme)
    tokens = [sampler.draw(ROW, seed=7, step=step) for step in range(40)]

    assert [sampler.draw(ROW, seed=7, step=step) for step in reversed(range(40))] == tokens[::-1]
    assert len(set(tokens)) > 2


def test_the_noise_of_vllm_and_sglang_belongs_to_the_place_in_the_whole_sequence():
    """The same prefix, split differently into prompt and output, gives the same token: engines hash the position of its last token."""
    for scheme in ("vllm", "sglang"):
        sampler = Sampler(draw=scheme)
        tokens = [sampler.draw(ROW, seed=7, step=step, prompt_token_ids=[1] * (10 - step)) for step in range(10)]

        assert tokens == [sampler.draw(ROW, seed=7, step=9)] * 10


def test_under_vllm_the_next_sequence_is_the_next_seed_and_under_the_others_the_same_sequence():
    rows = {scheme: Sampler(draw=scheme) for scheme in SCHEMES}

    def tokens(scheme, seed, index):
        return [rows[scheme].draw(ROW, seed=seed, index=index, step=step) for step in range(30)]

    assert tokens("vllm", 7, 1) == tokens("vllm", 8, 0)
    assert tokens("sglang", 7, 1) == tokens("sglang", 7, 0)
    assert tokens("llama.cpp", 7, 1) == tokens("llama.cpp", 7, 0)
    assert tokens("inverse-cdf", 7, 1) not in (tokens("inverse-cdf", 8, 0), tokens("inverse-cdf", 7, 0))


@given(st.lists(st.floats(-6, 6, width=32), min_size=1, max_size=12), st.integers(0, 2**64))
def test_the_inverse_cdf_is_the_first_token_whose_running_sum_reaches_the_uniform(values, seed):
    row = np.array(values, dtype=np.float32)
    weights = np.exp(row.astype(np.float64) - row.max())
    u = Address(seed).uniform(Purpose.INVERSE_CDF)

    token = Sampler(draw="inverse-cdf").draw(row, seed=seed)

    assert weights[:token].sum() / weights.sum() <= u + 1e-12
    assert u - 1e-12 <= weights[: token + 1].sum() / weights.sum()


@given(st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=8), st.integers(0, 2**32), st.data())
def test_the_margin_of_the_inverse_cdf_means_the_same_as_gumbel_s(values, seed, data):
    row = np.array(values, dtype=np.float64)
    drawn = inverse_cdf(Candidates(None, row, row.size), Address(seed))
    signs = np.array(data.draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=row.size, max_size=row.size)))

    moved = row + signs * 0.499 * min(drawn.margin, 20.0)

    assert inverse_cdf(Candidates(None, moved, row.size), Address(seed)).position == drawn.position


def test_the_margin_of_an_inverse_cdf_is_the_distance_to_the_nearer_boundary_in_log_odds():
    weights = np.exp(ROW.astype(np.float64) - 2.0)
    bounds = weights.cumsum()[:-1] / weights.sum()
    for seed in range(20):
        u = Address(seed).uniform(Purpose.INVERSE_CDF)
        odds = np.log(bounds / (1 - bounds)) - np.log(u / (1 - u))
        place = int((odds < 0).sum())

        drawn = inverse_cdf(Candidates.of(ROW), Address(seed))
        assert (drawn.position, drawn.margin) == (place, pytest.approx(np.abs(odds[max(0, place - 1) : place + 1]).min(), rel=1e-9))

    assert inverse_cdf(Candidates.of(np.float32([1.0])), Address(7)).margin == np.inf


@pytest.mark.parametrize(("engine", "shift", "scale"), [(vllm, 0.5, 2.0**32), (partial(sglang, by_rank=False), 0.0, 2.0**32 - 1)])
def test_the_margin_of_vllm_s_and_sglang_s_draw_is_the_lead_of_the_best_score(engine, shift, scale):
    for seed in range(20):
        u = (hash32(seed, 9, np.arange(ROW.size)).astype(np.float64) + shift) / scale
        scores = ROW.astype(np.float64) - np.log(-np.log(1 - u if shift else u))
        runner_up, best = np.sort(scores)[-2:]

        drawn = engine(Candidates.of(ROW), Address(seed), 9)
        assert (drawn.position, drawn.margin) == (int(scores.argmax()), pytest.approx(best - runner_up, rel=1e-11))


@pytest.mark.parametrize("engine", [vllm, partial(sglang, by_rank=False)])
def test_the_noise_of_vllm_and_sglang_belongs_to_ids_also_where_the_best_few_are_listed(engine):
    ids = np.array([3, 17, 40, 41, 99])
    row = np.full(100, -np.inf, dtype=np.float32)
    row[ids] = np.float32(np.log([0.3, 0.1, 0.3, 0.2, 0.1]))
    listed = Candidates.of(TopLogprobs(ids, row[ids], 100))

    drawn = [
        (listed.ids[engine(listed, Address(seed), 4).position], engine(Candidates.of(row), Address(seed), 4).position) for seed in range(50)
    ]
    assert all(one == other for one, other in drawn)
    assert len({one for one, _ in drawn}) == 5


def test_llamacpp_walks_in_the_order_its_filters_leave():
    """top_k and its like sort the candidates there, so the same number of the generator picks another token."""
    plain, sorting = Sampler(draw="llama.cpp"), Sampler(draw="llama.cpp", top_k=5)
    order = np.argsort(-ROW, kind="stable")[:5]
    weights = np.exp((ROW - ROW.max()).astype(np.float64))[order]

    for step in range(50):
        generator = np.random.RandomState(7)
        low, high = generator.randint(0, 2**32, 2 * (step + 1), dtype=np.uint32)[-2:].tolist()
        place = int(np.searchsorted(weights.cumsum(), (low + high * 2**32) / 2**64 * weights.sum()))

        assert sorting.draw(ROW, seed=7, step=step) == order[place]
    assert [plain.draw(ROW, seed=7, step=step) for step in range(50)] != [sorting.draw(ROW, seed=7, step=step) for step in range(50)]


def test_sglang_s_noise_belongs_to_the_rank_once_there_is_a_filter():
    """Which is why a swap of two near-equal logits swaps their noise there: the coupling that keys by id has is lost."""
    swapped = ROW[[1, 0, 2, 3, 4, 5]]
    by_id, by_rank = Sampler(draw="sglang"), Sampler(draw="sglang", top_k=5)

    for step in range(30):
        ours, theirs = by_rank.draw(ROW, seed=7, step=step), by_rank.draw(swapped, seed=7, step=step)
        assert theirs == {0: 1, 1: 0}.get(ours, ours)
    assert [by_id.draw(ROW, seed=7, step=s) for s in range(30)] != [by_rank.draw(ROW, seed=7, step=s) for s in range(30)]


@pytest.mark.parametrize(("scheme", "bits"), [("vllm", 64), ("sglang", 64), ("llama.cpp", 32)])
def test_a_seed_the_engine_could_not_be_given_is_refused(scheme, bits):
    Sampler(draw=scheme).draw(ROW, seed=2**bits - 1)

    with pytest.raises(InvalidSeed, match=f"{bits} bits"):
        Sampler(draw=scheme).draw(ROW, seed=2**bits)


def test_what_was_never_observed_of_an_engine_is_refused_rather_than_guessed():
    with pytest.raises(InvalidSampler, match="min_p"):
        Sampler(draw="sglang", min_p=0.1)
    with pytest.raises(InvalidSampler, match=r"^draw='llama\.cpp' cannot follow typical_p: in which order .* is unspecified$"):
        Sampler(draw="llama.cpp", typical_p=0.9)
    with pytest.raises(InvalidSampler, match="draw must be one of"):
        Sampler(draw="race")


def test_the_hash_takes_all_bits_of_seed_and_position_it_is_said_to():
    columns = np.arange(4)
    hashes = {hash32(seed, position, columns).tobytes() for seed in (0, 1, 2**32, 2**63) for position in (0, 1, 2**31)}

    assert len(hashes) == 12


def seed_with_hash(target, position, column):
    """The seed below 2**32 whose hash is ``target``: every step of the hash can be undone."""
    mask = 2**32 - 1

    def divided(h, factor):
        return h * pow(factor, -1, 2**32) & mask

    def turned_back(h, bits):
        return (h >> bits | h << 32 - bits) & mask

    def before(h):
        return turned_back(divided(h - 0xE6546B64 & mask, 5), 13)

    def mixed(word):
        return turned_back(word * 0xCC9E2D51 & mask, 17) * 0x1B873593 & mask

    h = divided(target ^ target >> 16, 0xC2B2AE35)
    h = divided(h ^ h >> 13 ^ h >> 26, 0x85EBCA6B)
    h ^= h >> 16 ^ 16
    for word in (column, position, 0):
        h = before(h) ^ mixed(word)
    return divided(turned_back(divided(before(h), 0x1B873593), 15), 0xCC9E2D51)


@pytest.mark.parametrize(("target", "rate"), [(0, np.finfo(np.float64).max), (2**32 - 1, 2.0**-32), (1, np.log(2.0**32 - 1))])
def test_sglang_s_uniform_reaches_0_and_1_and_is_clamped_as_there(target, rate):
    seed = seed_with_hash(target, 9, 0)
    hashes = hash32(seed, 9, np.arange(2))
    assert hashes[0] == target
    lead = -np.log(rate) + np.log(-np.log(float(hashes[1]) / (2**32 - 1)))

    drawn = sglang(Candidates.of(np.float32([0.0, 0.0])), Address(seed), 9, by_rank=False)

    assert (drawn.position, drawn.margin) == (int(lead < 0), pytest.approx(abs(lead), rel=1e-12))


def test_sglang_ranks_equal_logits_by_id_wherever_they_stand():
    row = np.random.Generator(np.random.PCG64(3)).integers(0, 3, 300).astype(np.float32)
    order = sorted(range(row.size), key=lambda i: (-row[i], i))
    for seed in range(10):
        u = hash32(seed, 4, np.arange(row.size)).astype(np.float64) / (2**32 - 1)
        scores = row[order].astype(np.float64) - np.log(-np.log(u))

        assert sglang(Candidates.of(row), Address(seed), 4, by_rank=True).position == order[int(scores.argmax())]


@pytest.mark.parametrize("descending", [False, True])
def test_llamacpp_s_number_is_64_bits_of_the_twister_and_its_weights_are_float32(descending):
    """To the last digits: the margin is the distance from the number to the nearer boundary, in log odds."""
    row = np.random.Generator(np.random.PCG64(3)).integers(0, 3, 300).astype(np.float32) / np.float32(3.0)
    order = sorted(range(row.size), key=lambda i: (-row[i], i)) if descending else list(range(row.size))
    running = np.exp(row.astype(np.float64) - float(row.max())).astype(np.float32).astype(np.float64)[order].cumsum()
    bounds = running / running[-1]
    for seed in range(10):
        u = int.from_bytes(np.random.RandomState(seed).bytes(24)[-8:], "little") / 2**64
        place = int(np.searchsorted(running, u * running[-1]))
        gaps = [abs(np.log(u / (1 - u)) - np.log(bound / (1 - bound))) for bound in bounds[max(0, place - 1) : place + 1] if bound < 1]

        drawn = llamacpp(Candidates.of(row), Address(seed, step=2), descending=descending)

        assert (drawn.position, drawn.margin) == (order[place], pytest.approx(min(gaps), abs=1e-11))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_draws_from_the_distribution(scheme, goodness_of_fit):
    p = np.exp(ROW.astype(np.float64))
    sampler = Sampler(draw=scheme)
    # llama.cpp's generator runs from the start to each step, so seeds stand in for steps.
    places = [{"seed": 1 + n, "step": 0} if scheme == "llama.cpp" else {"seed": 1, "step": n} for n in range(3_000)]

    counts = np.bincount([sampler.draw(ROW, **place) for place in places], minlength=ROW.size)

    assert goodness_of_fit(counts, p / p.sum()) > 1e-3


@pytest.mark.parametrize("engine", [vllm, partial(sglang, by_rank=False)])
def test_logits_of_any_height_are_drawn_from_by_their_differences(engine):
    """Between 2**53 and 2**54 float64 counts in twos; sums of two such numbers would count in fours."""
    low = 2.0 * np.arange(6)

    for seed in range(20):
        high = engine(Candidates(None, low + 2.0**53, 6), Address(seed), 4)
        assert high == engine(Candidates(None, low, 6), Address(seed), 4)
