"""The examples and demos run as they are."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent / "examples"


# Over all tokens of the demo: any machine, any schedule, live or offline.
DEMO_SHA256 = "b2cb979c323e82a98d2e967055e837cb1ef150c83923a3355df3d2f86c235249"


def test_make_demo_has_the_one_hash_live_and_offline_and_names_the_planted_fault() -> None:
    said = subprocess.run([sys.executable, EXAMPLES / "demo.py"], capture_output=True, text=True, check=True).stdout

    assert re.findall(r"sha256 ([0-9a-f]{64})", said) == [DEMO_SHA256] * 2
    assert "The same tokens." in said
    assert "Next:" in said
    page = (EXAMPLES.parents[1] / "build" / "demo-report.html").read_text("utf-8")
    for text in (
        "IDENTICAL: Every row is the recorded one, bit by bit.",
        "sampled again with the recorded seed: all 16 sequences come out as recorded",
        "cause: temperature applied, 100 % of the drift: log-probabilities are the recorded ones divided by 1.05 ±",
    ):
        assert text in said
    assert "DRIFT" in page
    assert "temperature applied" in page


def test_interrupted_at_once_it_ends_with_130_and_no_traceback() -> None:
    process = subprocess.Popen([sys.executable, "-u", EXAMPLES / "demo.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "Traceback" not in said
