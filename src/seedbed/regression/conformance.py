"""Does a server's own sampler draw from what the server reports, with the parameters it is given? And what do its seeds do?

Tokens tell little: one draw says as much about a temperature as the variance of its log-probability, so a thousand are needed where rows
need thirty. But they are all there is to see of a sampler that is not ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from seedbed.errors import UsageError
from seedbed.generation import generate
from seedbed.http.model import HTTPModel
from seedbed.llm.base import as_row
from seedbed.llm.running import require_trio
from seedbed.llm.threads import as_llm
from seedbed.protocols import PROTOCOLS
from seedbed.protocols.exchange import Sample
from seedbed.regression.conformance_report import ConformanceProgress, ConformanceReport, Flaw
from seedbed.regression.contexts import Alternative, Context, alternatives_of
from seedbed.regression.drawn import Bets, temperature_of
from seedbed.regression.seeds import SeedQuestions
from seedbed.regression.server_draws import AT_ONCE, ServerDraws
from seedbed.sampling.randomness import Address, Purpose, check_seed, fresh_seed
from seedbed.server.draws import Samples, sampler_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from seedbed.llm.base import LLM
    from seedbed.regression.estimates import Estimate
    from seedbed.sampling.presets import Order

__all__ = ["conformance"]

CONTEXTS = 8
"""Prefixes drawn after, when the caller gives none: of those looked at, the ones that tell most."""
LOOKED_AT, LONGEST = 4, 12  # sequences sampled to choose from, and their tokens
AS_GOOD = 3.0
"""Nats by which one explanation of the draws may be behind the best and still be named beside it."""
SEED_BITS = 24


async def conformance(
    llm: object,
    *,
    prompts: Sequence[Sequence[int]] = (),
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    order: Order | None = None,
    draws: int = 1000,
    alpha: float = 0.01,
    seed: int | None = None,
    progress: Callable[[ConformanceProgress], None] | None = None,
) -> ConformanceReport:
    """Ask a server for tokens of its own, every parameter given, and hold them against the rows it reports.

    Two tests, each at half of ``alpha``: the score test of the temperature over all draws; and bets against "as asked for", on likelihood
    ratios of what servers do instead (other temperatures, filters, orders) and on the randomised probability integral transform of the
    draws not being uniform. Then its seeds: whether one repeats its draws, whether different ones do, whether the samples of one request
    are those of the seeds after it (seed + i), whether a step is the step before of the next seed.

    Args:
        llm: a model that draws itself, such as one behind ``connect(url, top_k="all")``: rows must be whole.
        prompts: prefixes to draw after; () samples some from the model and takes those that tell most.
        temperature, top_k, top_p, min_p: as ``Sampler`` takes them; sent with every request.
        order: whose order and rules to expect; None is that of the protocol's engine.
        draws: how many for the distribution; T = 1.1 for 1.0 needs about 1,000, another order up to 5,000.
        alpha: how often a server that does as it is asked may be called flawed.
        seed: the first of the seeds sent, below 2**24; None is a fresh one.
        progress: called after every group of draws.

    Raises:
        UsageError: an argument outside its range, or a model that draws no tokens itself.
        InvalidSampler: parameters that the order does not take.
        TruncatedRow: a row is cut off where the sampler needs it whole.
        ServerError, RowError: what the model raises.

    Concurrency:
        Eight questions at once.

    Example:
        >>> from functools import partial
        >>> import trio
        >>> from seedbed.server.models import TinyLM
        >>> from seedbed.server.planted import PlantedSampler
        >>> report = trio.run(partial(conformance, PlantedSampler(TinyLM(), temperature=1.3), draws=500, seed=1))
        >>> [flaw.name for flaw in report.flaws]
        ['temperature']

    Source: Rosenblatt 1952 and Smith 1985 for the transform; ``drawn.temperature_of`` for the score test; ``evidence.EProcess`` for bets.
    """
    require_trio()
    model = as_llm(llm)
    if not isinstance(model, Samples):
        raise UsageError("this model draws no tokens itself: connect to a server, or give it a method sample(question)")
    engine = getattr(model, "samples_as", order)
    if isinstance(model, HTTPModel) and engine is None:
        speaks = ", ".join(name for name, protocol in PROTOCOLS.items() if protocol.samples_as is not None)
        raise UsageError(
            f"in the {model.protocol} protocol a server draws no tokens itself; ask it in another, with protocol= or --protocol: {speaks}"
        )
    order = order if order is not None else engine
    if not temperature > 0:
        raise UsageError(f"temperature must be above 0, not {temperature!r}: a greedy server draws nothing")
    if draws < 1 or not 0 < alpha < 0.5:
        raise UsageError("draws must be 1 or more, and alpha in (0, 0.5)")
    if seed is not None and not 0 <= check_seed(seed) < 1 << SEED_BITS:
        raise UsageError(f"seed must be in [0, 2**{SEED_BITS}), since servers take few bits; not {seed}")
    first = fresh_seed() % (1 << SEED_BITS) if seed is None else seed
    asked = Sample((), float(temperature), top_k, float(top_p), float(min_p), seed=first)
    alternatives = alternatives_of(asked, order)
    contexts = await _contexts(model, prompts, asked, order, alternatives)
    server = ServerDraws(model, model, asked, order, contexts)
    test, seeds = _Test(server, alternatives, alpha, progress), SeedQuestions(server, alpha)
    await test.draw(draws)
    await seeds.ask_all()
    return test.report(seeds)


async def _contexts(
    model: LLM, prompts: Sequence[Sequence[int]], asked: Sample, order: Order | None, alternatives: Sequence[Alternative]
) -> list[Context]:
    """The prefixes given, or those on the way of a few sequences of ours that tell most."""
    prefixes = [tuple(prompt) for prompt in prompts] or await _on_the_way(model, asked.seed)
    contexts = []
    for prefix in prefixes:
        row = as_row(await model.next_token_logits(list(prefix)))
        contexts.append(Context(prefix, row, sampler_of(asked, order), alternatives))
    if prompts:
        return contexts
    # About the temperature a draw tells as much as the variance of its log-probability; about the rest, as its divergence from it.
    tells = [context.variance * 0.005 + float(context.telling.mean()) for context in contexts]
    return [contexts[place] for place in sorted(np.argsort([-value for value in tells], kind="stable")[:CONTEXTS])]


async def _on_the_way(model: LLM, seed: int) -> list[tuple[int, ...]]:
    end = model.get_stop_token_id()
    result = await generate([end], model, n=LOOKED_AT, seed=seed, max_new_tokens=LONGEST)
    return list(dict.fromkeys((end, *one.token_ids[:length]) for one in result.sequences for length in range(len(one.token_ids))))


class _Test:
    """The draws for the distribution, and what they say."""

    def __init__(
        self, draws: ServerDraws, alternatives: list[Alternative], alpha: float, progress: Callable[[ConformanceProgress], None] | None
    ) -> None:
        self._draws, self._alternatives, self._alpha, self._progress = draws, alternatives, alpha, progress
        self._bets = Bets(len(alternatives))

    async def draw(self, count: int) -> None:
        """The draws for the distribution."""
        while len(self._draws.drawn) < count:
            numbers = range(len(self._draws.drawn), min(count, len(self._draws.drawn) + AT_ONCE))
            places = [divmod(number, len(self._draws.contexts))[::-1] for number in numbers]
            for (place, after), ((token_id, *_),) in zip(
                places, await self._draws.together([self._draws.sample(*place) for place in places]), strict=True
            ):
                self._take(place, after, token_id)
            if self._progress is not None:
                e_value = math.exp(min(700.0, self._bets.log_e_value))
                self._progress(ConformanceProgress(len(self._draws.drawn), count, e_value))

    def _take(self, place: int, after: int, token_id: int) -> None:
        context = self._draws.contexts[place]
        if token_id >= context.logprobs.size:
            raise UsageError(f"the server drew token {token_id}, and reports rows of {context.logprobs.size} tokens")
        v = Address(self._draws.asked.seed, index=len(self._draws.drawn)).uniform(Purpose.PIT)
        self._bets.add(context.odds(token_id), context.place(token_id, v))
        self._draws.drawn.append((context, token_id))
        self._draws.by_seed[place, after] = token_id

    def report(self, seeds: SeedQuestions) -> ConformanceReport:
        """What was found."""
        draws, asked = self._draws, self._draws.asked
        parameters = {name: getattr(asked, name) for name in ("temperature", "top_k", "top_p", "min_p")}
        estimate, z_score = temperature_of(draws.drawn, asked.temperature)
        excluded = [token_id for context, token_id in draws.drawn if context.probability(token_id) == 0.0]
        return ConformanceReport(
            (*self._flaws(estimate, z_score, excluded), *seeds.flaws),
            parameters | {"order": draws.order},
            estimate,
            z_score,
            self._bets.log_peak,
            len(excluded),
            len(draws.drawn),
            len(draws.contexts),
            self._alpha,
            tuple(seeds.untold),
            asked.seed,
        )

    def _flaws(self, estimate: Estimate, z_score: float, excluded: Sequence[int]) -> list[Flaw]:
        """What explains the draws best, if they need an explanation."""
        if self._draws.is_constant:
            return []  # one draw repeated tells nothing of what it is drawn from
        enough = math.log(2 / self._alpha)
        is_off = math.erfc(abs(z_score) / math.sqrt(2)) < self._alpha / 2
        if not is_off and self._bets.log_peak < enough:
            return []
        wealths: NDArray[np.float64] = self._bets.log_wealths
        best = int(wealths.argmax()) if wealths.size else -1
        other = self._alternatives[best] if best >= 0 and wealths[best] > enough else None
        if other is not None and other.kind != "temperature":
            alike = [self._alternatives[place] for place in np.flatnonzero(wealths > wealths[best] - AS_GOOD)]
            # Another order often leaves out, or lets in, just what a filter would: one preset is the simpler explanation of the two.
            kind = "order" if any(one.kind == "order" for one in alike) else other.kind
            same = " or ".join(one.detail for one in alike if one.kind == kind)
            return [Flaw(kind, f"the server draws as if {same}{self._excluded(excluded)}")]
        if is_off or other is not None:
            said = f"; that is as if {other.detail}" if other is not None else ""
            asked = self._draws.asked.temperature
            detail = f"draws come as if at {estimate}, asked for was {asked:g}"
            return [Flaw("temperature", f"{detail}{said}{self._excluded(excluded)}")]
        return [Flaw("distribution", f"draws are not from the reported rows, in no way that is known here{self._excluded(excluded)}")]

    @staticmethod
    def _excluded(excluded: Sequence[int]) -> str:
        if not excluded:
            return ""
        shown = ", ".join(map(str, list(dict.fromkeys(excluded))[:4]))
        return f"; {len(excluded)} draws are tokens that the parameters exclude, such as {shown}"
