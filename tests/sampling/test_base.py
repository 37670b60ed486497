"""What processors and samplers check: each wrong parameter and each row that is too short for it, in the words that a user reads."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seedbed import TopLogprobs, sampling
from seedbed.errors import InvalidSampler, TruncatedRow
from seedbed.sampling import Address, Sampler, processors

NAMES = {name: getattr(processors, name) for name in processors.__all__} | {"Sampler": sampling.Sampler, "inf": math.inf}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("Temperature(-0.5)", "temperature must be in [0, inf), not -0.5"),
        ("Temperature(inf)", "temperature must be in [0, inf), not inf"),
        ('Temperature("hot")', "temperature must be in [0, inf), not 'hot'"),
        ("DynamicTemperature(-1, 1)", "dynatemp t must be in [0, inf), not -1"),
        ("DynamicTemperature(1, -1)", "dynatemp range must be in [0, inf), not -1"),
        ("DynamicTemperature(1, 1, inf)", "dynatemp exponent must be in [0, inf), not inf"),
        ("TopK(0)", "top_k must be an int of at least 1, not 0"),
        ("TopK(True)", "top_k must be an int of at least 1, not True"),
        ('TopK(5, ties="some")', "ties must be 'exact' or 'keep', not 'some'"),
        ("TopP(-0.1)", "top_p must be in [0, 1], not -0.1"),
        ("TopP(1.1)", "top_p must be in [0, 1], not 1.1"),
        ('TopP(0.5, rule="=")', "the rule of top_p must be '<' or '<=', not '='"),
        ("TopP(0.5, min_keep=-1)", "min_keep must be an int of at least 0, not -1"),
        ("MinP(-0.1)", "min_p must be in [0, 1], not -0.1"),
        ("MinP(1.1)", "min_p must be in [0, 1], not 1.1"),
        ("MinP(0.5, min_keep=1.0)", "min_keep must be an int of at least 0, not 1.0"),
        ("TypicalP(0)", "typical_p must be in (0, 1], not 0"),
        ("TypicalP(1.1)", "typical_p must be in (0, 1], not 1.1"),
        ('TypicalP(0.5, rule=">")', "the rule of typical_p must be '<' or '<=', not '>'"),
        ('TypicalP(0.5, ties="some")', "ties must be 'exact' or 'keep', not 'some'"),
        ("TypicalP(0.5, min_keep=-1)", "min_keep must be an int of at least 0, not -1"),
        ("EpsilonCutoff(-0.1)", "epsilon_cutoff must be in [0, 1), not -0.1"),
        ("EpsilonCutoff(1)", "epsilon_cutoff must be in [0, 1), not 1"),
        ("EtaCutoff(-0.1)", "eta_cutoff must be in [0, 1), not -0.1"),
        ("EtaCutoff(1)", "eta_cutoff must be in [0, 1), not 1"),
        ("TopH(0)", "top_h must be in (0, 1], not 0"),
        ("TopH(1.1)", "top_h must be in (0, 1], not 1.1"),
        ("TopNSigma(0)", "top_n_sigma must be in (0, inf), not 0"),
        ("TopNSigma(inf)", "top_n_sigma must be in (0, inf), not inf"),
        ("Xtc(-0.1)", "xtc_probability must be in [0, 1], not -0.1"),
        ("Xtc(1.1)", "xtc_probability must be in [0, 1], not 1.1"),
        ("Xtc(0.5, -0.1)", "xtc_threshold must be in [0, 1], not -0.1"),
        ("Xtc(0.5, 1.1)", "xtc_threshold must be in [0, 1], not 1.1"),
        ("Xtc(0.5, 0.1, min_keep=-1)", "min_keep must be an int of at least 0, not -1"),
        ("Mirostat(-1, 0.1)", "mirostat_tau must be in [0, inf), not -1"),
        ("Mirostat(inf, 0.1)", "mirostat_tau must be in [0, inf), not inf"),
        ("MirostatV2(5, -1)", "mirostat_eta must be in [0, inf), not -1"),
        ("MirostatV2(5, inf)", "mirostat_eta must be in [0, inf), not inf"),
        ("LogitBias(5)", "logit_bias must map token ids to numbers, not 5"),
        ("LogitBias({-1: 0.5})", "a token id in logit_bias must be an int of at least 0, not -1"),
        ('LogitBias({"a": 0.5})', "a token id in logit_bias must be an int of at least 0, not 'a'"),
        ("LogitBias([(3, 0.5), (3, 1.0)])", "logit_bias gives a token id twice"),
        ("LogitBias({3: inf})", "a logit bias must be in [-inf, inf), not inf"),
        ('LogitBias({3: "much"})', "a logit bias must be in [-inf, inf), not 'much'"),
        ("RepetitionPenalty(0)", "repetition_penalty must be in (0, inf), not 0"),
        ("RepetitionPenalty(inf)", "repetition_penalty must be in (0, inf), not inf"),
        (
            'RepetitionPenalty(1.5, scope="prompt")',
            "the scope of repetition_penalty must be 'all', 'output' or a number of tokens, not 'prompt'",
        ),
        ("FrequencyPenalty(inf)", "frequency_penalty must be in (-inf, inf), not inf"),
        ("FrequencyPenalty(0.5, scope=-1)", "the scope of frequency_penalty must be an int of at least 0, not -1"),
        ("PresencePenalty(-inf)", "presence_penalty must be in (-inf, inf), not -inf"),
        ("PresencePenalty(0.5, scope=None)", "the scope of presence_penalty must be an int of at least 0, not None"),
        ("Dry(-1)", "dry_multiplier must be in [0, inf), not -1"),
        ("Dry(inf)", "dry_multiplier must be in [0, inf), not inf"),
        ("Dry(1, base=0)", "dry_base must be in (0, inf), not 0"),
        ("Dry(1, base=inf)", "dry_base must be in (0, inf), not inf"),
        ("Dry(1, allowed_length=-1)", "dry_allowed_length must be an int of at least 0, not -1"),
        ("Dry(1, last_n=-1)", "dry_last_n must be an int of at least 0, not -1"),
        ("Dry(1, breakers=5)", "dry_breakers must be sequences of token ids, not 5"),
        ("Dry(1, breakers=[[]])", "each of dry_breakers must have at least one token"),
        ("AllowedTokenIds([])", "allowed_token_ids must hold at least one id"),
        ("AllowedTokenIds([-1])", "a token id in allowed_token_ids must be an int of at least 0, not -1"),
        ("AllowedTokenIds(5)", "allowed_token_ids must be token ids, not 5"),
        ('BadWords([[1]], scope="prompt")', "the scope of bad_words must be 'all' or 'output', not 'prompt'"),
        ("BadWords([1])", "each of bad_words must be token ids, not 1"),
        ("BadWords([[]])", "each of bad_words must have at least one token"),
        ("BadWords(5)", "bad_words must be sequences of token ids, not 5"),
        ("BadWords([[-1]])", "a token id in each of bad_words must be an int of at least 0, not -1"),
        ("MinTokens(-1, [3])", "min_tokens must be an int of at least 0, not -1"),
        ("MinTokens(5, [])", "min_tokens needs stop_token_ids: the tokens to hold back"),
        ("MinTokens(5, [-3])", "a token id in stop_token_ids must be an int of at least 0, not -3"),
        ("MinTokens(5, 3)", "stop_token_ids must be token ids, not 3"),
        ("NoRepeatNgram(0)", "no_repeat_ngram_size must be an int of at least 1, not 0"),
        ("Custom(5)", "a processor is a function of (prefix, logits), not 5"),
        ("Sampler(temperature=-1)", "temperature must be in [0, inf), not -1"),
        ("Sampler(0.5, chain=[])", "give either a chain or its parameters, not both"),
        ("Sampler(chain=5)", "a chain holds processors, as in chain=[Temperature(0.8), TopP(0.95)], not 5"),
        ("Sampler(chain=[5])", "a chain holds processors, not 5; wrap a function in Custom()"),
        ("Sampler(chain=[MirostatV2(5, 0.1), TopK(5)])", "mirostat learns from what is drawn, so it must be the last of the chain"),
        ('Sampler(draw="best")', "draw must be one of 'gumbel', 'inverse-cdf', 'vllm', 'sglang', 'llama.cpp', not 'best'"),
        ('Sampler(min_p=0.1, draw="sglang")', "draw='sglang' has no min_p: with a seed, that engine refuses it"),
        ('Sampler(order="openai")', "order must be None or one of 'hf', 'vllm', 'sglang', 'llama.cpp', not 'openai'"),
        ('Sampler(order="vllm", top_h=0.5)', "order='vllm' has no top_h: that engine does not know it"),
        ("Sampler(mirostat=3)", "mirostat must be 0, 1 or 2, not 3"),
        ("Sampler(mirostat=2, top_k=5, min_p=0.1)", "mirostat is itself the filter; it excludes min_p, top_k"),
        (
            "Sampler(stop_token_ids=[3])",
            "stop_token_ids are for min_tokens: what it holds back. Where a sequence stops is generate's to know",
        ),
        ("Sampler(repeat_last_n=5)", "repeat_last_n needs a repetition, frequency or presence penalty"),
        ("Sampler(repeat_last_n=-1, presence_penalty=1.0)", "repeat_last_n must be an int of at least 0, not -1"),
        ("Sampler(processors=5)", "processors must be several functions or processors, as in processors=[mine], not 5"),
        ("Sampler(min_keep=-1)", "min_keep must be an int of at least 0, not -1"),
        ("Sampler(top_k=-2)", "top_k must be an int of at least -1, not -2"),
        ("Sampler(top_p=0)", "top_p must be in (0, 1], not 0"),
        ('Sampler(order="vllm", temperature=2.5)', "that engine takes temperatures up to 2.0, not 2.5"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_it_may_be(wrong: str, words: str) -> None:
    with pytest.raises(InvalidSampler) as caught:
        eval(wrong, NAMES.copy())

    assert str(caught.value) == words


@pytest.mark.parametrize(
    "right",
    [
        "Temperature(0)",
        "DynamicTemperature(0, 0, 0)",
        "TopK(1)",
        "TopP(0)",
        "TopP(1, min_keep=0)",
        "MinP(0, min_keep=0)",
        "MinP(1)",
        "TypicalP(1, min_keep=0)",
        "EpsilonCutoff(0)",
        "EtaCutoff(0)",
        "TopH(1)",
        "Xtc(0, 0, min_keep=0)",
        "Xtc(1, 1)",
        "Mirostat(0, 0)",
        "LogitBias({0: -inf})",
        "LogitBias({})",
        "RepetitionPenalty(1e-300, scope=0)",
        "FrequencyPenalty(-1e300)",
        "Dry(0, allowed_length=0, last_n=0)",
        "AllowedTokenIds([0])",
        "MinTokens(0, [0])",
        "NoRepeatNgram(1)",
        "Sampler(top_k=-1)",
        "Sampler(order='vllm', temperature=2.0)",
    ],
)
def test_the_ends_of_a_range_belong_to_it_where_they_are_said_to(right: str) -> None:
    eval(right, NAMES.copy())


@pytest.mark.parametrize(
    ("chain", "words", "needed"),
    [
        ("Custom(lambda prefix, logits: logits)", "a function of your own needs the whole row", 9),
        ("DynamicTemperature(1, 0.5)", "a dynamic temperature needs the entropy of the whole row", 9),
        ("TopK(4)", "top_k=4 needs 4 tokens", 4),
        ('TopK(3, ties="keep")', "a token that is not listed may be as probable as the last of the top_k=3, and ties are kept", 4),
        ("TopP(0.9)", "top_p=0.9 reaches beyond the tokens that are listed (they hold at least 0.8000 of the mass)", 5),
        ("TopP(0.8)", "top_p=0.8 reaches beyond the tokens that are listed (they hold at least 0.8000 of the mass)", 4),
        ("TopP(0.5)", "top_p=0.5 cuts so near a token that the rounding of the listed logprobs decides", 9),
        ('TopP(0.5, rule="<=")', "top_p=0.5 cuts so near a token that the rounding of the listed logprobs decides", 9),
        ("TopP(0.3, min_keep=5)", "top_p=0.3 is to keep 5 tokens (min_keep)", 5),
        ("TopP(0.95, min_keep=3)", "top_p=0.95 reaches beyond the tokens that are listed (they hold at least 0.8000 of the mass)", 5),
        ("MinP(0.1)", "min_p=0.1 may keep a token that is not listed", 4),
        ("TypicalP(0.5)", "typical_p needs the whole row", 9),
        ("EpsilonCutoff(0.05)", "epsilon_cutoff=0.05 may reach a token that is not listed", 4),
        ("EtaCutoff(0.05)", "eta_cutoff needs the whole row", 9),
        ("TopH(0.5)", "top_h needs the 100 best tokens", 9),
        ("TopNSigma(1)", "top_n_sigma needs the whole row", 9),
        ("Xtc(1.0, 0.01)", "xtc_threshold=0.01 may reach a token that is not listed", 4),
        ("MirostatV2(5, 0.1)", "mirostat at mu=10.000 may reach a token that is not listed", 4),
        ("Mirostat(5, 0.1)", "mirostat needs the 100 best tokens", 9),
        (
            "LogitBias({5: -9.0, 2: -9.0, 7: -9.0}), Temperature(0)",
            "after the biases and penalties, the most probable token may be one that is not listed",
            4,
        ),
        ("AllowedTokenIds([3])", "AllowedTokenIds(token_ids=(3,)) excludes all that is listed", 4),
        ("LogitBias({5: -inf, 2: -inf, 7: -inf})", "LogitBias(bias=((2, -inf), (5, -inf), (7, -inf))) excludes all that is listed", 4),
    ],
)
def test_a_row_that_is_too_short_says_for_what_and_what_to_ask_for(chain: str, words: str, needed: int) -> None:
    row = TopLogprobs([5, 2, 7], np.log(np.float32([0.5, 0.2, 0.1])), 9)
    with pytest.raises(TruncatedRow) as caught:
        Sampler(chain=eval(f"[{chain}]", NAMES.copy())).sample(row, Address(7))

    ask = "full rows, or put a top_k first" if needed == 9 else f"top_k={needed} or more"
    want = f"{words}; the server listed 3 of 9 tokens: ask it for {ask} [prompt 0, sequence 0, step 0]"
    assert (str(caught.value), caught.value.needed) == (want, needed)


class Three:
    """What Python itself takes for an int."""

    def __index__(self) -> int:
        return 3


def test_numbers_of_any_kind_become_python_s_own_and_floats_where_floats_are_meant() -> None:
    for three in (3, np.int8(3), np.uint64(3), Three()):
        assert repr(sampling.TopK(three)) == "TopK(k=3, ties='exact')"
    for one in (1, 1.0, np.int64(1), np.float16(1)):
        assert repr(sampling.Temperature(one)) == "Temperature(t=1.0)"
