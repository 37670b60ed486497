"""The examples and demos run as they are."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent / "examples"


def test_make_demo_ends_with_the_same_hash_live_and_offline_twice_the_same() -> None:
    runs = [subprocess.run([sys.executable, EXAMPLES / "demo.py"], capture_output=True, text=True, check=True).stdout for _ in range(2)]
    hashes = [re.findall(r"sha256 ([0-9a-f]{64})", run) for run in runs]

    assert len(hashes[0]) == 2
    assert len({*hashes[0], *hashes[1]}) == 1
    assert "The same tokens." in runs[0]
    assert "Next:" in runs[0]


def test_interrupted_at_once_it_ends_with_130_and_no_traceback() -> None:
    process = subprocess.Popen([sys.executable, "-u", EXAMPLES / "demo.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "Traceback" not in said
