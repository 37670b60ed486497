"""One prefix as two servers answer it: what was recorded beside what is live, under equal conditions only."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seedbed.llm.base import Row, TopLogprobs
from seedbed.regression.evidence import odd_one_out
from seedbed.regression.metrics import FLOOR, common_logprobs, kl_of_logprobs, noise_free_drift
from seedbed.regression.precision import Precision, precision_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Answer", "Compared", "compare", "same_row"]

KEPT = 512
"""How many tokens of a prefix are kept for the causes: the others have no weight there, and 600 prefixes must fit into memory."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and the condition it was had under.

    Attributes:
        row: the answer.
        tags: the condition, such as ("solo", "warm"); () when unknown, which is held against anything.
        concurrency: the most questions under way until it was there; None when unknown.
    """

    row: Row
    tags: tuple[str, ...] = ()
    concurrency: int | None = None

    def is_comparable(self, other: Answer) -> bool:
        """Whether both were had under one condition, as far as is known."""
        return self.tags == other.tags or not self.tags or not other.tags


@dataclass(frozen=True, slots=True)
class Compared:
    """What the answers to one prefix say.

    Attributes:
        prefix: the token ids asked for.
        sequence, prompt: which sequence and which prompt it belongs to, as numbers.
        next_token: the token that followed in the recording; None at an end.
        pairs: a recorded answer and the live one under the same condition; the live one's tags and concurrency.
        identical: of each pair, whether all bits are equal.
        kl: of each pair, KL(recorded || live) in nats.
        noise: KL of each two recorded answers under one condition; ``live_noise``: of each two live ones.
        alike: whether all recorded answers, and all live ones, are the same in every bit, whatever their conditions; of one alone False.
        d, rho: the drift free of noise, and its direction (``metrics.noise_free_drift``); where only one answer was recorded, less what the
            live answers' own noise adds.
        ids: the tokens that any row lists, the most probable first; ``before``, ``after``: their log-probabilities among themselves, mean
            of all recorded and of all live answers.
        listed: probability of these tokens, before.
        gap: how far the best leads the next before, nats; ``flipped``: whether another one is best after.
        gap_noise: squared difference of that lead between recorded answers; nan without two.
        token_before, token_after: log-probability of ``next_token``, or else of the best before.
        support: how many tokens are listed and have any probability, before and after.
        tail: probability of what is not listed, before and after.
        precision: what the numbers of the live rows show of their type, when the recorded ones do not.
    """

    prefix: tuple[int, ...]
    sequence: int
    prompt: int
    next_token: int | None
    pairs: tuple[tuple[tuple[str, ...], int | None], ...]
    identical: tuple[bool, ...]
    kl: tuple[float, ...]
    noise: tuple[float, ...]
    live_noise: tuple[float, ...]
    alike: tuple[bool, bool]
    d: float
    rho: float
    ids: NDArray[np.int64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    listed: float
    gap: float
    flipped: bool
    gap_noise: float
    token_before: float
    token_after: float
    support: tuple[int, int]
    tail: tuple[float, float]
    precision: Precision | None

    @property
    def position(self) -> int:
        """Length of the prefix, in tokens."""
        return len(self.prefix)


def same_row(one: Row, other: Row) -> bool:
    """Whether two rows are equal in every bit."""
    if isinstance(one, TopLogprobs) or isinstance(other, TopLogprobs):
        return isinstance(one, TopLogprobs) and isinstance(other, TopLogprobs) and one == other
    return np.array_equal(one, other)


def compare(
    prefix: Sequence[int],
    recorded: Sequence[Answer],
    live: Sequence[Answer],
    *,
    sequence: int = 0,
    prompt: int = 0,
    next_token: int | None = None,
) -> Compared | None:
    """Hold the answers to one prefix against each other; None when no two were had under one condition.

    Args:
        prefix: the token ids asked for.
        recorded, live: at least one each. A recorded answer is paired with the first live one under its condition that is still free; a
            live one that is left over with the first recorded one under its condition.
        sequence, prompt, next_token: where the prefix belongs.

    Raises:
        RowError: a row that cannot be drawn from; ``MalformedRow`` when the vocabularies differ.
    """
    pairs = _pairs(recorded, live)
    if not pairs:
        return None
    ids, values = common_logprobs([answer.row for answer in (*recorded, *live)], union=True)
    a, b = values[: len(recorded)], values[len(recorded) :]
    d, rho = _drift(a, b, pairs, live)
    has_tail = values.shape[1] > (values.shape[1] if ids is None else ids.size)
    inside = values[:, : values.shape[1] - has_tail]
    ids = np.arange(inside.shape[1]) if ids is None else ids
    first, then = (_normalised(rows.mean(axis=0)) for rows in (inside[: len(recorded)], inside[len(recorded) :]))
    best = np.argsort(-first, kind="stable")
    kept = best[:KEPT]
    token = next_token if next_token is not None and next_token in ids else int(ids[best[0]])
    place = int(np.flatnonzero(ids == token)[0])
    return Compared(
        prefix=tuple(prefix),
        sequence=sequence,
        prompt=prompt,
        next_token=next_token,
        pairs=tuple((live[j].tags, live[j].concurrency) for _, j in pairs),
        identical=tuple(same_row(recorded[i].row, live[j].row) for i, j in pairs),
        kl=tuple(float(kl_of_logprobs(a[i], b[j])) for i, j in pairs),
        noise=_noise(recorded, a),
        live_noise=_noise(live, b),
        alike=(_alike(recorded), _alike(live)),
        d=d,
        rho=rho,
        ids=ids[kept],
        before=_normalised(first[kept]),
        after=_normalised(then[kept]),
        listed=float(np.exp(inside[: len(recorded)]).sum(axis=1).mean()),
        gap=float(first[best[0]] - first[best[1]]) if best.size > 1 else math.inf,
        flipped=int(then.argmax()) != int(best[0]),
        gap_noise=_gap_noise(inside[: len(recorded)], best),
        token_before=float(a[:, place].mean()),
        token_after=float(b[:, place].mean()),
        support=(_support(recorded), _support(live)),
        tail=(_tail(recorded), _tail(live)),
        precision=precision_of([answer.row for answer in recorded], [answer.row for answer in live]),
    )


def _pairs(recorded: Sequence[Answer], live: Sequence[Answer]) -> list[tuple[int, int]]:
    """Places of (recorded, live): each live answer once."""
    pairs, free = [], set(range(len(live)))
    for i, answer in enumerate(recorded):
        j = next((j for j in sorted(free) if live[j].is_comparable(answer)), None)
        if j is not None:
            free.discard(j)
            pairs.append((i, j))
    for j in sorted(free):
        pairs.extend([(i, j) for i, answer in enumerate(recorded) if answer.is_comparable(live[j])][:1])
    return pairs


def _drift(a: NDArray[np.float64], b: NDArray[np.float64], pairs: list[tuple[int, int]], live: Sequence[Answer]) -> tuple[float, float]:
    """D and rho from two pairs with nothing in common, or what can be had instead."""
    apart = []
    used: set[int] = set()
    for i, j in pairs:
        if i not in used:
            used.add(i)
            apart.append((i, j))
    if len(apart) > 1:
        couples = list(itertools.pairwise(apart))[::2]
        drifts = [noise_free_drift(a[i], a[k], b[j], b[m]) for (i, j), (k, m) in couples]
        return float(np.mean([drift.d for drift in drifts])), float(np.mean([drift.rho for drift in drifts]))
    first = apart[0]
    second = next(((i, j) for i, j in pairs if i == first[0] and j != first[1] and live[j].is_comparable(live[first[1]])), None)
    if second is None:
        return float(kl_of_logprobs(a[first[0]], b[first[1]])), 0.0
    # x and y share the recorded answer's noise, half of whose variance enters D; taken off is as much, as the live answers show it.
    i, j, m = first[0], first[1], second[1]
    shared = noise_free_drift(a[i], a[i], b[j], b[m])
    own = noise_free_drift(b[j], b[j], b[m], b[m])
    distances = [math.sqrt(float(noise_free_drift(one, one, other, other).d)) for one, other in ((a[i], b[j]), (a[i], b[m]))]
    return float(shared.d - own.d / 2), odd_one_out(distances, math.sqrt(float(own.d)))


def _noise(answers: Sequence[Answer], logprobs: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(
        float(kl_of_logprobs(logprobs[i], logprobs[j]))
        for i, j in itertools.combinations(range(len(answers)), 2)
        if answers[i].is_comparable(answers[j])
    )


def _alike(answers: Sequence[Answer]) -> bool:
    return len(answers) > 1 and all(same_row(answers[0].row, answer.row) for answer in answers[1:])


def _gap_noise(logprobs: NDArray[np.float64], best: NDArray[np.intp]) -> float:
    if len(logprobs) < 2 or best.size < 2:
        return math.nan
    gaps = logprobs[:, best[0]] - logprobs[:, best[1]]
    return float((gaps[1] - gaps[0]) ** 2)


def _normalised(logprobs: NDArray[np.float64]) -> NDArray[np.float64]:
    top = logprobs.max()
    return np.asarray(np.maximum(logprobs - top - np.log(np.exp(logprobs - top).sum()), FLOOR))


def _support(answers: Sequence[Answer]) -> int:
    rows = [answer.row for answer in answers]
    return min(int(np.isfinite(row.logprobs if isinstance(row, TopLogprobs) else row).sum()) for row in rows)


def _tail(answers: Sequence[Answer]) -> float:
    return max(answer.row.tail_mass if isinstance(answer.row, TopLogprobs) else 0.0 for answer in answers)
