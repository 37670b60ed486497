"""Results are values: complete, comparable, and the same after a round trip through JSON."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.errors import UsageError
from seedbed.generation.result import GenerationResult, ResumePoint, SampledSequence, Stats

ids = st.integers(0, 2**40)
numbers = st.floats(allow_nan=False, width=64)


@st.composite
def sequences(draw: st.DrawFn) -> SampledSequence:
    length = draw(st.integers(0, 5))

    def per_token(values):
        return tuple(draw(st.lists(values, min_size=length, max_size=length)))

    return SampledSequence(
        prompt_index=draw(st.integers(0, 2**47)),
        index=draw(st.integers(0, 2**63)),
        prompt_token_ids=tuple(draw(st.lists(ids, min_size=1, max_size=4))),
        token_ids=per_token(ids),
        logprobs=per_token(st.none() | st.floats(-math.inf, 0)),
        processed_logprobs=per_token(st.none() | st.floats(-math.inf, 0)),
        margins=per_token(st.floats(0, math.inf)),
        tail_masses=per_token(st.floats(0, 1)),
        finish_reason=draw(st.sampled_from(["stop", "length", "deadline", "error", "cancelled"])),
        resume=ResumePoint(draw(st.integers(0, 2**128 - 1)), draw(st.none() | numbers), draw(st.text())),
        stop_match=draw(st.none() | st.tuples(ids)),
        error=draw(st.none() | st.text()),
        started=draw(st.none() | st.floats(0, 1e6)),
        finished=draw(st.none() | st.floats(0, 1e6)),
    )


@settings(max_examples=50, deadline=None)
@given(sequences())
def test_a_sequence_survives_json(sequence: SampledSequence) -> None:
    back = SampledSequence.from_dict(json.loads(json.dumps(sequence.to_dict(), allow_nan=False)))

    assert back == sequence
    assert (back.started, back.finished) == (sequence.started, sequence.finished)


@settings(max_examples=30, deadline=None)
@given(st.lists(sequences(), max_size=3))
def test_a_result_survives_json(several: list[SampledSequence]) -> None:
    result = GenerationResult(tuple(several), 2**100, "Sampler(chain=[])", Stats(tokens=3, waited=0.5))
    back = GenerationResult.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)))

    assert back == result
    assert back.stats == result.stats


def test_the_hash_is_over_one_line_a_sequence() -> None:
    """So that it can be checked by hand."""
    sequence = SampledSequence(0, 1, (9,), (5, 0), (None,) * 2, (None,) * 2, (1.0,) * 2, (0.0,) * 2, "stop", ResumePoint(7))

    assert GenerationResult((sequence,), 7, "").sha256 == hashlib.sha256(b"0 1 5 0\n").hexdigest()


def test_times_and_costs_do_not_make_results_differ() -> None:
    one = SampledSequence(0, 1, (9,), (), (), (), (), (), "length", ResumePoint(7), started=1.0, finished=2.0)
    other = SampledSequence(0, 1, (9,), (), (), (), (), (), "length", ResumePoint(7), started=3.0, finished=4.0)

    assert GenerationResult((one,), 7, "", Stats(requests=1)) == GenerationResult((other,), 7, "", Stats(requests=2))


def test_the_log_probability_of_a_sequence_is_the_sum_or_unknown() -> None:
    known = SampledSequence(0, 0, (9,), (1, 2), (-0.5, -1.0), (None,) * 2, (1.0,) * 2, (0.0,) * 2, "length", ResumePoint(7))
    unknown = SampledSequence(0, 0, (9,), (1, 2), (-0.5, None), (None,) * 2, (1.0,) * 2, (0.0,) * 2, "length", ResumePoint(7))

    assert (known.logprob, unknown.logprob) == (-1.5, None)


POINT = {"seed": "7", "sampler_state": None, "sampler": ""}


@pytest.mark.parametrize(
    "change",
    [
        {"finish_reason": "tired"}, {"finish_reason": ["stop"]}, {"margins": ["x"]}, {"margins": [0.0, 0.0]}, {"margins": 5},
        {"logprobs": []}, {"logprobs": None}, {"processed_logprobs": "x"}, {"tail_masses": [[0.0]]}, {"tail_masses": {"0": 0.0}},
        {"token_ids": None, "resume": None}, {"token_ids": ["x"]}, {"token_ids": [1.5]}, {"token_ids": [2**63]}, {"token_ids": 5},
        {"prompt_token_ids": "text"}, {"prompt_token_ids": [-1]}, {"stop_match": 5}, {"stop_match": [None]},
        {"prompt_index": None}, {"prompt_index": -1}, {"index": "0"}, {"index": [0]}, {"index": True},
        {"started": "x"}, {"finished": []}, {"resume": {}}, {"resume": 5}, {"resume": None},
        {"resume": POINT | {"seed": "x"}}, {"resume": POINT | {"seed": math.inf}}, {"resume": POINT | {"seed": -1}},
        {"resume": POINT | {"seed": 7.9}}, {"resume": POINT | {"seed": "7.9"}}, {"resume": POINT | {"seed": True}},
        {"resume": POINT | {"seed": "1" * 5000}}, {"resume": POINT | {"sampler": None}}, {"error": 5},
        {"resume": POINT | {"sampler_state": "x"}}, {"resume": POINT | {"sampler_state": []}}, {"resume": POINT | {"sampler_state": True}},
        {"resume": POINT | {"sampler_state": math.nan}}, {"resume": POINT | {"sampler_state": "nan"}}, {"logprobs": [math.nan]},
        {"margins": [True]}, {"margins": ["1.5"]}, {"tail_masses": [10**400]}, {"started": math.nan},
    ],
    ids=lambda change: "-".join(f"{name}={value}" for name, value in change.items()),
)  # fmt: skip
def test_something_else_is_refused(change: dict[str, object]) -> None:
    """Whatever an editor or another program made of the file: one line says what, where it is read, not in the middle of a run."""
    good = SampledSequence(0, 0, (9,), (1,), (-0.5,), (-0.5,), (1.0,), (0.0,), "length", ResumePoint(7)).to_dict()
    assert SampledSequence.from_dict(good).token_ids == (1,)

    with pytest.raises(UsageError, match="this is not a sampled sequence as to_dict"):
        SampledSequence.from_dict(good | change)
    with pytest.raises(UsageError, match="this is not a sampled sequence as to_dict"):
        GenerationResult.from_dict({"sequences": [good | change], "seed": "7", "sampler": "", "stats": {}})


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "x"}, {"seed": math.inf}, {"seed": "-5"}, {"seed": -5}, {"seed": 1.5}, {"seed": str(2**128)}, {"sampler": None},
        {"sequences": 5}, {"sequences": [5]}, {"stats": {"x": 1}}, {"stats": None}, {"stats": {"tokens": "x"}}, {"stats": {"rows": 1.5}},
        {"stats": {"requests": -1}}, {"stats": {"retries": True}}, {"stats": {"waited": math.nan}}, {"stats": {"waited": "x"}},
        {"stats": {"waited": None}}, {"stats": ["tokens"]},
    ],
)  # fmt: skip
def test_no_result_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="as to_dict"):
        GenerationResult.from_dict(GenerationResult((), 7, "").to_dict() | change)
    with pytest.raises(UsageError, match="as to_dict"):
        GenerationResult.from_dict(None)


def test_counters_become_costs_and_others_are_left_out() -> None:
    stats = Stats.of({"requests": 5, "cache_hits": 2, "else": 9}, {"requests": 3, "gone": 1}, tokens=7, rows=4, waited=0.5)

    assert stats == Stats(tokens=7, rows=4, waited=0.5, requests=2, cache_hits=2)


def test_reprs_are_short_and_say_what_there_is() -> None:
    """What a notebook shows of a result of any size."""
    many = tuple(range(500))
    sequences = tuple(
        SampledSequence(0, i, (9,) * 1000, many, (0.0,) * 500, (0.0,) * 500, (1.0,) * 500, (0.0,) * 500, "length", ResumePoint(7))
        for i in range(50)
    )
    failed = SampledSequence(1, 2, (9,), (3,), (0.0,), (0.0,), (1.0,), (0.0,), "error", ResumePoint(7), error="OSError: gone")

    assert repr(sequences[1]) == "<SampledSequence 1 of prompt 0: 500 tokens [0, 1, 2, 3, 4, ...], length>"
    assert repr(failed) == "<SampledSequence 2 of prompt 1: 1 token [3], error: OSError: gone>"
    result = GenerationResult((*sequences, failed), 7, "")
    assert repr(result) == "<GenerationResult of seed 7: 51 sequences, 25001 tokens, 50 length, 1 error>"
