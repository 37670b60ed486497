"""A baseline is replaced when somebody says so and why, by answers that pass their own check, and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from tests.regression.conftest import model, noisy
from tests.regression.test_cli_check import ran

from seedbed import RecordingLLM, ReplayLLM, Sampler, TinyLM, generate, open_recording
from seedbed.cli import main
from seedbed.errors import CheckFailed, RecordingExists, ServerUnreachable, UsageError
from seedbed.recording import Acceptance
from seedbed.recording.format import MANIFEST, read_manifest
from seedbed.recording.merge import replace_recording
from seedbed.regression import Verdict, check
from seedbed.regression.accept import accept
from seedbed.server.planted import Noise, PlantedLLM, Scaled
from seedbed.server.planted.places import Place
from seedbed.testing import ScriptedLLM

PROMPT = list(b"The seed")


def octets(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


@pytest.fixture
def baseline(tmp_path):
    async def record() -> None:
        async with RecordingLLM(model(), tmp_path / "baseline", top_k=20, repeats=2) as recorded:
            recorded.note(await generate(PROMPT, recorded, n=2, seed=7, sampler=Sampler(top_k=10), max_new_tokens=6), "run")

    trio.run(record)
    return tmp_path / "baseline"


class OnceSealed(Place):
    """Once a recording is finished: how many answers that takes depends on who asked in whose company."""

    def __init__(self, path):
        self.path = path

    def holds(self, question):
        return (self.path / MANIFEST).exists() and read_manifest(self.path).seal is not None


def hotter():
    return PlantedLLM(model(), Scaled(1.2))


async def test_the_live_answers_become_the_baseline_and_the_manifest_says_who_and_why(baseline):
    before = open_recording(baseline)
    report = await check(baseline, hotter())
    accepted = await accept(baseline, hotter(), report, who="ada", why="temperature is on now")
    after = open_recording(baseline)

    assert after.manifest.accepted == (accepted,)
    assert (accepted.who, accepted.why, accepted.verdict) == ("ada", "temperature is on now", "DRIFT")
    assert accepted.causes == ("temperature applied",)
    assert accepted.replaced == before.manifest.seal.sha256["steps.jsonl"]
    assert accepted.drift == report.drift.value
    assert (await check(baseline, hotter())).verdict == Verdict.IDENTICAL
    assert {step.prefix for step in before.steps} <= {step.prefix for step in after.steps}
    assert all(len(step.observations) == 2 for step in after.steps)
    assert [path.name for path in baseline.parent.iterdir()] == ["baseline"]


async def test_runs_are_sampled_again_from_the_new_rows(baseline):
    report = await check(baseline, hotter())
    await accept(baseline, hotter(), report, who="ada", why="because")
    replayed = await generate(PROMPT, ReplayLLM(baseline), n=2, seed=7, sampler=Sampler(top_k=10), max_new_tokens=6)

    assert open_recording(baseline).runs["run"].token_ids == tuple(map(tuple, replayed.token_ids))
    assert (await check(baseline, hotter())).free_run.same == 2


async def test_what_the_tokenizer_said_and_what_others_put_there_is_in_the_new_one(tmp_path):
    async with RecordingLLM(TinyLM(), tmp_path / "r", top_k=20, repeats=2) as recorded:
        await generate(await recorded.tokenize("The seed"), recorded, seed=7, max_new_tokens=4)
        assert await recorded.detokenize([71, 111]) == "Go"
    (tmp_path / "r" / "README.md").write_text("of the seeds")
    smaller = TinyLM(order=3)
    await accept(tmp_path / "r", smaller, await check(tmp_path / "r", smaller), who="ada", why="smaller")
    replay = ReplayLLM(tmp_path / "r")

    assert await replay.tokenize("The seed") == list(b"The seed")
    assert await replay.detokenize([71, 111]) == "Go"
    assert (tmp_path / "r" / "README.md").read_text() == "of the seeds"


async def test_who_accepted_earlier_baselines_is_kept(baseline):
    for temperature, who in ((1.2, "ada"), (1.4, "bob")):
        live = PlantedLLM(model(), Scaled(temperature))
        await accept(baseline, live, await check(baseline, live), who=who, why="again")

    accepted = open_recording(baseline).manifest.accepted
    assert [one.who for one in accepted] == ["ada", "bob"]
    assert isinstance(accepted[0], Acceptance)


async def test_it_is_kept_when_tests_rewrite_the_recording(baseline, tmp_path):
    live = hotter()
    await accept(baseline, live, await check(baseline, live), who="ada", why="why")
    async with RecordingLLM(model(), tmp_path / "fresh", top_k=20) as recorded:
        await recorded.next_token_logits(PROMPT)
    replace_recording(baseline, tmp_path / "fresh", keep_unasked=False)

    assert [one.who for one in open_recording(baseline).manifest.accepted] == ["ada"]


class TestTheOldBaselineStands:
    async def test_when_the_check_only_fails(self, baseline):
        before = octets(baseline)
        report = await check(baseline, hotter())

        assert report.verdict == Verdict.DRIFT
        assert octets(baseline) == before

    async def test_when_a_recorder_finds_it(self, baseline):
        before = octets(baseline)
        with pytest.raises(RecordingExists):
            async with RecordingLLM(hotter(), baseline, top_k=20):
                pass

        assert octets(baseline) == before

    async def test_when_the_server_fails_half_way(self, baseline):
        before = octets(baseline)
        report = await check(baseline, hotter())
        asked = []

        def fails(prefix):
            asked.append(prefix)
            return [0.0] * 257 if len(asked) < 6 else ServerUnreachable("gone")

        with pytest.raises(ServerUnreachable):
            await accept(baseline, ScriptedLLM(fails, info=model().info), report, who="ada", why="why")
        assert octets(baseline) == before
        assert [path.name for path in baseline.parent.iterdir()] == ["baseline"]

    async def test_when_the_server_does_not_answer_as_it_did_a_moment_ago(self, baseline):
        before = octets(baseline)
        report = await check(baseline, hotter())
        fresh = baseline.with_name(".baseline.accepting")
        changing = PlantedLLM(model(), Scaled(1.5), where=OnceSealed(fresh))

        with pytest.raises(CheckFailed, match="the baseline stands as it was"):
            await accept(baseline, changing, report, who="ada", why="why")
        assert octets(baseline) == before

    @pytest.mark.parametrize(("who", "why"), [("", "why"), ("ada", " "), ("  ", "why")])
    async def test_when_nobody_or_no_reason_is_given(self, baseline, who, why):
        report = await check(baseline, hotter())

        with pytest.raises(UsageError, match="by somebody, for a reason"):
            await accept(baseline, hotter(), report, who=who, why=why)

    async def test_when_nothing_changed(self, baseline):
        with pytest.raises(UsageError, match="nothing to accept"):
            await accept(baseline, model(), await check(baseline, model()), who="ada", why="why")

    async def test_when_it_is_cancelled(self, baseline):
        before = octets(baseline)
        report = await check(baseline, hotter())
        with trio.CancelScope() as scope:
            scope.cancel()
            await accept(baseline, hotter(), report, who="ada", why="why")

        assert octets(baseline) == before


class TestCommand:
    async def test_it_accepts_and_says_so(self, baseline):
        result = await ran(hotter(), baseline, "URL", "--accept", "temperature is on now", "--by", "ada")
        again = await ran(hotter(), baseline, "URL", "--accept", "once more", "--by", "ada", "--json")

        assert (result.code, result.err) == (0, "")
        assert "verdict        DRIFT" in result.out
        assert "accepted       by ada: temperature is on now; the live answers are the baseline now" in result.out
        assert (again.code, json.loads(again.out)["accepted"], json.loads(again.out)["verdict"]) == (0, None, "IDENTICAL")

    async def test_inspect_shows_who_and_why(self, baseline, capsys):
        await ran(hotter(), baseline, "URL", "--accept", "temperature is on now", "--by", "ada")
        main.main(["inspect", str(baseline)], standalone_mode=False)

        assert "accepted     by ada: temperature is on now (was hash-lm-257" in capsys.readouterr().out

    async def test_without_it_a_drift_ends_with_1_and_changes_nothing(self, baseline):
        before = octets(baseline)
        result = await ran(hotter(), baseline, "URL")

        assert (result.code, octets(baseline)) == (1, before)


async def test_a_noisy_server_passes_its_own_check(baseline):
    live = noisy(PlantedLLM(model(), Noise(0.5)))
    accepted = await accept(baseline, live, await check(baseline, live), who="ada", why="another quantisation")

    assert accepted.verdict == "DRIFT"
    assert (await check(baseline, live)).verdict in (Verdict.PASS, Verdict.INCONCLUSIVE)
