"""Reports: what people read, what continuous integration reads, and that the page needs nothing from anywhere."""

import json
import re
from copy import deepcopy
from xml.etree import ElementTree as ET

import pytest
import trio
from tests.regression.conftest import HashLM, model, noisy

from seedbed import RecordingLLM, generate
from seedbed.regression import CheckReport, check
from seedbed.regression.free_run import FreeRun, Parting
from seedbed.regression.page import as_html
from seedbed.regression.plots import drift_plot
from seedbed.regression.report import as_junit, as_lines, findings
from seedbed.regression.schema import MEMBERS, paths_in
from seedbed.server.planted import DropBest, FromPosition, Noise, OneIn, PlantedLLM, RoundTo, Scaled


@pytest.fixture(scope="module")
def reports(recordings):
    """Made once; the fixtures below hand out copies, which a test may change."""
    drifting = noisy(PlantedLLM(model(), Noise(0.3), where=FromPosition(16)))
    return {name: trio.run(check, recordings / "noisy", llm) for name, llm in (("drifted", drifting), ("passed", noisy(model())))}


@pytest.fixture
def drifted(reports):
    return deepcopy(reports["drifted"])


@pytest.fixture
def passed(reports):
    return deepcopy(reports["passed"])


async def test_the_first_lines_say_what_happened_and_why(drifted):
    lines = as_lines(drifted)

    assert lines[0].startswith("verdict        DRIFT: This is not the model that was recorded")
    assert lines[1].startswith("cause          from position N (")
    assert re.fullmatch(r"drift D +0\.0\d+ ± 0\.00\d+ nats, 95 % \[0\.\d+, 0\.\d+\], margin 0\.0001", lines[2])
    assert max(map(len, lines)) < 200


async def test_junit_has_a_failure_for_drift_and_none_for_a_pass(drifted, passed):
    failed, good = (ET.fromstring(as_junit(report)) for report in (drifted, passed))

    assert (failed.get("failures"), good.get("failures"), good.get("errors")) == ("1", "0", "0")
    assert failed.find("testcase/failure").get("message") == "DRIFT: from position N"
    assert good.find("testcase/failure") is None
    assert "drift D" in good.find("testcase/system-out").text


async def test_the_page_is_well_formed_and_loads_nothing(drifted):
    page = as_html(drifted)

    assert not re.search(r"<script|<link|src=|url\(|https?://", page)
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 5
    for plot in plots:
        numbers = [float(n) for n in re.findall(r'c[xy]="([^"]+)"', plot)]
        assert all(0 <= n <= 720 for n in numbers)
        ET.fromstring(plot)
    assert plots[2].count("<circle") == drifted.drift.rows


async def test_reports_without_a_drift_or_without_rows_are_whole_too(recordings, passed):
    identical, other = await check(recordings / "full", model()), await check(recordings / "full", HashLM(300))
    changed = await check(recordings / "full", PlantedLLM(model(), RoundTo("bfloat16")))

    for report in (identical, other, changed, passed):
        assert as_html(report).count("<svg") == (5 if report.prefixes else 0)
        assert as_lines(report)[0].startswith(f"verdict        {report.verdict}")
        ET.fromstring(as_junit(report))


async def test_what_a_server_calls_itself_cannot_break_the_page(recordings, drifted):
    drifted.subject["live"]["model"] = "<script>alert(1)</script>"

    assert "<script" not in as_html(drifted)


async def test_json_is_what_its_documentation_says(recordings, drifted, passed):
    """Every member of a report is documented, and every documented one comes up in some report."""
    other = await check(recordings / "full", HashLM(300))
    scaled = await check(recordings / "noisy", noisy(PlantedLLM(model(), Scaled(1.2))))
    drifted.free_run = FreeRun(1, (Parting("run", 0, 2, 5, 6, 0.5, False),), 0.0, 0)
    sparse = await check(recordings / "full", PlantedLLM(model(), DropBest(), where=OneIn(40)))
    transient = await check(recordings / "full", PlantedLLM(model(), DropBest(), where=OneIn(60, each_answer=True)))
    reports = [json.loads(json.dumps(report.to_dict())) for report in (drifted, passed, other, scaled, sparse, transient)]
    found = set().union(*map(paths_in, reports))

    assert found <= set(MEMBERS)
    assert set(MEMBERS) - found == {name for name in MEMBERS if name.startswith("accepted")}


async def test_json_gives_an_equal_report_back(recordings, drifted, passed):
    scaled = await check(recordings / "full", PlantedLLM(model(), Scaled(1.2)))
    other = await check(recordings / "full", HashLM(300))

    assert scaled.causes[0].estimate.rows > 0
    for report in (drifted, passed, scaled, other):
        assert CheckReport.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False))) == report


async def test_of_noise_that_nobody_knows_no_figure_is_given(tmp_path):
    async with RecordingLLM(noisy(model()), tmp_path / "once") as recorded:
        await generate([[1], [2]], recorded, n=1, seed=7, max_new_tokens=6)
    report = await check(tmp_path / "once", noisy(model(), seed=2), repeats=1)
    known = await check(tmp_path / "once", noisy(model(), seed=2), repeats=2)

    assert "no noise is known" in dict(findings(report))["mean KL"]
    assert "the noise" not in drift_plot(report)
    assert "of which noise" in dict(findings(known))["mean KL"]
    assert "the noise" in drift_plot(known)


async def test_servers_that_repeat_themselves_have_no_noise_for_certain(tmp_path):
    async with RecordingLLM(model(), tmp_path / "one", repeats=2) as recorded:
        await generate([[1]], recorded, n=1, seed=7, max_new_tokens=6)
    report = await check(tmp_path / "one", model())

    assert dict(findings(report))["mean KL"].endswith("of which noise 0 ± 0")


async def test_each_figure_has_one_sentence(drifted):
    sentences = re.findall(r'<h2>[^<]+</h2><p class="dim">([^<]+)</p><svg', as_html(drifted))

    assert len(sentences) == 5
    assert all(text.endswith(".") and text.count(". ") == 0 for text in sentences)


async def test_the_worst_prefixes_stand_with_both_rows_side_by_side(recordings):
    report = await check(recordings / "full", PlantedLLM(model(), DropBest()))
    page = as_html(report)
    worst = report.worst[0]

    assert worst.kl == max(prefix.kl for prefix in report.prefixes)
    assert [token_id for token_id, _, _ in worst.recorded[1:]] == [token_id for token_id, _, _ in worst.live[:4]]
    assert worst.live[0][2] == pytest.approx(worst.recorded[1][2] / (1 - worst.recorded[0][2]), rel=1e-3)
    assert page.count('<div class="worst">') == len(report.worst) == 6
    assert page.count("<b>recorded</b>") == page.count("<b>live</b>") == 6


async def test_both_identities_are_shown_and_what_differs_is_marked(drifted):
    drifted.subject["live"] = {"model": "other", "server": "s", "fingerprint": ""}
    page = as_html(drifted)

    assert '<td>hash-lm-257</td><td class="note">other</td>' in page
    assert '<td class="note">unknown</td>' in page


async def test_the_path_of_the_evidence_ends_where_the_evidence_is(drifted):
    assert drifted.path[-1] == drifted.evidence.log_e_values[-1]
    assert len(drifted.path) == drifted.evidence.sequences
