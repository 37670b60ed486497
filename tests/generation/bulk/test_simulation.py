"""The simulation of many workers and replicas, small enough for the suite: its clock is virtual, so its figures are exact."""

from __future__ import annotations

import pytest
from tests.benchmarks.simulate_replicas import SLACK, SLOTS, STEP, choose, run


@pytest.mark.parametrize(
    ("loads", "asked", "known", "first", "chosen"),
    [
        ([0, 0, 0], [0, 0, 0], None, 0, 0),
        ([0, 0, 0], [0, 0, 0], None, 2, 2),  # of equals, the first in the client's own order
        ([1, 0, 0], [0, 3, 2], None, 0, 2),  # then the one asked least so far
        ([SLACK, 0, 0], [9, 0, 0], 0, 1, 0),  # a busier one for its cache's sake
        ([SLACK + 1, 0, 0], [9, 0, 0], 0, 1, 1),  # but not at any price
    ],
)
def test_who_is_asked(loads, asked, known, first, chosen) -> None:
    assert choose(loads, asked, known, first) == chosen


def test_the_servers_bound_the_throughput_and_affinity_saves_prefill() -> None:
    results = {policy: run(30, 5, 4, 5, policy) for policy in ("least busy", "affinity", "affinity, same order")}
    for result in results.values():
        assert result["bound"] == 5 * SLOTS / STEP
        assert result["tokens/s"] < result["bound"]
    least, affinity, herd = results.values()

    assert least["use of the slots"] > 0.9  # so there are always questions enough: the client is not what it waits for
    assert affinity["prefill a token"] < 0.8 * least["prefill a token"]
    assert herd["idlest"] < 0.7 * affinity["idlest"]  # clients that all begin with the same replica crowd it
