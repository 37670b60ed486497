"""Tools for testing programs that sample, and models of one's own.

A model without a server (``ScriptedLLM``), what every model must keep (``check_llm``), every schedule (``schedules``) and every
cancellation (``cancel_at_each_step``), and draws held against a distribution (``assert_same_distribution``). These are public and stable,
and meant for your tests too. They need nothing but seedbed itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import trio
import trio.testing
from trio._core import _run as _trio_run  # private: see _run_scheduled()

from seedbed.errors import MalformedRow
from seedbed.llm.base import LLM, ModelInfo, Row, TopLogprobs, as_ahead, as_row, row_length
from seedbed.llm.threads import as_llm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike

__all__ = ["ScriptedLLM", "assert_same_distribution", "cancel_at_each_step", "check_llm", "schedules"]

T = TypeVar("T")


class ScriptedLLM(LLM):
    """A model that answers by a script: no server, no weights, any delay, any failure.

    Args:
        script: what to answer to which prefix (a tuple of ids): a row, ``TopLogprobs``, or an exception to raise; or a function from the
            prefix to one of these.
        default: the answer to every prefix that is not in the script.
        stop_token_id: the token that ends a sequence.
        delay: seconds before every answer, on trio's clock, or a function from the prefix to them.
        info: what ``.info`` says.

    Attributes:
        asked: every prefix asked for, in order, as tuples.

    Raises:
        LookupError: asked for a prefix that has no answer.

    Example:
        >>> llm = ScriptedLLM({(5,): [0.0, 9.0]}, default=[9.0, 0.0])
        >>> trio.run(llm.next_token_logits, [5]), trio.run(llm.next_token_logits, [5, 1]), llm.asked
        ([0.0, 9.0], [9.0, 0.0], [(5,), (5, 1)])
    """

    def __init__(
        self,
        script: Mapping[tuple[int, ...], Any] | Callable[[tuple[int, ...]], Any],
        *,
        default: Any = None,
        stop_token_id: int = 0,
        delay: float | Callable[[tuple[int, ...]], float] = 0.0,
        info: ModelInfo | None = None,
    ) -> None:
        self.asked: list[tuple[int, ...]] = []
        self._answer: Callable[[tuple[int, ...]], Any] = script if callable(script) else lambda prefix: script.get(prefix, default)
        self._stop_token_id, self._delay, self._info = stop_token_id, delay, info

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> ArrayLike | TopLogprobs:
        prefix = tuple(prev_token_ids)
        self.asked.append(prefix)
        await trio.sleep(self._delay(prefix) if callable(self._delay) else self._delay)
        answer = self._answer(prefix)
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            raise LookupError(f"the script has no answer for {list(prefix)}")
        return answer  # type: ignore[no-any-return]

    def get_stop_token_id(self) -> int:
        return self._stop_token_id

    @property
    def info(self) -> ModelInfo | None:
        return self._info


async def check_llm(llm: object, prefixes: Sequence[Sequence[int]] = ((1,), (1, 2), (1,)), *, patience: float = 60.0) -> None:
    """Hold an implementation of ``LLM`` to its contract; raises AssertionError with what it broke.

    Checked: rows are well-formed and of one length, the same for the same prefix, alone and with others in flight; the prefix is not
    modified; every call is a checkpoint; a cancelled call ends, whether it had begun or not, and leaves the next ones right; rows ahead
    are as many as allowed and those of their own prefixes; stop tokens are inside the vocabulary.

    Args:
        llm: the model, or any object that ``as_llm`` takes for one.
        prefixes: what to ask; ids of its vocabulary.
        patience: seconds to wait for answers after a cancelled call, before something it held is taken to be lost.

    Concurrency:
        Needs the model to itself.

    Example:
        >>> trio.run(check_llm, ScriptedLLM({}, default=[0.0, 1.0, 2.0]))
    """
    try:
        await _check_llm(as_llm(llm), prefixes, patience)
    except MalformedRow as error:
        raise AssertionError(error.message) from error


async def _check_llm(llm: LLM, prefixes: Sequence[Sequence[int]], patience: float) -> None:
    alone = [await _asked_alone(llm, prefix) for prefix in prefixes]
    lengths = {row_length(row) for row in alone}
    assert len(lengths) == 1, f"rows of several lengths: {sorted(lengths)}"
    first = dict(zip(map(tuple, reversed(prefixes)), reversed(alone), strict=True))
    for prefix, row in zip(prefixes, alone, strict=True):
        _assert_same(first[tuple(prefix)], row, f"prefix {list(prefix)} asked twice")
    await _cancel_calls(llm, prefixes[0])
    with trio.move_on_after(patience) as waiting:
        together = await _asked_together(llm, prefixes)
        for prefix, want, have in zip(prefixes, alone, together, strict=True):
            _assert_same(want, have, f"prefix {list(prefix)} alone and with others in flight")
        await _check_ahead(llm, list(prefixes[0]), alone[0])
    assert not waiting.cancelled_caught, f"no answer {patience:g} s after a cancelled call: does it hold something that is not given back?"
    for token_id in (llm.get_stop_token_id(), *llm.eos_token_ids):
        assert 0 <= token_id < max(lengths), f"stop token {token_id} is outside the vocabulary of {max(lengths)}"


async def _asked_alone(llm: LLM, prefix: Sequence[int]) -> Row:
    asked, answer = list(prefix), None
    try:
        with trio.testing.assert_checkpoints():
            answer = await llm.next_token_logits(asked)
    except AssertionError as error:
        if answer is None:
            raise
        raise AssertionError(
            "next_token_logits has no checkpoint, so other tasks never have their turn: await something of trio's"
        ) from error
    assert asked == list(prefix), f"next_token_logits modified its argument: want {list(prefix)}, have {asked}"
    return as_row(answer)


async def _asked_together(llm: LLM, prefixes: Sequence[Sequence[int]]) -> list[Row]:
    answers: dict[int, ArrayLike | TopLogprobs] = {}

    async def ask(place: int) -> None:
        answers[place] = await llm.next_token_logits(list(prefixes[place]))

    async with trio.open_nursery() as nursery:
        for place in range(len(prefixes)):
            nursery.start_soon(ask, place)
    return [as_row(answers[place]) for place in range(len(prefixes))]


async def _cancel_calls(llm: LLM, prefix: Sequence[int]) -> None:
    """One before it begins, one that has begun; a call so quick that it is over by then has nothing to end."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await llm.next_token_logits(list(prefix))
    assert scope.cancelled_caught, "a call inside a cancelled scope must raise Cancelled: it has no checkpoint"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(llm.next_token_logits, list(prefix))
        for _ in range(2):  # after one it need not have had its turn
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def _check_ahead(llm: LLM, prefix: list[int], alone: Row) -> None:
    for count in (1, 3):
        proposed, rows = as_ahead(await llm.logits_ahead(prefix, count), count)
        _assert_same(alone, rows[0], f"prefix {prefix} alone and as row 0 of {count} ahead")
        for place in range(1, len(rows)):
            longer = [*prefix, *proposed[:place]]
            _assert_same(as_row(await llm.next_token_logits(longer)), rows[place], f"prefix {longer} alone and as row {place} ahead")


def cancel_at_each_step(
    main: Callable[[], Awaitable[T]], check: Callable[[], object] = lambda: None, *, clock: Callable[[], trio.abc.Clock] | None = None
) -> int:
    """Run ``main`` again and again, cancelling it before its 1st, 2nd, 3rd ... step, until it runs to its end; returns how often.

    A step is the stretch between two checkpoints of any task ``main`` started. Use it to show that cancellation, wherever it strikes,
    leaks nothing.

    Args:
        main: an async function; each run gets a trio loop of its own.
        check: called after every cancelled run; asserts what must hold then.
        clock: makes a clock a run; the default is a virtual one that skips all waiting.

    An error of ``main`` or ``check`` comes out with a note that says which step it was.

    Example:
        >>> async def main():
        ...     for _ in range(3):
        ...         await trio.lowlevel.checkpoint()
        >>> cancel_at_each_step(main) > 3
        True
    """
    k = 0
    while True:
        k += 1
        canceller = _Canceller(k)
        try:
            trio.run(canceller.run, main, instruments=[canceller], clock=_virtual_clock() if clock is None else clock())
            if not canceller.struck:
                return k
            check()
        except BaseException as error:
            error.add_note(f"when cancelled before step {k}" if canceller.struck else "when not cancelled")
            raise


class _Canceller(trio.abc.Instrument):
    """Cancels before the k-th step of any task under ``run``."""

    def __init__(self, k: int) -> None:
        self._left, self._scope = k, trio.CancelScope()
        self._entry: trio.lowlevel.Task | None = None
        self.struck = False

    async def run(self, main: Callable[[], Awaitable[object]]) -> None:
        self._entry = trio.lowlevel.current_task()
        with self._scope:
            await main()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._entry is None or self.struck or not self._is_ours(task):
            return
        self._left -= 1
        if self._left == 0:
            self.struck = True
            self._scope.cancel()

    def _is_ours(self, task: trio.lowlevel.Task) -> bool:
        at: trio.lowlevel.Task | None = task
        while at is not None:
            if at is self._entry:
                return True
            at = at.parent_nursery.parent_task if at.parent_nursery is not None else None
        return False


def schedules(count: int = 50, *, first: int = 0) -> Iterator[Callable[..., Any]]:
    """``count`` runners, each like ``trio.run`` but on a virtual clock, and with the scheduler's choices fixed by a seed of its own.

    trio shuffles tasks that become ready together; "the same under any schedule" means: run under each of these, compare. In a property
    test draw the seed: ``(run,) = schedules(1, first=seed)``, since hypothesis gives trio the same one for every example.

    Args:
        first: the seed of the first, the others count on from it; a seed gives the same schedule each time.

    Raises:
        RuntimeError: from a runner, when this trio chooses its schedule in another way than is known here.

    Example:
        >>> async def main():
        ...     order = []
        ...     async def note(k):
        ...         order.append(k)
        ...     async with trio.open_nursery() as nursery:
        ...         for k in range(4):
        ...             nursery.start_soon(note, k)
        ...     return tuple(order)
        >>> len({run(main) for run in schedules(50)}) > 10
        True
    """
    for seed in range(first, first + count):
        yield lambda main, *args, seed=seed: _run_scheduled(seed, main, args)


def _run_scheduled(seed: int, main: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    if not hasattr(_trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING"):
        raise RuntimeError(f"trio {trio.__version__} chooses its schedule in another way: schedules() does not know how to fix it")
    before = _trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    state = _trio_run._r.getstate()
    _trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _trio_run._r.seed(seed)
    try:
        return trio.run(main, *args, clock=_virtual_clock())
    finally:
        _trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
        _trio_run._r.setstate(state)


def _virtual_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


def assert_same_distribution(counts: ArrayLike, probabilities: ArrayLike, *, alpha: float = 1e-6) -> float:
    """Assert that observed counts could well come from a distribution; returns the p-value of the chi-square test.

    The rarest cells are merged into one until that is expected 5 times. With fixed seeds the outcome is fixed too: a failure is a change.

    Args:
        counts: how often each outcome was seen, shape (k,).
        probabilities: of each outcome, shape (k,), summing to 1; an outcome of probability 0 must not have been seen.
        alpha: the p-value below which it fails.

    Raises:
        AssertionError: with the cells that are furthest off.

    Example:
        >>> assert_same_distribution([520, 480], [0.5, 0.5]) > 0.2
        True
    """
    seen, p = np.asarray(counts, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    assert seen.shape == p.shape, f"{seen.shape} counts for {p.shape} probabilities"
    assert seen.sum() > 0, "nothing was counted, so nothing can be said"
    assert abs(p.sum() - 1) < 1e-9, f"the probabilities sum to {p.sum()}"
    assert not seen[p == 0].any(), f"outcomes of probability 0 were seen: {np.flatnonzero((p == 0) & (seen > 0)).tolist()}"
    expected = p * seen.sum()
    order = np.argsort(expected, kind="stable")
    # The rarest cells make one, as few as bring it to 5: below that a chi-square test takes chance for a difference.
    merged = max(int(np.searchsorted(expected[order].cumsum(), 5.0)) + 1, int((expected < 5).sum()))
    few, many = order[:merged], np.sort(order[merged:])
    have, want = np.append(seen[many], seen[few].sum()), np.append(expected[many], expected[few].sum())
    terms = (have - want) ** 2 / want
    p_value = _chi_square_tail(float(terms.sum()), len(terms) - 1)
    names = [f"cell {cell}" for cell in many.tolist()] + [f"the {merged} rarest cells" if merged > 1 else f"cell {few[0]}"]
    worst = np.argsort(-terms, kind="stable")[:3].tolist()
    report = "; ".join(f"{names[place]}: want {want[place]:.1f}, have {have[place]:.0f}" for place in worst)
    assert p_value >= alpha, f"p = {p_value:.3g} < {alpha:g} over {len(terms)} cells; {report}"
    return p_value


def _chi_square_tail(statistic: float, degrees: int) -> float:
    """P(chi-square with ``degrees`` > statistic): the upper regularised gamma function at (degrees/2, statistic/2).

    Source: Abramowitz and Stegun 6.5.29 (series) and 6.5.31 (continued fraction, by Lentz's method).
    """
    a, x = degrees / 2, statistic / 2
    if degrees == 0 or x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        k = a
        while term > total * 1e-16:
            k += 1
            term *= x / k
            total += term
        return max(0.0, 1 - scale * total)
    b = x + 1 - a
    c, d = math.inf, 1 / b
    fraction = d
    for k in range(1, 10_000):
        numerator = k * (a - k)
        b += 2
        d = 1 / (numerator * d + b)
        c = b + numerator / c
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return scale * fraction


def _assert_same(want: Row, have: Row, where: str) -> None:
    listed = isinstance(want, TopLogprobs) or isinstance(have, TopLogprobs)
    assert want == have if listed else np.array_equal(want, have), f"{where}: want {want!r}, have {have!r}"  # type: ignore[arg-type]
