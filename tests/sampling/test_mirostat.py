"""Mirostat: what is kept at a given mu, what is learnt from a draw, and that the state belongs to the sequence."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.errors import InvalidSampler
from seedbed.sampling import Address, History, Mirostat, MirostatV2, Sampler, TopK, softmax

ROWS = st.lists(st.integers(-24, 24).map(lambda n: n / 4), min_size=2, max_size=30)
ZIPF = -1.2 * np.log(np.arange(1, 501))


def kept(processor, row, mu):
    return np.flatnonzero(processor(row, History(state=mu)) > -math.inf).tolist()


@given(ROWS, st.floats(0.1, 8.0))
def test_the_second_version_keeps_what_surprises_at_most_mu_bits(row, mu):
    surprise = -np.log2(softmax(row))
    if np.abs(surprise - mu).min() > 1e-9:
        expected = [i for i, bits in enumerate(surprise) if bits <= mu]
        assert kept(MirostatV2(), row, mu) == (expected or [int(np.argmax(row))])


@given(ROWS, st.floats(0.1, 8.0))
def test_the_first_version_keeps_the_k_of_the_zipf_law(row, mu):
    ordered = np.sort(row)[::-1]
    t = np.log((np.arange(len(row) - 1) + 2) / (np.arange(len(row) - 1) + 1))
    s = float((t * -np.diff(ordered)).sum() / (t * t).sum())
    if s < 1e-3 or abs(s - 1) < 1e-3:
        return
    k = ((s - 1) * 2**mu / (1 - len(row) ** -(s - 1))) ** (1 / s)
    if abs(k - round(k)) < 1e-6:
        return

    assert kept(Mirostat(), row, mu) == kept(TopK(min(len(row), max(1, int(k)))), row, None)


@pytest.mark.parametrize(("mu", "count"), [(1.0, 1), (20.0, 16)])
def test_a_flat_row_has_exponent_0_and_is_kept_whole_or_cut_to_one(mu, count):
    assert len(kept(Mirostat(), [0.0] * 16, mu)) == count


def test_an_exponent_of_1_is_taken_as_the_limit():
    row = -np.log(np.arange(1, 51))

    assert len(kept(Mirostat(), row, 5.0)) == int(2**5 / math.log(50))


def test_at_the_edges_of_the_law_k_is_its_limit():
    """Exponent 1, where the formula is 0 / 0, and 0, where its root is any number above 1 or below."""
    assert Mirostat()._k(1.0, 5.0, 50) == int(2**5 / math.log(50))
    assert len(kept(Mirostat(), [0.0] * 16, math.log2(15 * 1.01))) == 16
    assert len(kept(Mirostat(), [0.0] * 16, math.log2(15 * 0.99))) == 1


def test_a_vocabulary_of_one_token_is_kept():
    assert kept(Mirostat(), [3.0], 1.0) == [0]
    assert kept(MirostatV2(), [3.0], 1.0) == [0]


@pytest.mark.parametrize("version", [1, 2])
def test_a_token_as_surprising_as_the_target_changes_nothing(version):
    step = (Mirostat if version == 1 else MirostatV2)(tau=3.0, eta=0.5)

    assert step.after(None, 2.0**-3) == 6.0
    assert step.after(4.0, 2.0**-3) == 4.0
    assert step.after(4.0, 2.0**-5) == 3.0
    assert step.after(4.0, 1.0) == 5.5


@pytest.mark.parametrize("version", [1, 2])
def test_the_state_is_finite_at_any_rate(version):
    step = (Mirostat if version == 1 else MirostatV2)(tau=1e308, eta=1e308)
    state = step.after(step.after(None, 1.0), 0.5)

    assert math.isfinite(state)
    assert 0 in kept(step, [1.0, 0.0], state)


def run(sampler, steps, state=None, start=0):
    tokens = []
    for step in range(start, start + steps):
        drawn = sampler.sample(ZIPF.astype(np.float32), Address(7, step=step), state=state)
        tokens.append(drawn.token_id)
        state = json.loads(json.dumps(drawn.state))
    return tokens, state


@pytest.mark.parametrize("version", [1, 2])
def test_a_sequence_resumes_exactly_from_its_state(version):
    sampler = Sampler(mirostat=version, mirostat_tau=3.0)
    whole, end = run(sampler, 40)
    first, state = run(sampler, 15)

    assert run(sampler, 25, state, start=15) == (whole[15:], end)
    assert first == whole[:15]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tau", [2.0, 4.0])
def test_the_surprise_is_steered_to_the_target(version, tau):
    sampler = Sampler(mirostat=version, mirostat_tau=tau, mirostat_eta=0.2)
    state, bits = None, []
    for step in range(600):
        drawn = sampler.sample(ZIPF.astype(np.float32), Address(7, step=step), state=state)
        state = drawn.state
        bits.append(-drawn.processed_logprob / math.log(2))

    assert np.mean(bits[100:]) == pytest.approx(tau, abs=0.25)


def test_without_mirostat_there_is_no_state():
    assert Sampler(top_k=3).sample(ZIPF.astype(np.float32), Address(7)).state is None


def test_mirostat_excludes_other_filters_and_comes_last():
    with pytest.raises(InvalidSampler, match="it excludes top_k, top_p"):
        Sampler(mirostat=2, top_k=5, top_p=0.9)
    with pytest.raises(InvalidSampler, match="last of the chain"):
        Sampler(chain=[MirostatV2(), TopK(3)])
    for bad in (3, -1, True, "2"):
        with pytest.raises(InvalidSampler):
            Sampler(mirostat=bad)
    for bad in (-1.0, math.nan, None):
        with pytest.raises(InvalidSampler):
            Sampler(mirostat=1, mirostat_tau=bad)
        with pytest.raises(InvalidSampler):
            Sampler(mirostat=2, mirostat_eta=bad)
