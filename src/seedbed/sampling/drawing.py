"""What a sequence is going to draw with, as a value that travels: whoever has the rows can then say its next tokens in advance.

It travels as JSON, not as the sampler's repr: any language reads that, and nothing off the network goes through a parser of code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, cast

from seedbed.errors import InvalidSampler, UsageError
from seedbed.sampling.configuration import NAMED
from seedbed.sampling.processors.base import check_state
from seedbed.sampling.randomness import Address
from seedbed.sampling.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from seedbed.llm.base import Row
    from seedbed.sampling.processors import Processor

__all__ = ["Drawing"]

MOST_VALUES = 1000  # it goes with each request


@dataclass(frozen=True, slots=True)
class Drawing:
    """Where a sequence is and what it draws its next token with: given the rows, all that its next tokens depend on.

    Attributes:
        sampler: the chain and the draw.
        address: the randomness of the next token.
        state: what the chain's stateful processor (mirostat) knows before it; None without one, or at the first step.

    Raises:
        UsageError: ``state`` is neither None nor a finite number, when constructed.

    Example:
        >>> import numpy as np
        >>> drawing = Drawing(Sampler(), Address(seed=7))
        >>> token_id, drawing = drawing.take(np.float32([0.0, 1.0, 2.0]), [1])
        >>> token_id, drawing.address.step, Drawing.from_dict(drawing.to_dict()) == drawing
        (2, 1, True)
    """

    sampler: Sampler
    address: Address
    state: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", check_state(self.state))

    def take(self, row: Row, prefix: Sequence[int]) -> tuple[int, Self]:
        """The token it draws from the row that follows ``prefix``, and what it draws the one after that with.

        Args:
            row: the answer for ``prefix``.
            prefix: the prompt, and behind it the ``address.step`` tokens it has.

        Raises:
            RowError, InvalidSampler: no token can be drawn.
        """
        step = self.address.step
        prompt = len(prefix) - step
        draw = self.sampler.sample(row, self.address, prefix[:prompt], prefix[prompt:], state=self.state)
        return draw.token_id, replace(self, address=replace(self.address, step=step + 1), state=draw.state)

    def to_dict(self) -> dict[str, Any] | None:
        """As JSON values; ``from_dict`` gives an equal one back. None when the chain has a processor of the caller's own, an infinite
        number, or more than a thousand values, as biases of many tokens are.

        The seed is a decimal string, since JSON's readers stop at 64 bits.
        """
        chain = [_processor_as_dict(processor) for processor in self.sampler.chain]
        if None in chain or not _travels((self.state, [(*parameters.values(),) for step in chain if step for parameters in step.values()])):
            return None
        address = self.address
        return {
            "seed": str(address.seed),
            "prompt_index": address.prompt_index,
            "index": address.index,
            "step": address.step,
            "state": self.state,
            "chain": chain,
            "draw": self.sampler.scheme,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The drawing that ``to_dict`` wrote.

        Raises:
            UsageError: not such a dict, or none that can be drawn with.
        """
        try:
            seed = values["seed"]
            seed = int(seed) if isinstance(seed, str) else seed
            address = Address(seed, values["prompt_index"], values["index"], values["step"])
            chain = [_processor_from_dict(processor) for processor in values["chain"]]
            return cls(Sampler(chain=chain, draw=values["draw"]), address, values["state"])
        except UsageError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"this is not a drawing as to_dict() writes it: {error!r:.200}") from error


def _processor_as_dict(processor: Processor) -> dict[str, dict[str, Any]] | None:
    name = type(processor).__name__
    if NAMED.get(name) is not type(processor):
        return None
    return {name: {field.name: getattr(processor, field.name) for field in fields(cast("Any", processor))}}


def _processor_from_dict(values: Mapping[str, Any]) -> Processor:
    ((name, parameters),) = values.items()
    if name not in NAMED:
        raise InvalidSampler(f"{name!r:.40} is no processor; there are {', '.join(sorted(NAMED))}")
    return NAMED[name](**parameters)


def _travels(values: Any) -> bool:
    """Whether JSON has words for all of it, and it is short beside a row."""
    found = list(islice(_leaves(values), MOST_VALUES + 1))
    return len(found) <= MOST_VALUES and all(math.isfinite(value) for value in found if isinstance(value, float))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value
