"""Every random number is where its address says, and nowhere else."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.errors import InvalidSeed
from seedbed.llm.arguments import shown
from seedbed.sampling import Address, Purpose, check_seed, fresh_seed
from seedbed.sampling.randomness import uniform

KNOWN = json.loads((Path(__file__).parents[2] / "fixtures" / "known_answers" / "philox.json").read_text())
MASK = 2**64 - 1
ADDRESSES = st.builds(
    Address,
    seed=st.integers(0, 2**128 - 1),
    prompt_index=st.integers(0, 2**48 - 1),
    index=st.integers(0, MASK),
    step=st.integers(0, MASK),
)


def philox4x64_10(counter, key):
    """Philox4x64-10 as the paper states it, in plain Python: the reference for every word."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (product1 >> 64) ^ c1 ^ k0, product1 & MASK, (product0 >> 64) ^ c3 ^ k1, product0 & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return c0, c1, c2, c3


def word(address, purpose, v):
    counter = (1 + v // 4, address.step, address.index, purpose << 48 | address.prompt_index)
    return philox4x64_10(counter, (address.seed & MASK, address.seed >> 64))[v % 4]


@pytest.mark.parametrize("answer", KNOWN["random123_kat"], ids=["zeros", "ones", "pi"])
def test_the_reference_gives_random123_s_published_answers(answer):
    counter, key, result = ([int(number, 16) for number in answer[name]] for name in ("counter", "key", "result"))

    assert philox4x64_10(counter, key) == tuple(result)


@pytest.mark.parametrize("vector", KNOWN["vectors"], ids=str)
def test_the_words_of_an_address_never_change(vector):
    """These are part of every recorded result; a change here would make old seeds give new tokens."""
    address = Address(*(int(vector[name]) for name in ("seed", "prompt_index", "sequence", "step")))

    words = address.words(len(vector["words"]), vector["purpose"])

    assert [f"{word:016x}" for word in words.tolist()] == vector["words"]
    assert uniform(words[:2]).tolist() == vector["u52"]


@given(ADDRESSES, st.sampled_from(Purpose), st.lists(st.integers(0, 4_000), min_size=1, max_size=8, unique=True))
def test_a_word_is_the_same_singly_in_bulk_and_by_the_paper(address, purpose, positions):
    positions = np.array(sorted(positions), dtype=np.int64)
    pieces = np.concatenate(list(address.pieces(int(positions[-1]) + 1, purpose)))

    expected = [word(address, purpose, v) for v in positions.tolist()]

    assert address.words_at(positions, purpose).tolist() == expected
    assert address.words(int(positions[-1]) + 1, purpose)[positions].tolist() == expected
    assert pieces[positions].tolist() == expected


def test_no_positions_need_no_words():
    assert Address(7).words_at(np.array([], dtype=np.int64), Purpose.GUMBEL).tolist() == []


def test_words_far_apart_are_reached_by_jumping():
    address, positions = Address(7, 1, 2, 3), np.array([0, 3, 4, 150_000, 150_001, 10_000_000])

    words = address.words_at(positions, Purpose.GUMBEL)

    assert words.tolist() == [word(address, Purpose.GUMBEL, v) for v in positions.tolist()]


def test_the_pieces_of_a_long_vocabulary_are_one_stream():
    pieces = list(Address(7).pieces(100_003, Purpose.GUMBEL))

    assert len(pieces) > 1
    assert np.array_equal(np.concatenate(pieces), Address(7).words(100_003, Purpose.GUMBEL))


@given(ADDRESSES)
def test_anyone_can_check_an_address_with_stock_numpy(address):
    counter = [0, address.step, address.index, Purpose.GUMBEL << 48 | address.prompt_index]
    key = [address.seed & MASK, address.seed >> 64]

    stock = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=np.array(counter, dtype=np.uint64)).random_raw(9)

    assert np.array_equal(address.words(9, Purpose.GUMBEL), stock)


@given(st.tuples(ADDRESSES, st.sampled_from(Purpose)), st.tuples(ADDRESSES, st.sampled_from(Purpose)))
def test_different_addresses_share_no_block(one, other):
    """The packing into (key, counter) is injective, and under one key Philox is a bijection of the counter."""

    def packed(address, purpose):
        return address.seed, address.step, address.index, purpose << 48 | address.prompt_index

    assert (packed(*one) == packed(*other)) == (one == other)


@pytest.mark.parametrize("name", ["seed", "prompt_index", "index", "step"])
def test_neighbouring_addresses_have_unrelated_words(name):
    """A run's sequence 1 is not the next run's sequence 0, and no step repeats another."""
    fields = {"seed": 7, "prompt_index": 0, "index": 0, "step": 0}
    streams = {tuple(Address(**{**fields, name: value}).words(4, Purpose.GUMBEL).tolist()) for value in range(256)}

    assert len(streams) == 256


def test_seed_plus_one_sequence_zero_is_not_seed_sequence_one():
    runs = [{tuple(Address(seed, index=index).words(4, Purpose.GUMBEL)) for index in range(32)} for seed in (7, 8)]

    assert not runs[0] & runs[1]


def test_a_purpose_of_its_own_shifts_nothing():
    address = Address(7)
    before = address.words(8, Purpose.GUMBEL)

    address.uniform(Purpose.XTC)

    assert np.array_equal(address.words(8, Purpose.GUMBEL), before)
    assert len({address.uniform(purpose) for purpose in Purpose}) == len(Purpose)


def test_a_uniform_is_never_0_and_never_1():
    assert uniform(np.array([0, MASK], dtype=np.uint64)).tolist() == [2.0**-53, 1.0 - 2.0**-53]


@given(st.integers(0, MASK))
def test_a_uniform_is_the_top_52_bits_and_a_half_exactly(value):
    from fractions import Fraction

    assert Fraction(float(uniform(np.array([value], dtype=np.uint64))[0])) == Fraction(2 * (value >> 12) + 1, 2**53)


@pytest.mark.parametrize("seed", [0, 2**128 - 1, np.uint64(7)])
def test_a_seed_is_handed_on_as_an_int(seed):
    assert (check_seed(seed), type(check_seed(seed))) == (seed, int)


@pytest.mark.parametrize("seed", [-1, 2**128, 10**5000, 1.0, "7", True, None, np.float64(3)], ids=shown)
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(InvalidSeed, match="^seed must be ") as caught:
        check_seed(seed)
    is_int = isinstance(seed, int) and not isinstance(seed, bool)
    wanted = f"in [0, 2**128), not {shown(seed)}" if is_int else f"an int, not {type(seed).__name__}: {shown(seed)}"
    assert str(caught.value) == f"seed must be {wanted}"


@pytest.mark.parametrize(("name", "bits"), [("seed", 128), ("prompt_index", 48), ("index", 64), ("step", 64)])
def test_an_address_outside_its_fields_is_refused(name, bits):
    fields = {"seed": 7, name: 2**bits}

    with pytest.raises(InvalidSeed, match=name):
        Address(**fields)
    assert getattr(Address(**{**fields, name: np.uint64(3)}), name) == 3


def test_fresh_seeds_fit_the_int64_fields_of_servers():
    seeds = [fresh_seed() for _ in range(64)]

    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len(set(seeds)) == 64
