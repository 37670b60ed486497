"""One prefix as two servers answer it: what was recorded beside what is live, under equal conditions only."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seedbed.llm.base import Row, TopLogprobs
from seedbed.recording.compare import same_row
from seedbed.regression.evidence import ONE_AGAINST_TWO, TWO_AGAINST_TWO, odd_one_out
from seedbed.regression.metrics import common_logprobs, kl_of_logprobs, noise_free_drift, normalised
from seedbed.regression.precision import Precision, precision_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Answer", "Compared", "compare"]

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
        alike: whether all recorded answers, and all live ones, are the same in every bit, whatever their conditions; None of one alone.
        repeated: the same of those had under one condition; None where no two were.
        d, rho: the drift free of noise, and its direction (``metrics.noise_free_drift``); where one side has one answer only, less what the
            noise of the other side's adds.
        is_noise_free: whether that could be had; of one answer on either side ``d`` is KL(recorded || live), noise and all.
        parting: the most that the chance of ``is_parted`` can be where answers differ and nothing changed; 1 when they cannot tell.
        ids: the tokens that any row lists, the most probable first; ``before``, ``after``: their log-probabilities among themselves, mean
            of all recorded and of all live answers.
        listed: probability of these tokens, before.
        gap: how far the best leads the next before, nats; ``flipped``: whether another one is best after.
        gap_noise: squared difference of that lead between two recorded answers under one condition, or else two live ones, in the mean; nan
            without two.
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
    alike: tuple[bool | None, bool | None]
    repeated: tuple[bool | None, bool | None]
    d: float
    rho: float
    is_noise_free: bool
    parting: float
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

    @property
    def differs(self) -> bool:
        """Whether any two of its answers that should be the same are not."""
        return not all(self.identical) or False in self.repeated

    @property
    def is_parted(self) -> bool:
        """Whether the recorded answers are one and the same, and so are the live ones, but another: as when an exact server changed."""
        return self.differs and self.parting < 1 and False not in self.alike


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
    d, rho, is_noise_free = _drift(a, b, pairs, recorded, live)
    repeated = _repeated(recorded), _repeated(live)
    has_tail = values.shape[1] > (values.shape[1] if ids is None else ids.size)
    inside = values[:, : values.shape[1] - has_tail]
    ids = np.arange(inside.shape[1]) if ids is None else ids
    first, then = (normalised(rows.mean(axis=0)) for rows in (inside[: len(recorded)], inside[len(recorded) :]))
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
        repeated=repeated,
        d=d,
        rho=rho,
        is_noise_free=is_noise_free,
        parting=_parting(len(_apart(pairs)), repeated),
        ids=ids[kept],
        before=normalised(first[kept]),
        after=normalised(then[kept]),
        listed=float(np.exp(inside[: len(recorded)]).sum(axis=1).mean()),
        gap=float(first[best[0]] - first[best[1]]) if best.size > 1 else math.inf,
        flipped=int(then.argmax()) != int(best[0]),
        gap_noise=_gap_noise(recorded, inside[: len(recorded)], live, inside[len(recorded) :], best),
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


def _apart(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pairs that have no answer in common."""
    apart: dict[int, tuple[int, int]] = {}
    for pair in pairs:
        apart.setdefault(pair[0], pair)  # a live answer is in one pair only
    return list(apart.values())


def _drift(
    a: NDArray[np.float64], b: NDArray[np.float64], pairs: list[tuple[int, int]], recorded: Sequence[Answer], live: Sequence[Answer]
) -> tuple[float, float, bool]:
    """D and rho from two pairs with nothing in common, or what can be had instead; and whether D is free of noise."""
    apart = _apart(pairs)
    if len(apart) > 1:
        couples = list(itertools.pairwise(apart))[::2]
        drifts = [noise_free_drift(a[i], a[k], b[j], b[m]) for (i, j), (k, m) in couples]
        return float(np.mean([drift.d for drift in drifts])), float(np.mean([drift.rho for drift in drifts])), True
    i, j = apart[0]
    for lone, several, place, answers in ((a[i], b, j, live), (b[j], a, i, recorded)):
        second = next((k for k in _comparable(answers, place) if _is_comparable_to_all(answers[k], recorded[i], live[j])), None)
        if second is not None:
            return (*_one_against_two(lone, several[place], several[second]), True)
    return float(kl_of_logprobs(a[i], b[j])), 0.0, False


def _one_against_two(lone: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float]:
    # Both differences share the lone answer's noise, half of whose variance enters D; taken off is as much, as the other two show it.
    shared = noise_free_drift(lone, lone, first, second)
    own = noise_free_drift(first, first, second, second)
    distances = [math.sqrt(float(noise_free_drift(lone, lone, other, other).d)) for other in (first, second)]
    return float(shared.d - own.d / 2), odd_one_out(distances, math.sqrt(float(own.d)))


def _comparable(answers: Sequence[Answer], place: int) -> list[int]:
    """Places of the others had under the condition of the one at ``place``."""
    return [k for k, answer in enumerate(answers) if k != place and answer.is_comparable(answers[place])]


def _is_comparable_to_all(answer: Answer, *others: Answer) -> bool:
    return all(answer.is_comparable(other) for other in others)


def _noise(answers: Sequence[Answer], logprobs: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(kl_of_logprobs(logprobs[i], logprobs[j])) for i, j in _couples(answers))


def _couples(answers: Sequence[Answer]) -> list[tuple[int, int]]:
    """Places of each two had under one condition."""
    return [(i, j) for i, j in itertools.combinations(range(len(answers)), 2) if answers[i].is_comparable(answers[j])]


def _alike(answers: Sequence[Answer]) -> bool | None:
    return all(same_row(answers[0].row, answer.row) for answer in answers[1:]) if len(answers) > 1 else None


def _repeated(answers: Sequence[Answer]) -> bool | None:
    couples = _couples(answers)
    return all(same_row(answers[i].row, answers[j].row) for i, j in couples) if couples else None


def _parting(apart: int, repeated: tuple[bool | None, bool | None]) -> float:
    """See ``evidence.parting_p_value``."""
    if apart > 1:
        return TWO_AGAINST_TWO
    return 1.0 if repeated == (None, None) else ONE_AGAINST_TWO


def _gap_noise(
    recorded: Sequence[Answer], before: NDArray[np.float64], live: Sequence[Answer], after: NDArray[np.float64], best: NDArray[np.intp]
) -> float:
    for answers, logprobs in ((recorded, before), (live, after)):
        couples = _couples(answers)
        if couples and best.size > 1:
            gaps = logprobs[:, best[0]] - logprobs[:, best[1]]
            return float(np.mean([(gaps[i] - gaps[j]) ** 2 for i, j in couples]))
    return math.nan


def _support(answers: Sequence[Answer]) -> int:
    rows = [answer.row for answer in answers]
    return min(int(np.isfinite(row.logprobs if isinstance(row, TopLogprobs) else row).sum()) for row in rows)


def _tail(answers: Sequence[Answer]) -> float:
    return max(answer.row.tail_mass if isinstance(answer.row, TopLogprobs) else 0.0 for answer in answers)
