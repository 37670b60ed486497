"""``runs.jsonl``: which tokens came out of a recording, so that a later run over the same answers can be held against them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seedbed.recording import lines

if TYPE_CHECKING:
    from seedbed.generation.result import GenerationResult

__all__ = ["RUNS", "Run"]

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
    """

    name: str
    token_ids: tuple[tuple[int, ...], ...]
    prompts: tuple[tuple[int, ...], ...] = ()
    seed: int | None = None
    sampler: str = ""
    finish_reasons: tuple[str, ...] = ()

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
        )

    def to_line(self) -> bytes:
        """As a line of ``runs.jsonl``: each prompt once, with its sequences."""
        distinct = list(dict.fromkeys(self.prompts))
        return lines.checked(
            {
                "run": self.name,
                "seed": None if self.seed is None else str(self.seed),
                "sampler": self.sampler,
                "prompts": distinct,
                "prompt_of": [distinct.index(prompt) for prompt in self.prompts],
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
        if not all(type(place) is int and 0 <= place < len(distinct) for place in data["prompt_of"]):
            raise ValueError("prompt_of is wrong")
        return cls(
            str(data["run"]),
            tuple(_ids(token_ids) for token_ids in data["token_ids"]),
            tuple(distinct[place] for place in data["prompt_of"]),
            None if data["seed"] is None else int(data["seed"]),
            str(data["sampler"]),
            tuple(map(str, data["finish_reasons"])),
        )


def _ids(values: Any) -> tuple[int, ...]:
    if not all(type(token_id) is int for token_id in values):
        raise ValueError("token ids are no integers")
    return tuple(values)
