"""From a sampler's parameters to its chain: which order the steps come in, and which rule each follows where engines disagree.

A preset sets order and rules, never values: what an engine's server takes as defaults (llama.cpp: temperature 0.8, top_k 40 ...; the
model's own generation config elsewhere) must be said. A parameter that an engine does not have is an error under its preset.

Where the presets differ, besides the order:

============  ====================  ==============  =================  ====================  ==================
rule          none                  hf              vllm               sglang                llama.cpp
============  ====================  ==============  =================  ====================  ==================
top_k ties    exact                 keep            exact              exact                 exact
top_p rule    <                     <               <                  <=, before top_k      <, before heating
typical_p     <, ties kept          <, ties kept    -                  -                     <=, exact
repetition    prompt and output     same            same               output                last 64 of both
frequency,    output                -               output             output                last 64 of both
presence
temperature   0 is greedy           same            below 1e-5 greedy  below 1e-6 greedy     0 or less greedy
                                                    then at least .01
============  ====================  ==============  =================  ====================  ==================

"vllm" is its default (V2) model runner; the V1 sampler differs in keeping ties at top_k. "llama.cpp" heats last, so at a high
temperature its top_p keeps far fewer tokens than the others'. With mirostat it skips every filter; here giving both is an error. Under
"hf" a row of top logprobs must list at least one token more than top_k, mostly: the next may equal the last one kept.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from seedbed.errors import InvalidSampler
from seedbed.llm.token_ids import is_iterable, shown
from seedbed.sampling.processors import (
    AllowedTokenIds,
    BadWords,
    Custom,
    Dry,
    DynamicTemperature,
    EpsilonCutoff,
    EtaCutoff,
    FrequencyPenalty,
    LogitBias,
    MinP,
    MinTokens,
    Mirostat,
    MirostatV2,
    NoRepeatNgram,
    PresencePenalty,
    Processor,
    RepetitionPenalty,
    Scope,
    Temperature,
    TopH,
    TopK,
    TopNSigma,
    TopP,
    TypicalP,
    Xtc,
)
from seedbed.sampling.processors.base import number, require_in, require_int

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Order", "Parameters", "chain_of"]

Order: TypeAlias = Literal["hf", "vllm", "sglang", "llama.cpp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Every parameter of ``Sampler`` but ``order``, ``draw`` and ``chain``, each at "off" by default."""

    temperature: float = 1.0
    top_k: int | None = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    top_h: float | None = None
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    min_keep: int = 0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_last_n: int | None = None
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_last_n: int | None = None
    dry_breakers: Sequence[Sequence[int]] = ()
    no_repeat_ngram_size: int = 0
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: Sequence[int] | None = None
    bad_words: Sequence[Sequence[int]] = ()
    min_tokens: int = 0
    stop_token_ids: Sequence[int] = ()
    processors: Sequence[Processor | Callable[[list[int], NDArray[np.float64]], ArrayLike]] = ()

    def changed(self) -> list[str]:
        """The names of the parameters that are not at "off"."""
        return [item.name for item in fields(self) if not _is_off(getattr(self, item.name), item.default)]


def _is_off(value: object, default: object) -> bool:
    if isinstance(default, tuple):
        return is_iterable(value) and not isinstance(value, str) and isinstance(value, Sized) and len(value) == 0
    return value is default or (default is not None and number(value) == default)


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a preset is: the slots in order, and the rule flags."""

    slots: tuple[str, ...]
    ties: Literal["exact", "keep"] = "exact"
    top_p: Literal["<", "<="] = "<"
    top_p_zero: bool = False
    typical_rule: Literal["<", "<="] = "<"
    typical_ties: Literal["keep", "exact"] = "keep"
    repetition_scope: Scope = "all"
    count_scope: Scope = "output"
    bad_words_scope: Literal["all", "output"] = "all"
    greedy_below: float = 0.0
    least_temperature: float = 0.0
    most_temperature: float = field(default=float("inf"))
    negative_is_greedy: bool = False


_RULES: dict[str | None, _Rules] = {
    None: _Rules(
        slots=(
            *("allowed_token_ids", "logit_bias", "repetition_penalty", "frequency_penalty", "presence_penalty", "dry"),
            *("no_repeat_ngram", "bad_words", "min_tokens", "processors"),
            *(
                "temperature",
                "top_h",
                "top_n_sigma",
                "top_k",
                "top_p",
                "min_p",
                "typical_p",
                "epsilon_cutoff",
                "eta_cutoff",
                "xtc",
                "mirostat",
            ),
        ),
    ),
    "hf": _Rules(
        slots=(
            *("logit_bias", "repetition_penalty", "no_repeat_ngram", "bad_words", "min_tokens", "allowed_token_ids", "processors"),
            *("temperature", "top_h", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
        ),
        ties="keep",
        top_p_zero=True,
    ),
    "vllm": _Rules(
        slots=(
            *("allowed_token_ids", "logit_bias", "min_tokens", "repetition_penalty", "frequency_penalty", "presence_penalty", "bad_words"),
            *("processors", "temperature", "min_p", "top_k", "top_p"),
        ),
        bad_words_scope="output",
        greedy_below=1e-5,
        least_temperature=0.01,
        most_temperature=2.0,
    ),
    "sglang": _Rules(
        slots=(
            *("frequency_penalty", "presence_penalty", "min_tokens", "repetition_penalty", "allowed_token_ids", "logit_bias", "processors"),
            # top_p is judged on the whole tempered distribution, so it comes before top_k.
            *("temperature", "top_p", "top_k", "min_p"),
        ),
        top_p="<=",
        repetition_scope="output",
        greedy_below=1e-6,
    ),
    "llama.cpp": _Rules(
        slots=(
            *("allowed_token_ids", "processors", "logit_bias", "repetition_penalty", "frequency_penalty", "presence_penalty", "dry"),
            *("top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature", "mirostat"),
        ),
        top_p_zero=True,
        typical_rule="<=",
        typical_ties="exact",
        repetition_scope=64,
        count_scope=64,
        negative_is_greedy=True,
    ),
}

# Which slot a parameter acts in, where the names differ.
_SLOT_OF = {
    **dict.fromkeys(("xtc_probability", "xtc_threshold"), "xtc"),
    **dict.fromkeys(("mirostat", "mirostat_tau", "mirostat_eta"), "mirostat"),
    **dict.fromkeys(("dry_multiplier", "dry_base", "dry_allowed_length", "dry_last_n", "dry_breakers"), "dry"),
    "no_repeat_ngram_size": "no_repeat_ngram",
    "stop_token_ids": "min_tokens",
}


def chain_of(parameters: Parameters, order: Order | None) -> tuple[Processor, ...]:
    """The processors of a sampler, in order; those that are off are left out.

    Raises:
        InvalidSampler: a parameter outside its range, one the engine does not have, or two that exclude each other.
    """
    if order not in (None, *get_args(Order)):
        raise InvalidSampler(f"order must be None or one of {', '.join(map(repr, get_args(Order)))}, not {shown(order)}")
    rules = _RULES[order]
    changed = parameters.changed()
    _refuse_foreign(changed, order, rules)
    _refuse_contradictions(parameters, changed)
    steps = {**_before_filters(parameters, rules), **_filters(parameters, rules)}
    return tuple(step for slot in rules.slots for step in steps.get(slot, ()))


def _refuse_foreign(changed: list[str], order: Order | None, rules: _Rules) -> None:
    for name in changed:
        own_rule = {
            "dynatemp_range": "xtc" in rules.slots,
            "dynatemp_exponent": "xtc" in rules.slots,
            "min_keep": order in (None, "hf", "llama.cpp"),
            "repeat_last_n": order in (None, "llama.cpp"),
        }
        if not own_rule.get(name, _SLOT_OF.get(name, name) in rules.slots):
            raise InvalidSampler(f"order={order!r} has no {name}: that engine does not know it")


def _refuse_contradictions(parameters: Parameters, changed: list[str]) -> None:
    if parameters.mirostat not in (0, 1, 2) or isinstance(parameters.mirostat, bool):
        raise InvalidSampler(f"mirostat must be 0, 1 or 2, not {shown(parameters.mirostat)}")
    filters = {"top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h", "top_n_sigma", "xtc_probability"}
    if parameters.mirostat and (both := filters.intersection(changed)):
        raise InvalidSampler(f"mirostat is itself the filter; it excludes {', '.join(sorted(both))}")
    if "stop_token_ids" in changed and not parameters.min_tokens:
        raise InvalidSampler("stop_token_ids are for min_tokens: what it holds back. Where a sequence stops is generate's to know")
    if parameters.repeat_last_n is not None:
        require_int("repeat_last_n", parameters.repeat_last_n, 0)
        if not {"repetition_penalty", "frequency_penalty", "presence_penalty"}.intersection(changed):
            raise InvalidSampler("repeat_last_n needs a repetition, frequency or presence penalty")


Steps: TypeAlias = "dict[str, list[Processor]]"


def _before_filters(parameters: Parameters, rules: _Rules) -> Steps:
    of = parameters
    if not is_iterable(of.processors):
        raise InvalidSampler(f"processors must be several functions or processors, as in processors=[mine], not {shown(of.processors)}")
    steps: Steps = {"processors": [step if isinstance(step, Processor) else Custom(step) for step in of.processors]}
    last_n = of.repeat_last_n
    if of.allowed_token_ids is not None:
        steps["allowed_token_ids"] = [AllowedTokenIds(of.allowed_token_ids)]
    if of.logit_bias is not None and (bias := LogitBias(of.logit_bias)).bias:
        steps["logit_bias"] = [bias]
    if of.repetition_penalty != 1.0:
        steps["repetition_penalty"] = [RepetitionPenalty(of.repetition_penalty, rules.repetition_scope if last_n is None else last_n)]
    if of.frequency_penalty != 0.0:
        steps["frequency_penalty"] = [FrequencyPenalty(of.frequency_penalty, rules.count_scope if last_n is None else last_n)]
    if of.presence_penalty != 0.0:
        steps["presence_penalty"] = [PresencePenalty(of.presence_penalty, rules.count_scope if last_n is None else last_n)]
    dry = Dry(of.dry_multiplier, of.dry_base, of.dry_allowed_length, of.dry_last_n, of.dry_breakers)
    if of.dry_multiplier != 0.0:
        steps["dry"] = [dry]
    if of.no_repeat_ngram_size != 0:
        steps["no_repeat_ngram"] = [NoRepeatNgram(of.no_repeat_ngram_size)]
    if (bad_words := BadWords(of.bad_words, rules.bad_words_scope)).words:
        steps["bad_words"] = [bad_words]
    if of.min_tokens != 0:
        steps["min_tokens"] = [MinTokens(of.min_tokens, of.stop_token_ids)]
    return steps


def _filters(parameters: Parameters, rules: _Rules) -> Steps:
    of = parameters
    steps: Steps = {"temperature": _temperature(of, rules)}
    require_int("min_keep", of.min_keep, 0)
    least = max(1, of.min_keep)
    if of.top_k not in (None, 0, -1):
        assert of.top_k is not None
        require_int("top_k", of.top_k, -1)
        steps["top_k"] = [TopK(of.top_k, rules.ties)]
    if of.top_p != 1.0:
        if not rules.top_p_zero:
            require_in("top_p", of.top_p, 0, 1, "(]")
        steps["top_p"] = [TopP(of.top_p, rules.top_p, least)]
    if of.min_p != 0.0:
        steps["min_p"] = [MinP(of.min_p, least)]
    if of.typical_p != 1.0:
        steps["typical_p"] = [TypicalP(of.typical_p, rules.typical_rule, rules.typical_ties, least)]
    if of.epsilon_cutoff != 0.0:
        steps["epsilon_cutoff"] = [EpsilonCutoff(of.epsilon_cutoff)]
    if of.eta_cutoff != 0.0:
        steps["eta_cutoff"] = [EtaCutoff(of.eta_cutoff)]
    if of.top_h is not None:
        steps["top_h"] = [TopH(of.top_h)]
    if of.top_n_sigma != 0.0:
        steps["top_n_sigma"] = [TopNSigma(of.top_n_sigma)]
    xtc = Xtc(of.xtc_probability, of.xtc_threshold, of.min_keep)
    if of.xtc_probability != 0.0:
        steps["xtc"] = [xtc]
    miro = (Mirostat if of.mirostat == 1 else MirostatV2)(of.mirostat_tau, of.mirostat_eta)
    if of.mirostat:
        steps["mirostat"] = [miro]
    return steps


def _temperature(of: Parameters, rules: _Rules) -> list[Processor]:
    t = of.temperature
    if rules.negative_is_greedy and (known := number(t)) is not None and known < 0.0:
        t = 0.0
    step = Temperature(t)
    if t > rules.most_temperature:
        raise InvalidSampler(f"that engine takes temperatures up to {rules.most_temperature}, not {t}")
    if t < rules.greedy_below:
        step = Temperature(0.0)
    elif t < rules.least_temperature:
        step = Temperature(rules.least_temperature)
    dynamic = DynamicTemperature(step.t, of.dynatemp_range, of.dynatemp_exponent)
    if of.dynatemp_range != 0.0:
        return [dynamic]
    return [step] if step.t != 1.0 else []
