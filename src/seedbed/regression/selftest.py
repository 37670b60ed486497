"""What the check promises, kept by simulation: false alarms, honest intervals, drift below the noise, one wrong row in two hundred,
bits that flicker.

Rows are simulated, statistics and verdicts are the check's own. Logits are normal with standard deviation 3 over 256 tokens, an entropy of
about 2 nats. Half of the variance of the noise is shared by all prefixes of one sequence, as in a server that computes them in one cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from seedbed.regression.check import report_of
from seedbed.regression.compared import Answer, compare
from seedbed.regression.continued import Evidence
from seedbed.regression.estimates import Estimate, clustered_mean
from seedbed.regression.evidence import EProcess, sequence_scores, sparse_corruption
from seedbed.regression.metrics import TAIL_RESOLUTION, kl_of_logprobs, noise_free_drift
from seedbed.regression.quantiles import clopper_pearson
from seedbed.regression.verdict import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Promise", "selftest"]

VOCAB_SIZE, PREFIXES = 256, 8  # prefixes of a sequence
UNEVEN = ((1, 1, 20), (10, 10, 60), (4, 4, 4, 4, 60), (1, 2, 4, 8, 16, 32), (1,) * 6 + (40,))
"""Prefixes of the sequences of recordings in which one holds most of them."""
FLICKER = ((0.003, 9), (0.01, 9), (0.03, 9), (0.1, 1), (0.5, 1))
"""How often an answer is another one, and of how many others: of one, half the time, is what looks most like a change."""
NOISE, GREAT_NOISE = 1.5e-4, 1.5e-2
ALPHA, MARGIN = 0.01, 1e-4
DOSES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise and how it was kept.

    Attributes:
        name: what is promised.
        seen, of: how often it happened, in how many simulated checks.
        limit: what the rate must be at most, or at least.
        is_ceiling: whether ``limit`` is the most.
        note: what else was measured.
    """

    name: str
    seen: int
    of: int
    limit: float
    is_ceiling: bool
    note: str = ""

    @property
    def rate(self) -> float:
        """How often it happened."""
        return self.seen / self.of

    @property
    def is_kept(self) -> bool:
        """Whether the rate is on the right side of the limit."""
        return self.rate <= self.limit if self.is_ceiling else self.rate >= self.limit

    def __str__(self) -> str:
        low, high = clopper_pearson(self.seen, self.of)
        limit = f"{'at most' if self.is_ceiling else 'at least'} {100 * self.limit:g} %"
        state = "kept" if self.is_kept else "BROKEN"
        rate = f"{100 * self.rate:6.2f} % [{100 * low:.2f}, {100 * high:.2f}] of {self.of}"
        return f"{state:<7} {self.name:<52} {limit:<14} {rate}{'  ' + self.note if self.note else ''}"


def selftest(*, checks: int = 1000, seed: int = 0, tell: Callable[[Promise], None] = lambda _: None) -> list[Promise]:
    """Simulate checks and count how the promises are kept.

    Args:
        checks: how many for the false alarms; the other promises take a fifth of it each.
        seed: another seed is another simulation; the same one gives the same numbers.
        tell: called with each promise as soon as it is known; what it raises comes out.

    Example:
        >>> all(promise.is_kept for promise in selftest(checks=20))
        True
    """
    kept = []
    for number, promise in enumerate(_promises(checks)):
        kept.append(promise(np.random.Generator(np.random.Philox(key=(seed << 8) + number))))
        tell(kept[-1])
    return kept


def _promises(checks: int) -> Iterator[Callable[[np.random.Generator], Promise]]:
    few = max(20, checks // 5)
    for top_k, rows in ((None, "full rows"), (20, "top 20")):
        for name, shapes, noise in (
            (f"same server, {rows}: DRIFT or CHANGED", (_even(12),), NOISE),
            (f"the same with one long sequence, {rows}", UNEVEN, GREAT_NOISE),
        ):
            yield partial(_false_alarms, top_k=top_k, name=name, checks=checks, shapes=shapes, noise=noise)
        yield lambda chance, k=top_k, rows=rows: _doses(chance, k, rows, few)  # type: ignore[misc]
        yield lambda chance, k=top_k, rows=rows: _below_noise(chance, k, rows, few)  # type: ignore[misc]
        yield lambda chance, k=top_k, rows=rows: _one_in_two_hundred(chance, k, rows, few)  # type: ignore[misc]
    yield partial(_flickering, checks=few)


def _false_alarms(
    chance: np.random.Generator, top_k: int | None, name: str, checks: int, *, shapes: Sequence[Sequence[int]], noise: float
) -> Promise:
    """The same server, recordings of one of these shapes after the other: neither DRIFT nor CHANGED."""
    alarms = 0
    for number in range(checks):
        lengths = shapes[number % len(shapes)]
        verdict = _Check.of(_answers(chance, lengths, 0.0, noise=noise)[0], lengths, top_k).verdict
        alarms += verdict in (Verdict.DRIFT, Verdict.CHANGED)
    return Promise(name, alarms, checks, ALPHA, True)


def _doses(chance: np.random.Generator, top_k: int | None, rows: str, checks: int) -> Promise:
    """A planted drift lies in its 95 % interval. What is planted is measured on the rows before noise is added, cut as the others are."""
    inside, ratios = 0, []
    for number in range(checks):
        dose = DOSES[number % len(DOSES)]
        answers, clean = _answers(chance, _even(12), dose)
        check = _Check.of(answers, _even(12), top_k)
        truth = float(noise_free_drift(*_seen(clean, top_k)).d.mean())
        low, high = check.drift.interval()
        inside += low <= truth <= high
        ratios.append(check.drift.value / float(kl_of_logprobs(clean[0], clean[2]).mean()))
    note = f"D / KL {np.median(ratios):.3f}"
    return Promise(f"drift of 1e-5 to 1e-1, {rows}: in its 95 % interval", inside, checks, 0.9, False, note)


def _below_noise(chance: np.random.Generator, top_k: int | None, rows: str, checks: int) -> Promise:
    """A drift of 1e-4 under a noise of 1.5e-4, in 600 rows a side: the evidence reaches 1/alpha."""
    found, stops = 0, []
    for _ in range(checks):
        process = EProcess()
        drift = noise_free_drift(*_seen(_answers(chance, _even(37), 1e-4)[0], top_k))
        for score in sequence_scores(drift.rho, _members(_even(37))):
            process.add(score)
            if process.is_alarm(ALPHA):
                found += 1
                stops.append(process.sequences)
                break
    note = f"median after {np.median(stops) * PREFIXES * 2:.0f} rows a side" if stops else ""
    return Promise(f"drift 1e-4 under noise 1.5e-4, {rows}: found in 600", found, checks, 0.95, False, note)


def _one_in_two_hundred(chance: np.random.Generator, top_k: int | None, rows: str, checks: int) -> Promise:
    """One prefix of two hundred gets the answer to another one: DRIFT, by that prefix and no other."""
    found = 0
    for _ in range(checks):
        answers, _ = _answers(chance, _even(25), 0.0)
        wrong, other = chance.choice(200, 2, replace=False)
        answers[2:, wrong] = answers[2:, other]
        check = _Check.of(answers, _even(25), top_k)
        found += check.verdict is Verdict.DRIFT and check.wrong == (int(wrong),)
    return Promise(f"one wrong answer in 200, {rows}: found", found, checks, 0.99, False)


def _flickering(chance: np.random.Generator, checks: int) -> Promise:
    """A server that now and then gives one of few other rows, an ulp or far off: by its bits alone neither DRIFT nor CHANGED."""
    alarms = 0
    for number in range(checks):
        rate, others = FLICKER[number % len(FLICKER)]
        process, rows = EProcess(), []
        for sequence in range(6):
            for position in range(PREFIXES // 2):
                row = chance.normal(0, 3, 64).astype(np.float32)
                flickers = np.nextafter(row, chance.choice([-99, 99], (others, row.size)).astype(np.float32))
                choices = np.where(chance.random(4) < rate, chance.integers(1, others + 1, 4), 0)
                answers = [Answer(row if choice == 0 else flickers[choice - 1]) for choice in choices]
                compared = compare((sequence, position), answers[:2], answers[2:], sequence=sequence)
                assert compared is not None
                rows.append(compared)
        for score in sequence_scores([row.rho for row in rows], [row.sequence for row in rows]):
            process.add(score)
        evidence = Evidence("0" * 64, ALPHA, 2, False, (0.0,), 0).after(process)
        alarms += report_of(rows, evidence, margin=MARGIN).verdict in (Verdict.DRIFT, Verdict.CHANGED)
    return Promise("same server whose bits flicker: DRIFT or CHANGED", alarms, checks, ALPHA, True)


@dataclass(frozen=True, slots=True)
class _Check:
    """One simulated check."""

    verdict: Verdict
    drift: Estimate
    wrong: tuple[int, ...]

    @classmethod
    def of(cls, answers: NDArray[np.float64], lengths: Sequence[int], top_k: int | None) -> _Check:
        a1, a2, b1, b2 = _seen(answers, top_k)
        d, rho = noise_free_drift(a1, a2, b1, b2)
        sequences = _members(lengths)
        process = EProcess()
        for score in sequence_scores(rho, sequences):
            process.add(score)
        kl = np.stack([kl_of_logprobs(a1, b1), kl_of_logprobs(a2, b2)], axis=1)
        sparse = sparse_corruption(d, kl, kl_of_logprobs(a1, a2), margin=MARGIN)
        drift = clustered_mean(d, sequences)
        verdict = judge(
            drift,
            margin=MARGIN,
            alpha=ALPHA,
            is_identical=False,
            is_exact=False,
            is_changed=process.is_alarm(ALPHA),
            is_corrupt=sparse.is_alarm,
        )
        return cls(verdict, drift, sparse.persistent)


def _even(sequences: int) -> tuple[int, ...]:
    return (PREFIXES,) * sequences


def _members(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Which sequence each prefix belongs to."""
    return np.repeat(np.arange(len(lengths)), lengths)


def _answers(
    chance: np.random.Generator, lengths: Sequence[int], dose: float, *, noise: float = NOISE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-probabilities of two answers before and two after, a drift of ``dose`` nats between them, and the same without noise; shape
    (4, prefixes, tokens) each."""
    shape = (sum(lengths), VOCAB_SIZE)
    logits = chance.normal(0, 3, shape)
    shift = chance.normal(0, np.sqrt(2 * dose), shape) if dose else np.zeros(shape)
    p = np.exp(_normalised(logits))
    spread = 1 - (p * p).sum(axis=-1, keepdims=True)
    shift /= np.sqrt(spread)
    clean = np.stack([logits, logits, logits + shift, logits + shift])
    sigma = np.sqrt(noise / 2)
    noises = chance.normal(0, sigma, (4, *shape)) + chance.normal(0, sigma, (4, len(lengths), VOCAB_SIZE))[:, _members(lengths)]
    return _normalised(clean + noises / np.sqrt(spread)), _normalised(clean)


def _normalised(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))


def _seen(answers: NDArray[np.float64], top_k: int | None) -> NDArray[np.float64]:
    """The answers as lists of their ``top_k`` best show them: as ``metrics.common_logprobs`` with ``union``, for all prefixes at once."""
    if top_k is None:
        return answers
    least = -np.partition(-answers, top_k - 1, axis=-1)[..., top_k - 1 : top_k]
    listed = answers >= least
    tails = np.maximum(1 - np.where(listed, np.exp(answers), 0.0).sum(axis=-1, keepdims=True), TAIL_RESOLUTION)
    lowest = np.where(listed, answers, np.inf).min(axis=0)
    filled = np.where(listed, answers, np.minimum(lowest, np.minimum(least, np.log(tails))))
    known = np.where(listed.any(axis=0), filled, -np.inf)
    rest = np.maximum(1 - np.exp(known).sum(axis=-1, keepdims=True), TAIL_RESOLUTION)
    return np.concatenate([known, np.log(rest)], axis=-1)
