"""Servers that stop repeating themselves under one condition, planted: probe names it, and where it begins."""

from __future__ import annotations

import json
from functools import partial

import pytest
import trio
from tests.regression.conftest import HashLM, model

from seedbed import TinyLM
from seedbed.errors import ServerUnreachable, UsageError
from seedbed.regression.probe import lengths_around_blocks, probe
from seedbed.server.planted import (
    AboveConcurrency,
    AfterAnswers,
    AllOf,
    AtMultiples,
    FromPosition,
    Noise,
    OneIn,
    PlantedLLM,
    RoundTo,
    Scaled,
    SlotWarm,
    WarmOnly,
)
from seedbed.testing import ScriptedLLM, schedules

ANEW = Noise(0.1, "repeat")
OFF = Noise(0.1)
# What is planted; the condition that must be named first, where it begins in words, and with how many questions at once.
SERVERS = [
    (lambda: model(), None, "", 0),
    (lambda: TinyLM(), None, "", 0),
    (lambda: PlantedLLM(model(), RoundTo("bfloat16")), None, "", 0),
    (lambda: PlantedLLM(model(), ANEW), "repeats", "at every length", 1),
    (lambda: PlantedLLM(model(), ANEW, where=FromPosition(64)), "repeats", "from 64 tokens on", 1),
    (lambda: PlantedLLM(model(), ANEW, where=FromPosition(100)), "repeats", "from 100 tokens on", 1),
    (lambda: PlantedLLM(model(), ANEW, where=AtMultiples(16)), "repeats", "where the length is a multiple of 16", 1),
    (lambda: PlantedLLM(model(), Noise(0.1, "history")), "history", "at every length", 1),
    (lambda: PlantedLLM(model(), OFF, where=AfterAnswers(100)), "history", "at ", 1),
    (lambda: PlantedLLM(model(), OFF, where=WarmOnly()), "prompt cache", "at every length", 1),
    (lambda: PlantedLLM(model(), OFF, where=AllOf(WarmOnly(), FromPosition(64))), "prompt cache", "from 64 tokens on", 1),
    (lambda: PlantedLLM(model(), OFF, where=AllOf(WarmOnly(), FromPosition(33))), "prompt cache", "from 33 tokens on", 1),
    (lambda: PlantedLLM(model(), OFF, where=AllOf(WarmOnly(), AtMultiples(32))), "prompt cache", "where the length is a multiple of 32", 1),
    (lambda: PlantedLLM(model(), OFF, where=AllOf(SlotWarm(), FromPosition(50))), "prompt cache", "from 50 tokens on", 1),
    (lambda: PlantedLLM(model(), Scaled(1.001), where=AllOf(WarmOnly(), FromPosition(17))), "prompt cache", "from 17 tokens on", 1),
    (lambda: PlantedLLM(model(), OFF, where=AboveConcurrency(1)), "concurrency", "at every length", 2),
    (lambda: PlantedLLM(model(), OFF, where=AboveConcurrency(3)), "concurrency", "at every length", 4),
    (lambda: PlantedLLM(model(), OFF, where=AboveConcurrency(7)), "concurrency", "at every length", 8),
    (lambda: PlantedLLM(model(), Noise(0.1, "shape")), "concurrency", "at every length", 2),
    (lambda: PlantedLLM(model(), OFF, where=AllOf(AboveConcurrency(5), FromPosition(48))), "concurrency", "from 48 tokens on", 6),
    (lambda: PlantedLLM(model(), OFF, where=AllOf(AboveConcurrency(4), OneIn(3))), "concurrency", "at ", 5),
    (lambda: PlantedLLM(model(), OFF, where=AboveConcurrency(16)), None, "", 0),
]


@pytest.mark.parametrize("seed", [3, pytest.param(4, marks=pytest.mark.thorough)])
async def test_it_names_the_planted_condition_on_nineteen_of_twenty_servers(seed):
    """All of them, in fact: fixed seeds, so this does not waver."""
    named = 0
    for make, condition, place, concurrency in SERVERS:
        report = await probe(make(), max_length=130, seed=seed)
        first = report.first
        found = (None, "", 0) if first is None else (first.condition, first.place[: len(place)], first.concurrency)
        named += found == (condition, place, concurrency)

    assert named == len(SERVERS)


async def test_a_condition_is_named_and_no_other():
    for make, condition, _, _ in SERVERS[9:]:
        report = await probe(make(), max_length=34, seed=1, prompts=1)

        assert {one.condition for one in report.breaks} <= {condition}


async def test_two_conditions_are_told_apart():
    cached = PlantedLLM(model(), OFF, where=AllOf(WarmOnly(), FromPosition(20)))
    report = await probe(PlantedLLM(cached, OFF, where=AboveConcurrency(2)), max_length=40, seed=1)

    assert [(one.condition, one.place, one.concurrency) for one in report.breaks] == [
        ("prompt cache", "from 20 tokens on", 1),
        ("concurrency", "at every length", 3),
    ]


async def test_the_size_of_the_effect_is_that_of_the_fault():
    """The shift of noise with standard deviation s has KL s**2 / 2, of a temperature T about Var(z) (1 - 1/T)**2 / 2."""
    report = await probe(PlantedLLM(model(), Noise(0.02), where=WarmOnly()), max_length=16, seed=1)

    assert report.first.kl == pytest.approx(0.02**2 / 2, rel=0.35)
    assert 0.02 < report.first.difference < 2 * 0.02 * 3**0.5
    assert report.first.wrong == report.first.of == 2 * len(report.lengths)


async def test_what_cannot_be_seen_through_the_noise_is_said_to_be_untold():
    report = await probe(PlantedLLM(model(), ANEW), max_length=8, seed=1)

    assert report.untold == ("history", "prompt cache", "concurrency")
    assert "concurrency    not told" in "\n".join(report.lines())


async def test_without_company_that_rung_is_left_out():
    report = await probe(PlantedLLM(model(), OFF, where=AboveConcurrency(1)), max_length=8, max_concurrency=1, seed=1)

    assert (report.first, report.untold) == (None, ())


def test_the_same_under_any_schedule():
    results = {
        json.dumps(run(partial(probe, PlantedLLM(model(), OFF, where=AboveConcurrency(3)), max_length=16, seed=2)).to_dict())
        for run in schedules(3)
    }

    assert len(results) == 1


async def test_progress_says_what_it_is_doing():
    seen = []
    report = await probe(model(), max_length=8, max_concurrency=4, seed=1, progress=seen.append)

    assert [progress.questions for progress in seen] == list(range(1, report.questions + 1))
    assert [seen[0].doing, seen[-1].doing] == ["alone, 1 tokens", "alone, after the crowd"]


async def test_lengths_are_around_every_block_size():
    assert {15, 16, 17, 31, 32, 33, 40} <= set(lengths_around_blocks(40))


@pytest.mark.parametrize("arguments", [{"max_length": 3}, {"max_length": 131_072}, {"max_concurrency": 0}, {"prompts": 0}, {"seed": -1}])
async def test_wrong_arguments(arguments):
    with pytest.raises(UsageError):
        await probe(model(), **arguments)


async def test_what_the_server_raises_comes_out_as_itself():
    with pytest.raises(ServerUnreachable, match="gone"):
        await probe(ScriptedLLM(lambda _: ServerUnreachable("gone"), info=model().info), max_length=8)


async def test_cancelled_it_ends():
    with trio.CancelScope() as scope:
        scope.cancel()
        await probe(HashLM(257), max_length=8)

    assert scope.cancelled_caught
