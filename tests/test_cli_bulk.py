"""``seedbed generate --prompts``: what it prints, how it ends, how it is gone on with."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seedbed.cli.bulk_progress import BulkView
from seedbed.observing import (
    BulkBegan,
    PromptFinished,
    RequestBegan,
    RequestEnded,
    RequestRepeated,
    SequenceBegan,
    SequenceEnded,
    TokensDrawn,
)
from tests.test_cli import RUN, Run, seedbed

ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "fixtures" / "recordings" / "tiny-lm")
SAMPLING = ["-n", "2", "--seed", "7", "--temperature", "0.9", "--top-k", "10", "--max-new-tokens", "8"]
LINE = '{"token_ids": [84, 104, 101, 32, 115, 101, 101, 100], "id": "a"}\n'


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """The recording knows one prompt, and only at place 0 what is drawn from it."""
    path = tmp_path / "prompts.jsonl"
    path.write_text(LINE)
    return path


def bulk(prompts: Path, out: Path, *more: str) -> Run:
    return seedbed("generate", TINY, "--prompts", str(prompts), "--out", str(out), *SAMPLING, *more)


def test_it_says_what_it_did_and_goes_on_when_given_again(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    first, again = bulk(prompts, out), bulk(prompts, out)
    told = json.loads(bulk(prompts, out, "--json").stdout)
    alone = json.loads(seedbed("generate", TINY, "--token-ids", "84,104,101,32,115,101,101,100", *SAMPLING, "--json").stdout)

    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == f"1 prompts, 2 sequences, 16 tokens in {out}\nseed   7\n"
    assert again.stdout == f"0 prompts, 0 sequences, 0 tokens in {out}; 1 lines were done before\nseed   7\n"
    assert (told["is_complete"], told["before"], told["seed"], told["out"]) == (True, 1, "7", str(out))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["token_ids"] for row in rows] == [s["token_ids"] for s in alone["sequences"]]
    assert [row["text"] for row in rows] == [None, None]


def test_what_cannot_be_continued_ends_it_or_is_skipped_and_listed(prompts: Path, tmp_path: Path) -> None:
    prompts.write_text(LINE + "[1, 2]\n{\n")
    out = tmp_path / "rows dir"
    stopped, skipped = bulk(prompts, out), bulk(prompts, out, "--keep-going")

    assert (stopped.returncode, stopped.stdout, stopped.stderr.count("\n")) == (2, "", 1)
    assert f"{prompts}:2: RecordingMiss: " in stopped.stderr
    assert "1 of 3 lines are done" in stopped.stderr
    assert skipped.returncode == 0
    lines = skipped.stdout.splitlines()
    assert lines[0] == f"0 prompts, 0 sequences, 0 tokens in '{out}'; 1 lines were done before"
    assert lines[1] == f"skipped 2, listed in '{out}/_skipped.jsonl':"
    assert lines[3].startswith(f"  {prompts}:3: is no JSON")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompts", "P"], "say where the rows go: --out FILE.jsonl, FILE.parquet or a directory"),
        (["--prompts", "P", "--out", "o.jsonl", "--prompt", "x"], "give either a file with --prompts, or prompts"),
        (["--out", "o.jsonl", "--prompt", "x"], "--out goes with --prompts FILE"),
        (["--keep-going", "--prompt", "x"], "--keep-going goes with --prompts FILE"),
        (["--ray", "local", "--prompt", "x"], "--ray goes with --prompts FILE"),
        (["--prompts", "no/such", "--out", "o.jsonl"], "there is no file of prompts at no/such"),
        (["--prompts", "P", "--out", "o.csv"], "--out must end in .jsonl or .parquet"),
        (["--prompts", "P", "--out", "P"], "is there already, and was not made by such a run"),
        (["--prompts", "P", "--out", "no/such/o.jsonl"], "cannot be written: No such file or directory"),
        (["--prompts", "P", "--out", "o.jsonl", "--seed", "-1"], "seed must be in [0, 2**128)"),
        (["--prompts", "P", "--out", "o.jsonl", "--temperature", "-1"], "temperature must be in [0, inf)"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_line(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str) -> None:
    monkeypatch.chdir(tmp_path)
    ran = seedbed("generate", TINY, *[str(prompts) if word == "P" else word for word in arguments])

    assert says in ran.stderr
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("extra", "options"),
    [
        ("pyarrow", ["--out", "o.parquet"]),
        ("ray", ["--out", "o.jsonl", "--ray", "auto"]),
        ("opentelemetry", ["--out", "o.jsonl", "--telemetry"]),
    ],
)
def test_a_missing_extra_names_the_command_that_installs_it(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: str, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, extra, None)
    ran = seedbed("generate", TINY, "--prompts", str(prompts), *options)

    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "pip install 'seedbed[" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_interrupted_it_says_how_far_it_is(prompts: Path, tmp_path: Path) -> None:
    """A server that says who it is, and then never anything again."""
    code = """
import sys, signal, os, trio
from seedbed import TinyLM
from seedbed.recording import ReplayLLM
import seedbed.cli.options as options
class Silent(TinyLM):
    def __init__(self, path): super().__init__()
    async def next_token_logits(self, prefix):
        print("asked", flush=True)
        await trio.sleep_forever()
options.ReplayLLM = Silent
from seedbed.cli import run; run()
"""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, "generate", TINY, "--prompts", str(prompts), "--out", str(tmp_path / "o.jsonl")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 130
    assert said == f"0 of 1 lines are done, and their rows in {tmp_path / 'o.jsonl'}: the same command goes on\ninterrupted\n"


def test_a_terminal_sees_how_far_it_is(prompts: Path, tmp_path: Path) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "generate", TINY, "--prompts", str(prompts), "--out", str(tmp_path / "o.jsonl"), *SAMPLING],
        stdout=subprocess.PIPE, stderr=child, text=True, env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
    )  # fmt: skip
    os.close(child)
    seen = b""
    try:
        while data := os.read(parent, 4096):
            seen += data
    except OSError:
        pass
    out, _ = process.communicate(timeout=60)
    os.close(parent)

    assert re.search(rb"1 of 1 prompts", seen)
    assert out.startswith("1 prompts, 2 sequences, 16 tokens")


def test_the_figures_are_those_of_what_happened() -> None:
    now = [100.0]
    view = BulkView(lambda: now[0])
    view.notice(BulkBegan(prompts=100, finished=10, sequences=1))
    for place in range(10, 20):
        view.notice(SequenceBegan(place, 0, ()))
        view.notice(RequestBegan("http://model"))
    for place in range(10, 15):
        view.notice(RequestEnded("http://model", 200, 10, 0.1, ""))
        view.notice(TokensDrawn(place, 0, (1, 2, 3), 5, 0.1))
        view.notice(SequenceEnded(place, 0, 3, "length"))
        view.notice(PromptFinished(place, 3, "" if place < 14 else "prompts.jsonl:15: no JSON"))
    view.notice(RequestRepeated("http://model"))
    now[0] += 10.0

    assert view.left() == "0:02:50 left"  # 5 prompts in 10 s, 85 to go
    assert view.counts() == (
        "2 tokens/s, 5 sequences and 5 requests under way, 50% of lookahead accepted, 3 tokens an answer, "
        "1 requests repeated, 1 prompts skipped"
    )
