"""The recorded runs sampled again from a live server: where they part, and whether noise explains it."""

from __future__ import annotations

import json
import math

import pytest
import trio
from tests.regression.conftest import model, noisy

from seedbed import RecordingLLM, Sampler, generate
from seedbed.recording import open_recording
from seedbed.regression import CheckReport, check
from seedbed.regression.free_run import FreeRun, Parting
from seedbed.regression.report import as_lines
from seedbed.regression.ways import ways_of
from seedbed.server.planted import FromPosition, Noise, PlantedLLM, Scaled

PROMPTS = [list(b"The seed"), list(b"In"), list(b"A server")]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """{name: path}: "exact" and "noisy", each with two runs."""
    base = tmp_path_factory.mktemp("free")

    async def record(llm, path):
        async with RecordingLLM(llm, path, tier="full", repeats=2) as recording:
            recording.note(await generate(PROMPTS, recording, n=3, seed=7, max_new_tokens=16), "plain")
            recording.note(
                await generate(PROMPTS[:1], recording, n=2, seed=2**100, sampler=Sampler(0.7, top_k=40), max_new_tokens=8),
                "cut",
            )

    async def main():
        await record(model(), base / "exact")
        await record(noisy(model(), seed=0), base / "noisy")

    trio.run(main)
    return base


async def test_the_same_server_gives_the_same_tokens(recorded):
    report = await check(recorded / "exact", model())

    assert report.free_run == FreeRun(11, (), 0.0, 0)
    assert "free running   all 11 sequences come out as recorded" in as_lines(report)


async def test_under_noise_sequences_part_at_near_ties_and_about_as_often_as_expected(recorded):
    report = await check(recorded / "noisy", noisy(model()))
    free = report.free_run

    assert free.unexplained == 0
    assert all(parting.margin < 0.2 for parting in free.partings)
    assert abs(len(free.partings) - free.expected) <= 3 * math.sqrt(free.expected) + 1


async def test_a_fault_parts_them_beyond_noise_and_the_place_is_told(recorded):
    report = await check(recorded / "exact", PlantedLLM(model(), Noise(2.0), where=FromPosition(12)))
    free = report.free_run
    first = min(parting.step for parting in free.partings)

    assert free.unexplained == len(free.partings) > 5
    assert {parting.step for parting in free.partings if parting.run == "plain" and parting.sequence < 3} & set(range(4, 16))
    assert all(len(PROMPTS[0]) + parting.step >= 12 for parting in free.partings if parting.sequence < 3 and parting.run == "plain")
    assert f"the first parts at token {first}" in str(free)


async def test_the_lead_of_a_draw_is_in_nats_of_the_models_logits(recorded):
    """A change of every logit by d cannot exchange two tokens whose lead is more than 2 d."""
    report = await check(recorded / "exact", PlantedLLM(model(), Noise(0.05)))

    assert all(parting.margin <= 2 * 0.05 * math.sqrt(3) for parting in report.free_run.partings)


async def test_the_verdict_is_that_of_the_rows(recorded):
    """T = 1.1 keeps most greedy-like draws, and is a drift whether or not a sequence parts."""
    with_runs = await check(recorded / "exact", PlantedLLM(model(), Scaled(1.1)))
    without = await check(recorded / "exact", PlantedLLM(model(), Scaled(1.1)), free_run=False)

    assert with_runs.verdict == without.verdict
    assert without.free_run is None
    assert with_runs.drift == without.drift


async def test_equal_prefixes_are_asked_once_and_progress_counts_every_token(recorded):
    seen = []
    report = await check(recorded / "exact", model(), progress=seen.append)

    assert (
        seen[-1].answers
        == seen[-1].of
        == 2 * report.drift.rows + sum(len(way.token_ids) for way in ways_of(open_recording(recorded / "exact"))[0])
    )


async def test_it_survives_json(recorded):
    report = await check(recorded / "exact", PlantedLLM(model(), Noise(0.5)))
    again = CheckReport.from_dict(json.loads(json.dumps(report.to_dict())))

    assert again.free_run == report.free_run


def test_a_lead_over_nothing_survives_json():
    free = FreeRun(1, (Parting("r", 0, 2, 5, 6, math.inf, False),), 0.0, 0)

    assert FreeRun.from_dict(json.loads(json.dumps(free.to_dict()))) == free
