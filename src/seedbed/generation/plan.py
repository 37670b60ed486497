"""What is to be sampled: every argument checked before anything is sent, and the sequence that belongs at each place."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from seedbed.errors import InvalidPrompt, InvalidSampler, UsageError
from seedbed.generation.result import GenerationResult, SampledSequence
from seedbed.generation.sequence import FollowedSequence, StopRules
from seedbed.llm.arguments import check_end_token_ids, check_seconds, check_token_ids, check_whole_number, is_iterable, shown, whole_number
from seedbed.sampling.configuration import configuration_of
from seedbed.sampling.randomness import Address, check_seed, fresh_seed
from seedbed.sampling.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.llm.base import LLM

__all__ = [
    "DEFAULT_MAX_NEW_TOKENS",
    "Deadlines",
    "Plan",
    "check_count",
    "check_index",
    "check_length",
    "check_prompt",
    "check_sampler",
    "check_stop_sequences",
    "check_stop_token_ids",
    "stop_rules",
]

# When neither the caller nor the model bounds a sequence. (vLLM: 16, transformers: 20, SGLang: 128, llama.cpp: none.)
DEFAULT_MAX_NEW_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: for everything, and for each sequence from its start."""

    total: float
    sequence: float

    def __post_init__(self) -> None:
        check_seconds(above_zero=False, timeout=self.total, sequence_timeout=self.sequence)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides the tokens, besides the model's answers.

    Attributes:
        prompts: token ids.
        indices: which of each prompt's sequences.
        first_prompt: the prompt index of the first of them.
        seed, sampler, stop: as they are.
        configuration: the sampler's, as results name it.
        max_new_tokens: of each prompt's sequences.
        resume: earlier sequences by (prompt index, index).
    """

    prompts: list[tuple[int, ...]]
    indices: range
    first_prompt: int
    seed: int
    sampler: Sampler
    configuration: str
    stop: StopRules
    max_new_tokens: list[int]
    resume: dict[tuple[int, int], SampledSequence]

    @classmethod
    def of(
        cls,
        prompts: Sequence[int] | Sequence[Sequence[int]],
        model: LLM,
        indices: range,
        *,
        sampler: Sampler | None,
        seed: int | None,
        max_new_tokens: int | None,
        stop_token_ids: Sequence[int] = (),
        stop_sequences: Sequence[Sequence[int]] = (),
        resume: GenerationResult | Iterable[SampledSequence] = (),
        first_prompt: int = 0,
    ) -> Self:
        """The plan that the arguments of ``generate`` describe.

        Raises:
            UsageError: one of them is wrong.
        """
        info = model.info
        vocab_size, context = (info.vocab_size, info.context_length) if info else (None, None)
        most = check_length(max_new_tokens)
        numbered = list(enumerate(_several(prompts), first_prompt))
        checked = [check_token_ids(prompt, f"prompt {place}", vocab_size=vocab_size) for place, prompt in numbered]
        earlier = _resume_table(resume)
        if seed is None:
            seed = next(iter(earlier.values())).resume.seed if earlier else fresh_seed()
        sampler = check_sampler(sampler)
        plan = cls(
            prompts=checked,
            indices=indices,
            first_prompt=first_prompt,
            seed=check_seed(seed),
            sampler=sampler,
            configuration=configuration_of(sampler),
            stop=stop_rules(stop_token_ids, stop_sequences, check_end_token_ids(model.eos_token_ids), vocab_size),
            max_new_tokens=[_max_new_tokens(most, context, len(prompt), place) for place, prompt in enumerate(checked, first_prompt)],
            resume=earlier,
        )
        if len(checked) * len(indices) > sys.maxsize:
            raise UsageError(
                f"{len(indices)} sequences of {len(checked)} prompts are more than can be counted; leave open_generation early"
            )
        for sequence in earlier.values():
            plan._check_resumable(sequence, vocab_size)
        return plan

    def __len__(self) -> int:
        return len(self.prompts) * len(self.indices)

    def sequence(self, place: int) -> FollowedSequence:
        """The sequence at a place of the result, at its beginning."""
        prompt, offset = divmod(place, len(self.indices))
        prompt_index, index = self.first_prompt + prompt, self.indices[offset]
        return FollowedSequence(
            self.seed,
            prompt_index,
            index,
            self.prompts[prompt],
            sampler=self.sampler,
            stop=self.stop,
            max_new_tokens=self.max_new_tokens[prompt],
            resume=self.resume.get((prompt_index, index)),
            configuration=self.configuration,
        )

    def _check_resumable(self, sequence: SampledSequence, vocab_size: int | None) -> None:
        """What goes on must be what would have been had without the interruption: same address, prompt, sampler, and rules no stricter."""
        what = f"sequence {sequence.index} of prompt {sequence.prompt_index}, to be resumed,"
        check_token_ids(sequence.token_ids, what, vocab_size=vocab_size, may_be_empty=True)
        if sequence.resume.seed != self.seed:
            raise UsageError(f"{what} was begun with another seed")
        prompt = sequence.prompt_index - self.first_prompt
        if not 0 <= prompt < len(self.prompts) or self.prompts[prompt] != sequence.prompt_token_ids:
            raise UsageError(f"{what} does not continue prompt {sequence.prompt_index} of this generation")
        if sequence.index not in self.indices:
            raise UsageError(f"{what} is none of the {len(self.indices)} asked for")
        if sequence.resume.sampler_state is not None and math.isnan(sequence.resume.sampler_state):
            raise UsageError(f"{what} has a sampler_state that is no number")
        if sequence.resume.sampler not in ("", self.configuration):
            raise UsageError(f"{what} was begun with {sequence.resume.sampler}, not {self.configuration}")
        had, most = len(sequence.token_ids), self.max_new_tokens[prompt]
        if had > most:
            raise UsageError(f"{what} has {had} tokens already; max_new_tokens is {most}")
        if (self.stop.first_match(sequence.token_ids) or had) < had:
            raise UsageError(f"{what} went on where these stop rules would have ended it")


def stop_rules(token_ids: object, sequences: object, eos_token_ids: Sequence[int], vocab_size: int | None = None) -> StopRules:
    """The rules that the arguments of ``generate`` and a model's own end tokens make.

    Raises:
        InvalidPrompt: one of them is no token id of the vocabulary, or a sequence is empty.
        UsageError: the sequences are no lists of them.
    """
    ids = check_stop_token_ids(token_ids, vocab_size)
    return StopRules(frozenset(ids) | frozenset(eos_token_ids), check_stop_sequences(sequences, vocab_size))


def check_stop_token_ids(token_ids: object, vocab_size: int | None = None) -> tuple[int, ...]:
    """``stop_token_ids`` as plain ints; of a set, in ascending order.

    Raises:
        InvalidPrompt: one of them is no token id of the vocabulary.
    """
    checked = check_token_ids(tuple(token_ids) if isinstance(token_ids, AbstractSet) else token_ids, "stop_token_ids",
                              vocab_size=vocab_size, may_be_empty=True)  # fmt: skip
    return tuple(sorted(checked)) if isinstance(token_ids, AbstractSet) else checked


def check_stop_sequences(sequences: object, vocab_size: int | None = None) -> tuple[tuple[int, ...], ...]:
    """``stop_sequences`` in plain ints.

    Raises:
        InvalidPrompt: one of them holds no token ids of the vocabulary, or is empty.
        UsageError: they are no lists.
    """
    if isinstance(sequences, (str, bytes, Mapping, AbstractSet)) or not is_iterable(sequences):
        raise UsageError(f"stop_sequences must be several lists of token ids, not {shown(sequences)}")
    return tuple(check_token_ids(stop, "a stop sequence", vocab_size=vocab_size) for stop in sequences)


def check_count(n: int) -> int:
    """``n``, when it can be a number of sequences.

    Raises:
        UsageError: it cannot.
    """
    count = check_whole_number("n", n)
    if count > sys.maxsize:
        raise UsageError(f"n must be at most {sys.maxsize}, not {shown(n)}")
    return count


def check_length(max_new_tokens: object) -> int | None:
    """``max_new_tokens`` as a plain int, or None.

    Raises:
        UsageError: it is neither an int of 0 or more nor None.
    """
    most = whole_number(max_new_tokens)
    if max_new_tokens is not None and (most is None or most < 0):
        raise UsageError(f"max_new_tokens must be an int of 0 or more, or None, not {shown(max_new_tokens)}")
    return most


def check_sampler(sampler: object) -> Sampler:
    """``sampler``, or the default one for None.

    Raises:
        InvalidSampler: it is none.
    """
    if sampler is None:
        return Sampler()
    if not isinstance(sampler, Sampler):
        raise InvalidSampler(f"sampler must be a Sampler, as Sampler(temperature=0.8) is one, not {shown(sampler)}")
    return sampler


def check_index(place: object) -> int:
    """``place`` as the number of a sequence.

    Raises:
        InvalidSeed: it can be none.
    """
    return Address(0, index=place).index  # type: ignore[arg-type]  # checks it


def check_prompt(token_ids: Sequence[int]) -> tuple[int, ...]:
    """The ids of the one prompt there is.

    Raises:
        InvalidPrompt: no token ids.
    """
    return check_token_ids(token_ids, "the prompt")


def _several(prompts: Sequence[int] | Sequence[Sequence[int]]) -> list[Sequence[int]]:
    if isinstance(prompts, (str, bytes)):
        raise InvalidPrompt("a prompt is a list of token ids, not text: tokenize it first, for instance with HTTPModel.tokenize()")
    if isinstance(prompts, (Mapping, AbstractSet)):
        raise InvalidPrompt(f"prompts must be token ids, or several lists of them, in order, not {shown(prompts)}")
    try:
        several = list(prompts)
    except TypeError as error:
        raise InvalidPrompt(f"prompts must be token ids, or several lists of them, not {shown(prompts)}") from error
    if several and not hasattr(several[0], "__len__"):
        return [several]  # type: ignore[list-item]
    return several  # type: ignore[return-value]


def _max_new_tokens(most: int | None, context: int | None, prompt: int, place: int) -> int:
    if context is None:
        return DEFAULT_MAX_NEW_TOKENS if most is None else most
    if prompt >= context:
        raise InvalidPrompt(f"prompt {place} has {prompt} tokens; the model's context holds {context}, the continuation included")
    return min(context - prompt, context if most is None else most)


def _resume_table(resume: GenerationResult | Iterable[SampledSequence]) -> dict[tuple[int, int], SampledSequence]:
    if not isinstance(resume, GenerationResult) and not is_iterable(resume):
        raise UsageError(f"resume takes a GenerationResult or several SampledSequences, not {shown(resume)}")
    table: dict[tuple[int, int], SampledSequence] = {}
    for sequence in resume.sequences if isinstance(resume, GenerationResult) else resume:
        if not isinstance(sequence, SampledSequence):
            raise UsageError(f"resume takes a GenerationResult or several SampledSequences, not {shown(sequence)}")
        key = (sequence.prompt_index, sequence.index)
        if key in table:
            raise UsageError(f"sequence {sequence.index} of prompt {sequence.prompt_index} is to be resumed twice")
        table[key] = sequence
    return table
