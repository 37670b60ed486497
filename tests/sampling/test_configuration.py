"""A sampler comes back from its repr, and nothing else does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seedbed.errors import InvalidSampler
from seedbed.sampling import BadWords, LogitBias, Sampler, TopK
from seedbed.sampling.configuration import configuration_of, sampler_from

SAMPLERS = [
    Sampler(),
    Sampler(0.8, 40, 0.95, 0.05),
    Sampler(0.0),
    Sampler(1.5, 20, 0.9, order="llama.cpp", draw="llama.cpp"),
    Sampler(0.7, 50, 0.9, order="hf"),
    Sampler(order="sglang", top_p=0.5, repetition_penalty=1.2, draw="sglang"),
    Sampler(typical_p=0.9, epsilon_cutoff=0.001, eta_cutoff=0.002, top_h=0.5, top_n_sigma=1.5, xtc_probability=0.5),
    Sampler(dynatemp_range=0.2, mirostat=2),
    Sampler(mirostat=1, mirostat_tau=3.0),
    Sampler(frequency_penalty=0.5, presence_penalty=0.25, repeat_last_n=8, dry_multiplier=0.8, dry_breakers=[[1, 2], [3]]),
    Sampler(no_repeat_ngram_size=3, logit_bias={3: 1.5, 7: -2.0}, allowed_token_ids=[1, 2, 3], bad_words=[[4], [5, 6]]),
    Sampler(min_tokens=4, stop_token_ids=[0], draw="inverse-cdf"),
    Sampler(chain=[LogitBias({1: -math.inf})]),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: repr(sampler)[15:55])
def test_it_is_the_same_again(sampler: Sampler) -> None:
    again = sampler_from(repr(sampler))

    assert again == sampler
    assert repr(again) == repr(sampler)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Sampler(temperature=2, top_p=np.float64(0.9), top_k=np.int64(3)), Sampler(temperature=2.0, top_p=0.9, top_k=3)),
        (Sampler(np.float32(0.5), min_p=np.float64(0.25), repetition_penalty=2), Sampler(0.5, min_p=0.25, repetition_penalty=2.0)),
        (Sampler(mirostat=2, mirostat_tau=np.int64(3)), Sampler(mirostat=2, mirostat_tau=3.0)),
        (Sampler(dry_multiplier=1, dry_last_n=np.int32(9)), Sampler(dry_multiplier=1.0, dry_last_n=9)),
        (Sampler(frequency_penalty=1, repeat_last_n=np.uint8(9)), Sampler(frequency_penalty=1.0, repeat_last_n=9)),
    ],
)
def test_samplers_that_are_equal_read_alike_whatever_the_type_of_their_numbers(one: Sampler, other: Sampler) -> None:
    """What a recording says of a sweep over ``numpy.linspace`` can be sampled again, and a result goes on under 2.0 what 2 began."""
    assert one == other
    assert repr(one) == repr(other)
    assert sampler_from(repr(one)) == one


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no sampler can be made of"),
        ("Sampler(", "no sampler can be made of"),
        ("Sampler()", "chain"),
        ("Sampler(chain=3)", ": its chain is no list$"),
        ("Sampler(chain=[print('x')])", "is no processor that a text can bring back"),
        ("Sampler(chain=[__import__('os').getcwd()])", "is no processor that a text can bring back"),
        ("Sampler(chain=[Custom(function=<function <lambda> at 0x7f>)])", "no sampler can be made of"),
        ("Sampler(chain=[TopK(k=-3)])", "k"),
        ("Sampler(chain=[Temperature(t=inf)])", "temperature must be in"),
        ("Sampler(chain=[LogitBias(bias={1: inf})])", "inf"),
        ("Sampler(chain=[TopK(k=open('x'))])", "malformed node"),
        ("Sampler(chain=[], draw='x')", "draw must be one of"),
        ("dict(chain=[])", ": it is no Sampler$"),
        ("Sampler(5, chain=[])", ": it is no Sampler$"),
        ("5", ": it is no Sampler$"),
    ],
)
def test_what_is_none_is_refused_and_nothing_is_executed(text: str, says: str) -> None:
    with pytest.raises(InvalidSampler, match=says):
        sampler_from(text)


def test_a_text_may_be_written_by_hand() -> None:
    """Without names of parameters, and with lists for tuples."""
    assert sampler_from("Sampler(chain=[TopK(5), BadWords([(1, 2), [3]])])") == Sampler(chain=[TopK(5), BadWords([[1, 2], [3]])])


def test_where_a_function_lies_in_memory_is_no_part_of_the_configuration() -> None:
    def mine(prefix: object, logits: object) -> object:
        return logits

    sampler = Sampler(0.5, processors=[mine])

    assert " at 0x" in repr(sampler)
    assert configuration_of(sampler) == f"Sampler(chain=[Custom(function=<function {mine.__qualname__}>), Temperature(t=0.5)])"
