"""What is said of the tokens a server did not list is true of them, whatever the chain did in between."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.llm import TopLogprobs
from seedbed.sampling import Address, History, LogitBias, Sampler, Temperature, portable
from seedbed.sampling.candidates import Candidates
from seedbed.sampling.tail import Tail

LOGITS = st.lists(st.floats(-12, 12, width=32), min_size=3, max_size=24)


def logprobs_of(values):
    return portable.log_softmax(np.array(values, dtype=np.float64)).astype(np.float32)


def listed(logprobs, k):
    best = np.argsort(-logprobs, kind="stable")[:k]
    return TopLogprobs(best, logprobs[best], vocab_size=logprobs.size)


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("heat"), st.sampled_from([0.05, 0.3, 0.8, 1.25, 2.0, 6.0])),
        st.tuples(st.just("move"), st.tuples(st.sets(st.integers(0, 23), min_size=1, max_size=6), st.floats(-5, 5))),
        st.tuples(st.just("scale"), st.tuples(st.sets(st.integers(0, 23), min_size=1, max_size=6), st.sampled_from([0.5, 1.5]))),
        st.tuples(st.just("ban"), st.sets(st.integers(0, 23), min_size=1, max_size=3)),
    ),
    max_size=4,
)


@given(LOGITS, st.data(), CHANGES, st.sampled_from([0.0, -2.5, 4.0]))
def test_the_bounds_hold_for_the_true_tail_through_every_change(values, data, changes, shift):
    logprobs = logprobs_of(values)
    k = data.draw(st.integers(1, len(values) - 1))
    candidates = Candidates.of(listed(logprobs, k))
    truth, unseen = logprobs.astype(np.float64), np.ones(logprobs.size, dtype=bool)
    unseen[candidates.ids] = False
    for name, what in changes:
        if name == "heat":
            truth = (truth - shift) / what
            tail = candidates.tail and candidates.tail.heated(what, shift)
            candidates = Candidates(candidates.ids, (candidates.logits - shift) / what, logprobs.size, tail)
        elif name == "ban":
            truth[[i for i in what if i < truth.size]] = -np.inf
            candidates = candidates.ban(np.array(sorted(what)))
        else:
            which, amount = np.array(sorted(what[0])), what[1]
            inside = which[which < truth.size]
            if name == "move":
                truth[inside] += amount
                candidates = candidates.move(which, lambda logits, _, amount=amount: logits + amount)
            else:
                truth[inside] = np.where(truth[inside] > 0, truth[inside] / amount, truth[inside] * amount)
                candidates = candidates.move(which, lambda logits, _, amount=amount: np.where(logits > 0, logits / amount, logits * amount))

    if candidates.tail is None:
        assert not (truth[unseen] > -np.inf).any()
        return
    finite = candidates.logits[candidates.logits > -np.inf]
    top = float(finite.max()) if finite.size else 0.0
    low, high = candidates.tail.weight_bounds(top)
    weight = math.fsum(math.exp(min(700.0, value - top)) for value in truth[unseen])
    assert truth[unseen].max() <= candidates.tail.ceiling + 1e-5
    assert low * (1 - 1e-6) - 1e-9 <= weight <= high * (1 + 1e-4) + 1e-9


def test_at_temperature_1_the_missing_mass_is_known_to_the_rounding_of_the_list():
    tail = Tail.of(TopLogprobs([0, 1], np.log([0.5, 0.25]), vocab_size=100))

    low, high = tail.weight_bounds(0.0)

    assert low == pytest.approx(0.25, abs=1e-6)
    assert high == pytest.approx(0.25, abs=1e-6)
    assert low < high


def test_what_is_missing_is_known_to_half_a_step_of_each_number_and_no_better():
    """The steps of float32 between -2 and -1 are 2**-23, and unseen tokens may be far down where they are 2**-18."""
    logprobs = np.log(np.float32([0.3, 0.2, 0.15]))
    tail = Tail.of(TopLogprobs([0, 1, 2], logprobs, vocab_size=100))
    weights = np.exp(logprobs.astype(np.float64) - float(logprobs[0]))
    missing = np.exp(-float(logprobs[0])) - weights.sum()
    slack = (weights * np.float64([2**-23] * 3)).sum() / 2 + missing * 2**-18

    assert (tail.low, tail.high) == (pytest.approx(missing - slack, rel=1e-14), pytest.approx(missing + slack, rel=1e-14))


def test_a_list_of_everything_leaves_no_tail():
    assert Tail.of(TopLogprobs([0, 1], np.log([0.5, 0.5]), vocab_size=2)) is None


def test_the_tail_is_never_heavier_than_its_ceiling_allows():
    """A server whose sums are off in the fourth digit leaves 1e-4 missing, but 3 tokens below 1e-9 cannot hold that."""
    tail = Tail.of(TopLogprobs([0, 1], np.log([0.9999, 1e-9]), vocab_size=5))

    assert tail.weight_bounds(0.0)[1] == pytest.approx(3e-9, rel=1e-6)


def test_a_list_that_sums_to_more_than_1_is_trusted_no_further_than_that():
    tail = Tail.of(TopLogprobs([0, 1], np.log([0.8, 0.2004]), vocab_size=100))

    assert tail.weight_bounds(0.0) == (0.0, pytest.approx(4e-4, rel=1e-2))


def test_what_was_negligible_beside_the_best_is_not_once_the_best_is_gone():
    tail = Tail(listed=2, count=10, ceiling=-2000.0, reference=0.0, low=0.0, high=0.0)

    assert tail.weight_bounds(0.0) == (0.0, 0.0)
    assert tail.weight_bounds(-2000.0) == (0.0, 10.0)


def test_a_list_of_impossible_tokens_says_that_the_rest_is_impossible_too():
    tail = Tail.of(TopLogprobs([0, 1], [-math.inf, -math.inf], vocab_size=4))

    assert tail.ceiling == -math.inf
    assert tail.weight_bounds(0.0) == (0.0, 0.0)


def test_heating_tokens_that_are_impossible_leaves_them_so():
    tail = Tail.of(TopLogprobs([0, 1], [0.0, -math.inf], vocab_size=4))

    assert tail.heated(0.5, 0.0).weight_bounds(0.0) == (0.0, 0.0)
    assert tail.heated(2.0, 0.0).weight_bounds(0.0) == (0.0, 0.0)


@pytest.mark.parametrize("temperature", [1e-9, 0.5, 2.0])
@pytest.mark.parametrize("bias", [9.0, 1000.0])
def test_what_overflows_is_unbounded_and_no_error(temperature, bias):
    """Fifty digits have an end too: 100**1e9 was one of decimal's own errors."""
    row = TopLogprobs([0, 1], np.log([0.5, 0.25]), 4)
    candidates = LogitBias({3: bias}).apply(Candidates.of(row), History())

    low, high = Temperature(temperature).apply(candidates, History()).tail.weight_bounds(0.0)

    assert 0.0 <= low < high
    assert high > 1.0
    assert Sampler(chain=[LogitBias({3: bias})]).sample(row, Address(7)).tail_mass > 0.99


class TestTheBoundsAreAsNarrowAsCanBe:
    """Of three tokens one is listed, at 0.4: the others weigh 1.5 of it together, and at most 1 each."""

    @pytest.fixture
    def tail(self):
        return Tail.of(TopLogprobs([1], np.log([0.4]), 3))

    def test_when_one_is_excluded(self, tail):
        left = tail.without(np.array([0]))

        assert (left.count, left.low, left.high) == (1, pytest.approx(0.5, rel=1e-4), pytest.approx(1.0, rel=1e-4))
        assert left.holds(np.array([0, 2])).tolist() == [False, True]
        assert left.without(np.array([0])) == left
        assert left.without(np.array([2])) is None

    def test_when_all_but_one_are(self, tail):
        left = tail.restricted(np.array([2]))

        assert (left.count, left.low, left.high) == (1, pytest.approx(0.5, rel=1e-4), pytest.approx(1.0, rel=1e-4))
        assert left.holds(np.array([0, 2])).tolist() == [False, True]
        assert left.restricted(np.array([0])) is None
        assert tail.restricted(np.array([0, 2])).without(np.array([0])).holds(np.array([0, 2])).tolist() == [False, True]

    def test_when_one_is_raised(self, tail):
        raised = tail.moved(np.log([0.8]))

        assert (raised.low, raised.high) == (pytest.approx(1.5, rel=1e-4), pytest.approx(1.5 + 2.0, rel=1e-4))
        assert raised.ceiling == pytest.approx(math.log(0.8))

    def test_when_one_is_lowered(self, tail):
        lowered = tail.moved(np.log([0.1]))

        assert (lowered.low, lowered.high) == (pytest.approx(0.5, rel=1e-4), pytest.approx(1.5, rel=1e-4))
        assert lowered.ceiling == tail.ceiling  # of the other

    def test_when_all_are_lowered(self, tail):
        lowered = tail.moved(np.log([0.1, 0.2]))

        assert (lowered.low, lowered.ceiling) == (0.0, pytest.approx(math.log(0.2)))
        assert lowered.weight_bounds(math.log(0.4)) == (0.0, pytest.approx(2 * 0.5))

    def test_when_one_may_have_come_up_to_the_ceiling(self, tail):
        """It was at most there before, and is at most there now: it may have gained as much as the ceiling weighs, or lost it."""
        moved = tail.moved(np.array([tail.ceiling]))

        assert (moved.low, moved.high) == (pytest.approx(tail.low - 1.0), pytest.approx(tail.high + 1.0))

    def test_when_those_left_are_light(self):
        """Each of four weighs at most a half: one fewer is at most a half less."""
        tail = Tail(listed=1, count=4, ceiling=math.log(0.5), reference=0.0, low=1.2, high=1.8)
        left = tail.without(np.array([7, 8]))

        assert (left.count, left.low, left.high) == (2, pytest.approx(0.2), pytest.approx(1.0))

    @pytest.mark.parametrize(("weight", "heated"), [(1.2, 0.5**2 + 0.5**2 + 0.2**2), (1.5, 3 * 0.5**2), (0.0, 0.0), (0.3, 0.3**2)])
    def test_when_they_are_heated_and_packed_under_the_ceiling(self, weight, heated):
        """Three of at most a half each: squared, they weigh most with as many as possible at the ceiling."""
        tail = Tail(listed=1, count=3, ceiling=math.log(0.5), reference=0.0, low=weight, high=weight)

        assert tail.heated(0.5, 0.0).high == pytest.approx(heated, rel=1e-12)
        assert tail.heated(0.5, 0.0).low == pytest.approx(weight**2 / 3, rel=1e-12)

    def test_of_equals_a_list_holds_the_lowest_ids_until_one_has_been_moved_above_them(self, tail):
        lists_to = 1

        assert tail.after == lists_to
        assert tail.moved(np.log([0.1])).after == lists_to
        assert tail.moved(np.array([tail.ceiling])).after == lists_to
        assert tail.moved(np.log([0.8])).after == -1
        assert tail.moved(np.log([0.1, 0.2])).after == -1
