"""The sampler: an explicit, ordered chain of processors and one draw; its repr is its whole configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from seedbed.errors import InvalidSampler, RowError, UsageError
from seedbed.llm.arguments import check_token_ids, is_iterable, shown
from seedbed.llm.base import Row, TopLogprobs, as_row
from seedbed.sampling import engines, portable
from seedbed.sampling.candidates import Candidates
from seedbed.sampling.draw import Winner, gumbel_max
from seedbed.sampling.mass import Mass
from seedbed.sampling.presets import Order, Parameters, chain_of
from seedbed.sampling.processors import History, MinP, Processor, StatefulProcessor, TopK, TopP, TypicalP, Xtc
from seedbed.sampling.randomness import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Draw", "DrawScheme", "Sampler", "softmax"]

DrawScheme: TypeAlias = Literal["gumbel", "inverse-cdf", "vllm", "sglang", "llama.cpp"]


@dataclass(frozen=True, slots=True)
class Draw:
    """One token, and what is known of how it was drawn.

    Attributes:
        token_id: the token.
        logprob: its log-probability under the model itself, in nats; None when the row's normaliser is unknown.
        processed_logprob: its log-probability under what was drawn from, after the whole chain; None when that is unknown.
        margin: how far it led the runner-up (see ``draw.Winner``); inf when it was the only one. Of a greedy choice,
            under every draw, how far its logit did.
        tail_mass: probability, at most, of the unlisted tokens that should have taken part and could not; 0 for an exact step.
        state: what the chain's stateful processor (mirostat) knows now: hand it to the sequence's next step. None without one.
    """

    token_id: int
    logprob: float | None
    processed_logprob: float | None
    margin: float
    tail_mass: float
    state: float | None = None


class Sampler:
    """What happens between a row and a token. The default samples from the model itself: temperature 1, nothing cut.

    Args:
        temperature: divides the logits; 1 changes nothing, 0 is greedy.
        top_k: keep the k most probable; 0 or None is off, -1 too.
        top_p: keep the smallest set of most probable tokens that reaches this mass; 1 is off.
        min_p: keep tokens at least this many times as probable as the best; 0 is off.
        typical_p, epsilon_cutoff, eta_cutoff, top_h, top_n_sigma, xtc_probability, xtc_threshold: see the classes of these names.
        dynatemp_range, dynatemp_exponent: let the temperature follow the entropy (``DynamicTemperature``).
        mirostat: 1 or 2 steers the surprise to ``mirostat_tau`` bits at rate ``mirostat_eta``; 0 is off.
        min_keep: the filters by mass keep at least so many tokens.
        repetition_penalty, frequency_penalty, presence_penalty: 1, 0, 0 are off; ``repeat_last_n`` looks back on so many tokens of
            prompt and output instead of what ``order`` says.
        dry_multiplier, dry_base, dry_allowed_length, dry_last_n, dry_breakers: see ``Dry``; multiplier 0 is off.
        no_repeat_ngram_size: no n-gram twice; 0 is off.
        logit_bias, allowed_token_ids, bad_words: see ``LogitBias``, ``AllowedTokenIds``, ``BadWords``.
        min_tokens: hold ``stop_token_ids`` back until so many tokens are there.
        processors: callables (prefix, logits) -> logits or ``Processor`` objects, applied after the penalties and before the temperature.
        order: None, or the engine whose order and rules to follow: "hf", "vllm", "sglang", "llama.cpp" (see ``presets``).
        draw: "gumbel"; "inverse-cdf" from one addressed uniform; or an engine's own seeded draw: "vllm", "sglang", "llama.cpp".
        chain: instead of all parameters, the processors themselves, in order.

    The default order is Hugging Face's, with exact ties: biases and bans, penalties, temperature, top_k, top_p, min_p, the rest.

    Raises:
        InvalidSampler: a parameter outside its range, one that the engine of ``order`` does not have, or ``chain`` beside others.

    Concurrency:
        Pure and immutable: any number of tasks and threads may share one.

    Example:
        >>> Sampler(temperature=0.8, top_p=0.95)
        Sampler(chain=[Temperature(t=0.8), TopP(p=0.95, rule='<', min_keep=1)])
        >>> Sampler(top_k=2).draw([0.0, 2.0, 1.0], seed=7)
        1
    """

    __slots__ = ("chain", "scheme")

    chain: tuple[Processor, ...]
    scheme: DrawScheme

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        *,
        typical_p: float = 1.0,
        epsilon_cutoff: float = 0.0,
        eta_cutoff: float = 0.0,
        top_h: float | None = None,
        top_n_sigma: float = 0.0,
        xtc_probability: float = 0.0,
        xtc_threshold: float = 0.1,
        dynatemp_range: float = 0.0,
        dynatemp_exponent: float = 1.0,
        mirostat: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        min_keep: int = 0,
        repetition_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repeat_last_n: int | None = None,
        dry_multiplier: float = 0.0,
        dry_base: float = 1.75,
        dry_allowed_length: int = 2,
        dry_last_n: int | None = None,
        dry_breakers: Sequence[Sequence[int]] = (),
        no_repeat_ngram_size: int = 0,
        logit_bias: Mapping[int, float] | None = None,
        allowed_token_ids: Sequence[int] | None = None,
        bad_words: Sequence[Sequence[int]] = (),
        min_tokens: int = 0,
        stop_token_ids: Sequence[int] = (),
        processors: Sequence[Processor | Callable[[list[int], NDArray[np.float64]], ArrayLike]] = (),
        order: Order | None = None,
        draw: DrawScheme = "gumbel",
        chain: Sequence[Processor] | None = None,
    ) -> None:
        parameters = Parameters(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            typical_p=typical_p,
            epsilon_cutoff=epsilon_cutoff,
            eta_cutoff=eta_cutoff,
            top_h=top_h,
            top_n_sigma=top_n_sigma,
            xtc_probability=xtc_probability,
            xtc_threshold=xtc_threshold,
            dynatemp_range=dynatemp_range,
            dynatemp_exponent=dynatemp_exponent,
            mirostat=mirostat,
            mirostat_tau=mirostat_tau,
            mirostat_eta=mirostat_eta,
            min_keep=min_keep,
            repetition_penalty=repetition_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            repeat_last_n=repeat_last_n,
            dry_multiplier=dry_multiplier,
            dry_base=dry_base,
            dry_allowed_length=dry_allowed_length,
            dry_last_n=dry_last_n,
            dry_breakers=dry_breakers,
            no_repeat_ngram_size=no_repeat_ngram_size,
            logit_bias=logit_bias,
            allowed_token_ids=allowed_token_ids,
            bad_words=bad_words,
            min_tokens=min_tokens,
            stop_token_ids=stop_token_ids,
            processors=processors,
        )
        if chain is not None and (order is not None or parameters.changed()):
            raise InvalidSampler("give either a chain or its parameters, not both")
        if chain is not None and not is_iterable(chain):
            raise InvalidSampler(f"a chain holds processors, as in chain=[Temperature(0.8), TopP(0.95)], not {shown(chain)}")
        self.chain = chain_of(parameters, order) if chain is None else tuple(chain)
        for processor in self.chain:
            if not isinstance(processor, Processor):
                raise InvalidSampler(f"a chain holds processors, not {shown(processor)}; wrap a function in Custom()")
        if any(isinstance(processor, StatefulProcessor) for processor in self.chain[:-1]):
            raise InvalidSampler("mirostat learns from what is drawn, so it must be the last of the chain")
        if draw not in get_args(DrawScheme):
            raise InvalidSampler(f"draw must be one of {', '.join(map(repr, get_args(DrawScheme)))}, not {shown(draw)}")
        self.scheme = draw
        self._refuse_unknown_order()

    def _refuse_unknown_order(self) -> None:
        """Two engines' draws depend on what their filters do to the order of the candidates; refuse what was never observed."""
        if self.scheme == "sglang" and any(isinstance(processor, MinP) for processor in self.chain):
            raise InvalidSampler("draw='sglang' has no min_p: with a seed, that engine refuses it")
        if self.scheme == "llama.cpp" and any(isinstance(processor, TypicalP) for processor in self.chain):
            raise InvalidSampler(
                "draw='llama.cpp' cannot follow typical_p: in which order that engine leaves its candidates is unspecified"
            )

    def process(
        self,
        logits: ArrayLike | TopLogprobs,
        prompt_token_ids: Sequence[int] = (),
        token_ids: Sequence[int] = (),
        *,
        address: Address | None = None,
        state: float | None = None,
    ) -> NDArray[np.float64]:
        """The natural log of the distribution drawn from: float64, shape (vocab_size,), -inf = excluded, bit-identical on every CPU.

        Args:
            logits: one row; not modified.
            prompt_token_ids, token_ids: what came before, for the processors that look at it.
            address: of the step, for xtc, which fires at random.
            state: of the sequence, for mirostat; None at its first step.

        Raises:
            RowError: the row cannot be drawn from; ``TruncatedRow`` when tokens that are not listed would take part.
            InvalidSampler: a bias or an allowed token is outside the row's vocabulary; a processor of the caller's own returned no row; or
                xtc, which fires at random, has no ``address``.
            UsageError: what came before are no token ids, or the address or state is none.
        """
        candidates = self._run(Candidates.of(as_row(logits)), _history(prompt_token_ids, token_ids, address, state))
        candidates.refuse_tail("the normaliser is unknown")
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
        state: float | None = None,
    ) -> int:
        """The token drawn at one address: the same on every CPU, in any order, as often as asked.

        Raises:
            RowError: the row cannot be drawn from; names the step and index.
            InvalidSampler: a bias or an allowed token is outside the row's vocabulary, or a processor of the caller's own returned no row.
            InvalidSeed: an address outside its fields.
            UsageError: what came before are no token ids, or the state is none.
        """
        address = Address(seed, prompt_index, index, step)
        _, candidates, winner = self._drawn(as_row(logits), _history(prompt_token_ids, token_ids, address, state))
        return candidates.token_id(winner.position)

    def sample(
        self,
        row: Row,
        address: Address,
        prompt_token_ids: Sequence[int] = (),
        token_ids: Sequence[int] = (),
        *,
        state: float | None = None,
    ) -> Draw:
        """As ``draw``, with everything known about the token.

        Args:
            state: ``Draw.state`` of the sequence's step before; None at its first.

        Raises:
            RowError, InvalidSampler, InvalidSeed, UsageError: as ``draw``, but what came before must be token ids.
        """
        raw, candidates, (position, margin) = self._drawn(row, History(prompt_token_ids, token_ids, address, state))
        token_id = candidates.token_id(position)
        logprob = _raw_logprob(raw, token_id)
        processed = logprob if candidates.values is raw.values else _logprob(candidates.values, position)
        return Draw(
            token_id=token_id,
            logprob=logprob,
            processed_logprob=processed if candidates.tail is None else None,
            margin=margin,
            tail_mass=_tail_mass(candidates),
            state=self._learn(candidates, position, state),
        )

    def _drawn(self, row: Row, history: History) -> tuple[Candidates, Candidates, Winner]:
        """The row as it came, what the chain made of it, and who won."""
        address = history.address
        assert address is not None
        try:
            raw = Candidates.of(row)
            candidates = self._run(raw, history)
            return raw, candidates, self._choose(candidates, address, len(history.prompt_token_ids))
        except RowError as error:
            error.at(prompt_index=address.prompt_index, index=address.index, step=address.step)
            raise

    def _run(self, candidates: Candidates, history: History) -> Candidates:
        for processor in self.chain:
            candidates = processor.apply(candidates, history)
            candidates.refuse_unusable(processor)
        return candidates

    def _choose(self, candidates: Candidates, address: Address, prompt_length: int) -> Winner:
        if candidates.gap is not None:
            return Winner(0, candidates.gap)
        # Without a prompt, as in a single draw, the step says where the token stands: as after a prompt of one.
        position = max(1, prompt_length) - 1 + address.step
        match self.scheme:
            case "gumbel":
                return gumbel_max(candidates, address)
            case "inverse-cdf":
                return engines.inverse_cdf(candidates, address)
            case "vllm":
                return engines.vllm(candidates, address, position)
            case "sglang":
                by_rank = any(isinstance(processor, (TopK, TopP)) for processor in self.chain)
                return engines.sglang(candidates, address, position, by_rank=by_rank)
            case _:
                descending = any(isinstance(processor, (TopK, TopP, Xtc)) for processor in self.chain)
                return engines.llamacpp(candidates, address, descending=descending)

    def _learn(self, candidates: Candidates, position: int, state: float | None) -> float | None:
        if not self.chain or not isinstance(self.chain[-1], StatefulProcessor):
            return None
        mass = Mass.of(candidates)
        return self.chain[-1].after(state, float(mass.weights[position]) / mass.listed)

    def __repr__(self) -> str:
        draw = "" if self.scheme == "gumbel" else f", draw={self.scheme!r}"
        return f"Sampler(chain=[{', '.join(map(repr, self.chain))}]{draw})"

    def __eq__(self, other: object) -> bool:
        return (self.chain, self.scheme) == (other.chain, other.scheme) if isinstance(other, Sampler) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.chain, self.scheme))


def _history(prompt_token_ids: Sequence[int], token_ids: Sequence[int], address: Address | None, state: float | None) -> History:
    """What a caller of ours says came before; where it is ours, as in ``Sampler.sample``, nobody has to look."""
    if address is not None and not isinstance(address, Address):
        raise UsageError(f"address must be an Address, as in Address(seed=7), not {shown(address)}")
    prompt = check_token_ids(prompt_token_ids, "prompt_token_ids", may_be_empty=True)
    return History(prompt, check_token_ids(token_ids, "token_ids", may_be_empty=True), address, state)


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
    mass = Mass.of(Candidates.of(as_row(logits)))
    return mass.weights / mass.listed


def _tail_mass(candidates: Candidates) -> float:
    if candidates.tail is None:
        return 0.0
    mass = Mass.of(candidates)
    return 1.0 - mass.listed / mass.high


def _raw_logprob(raw: Candidates, token_id: int) -> float:
    if raw.ids is None:
        return _logprob(raw.values, token_id)
    return float(raw.values[int(np.searchsorted(raw.ids, token_id))])


def _logprob(values: NDArray[np.float32] | NDArray[np.float64], position: int) -> float:
    """Reported, never decides a token: float32 exponentials are ten times faster than portable ones and right to 1e-6."""
    top = values.max()
    total = 0.0
    for at in range(0, values.size, portable.CHUNK):
        depth = (values[at : at + portable.CHUNK] - top).astype(np.float32, copy=False)
        total += float(np.exp(depth, out=depth).sum())
    return float(values[position]) - float(top) - math.log(total)
