"""Evidence of several checks of one recording: its false alarms are counted over a hundred reruns, and what it refuses."""

import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from tests.regression.conftest import model, noisy

from seedbed import RecordingLLM
from seedbed.errors import EvidenceRefused, UsageError
from seedbed.recording import open_recording
from seedbed.regression import Evidence, accept, check
from seedbed.regression.evidence import BETS
from seedbed.regression.metrics import noise_free_drift
from seedbed.server.planted import PlantedLLM, Scaled

ALPHA, RECORDINGS, CHECKS = 0.01, 400, 100


@pytest.fixture(scope="module")
def e_values():
    """E of each check of each recording, on a server that is the same throughout: shape (recordings, checks).

    The recorded answers of a recording are shared by all its checks, the live ones are fresh in each.
    """
    chance = np.random.Generator(np.random.Philox(key=11))
    sequences, tokens = 12, 8

    def answers(*shape):
        return -math.log(tokens) + chance.normal(0.0, 0.02, (*shape, sequences, tokens))

    a1, a2 = answers(2, RECORDINGS, 1)
    b1, b2 = answers(2, RECORDINGS, CHECKS)
    rho = noise_free_drift(a1, a2, b1, b2).rho
    return np.mean([(1 + bet * rho).prod(axis=-1) for bet in BETS], axis=0)


def evidence_of(values):
    return Evidence("ab" * 32, ALPHA, 2, False, tuple(map(math.log, values)), 12 * len(values))


def most_alarms():
    """As many of ``RECORDINGS`` alarm with a chance below one in a thousand, if each does with probability ``ALPHA``: exactly binomial."""
    below = 0.0
    for count in range(RECORDINGS):
        below += math.comb(RECORDINGS, count) * ALPHA**count * (1 - ALPHA) ** (RECORDINGS - count)
        if below > 0.999:
            return count
    raise AssertionError


def test_a_hundred_reruns_over_one_recording_alarm_no_more_often_than_alpha(e_values):
    """Looked at after every one of them, and stopped at the first alarm."""
    looks = sorted({*range(1, 11), *range(10, CHECKS + 1, 10)})
    alarms = sum(any(evidence_of(values[:looks_at]).is_alarm for looks_at in looks) for values in e_values)
    ever = (e_values.cumsum(axis=1) / np.arange(1, CHECKS + 1)).max(axis=1) >= 1 / ALPHA

    assert alarms <= ever.sum() <= most_alarms()


def test_a_product_over_them_would_alarm_ten_times_as_often(e_values):
    """Why it is a mean: given the recorded answers the checks are no fair bets."""
    ever = np.log(e_values).cumsum(axis=1).max(axis=1) >= -math.log(ALPHA)

    assert ever.sum() > 10 * ALPHA * RECORDINGS
    assert ever.sum() > most_alarms()


def test_the_mean_of_each_check_is_1(e_values):
    """E is an e-value exactly; within 4 standard errors, of means over recordings, which are independent."""
    means = e_values.mean(axis=1)

    assert abs(means.mean() - 1) < NormalDist().inv_cdf(0.99997) * means.std(ddof=1) / math.sqrt(RECORDINGS)


def test_a_first_check_is_not_weakened_by_those_that_may_follow():
    one = evidence_of([100.5])

    assert (one.is_alarm, evidence_of([100.5, 99.6]).is_alarm, evidence_of([100.5, 99.0]).is_alarm) == (True, True, False)
    assert one.e_value == pytest.approx(100.5)


def test_it_survives_json():
    evidence = evidence_of([3.0, 0.2])

    assert Evidence.from_dict(json.loads(json.dumps(evidence.to_dict()))) == evidence


def test_beyond_a_float_it_is_no_error():
    evidence = Evidence("ab" * 32, ALPHA, 2, False, (2000.0, 0.0), 9)

    assert (evidence.e_value, evidence.is_alarm) == (math.inf, True)
    assert evidence.to_dict()["e_value"] is None


@pytest.mark.parametrize("changes", [{"log_e_values": []}, {"log_e_values": [None]}, {"alpha": 2}, {"sequences": -1}, {"repeats": "two"}])
def test_what_is_no_evidence_is_refused(changes):
    with pytest.raises(UsageError, match="this is not the evidence of a check"):
        Evidence.from_dict(evidence_of([2.0]).to_dict() | changes)


async def record(path, llm, *, seal=True):
    async with RecordingLLM(llm, path, top_k=20, repeats=2) as recorded:
        await recorded.next_token_logits([1, 2])
        if not seal:
            recorded.leave_unsealed()


def begun(path, *, earlier=None, **rule):
    return Evidence.begun(open_recording(path), **{"alpha": 0.01, "repeats": 2, "stop_early": False} | rule, earlier=earlier)


class TestItsRecording:
    async def test_another_one_is_refused(self, tmp_path):
        for name in ("one", "other"):
            await record(tmp_path / name, noisy(model(), seed=len(name)))

        with pytest.raises(EvidenceRefused, match="is of another recording than .*other: of steps with SHA-256"):
            await check(tmp_path / "other", model(), evidence=begun(tmp_path / "one"))

    async def test_the_one_that_was_replaced_is_refused_by_name(self, tmp_path):
        await record(tmp_path / "r", model())
        changed = PlantedLLM(model(), Scaled(1.1))
        report = await check(tmp_path / "r", changed)
        await accept(tmp_path / "r", changed, report, who="ada", why="T = 1.1 from now on")

        with pytest.raises(EvidenceRefused, match=r"of the baseline that ada replaced \(T = 1.1 from now on\)"):
            await check(tmp_path / "r", changed, evidence=report.evidence)

    @pytest.mark.parametrize("rule", [{"alpha": 0.05}, {"repeats": 3}, {"stop_early": True}], ids=repr)
    async def test_had_by_another_rule_it_is_refused(self, tmp_path, rule):
        await record(tmp_path / "r", model())

        (name, value), *_ = rule.items()
        with pytest.raises(EvidenceRefused, match=f"was had with {name}=.*, not {name}={value}: go on"):
            begun(tmp_path / "r", earlier=begun(tmp_path / "r"), **rule)

    async def test_one_that_grew_is_another(self, tmp_path):
        await record(tmp_path / "r", model(), seal=False)
        unfinished = begun(tmp_path / "r")
        assert begun(tmp_path / "r", earlier=unfinished).checks == 2
        await record(tmp_path / "r", model())

        with pytest.raises(EvidenceRefused, match="is of another recording"):
            begun(tmp_path / "r", earlier=unfinished)
