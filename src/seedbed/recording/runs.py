"""``runs.jsonl``: which tokens came out of a recording, so that a later run over the same answers can be held against them.

::

    {"run":"plain","seed":"7","sampler":"Sampler(chain=[])","prompts":[[84,104,101]],"prompt_of":[0,0],"prompt_index":[0,0],
     "index":[0,1],"token_ids":[[32,115],[33]],"finish_reasons":["length","stop"],"crc32":"5a0c3e11"}

Rule 1: ``prompts`` holds each prompt once. ``prompt_of`` (a place there), ``prompt_index``, ``index`` and ``finish_reasons`` have an entry
for each of ``token_ids``, or none when only tokens were noted; where there is a seed, there are prompts. So no sequence lacks what another
one has.
Rule 2: with the seed, ``prompt_index`` and ``index`` are the address of a sequence's draws. A line without them, as they once were,
is read as if equal prompts that stand together were one prompt, and its sequences stood in order.
Rule 3: a later line of the same ``run`` takes the place of an earlier one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seedbed.errors import UsageError
from seedbed.recording import lines
from seedbed.sampling.randomness import Address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.generation.result import GenerationResult

__all__ = ["RUNS", "Run", "default_name"]

RUNS = "runs.jsonl"


@dataclass(frozen=True, slots=True)
class Run:
    """What was sampled, under a name.

    Attributes:
        name: of the run; noting another one under the same name takes its place.
        token_ids: the generated ids of every sequence, in order.
        prompts: the prompt of every sequence; () when only tokens were noted.
        seed: None when only tokens were noted.
        sampler: the sampler's repr, which is its configuration; "" when only tokens were noted.
        finish_reasons: of every sequence; () when only tokens were noted.
        prompt_indices, indices: of every sequence, which with the seed name its randomness; () when only tokens were noted. When they are
            not given, equal prompts that stand together are taken for one prompt, and its sequences for standing in order.

    Raises:
        UsageError: a sequence lacks what another one has; there is a seed, and there are no prompts; seed and indices are no address.
    """

    name: str
    token_ids: tuple[tuple[int, ...], ...]
    prompts: tuple[tuple[int, ...], ...] = ()
    seed: int | None = None
    sampler: str = ""
    finish_reasons: tuple[str, ...] = ()
    prompt_indices: tuple[int, ...] = ()
    indices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (self.prompt_indices or self.indices):
            prompt_indices, indices = _in_order(self.prompts)
            object.__setattr__(self, "prompt_indices", prompt_indices)
            object.__setattr__(self, "indices", indices)
        self._check_counts()
        if self.seed is not None:
            for prompt_index, index in zip(self.prompt_indices, self.indices, strict=True):
                Address(self.seed, prompt_index, index)  # refuses what is none

    def _check_counts(self) -> None:
        count = len(self.token_ids)
        for what, there in (("prompts", self.prompts), ("finish reasons", self.finish_reasons)):
            if len(there) not in (0, count):
                raise UsageError(f"the run {self.name!r} has {count} sequences and {len(there)} {what}: give one for each, or none")
        if not len(self.prompts) == len(self.prompt_indices) == len(self.indices):
            raise UsageError(
                f"the run {self.name!r} has {len(self.prompts)} prompts: give a prompt index and an index for each, or neither"
            )
        if self.seed is not None and len(self.prompts) != count:
            raise UsageError(f"the run {self.name!r} has a seed and no prompts, so it cannot be sampled again: give both, or tokens only")

    @classmethod
    def of(cls, name: str, result: GenerationResult) -> Run:
        """A generation's outcome."""
        sequences = result.sequences
        return cls(
            name,
            tuple(sequence.token_ids for sequence in sequences),
            tuple(sequence.prompt_token_ids for sequence in sequences),
            result.seed,
            result.sampler,
            tuple(sequence.finish_reason for sequence in sequences),
            tuple(sequence.prompt_index for sequence in sequences),
            tuple(sequence.index for sequence in sequences),
        )

    def to_line(self) -> bytes:
        """As a line of ``runs.jsonl``."""
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(self.prompts))}
        return lines.checked(
            {
                "run": self.name,
                "seed": None if self.seed is None else str(self.seed),
                "sampler": self.sampler,
                "prompts": list(places),
                "prompt_of": [places[prompt] for prompt in self.prompts],
                "prompt_index": self.prompt_indices,
                "index": self.indices,
                "token_ids": self.token_ids,
                "finish_reasons": self.finish_reasons,
            }
        )

    @classmethod
    def from_line(cls, line: bytes) -> Run:
        """Out of a line.

        Raises:
            ValueError, TypeError, KeyError: damaged, or not what ``to_line`` writes.
        """
        data: dict[str, Any] = lines.parse(line)
        distinct = [_ids(prompt) for prompt in data["prompts"]]
        places = _places(data["prompt_of"], "prompt_of")
        if max(places, default=-1) >= len(distinct):
            raise ValueError("prompt_of is wrong")
        return cls(
            str(data["run"]),
            tuple(_ids(token_ids) for token_ids in data["token_ids"]),
            tuple(distinct[place] for place in places),
            None if data["seed"] is None else int(data["seed"]),
            str(data["sampler"]),
            tuple(map(str, data["finish_reasons"])),
            _places(data.get("prompt_index", ()), "prompt_index"),
            _places(data.get("index", ()), "index"),
        )


def default_name(result: GenerationResult) -> str:
    """A name that a run has in common with its repetition, and with no other."""
    prompts = [sequence.prompt_token_ids for sequence in result.sequences]
    asked = f"{result.seed} {result.sampler} {prompts}".encode()
    return f"run-{hashlib.sha256(asked).hexdigest()[:8]}"


def _in_order(prompts: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The prompt index and the index of each sequence, if equal prompts that stand together are one."""
    prompt_indices: list[int] = []
    indices: list[int] = []
    for place, prompt in enumerate(prompts):
        goes_on = place > 0 and prompt == prompts[place - 1]
        prompt_indices.append(prompt_indices[-1] + (not goes_on) if prompt_indices else 0)
        indices.append(indices[-1] + 1 if goes_on else 0)
    return tuple(prompt_indices), tuple(indices)


def _ids(values: Any) -> tuple[int, ...]:
    if not all(type(token_id) is int for token_id in values):
        raise ValueError("token ids are no integers")
    return tuple(values)


def _places(values: Any, name: str) -> tuple[int, ...]:
    if not all(type(place) is int and place >= 0 for place in values):
        raise ValueError(f"{name} is wrong")
    return tuple(values)
