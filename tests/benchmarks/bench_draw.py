"""What does drawing one token from one row of 151,936 logits cost, beside the sketch and what else there is?

The sketch is ``softmax`` in numpy and ``np.random.choice`` over the whole vocabulary, given an array (given the list that its interface
promised it takes several times as long). Everything runs interleaved in one process; a ratio is that of two medians, its spread the
quartiles of the ratios round by round. Run: ``python -m tests.benchmarks draw``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from seedbed.sampling import Address, Sampler, softmax

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 151_936
GOAL = 0.35
CALLS = 5  # a round of one alternative: long enough to be measured, short enough that the machine's moods hit all alike


def make_row() -> np.ndarray:
    """As a language model's: a few likely tokens in random places, and a long tail."""
    generator = np.random.Generator(np.random.PCG64(0))
    row = generator.normal(0, 2.5, SIZE) + np.where(generator.random(SIZE) < 1e-4, 12, 0)
    return row.astype(np.float32)


def sketch(logits: np.ndarray) -> int:
    x = np.array(logits)
    x = x - np.max(x)
    e = np.exp(x)
    return int(np.random.choice(np.arange(len(x)), p=e / np.sum(e)))


def alternatives(row: np.ndarray) -> dict[str, Callable[[int], object]]:
    wide = row.astype(np.float64)
    stream = np.random.default_rng(0)
    samplers = {
        "draw": Sampler(),
        "top_p": Sampler(top_p=0.95),
        "top_k": Sampler(top_k=50),
        "min_p": Sampler(min_p=0.05),
        "temperature, top_k, top_p": Sampler(temperature=0.8, top_k=50, top_p=0.95),
    }
    calls: dict[str, Callable[[int], object]] = {
        name: lambda step, sampler=sampler: sampler.draw(row, seed=7, step=step) for name, sampler in samplers.items()
    }
    calls["draw, with logprobs"] = lambda step: samplers["draw"].sample(row, Address(7, step=step))
    calls["sketch"] = lambda _: sketch(wide)
    calls["sketch, float32"] = lambda _: sketch(row)
    calls["Generator.choice"] = lambda _: stream.choice(SIZE, p=softmax(row))
    try:
        import torch
    except ImportError:
        return calls
    torch.set_num_threads(1)
    tensor = torch.from_numpy(row.copy())
    calls["torch multinomial"] = lambda _: int(torch.multinomial(torch.softmax(tensor, -1), 1))
    calls["torch exponential race"] = lambda _: int((torch.softmax(tensor, -1) / torch.empty(SIZE).exponential_()).argmax())
    return calls


def assert_correct(row: np.ndarray) -> None:
    """The draw timed below is the one of the formula, and the filters keep what they should."""
    for step in range(5):
        u = Address(7, step=step).words(SIZE, 1)
        scores = row - np.log(-np.log(((u >> np.uint64(12)) + 0.5) * 2.0**-52))
        assert Sampler().draw(row, seed=7, step=step) == int(scores.argmax())
    kept = np.exp(Sampler(top_p=0.95).process(row))
    whole = softmax(row)
    held = whole[kept > 0].sum()
    assert held >= 0.95 > held - whole[kept > 0].min()
    assert np.count_nonzero(Sampler(top_k=50).process(row) > -np.inf) == 50


def measure(calls: dict[str, Callable[[int], object]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            begun = time.perf_counter()
            for repeat in range(CALLS):
                call(turn * CALLS + repeat)
            if turn:  # the first round warms up
                times[name].append((time.perf_counter() - begun) / CALLS)
    return times


def run(quick: bool) -> list[dict[str, Any]]:
    row = make_row()
    assert_correct(row)
    calls = alternatives(row)
    times = measure(calls, 4 if quick else 15)
    # The sketch's cost depends on what else fills the heap, since the allocator then keeps its arrays or gives them back: so the two
    # by themselves as well.
    alone = measure({name: calls[name] for name in ("draw", "sketch")}, 8 if quick else 40)
    return [
        result("P4", f"one draw / the sketch, V = {SIZE:,}", times["draw"], times["sketch"], GOAL),
        result("", "the same with nothing else in the process", alone["draw"], alone["sketch"], None),
        *(
            result("", f"{name} / the sketch ({np.median(times[name]) * 1e3:.2f} ms)", times[name], times["sketch"], None)
            for name in calls
            if name not in ("draw", "sketch")
        ),
    ]


def result(identity: str, what: str, ours: list[float], theirs: list[float], goal: float | None) -> dict[str, Any]:
    rounds = np.array(ours) / np.array(theirs)
    ratio = float(np.median(ours) / np.median(theirs))
    low, high = (float(quartile) for quartile in np.quantile(rounds, [0.25, 0.75]))
    return {
        "id": identity,
        "what": what,
        "ratio": ratio,
        "low": low,
        "high": high,
        "goal": goal,
        "ok": None if goal is None else ratio <= goal,
    }


if __name__ == "__main__":
    for line in run(quick=False):
        verdict = {True: "met", False: "missed", None: ""}[line["ok"]]
        spread = f"{line['ratio']:6.3f}  {line['low']:.3f} - {line['high']:.3f}"
        print(f"{line['id']:<4}{line['what']:<62}{spread}  {line['goal'] or ''} {verdict}")
