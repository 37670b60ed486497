"""Which order the steps come in under each engine's name, which rules they follow, and what is refused."""

import math

import numpy as np
import pytest

from seedbed.errors import InvalidSampler
from seedbed.llm.arguments import shown
from seedbed.sampling import (
    BadWords,
    Custom,
    Dry,
    DynamicTemperature,
    FrequencyPenalty,
    MinP,
    Mirostat,
    MirostatV2,
    PresencePenalty,
    RepetitionPenalty,
    Sampler,
    Temperature,
    TopK,
    TopP,
    TypicalP,
    Xtc,
)

EVERYTHING = {
    "temperature": 0.7,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.05,
    "typical_p": 0.9,
    "epsilon_cutoff": 0.001,
    "eta_cutoff": 0.001,
    "top_h": 0.5,
    "top_n_sigma": 2.0,
    "xtc_probability": 0.5,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.2,
    "presence_penalty": 0.1,
    "dry_multiplier": 0.8,
    "no_repeat_ngram_size": 3,
    "logit_bias": {1: 2.0},
    "allowed_token_ids": [1, 2, 3],
    "bad_words": [[4]],
    "min_tokens": 2,
    "stop_token_ids": [3],
    "processors": [lambda prefix, logits: logits],
}
ORDERS = {
    None: "AllowedTokenIds LogitBias RepetitionPenalty FrequencyPenalty PresencePenalty Dry NoRepeatNgram BadWords MinTokens Custom "
    "Temperature TopH TopNSigma TopK TopP MinP TypicalP EpsilonCutoff EtaCutoff Xtc",
    "hf": "LogitBias RepetitionPenalty NoRepeatNgram BadWords MinTokens AllowedTokenIds Custom "
    "Temperature TopH TopK TopP MinP TypicalP EpsilonCutoff EtaCutoff",
    "vllm": "AllowedTokenIds LogitBias MinTokens RepetitionPenalty FrequencyPenalty PresencePenalty BadWords Custom "
    "Temperature MinP TopK TopP",
    "sglang": "FrequencyPenalty PresencePenalty MinTokens RepetitionPenalty AllowedTokenIds LogitBias Custom Temperature TopP TopK MinP",
    "llama.cpp": "AllowedTokenIds Custom LogitBias RepetitionPenalty FrequencyPenalty PresencePenalty Dry "
    "TopNSigma TopK TypicalP TopP MinP Xtc Temperature",
}
HAS = {
    "hf": {"temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h", "repetition_penalty"}
    | {"no_repeat_ngram_size", "logit_bias", "allowed_token_ids", "bad_words", "min_tokens", "stop_token_ids", "processors"},
    "vllm": {"temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias"}
    | {"allowed_token_ids", "bad_words", "min_tokens", "stop_token_ids", "processors"},
    "sglang": {"temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias"}
    | {"allowed_token_ids", "min_tokens", "stop_token_ids", "processors"},
    "llama.cpp": {"temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "xtc_probability", "repetition_penalty"}
    | {"frequency_penalty", "presence_penalty", "dry_multiplier", "logit_bias", "allowed_token_ids", "processors"},
    None: set(EVERYTHING),
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_is_the_engine_s(order):
    sampler = Sampler(order=order, **{name: value for name, value in EVERYTHING.items() if name in HAS[order]})

    assert " ".join(type(step).__name__ for step in sampler.chain) == ORDERS[order]


@pytest.mark.parametrize("order", ["hf", "vllm", "sglang", "llama.cpp"])
def test_what_an_engine_does_not_have_is_refused_under_its_name(order):
    for name, value in EVERYTHING.items():
        if name not in HAS[order]:
            with pytest.raises(InvalidSampler, match=f"order='{order}' has no {name}"):
                Sampler(order=order, **{name: value})


@pytest.mark.parametrize("order", ORDERS)
def test_nothing_set_is_nothing_done(order):
    """A preset sets order and rules; the engines' servers have defaults of their own, which must be said."""
    assert Sampler(order=order).chain == ()


def step(sampler):
    (only,) = sampler.chain
    return only


def test_the_rules_differ_where_the_engines_do():
    assert step(Sampler(order="hf", top_k=5)) == TopK(5, ties="keep")
    assert step(Sampler(order="sglang", top_p=0.5)) == TopP(0.5, rule="<=")
    assert step(Sampler(order="llama.cpp", typical_p=0.5)) == TypicalP(0.5, rule="<=", ties="exact")
    assert step(Sampler(order="vllm", bad_words=[[1, 2]])) == BadWords([[1, 2]], "output")
    assert step(Sampler(bad_words=[[1, 2]])) == BadWords([[1, 2]], "all")


def test_every_parameter_of_a_step_is_handed_on():
    assert step(Sampler(min_p=0.1, min_keep=3)) == MinP(0.1, min_keep=3)
    assert step(Sampler(top_p=0.9, min_keep=3)) == TopP(0.9, min_keep=3)
    assert step(Sampler(typical_p=0.9, min_keep=3)) == TypicalP(0.9, min_keep=3)
    assert step(Sampler(xtc_probability=0.5, xtc_threshold=0.2, min_keep=3)) == Xtc(0.5, 0.2, 3)
    assert step(Sampler(mirostat=1, mirostat_tau=3.0, mirostat_eta=0.2)) == Mirostat(3.0, 0.2)
    assert step(Sampler(mirostat=2, mirostat_tau=3.0, mirostat_eta=0.2)) == MirostatV2(3.0, 0.2)
    dry = {"dry_multiplier": 1.0, "dry_base": 2.0, "dry_allowed_length": 3, "dry_last_n": 4, "dry_breakers": [[5]]}
    assert step(Sampler(**dry)) == Dry(1.0, 2.0, 3, 4, [[5]])


def test_a_processor_among_functions_stays_what_it_is():
    mine = TopK(2)

    assert Sampler(processors=[mine, len]).chain == (mine, Custom(len))


@pytest.mark.parametrize(
    ("order", "repetition", "counts"),
    [(None, "all", "output"), ("vllm", "all", "output"), ("sglang", "output", "output"), ("llama.cpp", 64, 64)],
)
def test_the_scopes_of_the_penalties_are_the_engine_s(order, repetition, counts):
    sampler = Sampler(order=order, repetition_penalty=1.1, frequency_penalty=0.2, presence_penalty=0.1)

    scopes = {type(penalty): penalty.scope for penalty in sampler.chain}

    assert scopes == {RepetitionPenalty: repetition, FrequencyPenalty: counts, PresencePenalty: counts}


def test_a_window_of_one_s_own_replaces_the_scopes():
    assert step(Sampler(repetition_penalty=1.1, repeat_last_n=8)) == RepetitionPenalty(1.1, 8)
    assert step(Sampler(frequency_penalty=0.2, repeat_last_n=8)) == FrequencyPenalty(0.2, 8)
    assert step(Sampler(presence_penalty=0.1, repeat_last_n=8)) == PresencePenalty(0.1, 8)
    with pytest.raises(InvalidSampler, match="order='vllm' has no repeat_last_n"):
        Sampler(order="vllm", repetition_penalty=1.1, repeat_last_n=8)
    with pytest.raises(InvalidSampler, match="repeat_last_n needs a repetition"):
        Sampler(repeat_last_n=8)


@pytest.mark.parametrize(
    ("order", "asked", "done"),
    [
        ("vllm", 9e-6, 0.0),
        ("vllm", 1e-5, 0.01),
        ("vllm", 0.005, 0.01),
        ("vllm", 2.0, 2.0),
        ("sglang", 9e-7, 0.0),
        ("sglang", 1e-6, 1e-6),
        ("llama.cpp", -1.0, 0.0),
        ("hf", 0.0, 0.0),
        (None, 1e-9, 1e-9),
    ],
)
def test_a_temperature_near_zero_is_what_the_engine_makes_of_it(order, asked, done):
    assert step(Sampler(order=order, temperature=asked)) == Temperature(done)


def test_temperatures_the_engine_refuses_are_refused():
    with pytest.raises(InvalidSampler, match=r"up to 2\.0"):
        Sampler(order="vllm", temperature=2.1)
    for order in (None, "hf", "vllm", "sglang"):
        with pytest.raises(InvalidSampler):
            Sampler(order=order, temperature=-1.0)


def test_a_dynamic_temperature_takes_the_place_of_the_plain_one():
    assert step(Sampler(order="llama.cpp", temperature=0.8, dynatemp_range=0.4)) == DynamicTemperature(0.8, 0.4)
    with pytest.raises(InvalidSampler, match="order='hf' has no dynatemp_range"):
        Sampler(order="hf", dynatemp_range=0.4)


@pytest.mark.parametrize("parameter", [{"dynatemp_exponent": 2.0, "dynatemp_range": 0.4}, {"min_keep": 2, "top_p": 0.5}], ids=str)
def test_what_only_some_engines_know_is_refused_for_the_others(parameter):
    name = next(iter(parameter))
    knowing = {"dynatemp_exponent": (None, "llama.cpp"), "min_keep": (None, "hf", "llama.cpp")}[name]
    for order in (None, "hf", "vllm", "sglang", "llama.cpp"):
        if order in knowing:
            Sampler(order=order, **parameter)
        else:
            with pytest.raises(InvalidSampler, match=f"^order={order!r} has no {name}: that engine does not know it$"):
                Sampler(order=order, **{name: parameter[name]})


@pytest.mark.parametrize(
    "name", ["top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h", "top_n_sigma", "xtc_probability"]
)
def test_mirostat_goes_with_no_other_filter(name):
    with pytest.raises(InvalidSampler, match=f"^mirostat is itself the filter; it excludes {name}$"):
        Sampler(mirostat=2, **{name: 3 if name == "top_k" else 0.5})


def test_the_largest_number_is_said_where_it_is_exceeded():
    assert step(Sampler(top_k=2**63 - 1)) == TopK(2**63 - 1)
    with pytest.raises(InvalidSampler, match=f"^top_k must be an int of at most {2**63 - 1}, not {2**63}$"):
        Sampler(top_k=2**63)


def test_top_p_0_is_an_error_where_the_engine_says_so():
    assert step(Sampler(order="llama.cpp", top_p=0.0)) == TopP(0.0)
    assert step(Sampler(order="hf", top_p=0.0)) == TopP(0.0)
    for order in (None, "vllm", "sglang"):
        with pytest.raises(InvalidSampler, match="top_p must be"):
            Sampler(order=order, top_p=0.0)


@pytest.mark.parametrize(
    "off",
    [
        {"top_k": None},
        {"top_k": 0},
        {"top_k": -1},
        {"top_p": 1},
        {"top_p": 1.0},
        {"min_p": 0},
        {"temperature": 1},
        {"logit_bias": {}},
        {"bad_words": []},
        {"processors": []},
    ],
)
def test_off_is_off_in_every_spelling(off):
    assert Sampler(**off) == Sampler()


@pytest.mark.parametrize("order", [None, "hf", "vllm", "sglang", "llama.cpp"])
def test_numpy_s_numbers_are_numbers(order):
    given = {"temperature": np.float32(0.5), "top_k": np.int64(3), "top_p": np.float32(0.75), "min_p": np.float16(0.25)}

    assert Sampler(order=order, **given) == Sampler(order=order, **{name: value.item() for name, value in given.items()})
    assert Sampler(order=order, top_n_sigma=np.float32(0), mirostat=np.int64(0), dynatemp_range=np.float64(0)) == Sampler()
    assert Sampler(order="llama.cpp", temperature=np.float32(-1)) == Sampler(temperature=0)


def test_sglang_judges_top_p_before_top_k():
    """On the whole distribution, not renormalised after top_k: p = 0.6 of the whole is more than the two best hold."""
    row = [math.log(p) for p in (0.3, 0.2, 0.2, 0.2, 0.1)]

    assert Sampler(order="sglang", top_k=2, top_p=0.6).process(row).tolist()[2] == -math.inf
    assert Sampler(order="sglang", top_k=2, top_p=0.55).process(row).tolist()[1] > -math.inf
    assert Sampler(order="vllm", top_k=2, top_p=0.55).process(row).tolist()[1] == -math.inf


def test_llamacpp_heats_last_so_its_top_p_keeps_fewer_at_high_temperature():
    row = [4.0, 2.0, 1.0, 0.0, -1.0]

    kept = {order: sum(Sampler(order=order, temperature=3.0, top_p=0.9).process(row) > -math.inf) for order in ("llama.cpp", "hf")}

    assert kept == {"llama.cpp": 2, "hf": 4}


@pytest.mark.parametrize(
    "wrong",
    [
        {"order": "ollama"},
        {"top_k": -2},
        {"top_k": 1.5},
        {"top_k": True},
        {"top_p": 2},
        {"top_p": "0.9"},
        {"min_p": -1},
        {"typical_p": 0},
        {"epsilon_cutoff": 1},
        {"eta_cutoff": -1},
        {"top_h": 0},
        {"top_n_sigma": -1},
        {"xtc_probability": 2},
        {"xtc_threshold": 2},
        {"dynatemp_range": -1},
        {"dynatemp_exponent": math.nan},
        {"min_keep": -1},
        {"repetition_penalty": 0},
        {"frequency_penalty": math.nan},
        {"presence_penalty": "x"},
        {"repetition_penalty": 2, "repeat_last_n": -1},
        {"dry_multiplier": -1},
        {"dry_base": 0},
        {"dry_breakers": [[]]},
        {"no_repeat_ngram_size": -1},
        {"logit_bias": {-1: 1.0}},
        {"allowed_token_ids": []},
        {"bad_words": [[]]},
        {"bad_words": 5},
        {"min_tokens": 2},
        {"min_tokens": -1, "stop_token_ids": [1]},
        {"stop_token_ids": [1]},
        {"mirostat_tau": -1},
        {"temperature": 10**400},
        {"temperature": -(10**5000)},
        {"temperature": np.complex64(1)},
        {"top_k": 10**5000},
        {"top_k": -(10**5000)},
        {"order": 10**5000},
        {"draw": 10**5000},
        {"mirostat": 10**5000},
        {"chain": 10**5000},
        {"chain": [10**5000]},
        {"logit_bias": 10**5000},
        {"logit_bias": {1: 10**400}},
        {"logit_bias": {1: -(10**400)}},
        {"logit_bias": {10**5000: 1.0}},
        {"allowed_token_ids": [10**5000]},
        {"bad_words": 10**5000},
        {"dry_breakers": [[10**5000]]},
        {"processors": 10**5000},
        {"top_n_sigma": 10**400},
        {"dry_breakers": np.array(3)},
        {"bad_words": np.array(3)},
        {"allowed_token_ids": np.array(3)},
        {"allowed_token_ids": [2**63]},
        {"processors": None},
        {"processors": len},
        {"processors": np.array(3)},
    ],
    ids=lambda wrong: ",".join(f"{name}={shown(value)}" for name, value in wrong.items()),
)
def test_every_wrong_parameter_is_refused_at_construction(wrong):
    with pytest.raises(InvalidSampler) as raised:
        Sampler(**wrong)

    assert len(str(raised.value)) < 250
