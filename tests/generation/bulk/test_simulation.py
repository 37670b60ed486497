"""The simulation of many workers and replicas, small enough for the suite; no load of this machine is in its figures."""

from __future__ import annotations

from tests.benchmarks.simulate_replicas import SLOTS, STEP, run


def test_the_servers_bound_the_throughput_and_affinity_saves_prefill() -> None:
    results = {policy: run(30, 5, 4, 5, policy) for policy in ("least busy", "affinity", "affinity, ties by list")}
    for result in results.values():
        assert result["bound"] == 5 * SLOTS / STEP
        assert result["tokens/s"] < result["bound"]
    least, affinity, herd = results.values()

    assert least["use of the slots"] > 0.8  # so there are always questions enough: the client is not what it waits for
    assert affinity["prefill a token"] < 0.8 * least["prefill a token"]
    assert herd["idlest"] < 0.7 * affinity["idlest"]  # clients that all begin with the same replica crowd it
