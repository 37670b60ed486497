"""Patterns on the loop: each example runs, is short, says the same twice, and does what it says it does."""

import json
import subprocess
import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import trio

from seedbed import PrefixCache, TinyLM, generate
from seedbed.testing import ScriptedLLM, schedules

HERE = Path(__file__).parent
EXAMPLES = {
    "best_of_n.py": "is the best of 11 that ended",
    "self_consistency.py": "'random,' wins the vote of 40",
    "rejection.py": "In winter",
    "beam_search.py": "-3.991  When the same paths as yesterday.",
    "steering.py": "steered",
    "speculative.py": "the same tokens: True",
}


def example(name):
    spec = util.spec_from_file_location(name, HERE / f"{name}.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# As ``python tests/examples/NAME`` would, one after the other: so six processes need not import numpy six times.
AS_THEY_ARE = """
import contextlib, io, json, runpy, sys
said = {}
for path in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        runpy.run_path(path, run_name="__main__")
    said[path] = out.getvalue()
print(json.dumps(said))
"""


def test_they_run_as_they_are_say_the_same_in_another_process_and_are_short(capsys):
    paths = [str(HERE / name) for name in EXAMPLES]
    there = json.loads(subprocess.run([sys.executable, "-c", AS_THEY_ARE, *paths], capture_output=True, text=True, check=True).stdout)
    for path, (name, says) in zip(paths, EXAMPLES.items(), strict=True):
        trio.run(example(name.removesuffix(".py")).main)
        here = capsys.readouterr().out

        assert says in here, name
        assert here == there[path], name
        assert len((HERE / name).read_text("utf-8").splitlines()) < 60, name


async def test_the_best_of_n_is_the_likeliest_of_them():
    best_of_n = example("best_of_n")
    best, ended = await best_of_n.best_of(TinyLM(), list(best_of_n.PROMPT), 16, seed=7)

    assert best in ended
    assert all(best_of_n.score(best) >= best_of_n.score(other) for other in ended)


def slow_if(token_id):
    """Tokens 1 and 2 with probability 3/4 and 1/4, then the end; who got ``token_id`` waits a hundred times as long for it."""

    def row(prefix):
        return np.log([1e-30, 0.75, 0.25]) if len(prefix) == 1 else [9e9, 0.0, 0.0]

    return ScriptedLLM(row, delay=lambda prefix: 100.0 if prefix[-1] == token_id and len(prefix) > 1 else 1.0)


@pytest.mark.parametrize("slow", [1, 2])
def test_a_vote_is_that_of_all_however_slow_the_winners_are_and_stops_early(slow):
    vote = example("self_consistency").vote
    for run in schedules(3):
        winner, votes, cut = run(lambda: vote(slow_if(slow), [5], 40, lambda sequence: sequence.token_ids[0], seed=7))

        assert winner == 1
        assert 0 < cut <= 40 - votes.total()


def test_what_is_accepted_is_the_first_in_order_however_long_it_takes():
    """Asked for any sequence, the first of all comes out, though the ones with the other token finish a hundred times sooner."""
    first_accepted = example("rejection").first_accepted
    for slow in (1, 2):
        for run in schedules(3):
            assert run(lambda: first_accepted(slow_if(slow), [5], lambda sequence: True, seed=7)).index == 0  # noqa: B023
    (run,) = schedules(1)
    second = run(lambda: first_accepted(slow_if(2), [5], lambda sequence: sequence.token_ids[0] == 2, seed=7))
    everyone = run(lambda: generate([5], slow_if(2), n=64, seed=7))

    assert second == next(sequence for sequence in everyone.sequences if sequence.token_ids[0] == 2)
    assert run(lambda: first_accepted(slow_if(2), [5], lambda sequence: sequence.token_ids[0] == 2, seed=7, timeout=50)) is None
    assert run(lambda: first_accepted(slow_if(2), [5], lambda sequence: False, seed=7)) is None


async def test_a_beam_as_wide_as_everything_finds_the_best_of_all():
    """Two steps over four tokens: all 16 are looked at by hand."""
    rows = {(9,): [0.0, 1.0, 2.0, 0.5]} | {(9, t): [float(t), 0.3, -1.0, 2.0] for t in (1, 2, 3)}
    best = await example("beam_search").beam_search(ScriptedLLM(rows), [9], width=16, max_new_tokens=2)

    def logprobs(row):
        return row - np.logaddexp.reduce(row)

    first = logprobs(np.array(rows[9,]))
    want = {(0,): first[0]} | {(s, t): first[s] + logprobs(np.array(rows[9, s]))[t] for s in (1, 2, 3) for t in range(4)}
    assert {tokens: pytest.approx(total, abs=1e-6) for total, tokens in best} == want
    assert [total for total, _ in best] == sorted((total for total, _ in best), reverse=True)


async def test_steering_weighs_sequences_as_it_says():
    """One token of two, equally probable, the second weighed three times: three of four sequences should have it."""
    steering = example("steering")
    llm = ScriptedLLM({}, default=[-9e9, 0.0, 0.0])
    async with PrefixCache(llm) as cached:
        steered = await steering.steer(cached, [5], 250, lambda got: 3.0 ** got.count(2), seed=7, rounds=3)
    share = np.mean([sequence.token_ids.count(2) for sequence in steered]) / (3 * steering.STRIDE)

    assert len({sequence.token_ids for sequence in steered}) > 100
    assert [sequence.index for sequence in steered] == list(range(250))
    # 24 tokens, each 2 with probability 3/4; the copies of a round share what they had, so the error is larger than that of 6,000 draws.
    assert abs(share - 0.75) < 0.03


async def test_speculation_asks_the_large_model_no_more_often_than_there_are_tokens():
    speculative = example("speculative")
    alone = await generate(list(speculative.PROMPT), TinyLM(), n=4, seed=7, max_new_tokens=40)
    for draft in (TinyLM(), TinyLM(order=1), ScriptedLLM({}, default=np.arange(257))):
        together = await generate(
            list(speculative.PROMPT), speculative.Speculating(TinyLM(), draft), n=4, seed=7, max_new_tokens=40, lookahead=4
        )
        assert together == alone
        assert together.stats.round_trips <= alone.stats.round_trips
