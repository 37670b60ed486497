"""Who has a sequence's drawing and its rows draws its tokens."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed import sampling
from seedbed.errors import UsageError
from seedbed.sampling import Address, Custom, Drawing, History, Processor, Sampler, StatefulProcessor
from seedbed.sampling.configuration import NAMED

EACH = [
    sampling.AllowedTokenIds([1, 2, 3]),
    sampling.BadWords([[1, 2], [3]]),
    sampling.Dry(1.5, breakers=[[1], [2, 3]]),
    sampling.DynamicTemperature(1.0, np.float32(0.3)),
    sampling.EpsilonCutoff(1e-3),
    sampling.EtaCutoff(1e-3),
    sampling.FrequencyPenalty(0.3),
    sampling.LogitBias({3: 0.1, 1: -2.5}),
    sampling.MinP(0.1),
    sampling.MinTokens(3, [0]),
    sampling.Mirostat(),
    sampling.MirostatV2(3.0, 0.25),
    sampling.NoRepeatNgram(3),
    sampling.PresencePenalty(0.3, scope=2),
    sampling.RepetitionPenalty(1.1),
    sampling.Temperature(np.float64(0.7)),
    sampling.TopH(0.5),
    sampling.TopK(np.int64(7), ties="keep"),
    sampling.TopNSigma(1.0),
    sampling.TopP(0.9, rule="<="),
    sampling.TypicalP(0.9),
    sampling.Xtc(0.5),
]
SCHEMES = ["gumbel", "inverse-cdf", "vllm", "sglang", "llama.cpp"]


def through_json(drawing: Drawing) -> Drawing:
    return Drawing.from_dict(json.loads(json.dumps(drawing.to_dict(), allow_nan=False)))


def test_every_processor_but_a_function_of_ones_own_travels() -> None:
    public = {
        name: named for name in sampling.__all__ if isinstance(named := getattr(sampling, name), type) and issubclass(named, Processor)
    }
    assert {name: named for name, named in public.items() if named not in (Processor, StatefulProcessor, Custom)} == NAMED
    assert sorted(type(processor).__name__ for processor in EACH) == sorted(NAMED)


@pytest.mark.parametrize("processor", EACH, ids=repr)
def test_a_processor_arrives_as_it_was(processor: Processor) -> None:
    drawing = Drawing(Sampler(chain=[processor]), Address(2**128 - 1, 2**48 - 1, 2**64 - 1, 2**64 - 1), state=-0.1)

    assert through_json(drawing) == drawing


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**128 - 1), st.integers(0, 2**64 - 1), st.sampled_from(SCHEMES), st.sampled_from([None, 0.3, 7.25]))
def test_an_address_a_scheme_and_a_state_arrive_as_they_were(seed: int, index: int, scheme: str, state: float | None) -> None:
    drawing = Drawing(Sampler(0.5, draw=scheme), Address(seed, 3, index, 5), state)

    assert through_json(drawing) == drawing


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**64), st.sampled_from([Sampler(), Sampler(0.7, 5), Sampler(mirostat=2), Sampler(repetition_penalty=1.3, draw="vllm")])
)
def test_step_by_step_it_takes_what_the_sampler_draws(seed: int, sampler: Sampler) -> None:
    rows = np.random.default_rng(1).normal(size=(6, 20)).astype(np.float32)
    drawing, prefix, state = Drawing(sampler, Address(seed, 2, 9)), [3, 1], None
    for step, row in enumerate(rows):
        draw = sampler.sample(row, Address(seed, 2, 9, step), prefix[:2], prefix[2:], state=state)
        state = draw.state
        token_id, drawing = through_json(drawing).take(row, prefix)
        assert token_id == draw.token_id
        prefix.append(token_id)


def test_it_goes_on_with_the_state_and_with_what_was_drawn_before() -> None:
    """Each changes this token: mirostat's mu allows more or fewer, and a token of the output is penalised out of the race."""
    row = np.log(np.float32([0.4, 0.3, 0.2, 0.1]))
    learning = Sampler(chain=[sampling.MirostatV2(tau=0.1, eta=1.0)])
    address = next(address for address in map(Address, range(100)) if Sampler().draw(row, seed=address.seed) == 3)
    penalised = Sampler(presence_penalty=1000.0)

    wide, narrow = Drawing(learning, address, 9.0).take(row, [0]), Drawing(learning, address, 0.0).take(row, [0])
    assert (wide[0], narrow[0]) == (3, 0)
    assert wide[1].state == learning.sample(row, address, [0], state=9.0).state != narrow[1].state
    assert Drawing(penalised, Address(7, step=3)).take(row, [3, 0, 1, 2])[0] == 3


@pytest.mark.parametrize(("count", "travels"), [(1000, True), (1001, False)])
def test_up_to_a_thousand_values_travel(count: int, travels: bool) -> None:
    drawing = Drawing(Sampler(chain=[sampling.AllowedTokenIds(range(count - 1))]), Address(7), 0.5)

    assert (drawing.to_dict() is not None) == travels


def test_a_processor_nobody_knows_is_named_among_those_that_are_known() -> None:
    with pytest.raises(UsageError, match="'Dice' is no processor; there are AllowedTokenIds, BadWords, .*, TypicalP, Xtc$"):
        Drawing.from_dict(GOOD | {"chain": [{"Dice": {}}]})


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(processors=[lambda prefix, logits: logits]),
        Sampler(logit_bias={1: -np.inf}),
        Sampler(allowed_token_ids=range(5000)),
    ],
    ids=["a function", "infinite", "long"],
)
def test_what_cannot_travel_is_nothing(sampler: Sampler) -> None:
    assert Drawing(sampler, Address(7)).to_dict() is None


def test_a_processor_that_only_bears_a_known_name_does_not_travel() -> None:
    class Temperature(Processor):
        def apply(self, candidates, history):
            return candidates

    assert Drawing(Sampler(chain=[Temperature()]), Address(7)).to_dict() is None
    assert Drawing(Sampler(chain=[Temperature()]), Address(7), None).take(np.float32([0, 9]), [1])[0] == 1


@pytest.mark.parametrize("state", [math.nan, -math.inf, "warm", True], ids=str)
def test_a_state_that_is_none_is_refused_at_once(state: object) -> None:
    with pytest.raises(UsageError, match="state must be None or the number that Draw"):
        Drawing(Sampler(mirostat=1), Address(7), state)
    with pytest.raises(UsageError, match="state must be None or the number that Draw"):
        History(state=state)


GOOD = Drawing(Sampler(0.5), Address(7)).to_dict()
assert GOOD is not None


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "x"},
        {"seed": str(2**128)},
        {"seed": None},
        {"index": -1},
        {"step": "1"},
        {"prompt_index": True},
        {"state": "warm"},
        {"state": []},
        {"state": float("nan")},
        {"state": float("inf")},
        {"state": True},
        {"state": 10**400},
        {"seed": float("inf")},
        {"seed": 1.5},
        {"seed": "9" * 5000},
        {"draw": "dice"},
        {"draw": ["gumbel"]},
        {"chain": None},
        {"chain": [{}]},
        {"chain": ["Temperature"]},
        {"chain": [{"Temperature": {"t": -1}}]},
        {"chain": [{"Temperature": {"t": "hot"}}]},
        {"chain": [{"Temperature": {"x": 1}}]},
        {"chain": [{"Temperature": [1]}]},
        {"chain": [{"Temperature": {"t": 1}, "TopK": {"k": 1}}]},
        {"chain": [{"Custom": {"function": "print"}}]},
        {"chain": [{"Processor": {}}]},
        {"chain": [{"__import__": {}}]},
    ],
    ids=str,
)
def test_what_is_no_drawing_is_refused(change: dict) -> None:
    with pytest.raises(UsageError):
        Drawing.from_dict(GOOD | change)


@pytest.mark.parametrize("name", list(GOOD))
def test_each_field_is_needed(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        Drawing.from_dict({key: value for key, value in GOOD.items() if key != name})


def test_the_fields_of_a_processor_are_what_makes_it() -> None:
    """Otherwise its parameters could not be read off it."""
    for named in NAMED.values():
        assert all(field.init for field in dataclasses.fields(named))
