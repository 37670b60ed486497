"""Reports: what people read, what continuous integration reads, and that the page needs nothing from anywhere."""

import re
from xml.etree import ElementTree as ET

import pytest
from tests.regression.conftest import HashLM, model, noisy

from seedbed.regression import check
from seedbed.regression.report import as_html, as_junit, as_lines
from seedbed.server.planted import FromPosition, Noise, PlantedLLM, RoundTo


@pytest.fixture
async def drifted(recordings):
    return await check(recordings / "noisy", noisy(PlantedLLM(model(), Noise(0.3), where=FromPosition(16))))


@pytest.fixture
async def passed(recordings):
    return await check(recordings / "noisy", noisy(model()))


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
    assert len(plots) == 3
    for plot in plots:
        numbers = [float(n) for n in re.findall(r'c[xy]="([^"]+)"', plot)]
        assert all(0 <= n <= 720 for n in numbers)
        ET.fromstring(plot)
    assert plots[1].count("<circle") == drifted.drift.rows


async def test_reports_without_a_drift_or_without_rows_are_whole_too(recordings, passed):
    identical, other = await check(recordings / "full", model()), await check(recordings / "full", HashLM(300))
    changed = await check(recordings / "full", PlantedLLM(model(), RoundTo("bfloat16")))

    for report in (identical, other, changed, passed):
        assert as_html(report).count("<svg") == (3 if report.prefixes else 0)
        assert as_lines(report)[0].startswith(f"verdict        {report.verdict}")
        ET.fromstring(as_junit(report))


async def test_what_a_server_calls_itself_cannot_break_the_page(recordings, drifted):
    drifted.subject["live"]["model"] = "<script>alert(1)</script>"

    assert "<script" not in as_html(drifted)
