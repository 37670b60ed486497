"""Does a server's own sampler draw from what the server reports, with the parameters it is given? And what do its seeds do?

Tokens tell little: one draw says as much about a temperature as the variance of its log-probability, so a thousand are needed where rows
need thirty. But they are all there is to see of a sampler that is not ours.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from seedbed.errors import BadRequest, UsageError
from seedbed.generation import generate
from seedbed.http.model import HTTPModel
from seedbed.llm.base import as_row
from seedbed.llm.threads import as_llm
from seedbed.protocols import PROTOCOLS
from seedbed.protocols.exchange import Sample
from seedbed.regression.asking import together
from seedbed.regression.drawn import Alternative, Context, Evidence, alternatives_of, same_draws, temperature_of
from seedbed.sampling.randomness import Address, Purpose, check_seed, fresh_seed
from seedbed.server.draws import Samples, sampler_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from seedbed.llm.base import LLM
    from seedbed.regression.estimates import Estimate
    from seedbed.sampling.presets import Order

__all__ = ["ConformanceProgress", "ConformanceReport", "Flaw", "conformance"]

CONTEXTS = 8
"""Prefixes drawn after, when the caller gives none: of those looked at, the ones that tell most."""
LOOKED_AT, LONGEST = 4, 12  # sequences sampled to choose from, and their tokens
AT_ONCE = 8
PAIRS = 16
"""Draws compared for each question about seeds."""
APART = (1 << 8, 1 << 16, 1 << 32)
"""Seeds this far apart are the same where only so many of their bits count."""
AS_GOOD = 3.0
"""Nats by which one explanation of the draws may be behind the best and still be named beside it."""
SHARE = 1_000_000  # seeds of one prefix
SEED_BITS = 24


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that is not as it was asked for.

    Attributes:
        name: "temperature", "greedy", "filter", "order", "excluded tokens", "distribution", or one of the seeds: "seed ignored", "seeds
            repeat", "seeds overlap".
        detail: what was seen, as a sentence.
        is_fault: whether draws are wrong by it; False for what one must know about the seeds to use them.
    """

    name: str
    detail: str
    is_fault: bool = True


@dataclass(frozen=True, slots=True)
class ConformanceProgress:
    """How far it is.

    Attributes:
        draws, of: tokens drawn by the server, and how many there will be.
        e_value: the evidence against "as asked for" so far.
    """

    draws: int
    of: int
    e_value: float


@dataclass(frozen=True, slots=True)
class ConformanceReport:
    """What a conformance test found.

    Attributes:
        flaws: what is not as asked for, the draws before the seeds.
        asked: the parameters: temperature, top_k, top_p, min_p, and whose order was expected.
        temperature: the one under which the draws are most probable, with its standard error.
        z_score: of the temperature asked for; beyond ±2.8 the draws contradict it at alpha 0.01.
        log_e_value: natural log of the highest evidence against "as asked for".
        excluded: draws that the parameters exclude.
        draws, prefixes: how many tokens were drawn for the distribution, after how many prefixes.
        alpha: how often a server that does as it is asked may be called flawed.
        untold: questions about the seeds that could not be answered, with the reason.
        seed: the first of the seeds sent.
    """

    flaws: tuple[Flaw, ...]
    asked: dict[str, Any]
    temperature: Estimate
    z_score: float
    log_e_value: float
    excluded: int
    draws: int
    prefixes: int
    alpha: float
    untold: tuple[str, ...]
    seed: int

    @property
    def is_conforming(self) -> bool:
        """Whether nothing was found that makes draws wrong."""
        return not any(flaw.is_fault for flaw in self.flaws)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        found = asdict(self) | {"is_conforming": self.is_conforming}
        error = self.temperature.standard_error
        return found | {"temperature": {"value": self.temperature.value, "standard_error": error if math.isfinite(error) else None}}

    def lines(self) -> list[str]:
        """A line a finding, the verdict first."""
        faults = [flaw.name for flaw in self.flaws if flaw.is_fault]
        verdict = f"DOES NOT CONFORM: {', '.join(faults)}" if faults else "CONFORMS: no draw contradicts what the server reports"
        asked = ", ".join(f"{name} {value}" for name, value in self.asked.items())
        estimate = self.temperature
        return [
            f"{'verdict':<14} {verdict}",
            *(f"{'flaw' if flaw.is_fault else 'seeds':<14} {flaw.name}: {flaw.detail}" for flaw in self.flaws),
            *(f"{'untold':<14} {reason}" for reason in self.untold),
            f"{'asked for':<14} {asked}",
            f"{'temperature':<14} {estimate.value:.4f} ± {estimate.standard_error:.4f} by the draws, z-score {self.z_score:.2f}",
            f"{'evidence':<14} e-value {math.exp(min(self.log_e_value, 700)):.3g}; {2 / self.alpha:.0f} is an alarm",
            f"{'draws':<14} {self.draws} after {self.prefixes} prefixes, {self.excluded} of them excluded ones; seeds from {self.seed} on",
        ]


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
        >>> import trio
        >>> from seedbed.server.models import TinyLM
        >>> from seedbed.server.planted import PlantedSampler
        >>> report = trio.run(partial(conformance, PlantedSampler(TinyLM(), temperature=1.3), draws=500, seed=1))
        >>> [flaw.name for flaw in report.flaws]
        ['temperature']

    Source: Rosenblatt 1952 and Smith 1985 for the transform; ``drawn.temperature_of`` for the score test; ``evidence.EProcess`` for bets.
    """
    model = as_llm(llm)
    if not isinstance(model, Samples):
        raise UsageError("this model draws no tokens itself: connect to a server, or give it a method sample(question)")
    engine = getattr(model, "samples_as", order)
    if isinstance(model, HTTPModel) and engine is None:
        speaks = ", ".join(name for name, protocol in PROTOCOLS.items() if protocol.samples_as is not None)
        raise UsageError(f"in the {model.protocol} protocol a server draws no tokens itself; connect with one of {speaks}")
    order = order if order is not None else engine
    if not temperature > 0:
        raise UsageError(f"temperature must be above 0, not {temperature!r}: a greedy server draws nothing")
    if draws < 1 or not 0 < alpha < 0.5:
        raise UsageError("draws must be 1 or more, and alpha in (0, 0.5)")
    if seed is not None and not 0 <= check_seed(seed) < 1 << SEED_BITS:
        raise UsageError(f"seed must be in [0, 2**{SEED_BITS}), since servers take few bits; not {seed}")
    asked = Sample((), float(temperature), top_k, float(top_p), float(min_p), seed=fresh_seed() >> 39 if seed is None else seed)
    alternatives = alternatives_of(asked, order)
    contexts = await _contexts(model, prompts, asked, order, alternatives)
    test = _Test(model, asked, order, contexts, alternatives, alpha, progress)
    await test.draw(draws)
    await test.ask_about_seeds()
    return test.report()


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
    """The draws of one test, and what came of them."""

    def __init__(
        self,
        model: LLM,
        asked: Sample,
        order: Order | None,
        contexts: list[Context],
        alternatives: list[Alternative],
        alpha: float,
        progress: Callable[[ConformanceProgress], None] | None,
    ) -> None:
        assert isinstance(model, Samples)
        self._draws_of, self._model = model.sample, model
        self._asked, self._order, self._contexts, self._alternatives = asked, order, contexts, alternatives
        self._alpha, self._progress = alpha, progress
        self._evidence = Evidence(len(alternatives))
        self._drawn: list[tuple[Context, int]] = []
        self._by_seed: dict[tuple[int, int], int] = {}  # {(place of the context, how many seeds after its first): token}
        self._seed_flaws: list[Flaw] = []
        self._untold: list[str] = []

    def _sample(self, place: int, after: int, **changes: Any) -> Sample:
        """A question: no two contexts share a seed, and those of one follow each other."""
        return replace(self._asked, token_ids=self._contexts[place].prefix, seed=self._asked.seed + place * SHARE + after, **changes)

    async def draw(self, count: int) -> None:
        """The draws for the distribution."""
        while len(self._drawn) < count:
            numbers = range(len(self._drawn), min(count, len(self._drawn) + AT_ONCE))
            places = [divmod(number, len(self._contexts))[::-1] for number in numbers]
            for (place, after), ((token_id, *_),) in zip(
                places, await self._asked_together([self._sample(*place) for place in places]), strict=True
            ):
                self._take(place, after, token_id)
            if self._progress is not None:
                e_value = math.exp(min(700.0, self._evidence.log_e_value))
                self._progress(ConformanceProgress(len(self._drawn), count, e_value))

    def _take(self, place: int, after: int, token_id: int) -> None:
        context = self._contexts[place]
        if token_id >= context.logprobs.size:
            raise UsageError(f"the server drew token {token_id}, and reports rows of {context.logprobs.size} tokens")
        v = Address(self._asked.seed, index=len(self._drawn)).uniform(Purpose.PIT)
        self._evidence.add(context.odds(token_id), context.place(token_id, v))
        self._drawn.append((context, token_id))
        self._by_seed[place, after] = token_id

    async def _asked_together(self, questions: Sequence[Sample]) -> list[tuple[tuple[int, ...], ...]]:
        answers: list[tuple[tuple[int, ...], ...]] = [()] * len(questions)

        async def ask(place: int, question: Sample) -> None:
            answers[place] = await self._draws_of(question)

        for at in range(0, len(questions), AT_ONCE):
            await together([partial(ask, at + i, question) for i, question in enumerate(questions[at : at + AT_ONCE])])
        return answers

    # Seeds. All of these compare draws with draws, so what is wrong with the distribution does not matter to them.

    async def ask_about_seeds(self) -> None:
        """Whether a seed repeats its draw, and whether others do."""
        known = [key for key in self._by_seed if (key[0], key[1] + 1) in self._by_seed][: 4 * PAIRS]
        if not known:
            self._untold.append("seeds: more draws are needed than there are prefixes")
            return
        if self._is_constant():
            detail = "every draw after one prefix is the same token, and not the most probable one, whatever the seed"
            self._seed_flaws.append(Flaw("seeds repeat", detail))
            return
        if self._says_nothing(known):
            self._untold.append("seeds: after these prefixes nearly every draw is the same token, whatever the seed")
            return
        if not await self._repeats(known[:PAIRS]):
            return
        if self._finds([(*self._pair(key, self._by_seed[key[0], key[1] + 1]),) for key in known]):
            self._seed_flaws.append(Flaw("seeds repeat", "different seeds give the same draws"))
            return
        await self._apart(known[:PAIRS])
        await self._of_one_request(known)
        await self._of_the_next_step(known[:PAIRS])

    def _is_constant(self) -> bool:
        """Whether each prefix has one draw for all seeds; where that is the best token it may as well be greedy."""
        by_context: dict[int, set[int]] = {}
        for (place, _), token_id in self._by_seed.items():
            by_context.setdefault(place, set()).add(token_id)
        if any(len(drawn) > 1 for drawn in by_context.values()) or len(self._drawn) < 2 * len(by_context):
            return False
        return any(int(self._contexts[place].logprobs.argmax()) not in drawn for place, drawn in by_context.items())

    def _chance(self, place: int, token_id: int) -> float:
        """That a draw is this token by chance: by the row, or by what was drawn, whichever is more, should the distribution be wrong."""
        context = self._contexts[place]
        here = [drawn for at, drawn in self._drawn if at is context]
        return max(context.probability(token_id), here.count(token_id) / len(here))

    def _pair(self, key: tuple[int, int], other: int) -> tuple[int, int, float]:
        one = self._by_seed[key]
        return one, other, self._chance(key[0], one)

    def _finds(self, pairs: Sequence[tuple[int, int, float]]) -> bool:
        return bool(pairs) and same_draws(pairs) >= math.log(1 / self._alpha)

    def _says_nothing(self, keys: Sequence[tuple[int, int]]) -> bool:
        """Whether even draws that are all equal would be no evidence that they are one."""
        return not self._finds([self._pair(key, self._by_seed[key]) for key in keys[:PAIRS]])

    async def _repeats(self, keys: Sequence[tuple[int, int]]) -> bool:
        again = await self._asked_together([self._sample(*key) for key in keys])
        equal = sum(self._by_seed[key] == tokens for key, ((tokens, *_),) in zip(keys, again, strict=True))
        if equal == len(keys):
            return True
        by_chance = sum(self._chance(key[0], self._by_seed[key]) for key in keys)
        detail = f"asked again with the same seed, {equal} of {len(keys)} draws are the same; {by_chance:.1f} would be by chance"
        name = "seed ignored" if equal < (len(keys) + by_chance) / 2 else "seeds do not always repeat"
        self._seed_flaws.append(Flaw(name, detail))
        return name != "seed ignored"

    async def _apart(self, keys: Sequence[tuple[int, int]]) -> None:
        for distance in APART:
            try:
                others = await self._asked_together([self._sample(place, after + distance) for place, after in keys])
            except BadRequest:
                self._untold.append(f"seeds: the server refuses seeds of {self._asked.seed + distance} and more")
                return
            if self._finds([self._pair(key, tokens) for key, ((tokens, *_),) in zip(keys, others, strict=True)]):
                # Of seeds in 32 bits a user runs out only on purpose.
                text = f"seeds {distance} apart give the same draws: {distance.bit_length() - 1} bits of a seed count"
                self._seed_flaws.append(Flaw("seeds repeat", text, is_fault=distance < 1 << 32))
                return

    async def _of_one_request(self, keys: Sequence[tuple[int, int]]) -> None:
        """Samples of one request: among themselves, and beside the draws of the seeds that follow."""
        chosen = [(place, after) for place, after in keys if (place, after + 3) in self._by_seed][:PAIRS]
        try:
            answers = await self._asked_together([self._sample(*key, n=4) for key in chosen])
        except BadRequest as error:
            self._untold.append(f"seeds: several samples in one request are refused ({error.message:.80})")
            return
        samples = [[tokens for tokens, *_ in answer] for answer in answers]
        if self._finds([(one[0], one[1], self._chance(key[0], one[0])) for key, one in zip(chosen, samples, strict=True)]):
            self._seed_flaws.append(Flaw("seeds repeat", "all samples of one request are the same"))
            return
        pairs = [self._pair((place, after + i), one[i]) for (place, after), one in zip(chosen, samples, strict=True) for i in range(1, 4)]
        if self._finds(pairs):
            detail = "sample i of a request is the draw of seed + i: requests with n samples need seeds n apart"
            self._seed_flaws.append(Flaw("seeds overlap", detail, is_fault=False))

    async def _of_the_next_step(self, keys: Sequence[tuple[int, int]]) -> None:
        """The second token under a seed, beside the first one there under the next seed."""
        two = await self._asked_together([self._sample(*key, tokens=2) for key in keys])
        ways = [(key, *answer[0]) for key, answer in zip(keys, two, strict=True) if len(answer[0]) == 2]
        here = [(*self._contexts[key[0]].prefix, first) for key, first, _ in ways]
        nexts = await self._asked_together(
            [replace(self._sample(key[0], key[1] + 1), token_ids=prefix) for (key, *_), prefix in zip(ways, here, strict=True)]
        )
        pairs = []
        for (_, _, second), prefix, ((token_id, *_),) in zip(ways, here, nexts, strict=True):
            row = as_row(await self._model.next_token_logits(list(prefix)))
            p = np.exp(sampler_of(self._asked, self._order).process(row))
            pairs.append((second, token_id, float(p[second])))
        if self._finds(pairs):
            detail = "step t of a seed is step t - 1 of the next one: runs of neighbouring seeds share their draws"
            self._seed_flaws.append(Flaw("seeds overlap", detail))

    def report(self) -> ConformanceReport:
        """What was found."""
        asked = {name: getattr(self._asked, name) for name in ("temperature", "top_k", "top_p", "min_p")} | {"order": self._order}
        estimate, z_score = temperature_of(self._drawn, self._asked.temperature)
        excluded = [token_id for context, token_id in self._drawn if context.probability(token_id) == 0.0]
        return ConformanceReport(
            (*self._flaws(estimate, z_score, excluded), *self._seed_flaws),
            asked,
            estimate,
            z_score,
            self._evidence.log_peak,
            len(excluded),
            len(self._drawn),
            len(self._contexts),
            self._alpha,
            tuple(self._untold),
            self._asked.seed,
        )

    def _flaws(self, estimate: Estimate, z_score: float, excluded: Sequence[int]) -> list[Flaw]:
        """What explains the draws best, if they need an explanation."""
        if self._is_constant():
            return []  # one draw repeated tells nothing of what it is drawn from
        enough = math.log(2 / self._alpha)
        is_off = math.erfc(abs(z_score) / math.sqrt(2)) < self._alpha / 2
        if not is_off and self._evidence.log_peak < enough:
            return []
        wealths: NDArray[np.float64] = self._evidence.log_wealths
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
            detail = f"draws come as if at {estimate.value:.3f} ± {estimate.standard_error:.3f}, asked for was {self._asked.temperature:g}"
            return [Flaw("temperature", f"{detail}{said}{self._excluded(excluded)}")]
        return [Flaw("distribution", f"draws are not from the reported rows, in no way that is known here{self._excluded(excluded)}")]

    @staticmethod
    def _excluded(excluded: Sequence[int]) -> str:
        if not excluded:
            return ""
        shown = ", ".join(map(str, list(dict.fromkeys(excluded))[:4]))
        return f"; {len(excluded)} draws are tokens that the parameters exclude, such as {shown}"
