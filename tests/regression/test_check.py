"""A live server against a recording: the verdicts, the conditions, and what a report holds."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import trio
from tests.regression.conftest import BOS, model, noisy

from seedbed import HashLM, RecordingLLM, TinyLM, generate
from seedbed.errors import MalformedRow, RecordingNotFound, ServerUnreachable, UsageError
from seedbed.regression import CheckReport, Progress, Verdict, check
from seedbed.regression.check import report_of
from seedbed.regression.compared import Answer, compare
from seedbed.regression.continued import Evidence
from seedbed.regression.estimates import Estimate
from seedbed.regression.report import sentence
from seedbed.regression.verdict import EXIT_CODES, judge
from seedbed.server.planted import AboveConcurrency, Noise, PlantedLLM, RoundTo, Scaled
from seedbed.testing import ScriptedLLM, schedules


class TestVerdicts:
    @pytest.mark.parametrize("tier", ["full", "top_k", "no-bos"])
    async def test_the_same_server_is_identical(self, recordings, tier):
        report = await check(recordings / tier, model())

        assert (report.verdict, report.drift.value, report.causes) == (Verdict.IDENTICAL, 0.0, ())
        assert report.interval == (0.0, 0.0)

    @pytest.mark.parametrize("tier", ["noisy", "noisy-top_k"])
    async def test_noise_alone_passes(self, recordings, tier):
        report = await check(recordings / tier, noisy(model()))

        assert report.verdict == Verdict.PASS
        assert report.interval[1] < report.margin
        assert abs(report.drift.value) < 3 * report.drift.standard_error
        assert report.statistics.kl.value > 50 * abs(report.drift.value)

    @pytest.mark.parametrize("seed", [45, 181, 196])
    async def test_noise_in_one_long_sequence_is_not_called_drift(self, tmp_path, seed):
        """Three of those seeds at which the mean over all prefixes, nearly all of one sequence, lies above the margin for certain."""
        prompt = [*b"The seed", 0]
        async with RecordingLLM(noisy(TinyLM(), size=0.3, seed=2 * seed), tmp_path / "r", tier="full", repeats=2) as recorded:
            await generate(prompt, recorded, seed=seed, max_new_tokens=20)
        report = await check(tmp_path / "r", noisy(TinyLM(), size=0.3, seed=2 * seed + 1), free_run=False)

        assert sorted(Counter(prefix.sequence for prefix in report.prefixes).values()) == [1, 1, 20]
        assert (report.verdict, report.interval) == (Verdict.INCONCLUSIVE, (-math.inf, math.inf))
        assert "One sequence holds nearly all prefixes" in sentence(report)

    async def test_drift_below_the_noise_is_found(self, recordings):
        """A shift a third as large as the noise: KL 4e-5 under a noise of 4e-4."""
        report = await check(recordings / "noisy", noisy(PlantedLLM(model(), Noise(0.009, seed=5))), margin=2e-5)

        assert report.verdict == Verdict.DRIFT
        assert report.drift.value == pytest.approx(0.009**2 / 2, rel=0.25)
        assert report.statistics.noise.value > 7 * report.drift.value

    async def test_another_dtype_is_changed_and_passes(self, recordings):
        report = await check(recordings / "full", PlantedLLM(model(), RoundTo("bfloat16")))

        assert report.verdict == Verdict.CHANGED
        assert 0 < report.drift.value < report.margin

    async def test_too_little_data_says_how_much_is_missing(self, recordings, tmp_path):
        async with RecordingLLM(noisy(model(), seed=0), tmp_path / "r", tier="full", repeats=2) as recorded:
            await generate([[BOS, *b"The seed"]], recorded, n=3, seed=7, max_new_tokens=2)
        report = await check(tmp_path / "r", noisy(model()), margin=1e-5)

        assert report.verdict == Verdict.INCONCLUSIVE
        assert report.needed > report.drift.rows

    async def test_one_recorded_answer_is_enough_where_servers_repeat_themselves(self, tmp_path):
        async with RecordingLLM(model(), tmp_path / "r", tier="full") as recorded:
            await generate([[BOS, *b"The seed"]], recorded, n=3, seed=7, max_new_tokens=12)

        assert (await check(tmp_path / "r", model())).verdict == Verdict.IDENTICAL
        report = await check(tmp_path / "r", PlantedLLM(model(), Scaled(1.1)))
        assert (report.verdict, report.causes[0].name) == (Verdict.DRIFT, "temperature applied")

    async def test_one_recorded_answer_under_noise_has_no_bias(self, tmp_path):
        async with RecordingLLM(noisy(model(), seed=0), tmp_path / "r", tier="full") as recorded:
            await generate([[BOS, *b"The seed"], list(b"In")], recorded, n=6, seed=7, max_new_tokens=20)
        report = await check(tmp_path / "r", noisy(model()))

        assert report.verdict == Verdict.PASS
        assert abs(report.drift.value) < 4 * report.drift.standard_error
        assert report.statistics.kl.value > 1e-4

    def test_answers_equal_in_every_bit_under_two_conditions_show_that_a_server_repeats_itself(self):
        """It happens that every repeat had company and no first answer had: their noise is then unknown, but for this."""
        row, other = np.float32([0.0, 1.0, 2.0]), np.float32([0.5, 1.0, 2.0])
        alone, together = ("solo", "warm"), ("concurrent", "warm")

        def rows(*live):
            recorded = [Answer(row, alone), Answer(row, together)]
            answers = [Answer(one, tags) for one, tags in zip(live, (alone, together), strict=True)]
            return [compare((number,), recorded, answers, sequence=number) for number in range(3)]

        evidence = Evidence("ab" * 32, 0.01, 2, False, (0.0,), 2)
        assert report_of(rows(other, other), evidence).verdict == Verdict.DRIFT
        assert report_of(rows(other, other), evidence).is_exact
        assert not report_of(rows(other, np.nextafter(other, 9)), evidence).is_exact

    @pytest.mark.parametrize("repeats", [1, 2])
    async def test_one_live_answer_under_noise_is_no_drift(self, tmp_path, repeats):
        """Against two recorded ones D is free of noise; of one against one nothing is known of it, and no drift is said."""
        async with RecordingLLM(noisy(model(), seed=0), tmp_path / "r", tier="full", repeats=repeats) as recorded:
            await generate([[BOS, *b"The seed"], list(b"In")], recorded, n=6, seed=7, max_new_tokens=20)
        report = await check(tmp_path / "r", noisy(model()), repeats=1, free_run=False)

        if repeats == 1:
            assert (report.verdict, report.interval) == (Verdict.INCONCLUSIVE, (-math.inf, math.inf))
            assert report.drift.value == pytest.approx(report.statistics.kl.value)
            assert "ask with repeats=2 or more" in sentence(report)
            assert (report.statistics.flips.expected, report.statistics.flips.beyond) == (0.0, 0)
        else:
            assert report.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE)
            assert abs(report.drift.value) < 4 * report.drift.standard_error
            assert report.statistics.flips.sigma > 0

    def test_bits_that_flicker_are_no_change(self):
        """One answer of hundreds is another one, by an ulp, on a server that otherwise repeats itself; three exact changes are a change."""
        row, ulp = np.linspace(0, 3, 32, dtype=np.float32), np.linspace(0, 3, 32, dtype=np.float32)
        ulp[3] = np.nextafter(ulp[3], np.float32(9))

        def verdict(*live):
            rows = [
                compare((number,), [Answer(row)] * 2, [Answer(one) for one in answers], sequence=number)
                for number, answers in enumerate([*live, *[(row, row)] * 40])
            ]
            return report_of(rows, Evidence("ab" * 32, 0.01, 2, False, (0.0,), 2)).verdict

        assert compare((1,), [Answer(row)] * 2, [Answer(row), Answer(ulp)]).live_noise[0] < 1e-12
        assert verdict() == Verdict.IDENTICAL
        assert verdict((row, ulp)) == verdict((ulp, ulp), (ulp, ulp), (ulp, row)) == Verdict.PASS
        assert verdict(*[(ulp, ulp)] * 3) == Verdict.CHANGED

    @pytest.mark.parametrize(
        ("value", "error", "changed", "verdict"),
        [
            (0.0, 1e-6, False, "PASS"), (5e-5, 1e-6, True, "CHANGED"), (3e-4, 1e-5, True, "DRIFT"),
            (3e-4, 2e-4, True, "INCONCLUSIVE"), (9e-5, 2e-5, False, "INCONCLUSIVE"),
        ],
    )  # fmt: skip
    def test_significance_and_size_are_two_things(self, value, error, changed, verdict):
        estimate = Estimate(value, error, 300, 30)

        assert judge(estimate, margin=1e-4, alpha=0.01, is_identical=False, is_exact=False, is_changed=changed, is_corrupt=False) == verdict

    def test_one_sequence_of_noise_decides_nothing(self):
        estimate = Estimate(1.0, math.inf, 50, 1)

        assert (
            judge(estimate, margin=1e-4, alpha=0.01, is_identical=False, is_exact=False, is_changed=False, is_corrupt=False)
            == "INCONCLUSIVE"
        )

    def test_every_verdict_has_an_exit_code(self):
        assert set(EXIT_CODES) == set(Verdict)


class TestConditions:
    async def test_solo_is_held_against_solo(self, recordings):
        report = await check(recordings / "full", model())

        assert sum(report.conditions.values()) == 2 * report.drift.rows
        assert report.subject["not compared"] == 0

    async def test_a_condition_the_recording_does_not_have_is_no_drift(self, tmp_path):
        """Recorded alone throughout, a server that is wrong in company is the same: what it does in company was never recorded."""
        async with RecordingLLM(model(), tmp_path / "r", tier="full") as recorded:
            for length in range(1, 20):
                await recorded.next_token_logits(list(range(length)))
        report = await check(tmp_path / "r", PlantedLLM(model(), Noise(0.1), where=AboveConcurrency(1)))

        assert report.verdict == Verdict.IDENTICAL
        assert set(report.conditions) <= {"solo, warm", "solo, cold"}

    def test_answers_under_two_conditions_are_not_compared(self):
        row = np.float32([0.0, 1.0])

        assert compare((1,), [Answer(row, ("solo", "cold"))], [Answer(row, ("solo", "warm"))]) is None
        assert compare((1,), [Answer(row, ("solo", "cold"))], [Answer(row, ("solo", "warm")), Answer(row, ("solo", "cold"))]) is not None

    def test_what_noise_does_to_a_gap_is_seen_under_one_condition_only(self):
        row, other = np.float32([2.0, 1.0, 0.0]), np.float32([1.4, 1.5, 0.0])
        solo, together = ("solo",), ("concurrent",)

        differing = compare((1,), [Answer(row, solo), Answer(other, together)], [Answer(row, solo), Answer(other, together)])
        assert (differing.noise, math.isnan(differing.gap_noise), differing.repeated) == ((), True, (None, None))
        assert compare((1,), [Answer(row)], [Answer(row), Answer(other)]).gap_noise == pytest.approx(1.1**2)


class TestReport:
    async def test_it_survives_json(self, recordings):
        report = await check(recordings / "full", PlantedLLM(model(), Scaled(1.1)))
        again = CheckReport.from_dict(json.loads(json.dumps(report.to_dict())))

        assert again.to_dict() == report.to_dict()
        assert (again.verdict, again.interval) == (report.verdict, report.interval)

    def test_a_dict_that_is_none_is_refused(self):
        with pytest.raises(UsageError, match="this is not a report"):
            CheckReport.from_dict({"verdict": "PASS"})

    async def test_progress_counts_every_answer(self, recordings):
        seen = []
        await check(recordings / "full", model(), progress=seen.append)

        assert [progress.answers for progress in seen] == list(range(1, seen[0].of + 1))
        assert seen[-1] == Progress(seen[0].of, seen[0].of, 1.0)

    async def test_its_running_evidence_grows_while_a_drift_is_found(self, recordings):
        seen = []
        report = await check(recordings / "noisy", noisy(PlantedLLM(model(), Noise(0.1))), free_run=False, progress=seen.append)
        values = list(dict.fromkeys(progress.e_value for progress in seen))

        assert values[0] == 1.0
        assert len(values) >= 3
        assert values == sorted(values)
        assert values[-1] < report.evidence.e_value

    async def test_evidence_over_the_same_recording_is_averaged(self, recordings):
        drifting = PlantedLLM(model(), Noise(0.009, seed=5))
        first = await check(recordings / "noisy", noisy(drifting), free_run=False)
        second = await check(recordings / "noisy", noisy(drifting, seed=2), evidence=first.evidence, free_run=False)
        both = second.evidence

        assert (both.checks, both.sequences) == (2, 2 * first.evidence.sequences)
        assert both.log_e_values[0] == first.evidence.log_e_values[0]
        assert both.e_value == pytest.approx(sum(map(math.exp, both.log_e_values)) / 2)
        assert second.path[-1] == pytest.approx(math.log(both.e_value))

    async def test_it_stops_early_when_the_evidence_is_there(self, recordings):
        asked = []
        report = await check(
            recordings / "noisy", noisy(PlantedLLM(model(), Noise(0.1))), alpha=0.05, stop_early=True, progress=asked.append
        )

        assert report.verdict == Verdict.DRIFT
        assert len(asked) < asked[0].of
        assert report.evidence.e_value >= 20

    async def test_flips_are_counted_beside_those_that_noise_explains(self, recordings):
        flips = (await check(recordings / "noisy", noisy(model()))).statistics.flips

        assert flips.beyond == 0
        assert flips.p_value > 0.01

    def test_the_same_under_any_schedule(self, recordings):
        results = {json.dumps(run(check, recordings / "top_k", PlantedLLM(model(), Noise(0.01))).to_dict()) for run in schedules(3)}

        assert len(results) == 1


class TestErrors:
    async def test_what_the_server_raises_comes_out_as_itself(self, recordings):
        llm = ScriptedLLM(lambda _: ServerUnreachable("gone"), info=model().info)

        with pytest.raises(ServerUnreachable, match="gone"):
            await check(recordings / "full", llm)

    async def test_a_row_that_is_none_is_no_finding(self, recordings):
        llm = ScriptedLLM(lambda _: np.zeros((2, 257)), info=model().info)

        with pytest.raises(MalformedRow, match="shape"):
            await check(recordings / "full", llm)

    @pytest.mark.parametrize(("name", "listed"), [("full", 50), ("top_k", 5)])
    async def test_rows_cut_shorter_than_recorded_are_no_change(self, recordings, name, listed):
        """Every one of them would differ from the recorded one, and the verdict would be CHANGED."""
        llm = ScriptedLLM(lambda _: pytest.fail("asked"), info=replace(model().info, max_top_k=listed))

        with pytest.raises(UsageError, match=f"the model is asked for {listed}: .* connect with top_k="):
            await check(recordings / name, llm)

    async def test_no_recording(self, tmp_path):
        with pytest.raises(RecordingNotFound):
            await check(tmp_path, model())

    @pytest.mark.parametrize("arguments", [{"margin": 0.0}, {"alpha": 0.7}, {"repeats": 0}, {"evidence": {}}])
    async def test_wrong_arguments(self, recordings, arguments):
        with pytest.raises(UsageError):
            await check(recordings / "full", model(), **arguments)

    async def test_cancelled_it_ends(self, recordings):
        with trio.CancelScope() as scope:
            scope.cancel()
            await check(recordings / "full", HashLM(257))

        assert scope.cancelled_caught
