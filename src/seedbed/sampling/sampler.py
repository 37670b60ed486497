"""The sampler: an explicit, ordered chain of processors and one draw; its repr is its whole configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seedbed.errors import InvalidSampler, RowError, TruncatedRow
from seedbed.llm.base import Row, TopLogprobs, as_row
from seedbed.sampling import portable
from seedbed.sampling.candidates import Candidates
from seedbed.sampling.draw import gumbel_max
from seedbed.sampling.processors import Custom, History, MinP, Processor, Temperature, TopK, TopP
from seedbed.sampling.randomness import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Draw", "Sampler", "softmax"]


@dataclass(frozen=True, slots=True)
class Draw:
    """One token, and what is known of how it was drawn.

    Attributes:
        token_id: the token.
        logprob: its log-probability under the model itself, in nats; None when the row's normaliser is unknown.
        processed_logprob: its log-probability under what was drawn from, after the whole chain; None when that is unknown.
        margin: how far it led the runner-up (see ``draw.Winner``); inf when it was the only one.
        tail_mass: probability of the unlisted tokens that should have taken part and could not; 0 for an exact step.
    """

    token_id: int
    logprob: float | None
    processed_logprob: float | None
    margin: float
    tail_mass: float


class Sampler:
    """What happens between a row and a token. The default samples from the model itself: temperature 1, nothing cut.

    Args:
        temperature: divides the logits; 1 changes nothing, 0 is greedy.
        top_k: keep the k most probable; 0 or None is off, -1 too.
        top_p: keep the smallest set of most probable tokens that reaches this mass; 1 is off.
        min_p: keep tokens at least this many times as probable as the best; 0 is off.
        processors: callables (prefix, logits) -> logits or ``Processor`` objects, applied before all of the above, in this order.
        chain: instead of all of the above, the processors themselves, in order.

    The order is temperature, top_k, top_p, min_p: Hugging Face's, with exact ties.

    Raises:
        InvalidSampler: a parameter outside its range, or ``chain`` beside others.

    Concurrency:
        Pure and immutable: any number of tasks and threads may share one.

    Example:
        >>> Sampler(temperature=0.8, top_p=0.95)
        Sampler(chain=[Temperature(t=0.8), TopP(p=0.95)])
        >>> Sampler(top_k=2).draw([0.0, 2.0, 1.0], seed=7)
        1
    """

    __slots__ = ("chain",)

    chain: tuple[Processor, ...]

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        *,
        processors: Sequence[Processor | Callable[[list[int], NDArray[np.float64]], ArrayLike]] = (),
        chain: Sequence[Processor] | None = None,
    ) -> None:
        sugar = _chain_of(temperature, top_k, top_p, min_p, processors)
        if chain is not None and sugar:
            raise InvalidSampler("give either a chain or its parameters, not both")
        self.chain = tuple(sugar if chain is None else chain)
        for processor in self.chain:
            if not isinstance(processor, Processor):
                raise InvalidSampler(f"a chain holds processors, not {processor!r}; wrap a function in Custom()")

    def process(
        self, logits: ArrayLike | TopLogprobs, prompt_token_ids: Sequence[int] = (), token_ids: Sequence[int] = ()
    ) -> NDArray[np.float64]:
        """The natural log of the distribution drawn from: float64, shape (vocab_size,), -inf = excluded, bit-identical on every CPU.

        Args:
            logits: one row; not modified.
            prompt_token_ids, token_ids: what came before, for the processors that look at it.

        Raises:
            RowError: the row cannot be drawn from; ``TruncatedRow`` when tokens that are not listed would take part.
        """
        candidates = self._run(Candidates.of(as_row(logits)), History(prompt_token_ids, token_ids))
        if candidates.tail is not None:
            raise TruncatedRow(
                f"the normaliser is unknown: the server listed {candidates.logits.size} of {candidates.vocab_size} tokens",
                needed=candidates.vocab_size,
            )
        values = portable.log_softmax(candidates.logits)
        if candidates.ids is None:
            return values
        row = np.full(candidates.vocab_size, -np.inf)
        row[candidates.ids] = values
        return row

    def draw(
        self,
        logits: ArrayLike | TopLogprobs,
        *,
        seed: int,
        prompt_index: int = 0,
        index: int = 0,
        step: int = 0,
        prompt_token_ids: Sequence[int] = (),
        token_ids: Sequence[int] = (),
    ) -> int:
        """The token drawn at one address: the same on every CPU, in any order, as often as asked.

        Raises:
            RowError: the row cannot be drawn from; names the step and index.
            InvalidSeed: an address outside its fields.
        """
        address = Address(seed, prompt_index, index, step)
        return self.sample(as_row(logits), address, prompt_token_ids, token_ids).token_id

    def sample(self, row: Row, address: Address, prompt_token_ids: Sequence[int] = (), token_ids: Sequence[int] = ()) -> Draw:
        """As ``draw``, with everything known about the token."""
        try:
            raw = Candidates.of(row)
            candidates = self._run(raw, History(prompt_token_ids, token_ids, address))
            position, margin = gumbel_max(candidates, address)
        except RowError as error:
            error.at(prompt_index=address.prompt_index, index=address.index, step=address.step)
            raise
        tail = candidates.tail
        return Draw(
            token_id=candidates.token_id(position),
            logprob=_raw_logprob(row, raw, position),
            processed_logprob=None if tail is not None else _logprob(candidates.logits, position),
            margin=margin,
            tail_mass=0.0 if tail is None else tail.mass,
        )

    def _run(self, candidates: Candidates, history: History) -> Candidates:
        for processor in self.chain:
            candidates = processor.apply(candidates, history)
            candidates.refuse_unusable(repr(processor))
        return candidates

    def __repr__(self) -> str:
        return f"Sampler(chain=[{', '.join(map(repr, self.chain))}])"

    def __eq__(self, other: object) -> bool:
        return self.chain == other.chain if isinstance(other, Sampler) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.chain)


def softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Probabilities of a row of logits: float64, the same shape, bit-identical on every CPU.

    Args:
        logits: shape (vocab_size,), any additive constant, -inf = impossible; not modified.

    Raises:
        RowError: NaN or +inf among them, all -inf, or no row at all.

    Example:
        >>> softmax([0.0, 0.0, float("-inf")]).tolist()
        [0.5, 0.5, 0.0]
    """
    weights = Candidates.of(as_row(logits)).weights()
    return weights / portable.total(weights)


def _chain_of(
    temperature: float,
    top_k: int | None,
    top_p: float,
    min_p: float,
    processors: Iterable[Processor | Callable[[list[int], NDArray[np.float64]], ArrayLike]],
) -> list[Processor]:
    chain = [processor if isinstance(processor, Processor) else Custom(processor) for processor in processors]
    if temperature != 1.0:
        chain.append(Temperature(temperature))
    if top_k not in (None, 0, -1):
        chain.append(TopK(top_k))
    if top_p != 1.0:
        chain.append(TopP(top_p))
    if min_p != 0.0:
        chain.append(MinP(min_p))
    return chain


def _raw_logprob(row: Row, raw: Candidates, position: int) -> float:
    if isinstance(row, TopLogprobs):
        return float(raw.logits[position])
    return _logprob(raw.logits, position)


def _logprob(logits: NDArray[np.float64], position: int) -> float:
    """Reported, never decides a token: float32 exponentials are ten times faster than portable ones and right to 1e-6."""
    top = logits.max()
    weights = np.exp((logits - top).astype(np.float32))
    return float(logits[position] - top - np.log(weights.sum(dtype=np.float64)))
