"""A processor of your own: what it is given, what it may return, and whose name an error bears."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from seedbed.errors import InvalidSampler, NonFiniteLogits, NothingToDraw
from seedbed.llm import TopLogprobs
from seedbed.sampling import Address, AllowedTokenIds, Custom, DynamicTemperature, Processor, Sampler, Temperature, TopK


def test_it_is_given_the_whole_prefix_and_the_logits_at_its_point_of_the_chain():
    seen = []

    def spy(prefix, logits):
        seen.append((prefix, logits.tolist(), logits.dtype))
        return logits

    Sampler(chain=[TopK(2), Custom(spy)]).process([1.0, 3.0, 2.0], [7, 8], [9])

    assert seen == [([7, 8, 9], [-np.inf, 3.0, 2.0], np.float64)]


def test_it_may_modify_what_it_is_given_and_nothing_else_changes():
    row = np.array([1.0, 3.0, 2.0], dtype=np.float32)

    def ban_in_place(prefix, logits):
        logits[1] = -np.inf
        return logits

    assert Sampler(processors=[ban_in_place], temperature=0).draw(row, seed=7) == 2
    assert row.tolist() == [1.0, 3.0, 2.0]


def test_it_comes_after_the_penalties_and_before_the_temperature():
    sampler = Sampler(processors=[lambda prefix, logits: logits], temperature=0.5, presence_penalty=1.0)

    assert [type(step).__name__ for step in sampler.chain] == ["PresencePenalty", "Custom", "Temperature"]


def test_on_a_list_it_works_once_a_filter_has_settled_who_is_left():
    row = TopLogprobs([5, 2], np.log([0.5, 0.25]), vocab_size=10)
    sampler = Sampler(chain=[TopK(2), Custom(lambda prefix, logits: np.where(np.arange(10) == 5, -np.inf, logits))])

    assert sampler.draw(row, seed=7) == 2


def test_what_it_returns_is_a_whole_row_again():
    """Tokens it was not told of count among the excluded ones, and what a greedy choice before it led by is forgotten."""
    dense = np.float32([0.5, -np.inf, 0.0, -np.inf])
    listed = TopLogprobs([0, 2], [np.log(0.75), np.log(0.25)], vocab_size=4)
    mine = Custom(lambda prefix, logits: dense.astype(np.float64))
    warm = Sampler(chain=[AllowedTokenIds([0, 2]), mine, DynamicTemperature(1.0, 0.5)])
    after_greed = Sampler(chain=[Temperature(0), mine])

    assert warm.process(listed).tolist() == Sampler(chain=[DynamicTemperature(1.0, 0.5)]).process(dense).tolist()
    assert after_greed.sample(np.float32([1, 2, 3, 4]), Address(7)).margin == Sampler().sample(dense, Address(7)).margin


@pytest.mark.parametrize("answer", [[1.0, 2.0], [[1.0, 2.0, 3.0]], 5.0, None, "logits", 10**400, [1.0, "x", 2.0]])
def test_what_is_no_row_is_refused(answer):
    what = type(answer).__name__
    with pytest.raises(InvalidSampler, match=f"returned ({what}, not logits|shape .* for logits of shape \\(3,\\))$"):
        Sampler(processors=[lambda prefix, logits: answer]).process([1.0, 2.0, 3.0])


def wipe(prefix, logits):
    return np.full_like(logits, -np.inf)


def spoil(prefix, logits):
    return logits * np.nan


@pytest.mark.parametrize(("function", "error"), [(wipe, NothingToDraw), (spoil, NonFiniteLogits)])
def test_a_row_it_has_made_unusable_is_its_doing_by_name(function, error):
    with pytest.raises(error, match=function.__name__):
        Sampler(processors=[function]).draw([1.0, 2.0], seed=7)


def test_its_own_errors_come_out_as_they_are():
    def fail(prefix, logits):
        raise LookupError("no such grammar")

    with pytest.raises(LookupError, match="no such grammar"):
        Sampler(processors=[fail]).draw([1.0, 2.0], seed=7)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(InvalidSampler, match="a processor is a function of"):
        Sampler(processors=[5])


@dataclass(frozen=True)
class Shifted(Processor):
    by: float

    def apply(self, candidates, history):
        return replace(candidates, values=candidates.logits + self.by)


def test_the_numbers_of_a_class_of_ones_own_become_python_s_floats():
    assert repr(Shifted(np.float32(2))) == repr(Shifted(2)) == "Shifted(by=2.0)"
    assert Shifted(2)([1.0, 0.0]).tolist() == [3.0, 2.0]
    with pytest.raises(InvalidSampler, match="by is larger than any float"):
        Shifted(10**400)
