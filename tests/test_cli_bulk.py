"""``seedbed generate --prompts``: what it prints, how it ends, how it is gone on with."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from seedbed.cli.bulk_progress import BulkView
from seedbed.observing import (
    BulkBegan,
    PromptFinished,
    RequestBegan,
    RequestEnded,
    RequestRepeated,
    SequenceBegan,
    SequenceEnded,
    TaskBegan,
    TaskEnded,
    TokensDrawn,
)
from seedbed.recording import Recording, ReplayLLM
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
    assert first.stdout == f"1 prompt, 2 sequences, 16 tokens in {out}\nseed   7\n"
    assert again.stdout == f"0 prompts, 0 sequences, 0 tokens in {out}; 1 line was done before\nseed   7\n"
    assert (told["is_complete"], told["before"], told["seed"], told["out"]) == (True, 1, "7", str(out))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["token_ids"] for row in rows] == [s["token_ids"] for s in alone["sequences"]]
    assert [row["text"] for row in rows] == [None, None]


def test_what_cannot_be_continued_ends_it_or_is_skipped_and_listed(prompts: Path, tmp_path: Path) -> None:
    prompts.write_text("\n" + LINE + "[1, 2]\n{\n")
    out = tmp_path / "rows dir"
    stopped, skipped = bulk(prompts, out), bulk(prompts, out, "--keep-going")

    assert (stopped.returncode, stopped.stdout, stopped.stderr.count("\n")) == (5, "", 1)
    assert stopped.stderr.startswith(f"Error: {prompts}:3: the recording tiny-lm ")
    assert stopped.stderr.endswith(f"Skip such lines with --keep-going (2 of 4 lines are done, and their rows in '{out}')\n")
    assert skipped.returncode == 0
    lines = skipped.stdout.splitlines()
    assert lines[0] == f"0 prompts, 0 sequences, 0 tokens in '{out}'; 2 lines were done before"
    assert lines[1] == f"skipped 2, listed in '{out}/_skipped.jsonl':"
    assert lines[3].startswith(f"  {prompts}:4: is no JSON")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompts", "P"], "say where the rows go: --out FILE.jsonl, FILE.parquet or a directory"),
        (["--prompts", "P", "--out", "o.jsonl", "--prompt", "x"], "give either a file with --prompts, or prompts"),
        (["--out", "o.jsonl", "--prompt", "x"], "--out goes with --prompts FILE"),
        (["--keep-going", "--prompt", "x"], "--keep-going goes with --prompts FILE"),
        (["--ray", "local", "--prompt", "x"], "--ray goes with --prompts FILE"),
        (["--prompts", "no/such", "--out", "o.jsonl"], "there is no file of prompts at no/such"),
        (["--prompts", "P", "--out", "o.csv"], "rows go to a .jsonl or .parquet file, or to a directory, not to 'o.csv'"),
        (["--prompts", "P", "--out", "P"], "is there already, and was not made by such a run"),
        (["--prompts", "P", "--out", "no/such/o.jsonl"], "cannot be written: No such file or directory"),
        (["--prompts", "P", "--out", "o.jsonl", "--seed", "-1"], "seed must be in [0, 2**128)"),
        (["--prompts", "P", "--out", "o.jsonl", "--temperature", "-1"], "temperature must be in [0, inf)"),
        (["--prompts", "P", "--out", "o.jsonl", "--timeout", "-1"], "--timeout must be seconds >= 0, not -1.0"),
        (["--prompts", "P", "--out", "o.jsonl", "--timeout", "nan"], "--timeout must be seconds >= 0, not nan"),
        (["--prompts", "-", "--out", "o.jsonl"], "standard input will not do: write them to a file, --prompts FILE"),
        (["--prompts", ".", "--out", "o.jsonl"], ". is a directory, and no file of prompts"),
        (["--prompts", "P", "--out", "o.jsonl", "--ray", "local", "--timeout", "5"], "--timeout does not go with --ray"),
        (["--prompts", "P", "--out", "o.jsonl", "--ray", "local", "--telemetry"], "--telemetry does not go with --ray"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_line(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str) -> None:
    monkeypatch.chdir(tmp_path)
    ran = seedbed("generate", TINY, *[str(prompts) if word == "P" else word for word in arguments])

    assert says in ran.stderr
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)


async def asleep(*_: object, **__: object) -> None:
    await trio.sleep(1000)


@asynccontextmanager
async def never_connected(*_: object, **__: object):
    yield await asleep()


class Asleep(ReplayLLM):
    """A recording that takes a thousand seconds for each answer of one kind, and none for the others."""

    def __init__(self, kind: str, recording: Recording, how_to_extend: str | None) -> None:
        super().__init__(recording, how_to_extend=how_to_extend)
        setattr(self, kind, asleep)


@pytest.fixture
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seedbed.cli.bulk.run_trio", lambda main: trio.run(main, clock=MockClock(autojump_threshold=0)))


@pytest.mark.usefixtures("virtual_clock")
def test_a_timeout_that_was_too_short_for_anything_is_said(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "o.jsonl"
    monkeypatch.setattr("seedbed.cli.source.ReplayLLM", partial(Asleep, "next_token_logits"))
    short = bulk(prompts, out, "--timeout", "5")
    monkeypatch.undo()

    assert (short.returncode, short.stderr) == (0, "")
    assert short.stdout == (
        f"0 prompts, 0 sequences, 0 tokens in {out}\n"
        "cut short: 0 of 1 line is done: the time was over before one more was: give a longer --timeout\nseed   7\n"
    )
    assert bulk(prompts, out).stdout.startswith("1 prompt, 2 sequences, 16 tokens")


@pytest.mark.usefixtures("virtual_clock")
def test_a_timeout_covers_all_that_comes_before_the_first_prompt(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seedbed.cli.source.connect", never_connected)
    connecting = seedbed("generate", "http://model.invalid", "--prompts", str(prompts), "--out", "o.jsonl", "--timeout", "5")
    monkeypatch.setattr("seedbed.cli.source.ReplayLLM", partial(Asleep, "detokenize"))
    beginning = bulk(prompts, tmp_path / "o.jsonl", "--timeout", "5")

    assert (connecting.returncode, beginning.returncode) == (3, 3)
    assert connecting.stderr.startswith("Error: the deadline came before http://model.invalid had said what it is: nothing was sampled")
    assert beginning.stderr.startswith("Error: the deadline came before the model had said whether it has text: nothing was sampled")
    assert list(tmp_path.iterdir()) == [prompts]


def test_nothing_is_said_to_be_done_that_was_not(prompts: Path, tmp_path: Path) -> None:
    ran = [bulk(prompts, tmp_path / "o.jsonl", "-n", "0") for _ in range(2)]

    assert {run.stdout for run in ran} == {f"1 prompt, 0 sequences, 0 tokens in {tmp_path / 'o.jsonl'}\nseed   7\n"}


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
import seedbed.cli.source as source
class Silent(TinyLM):
    def __init__(self, recording, how_to_extend): super().__init__()
    async def next_token_logits(self, prefix):
        print("asked", flush=True)
        await trio.sleep_forever()
source.ReplayLLM = Silent
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
    assert said == "0 of 1 line is done: the same command goes on\ninterrupted\n"


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
    assert out.startswith("1 prompt, 2 sequences, 16 tokens")


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
        "1 request repeated, 1 prompt skipped"
    )


def test_on_a_cluster_the_figures_are_those_that_are_known_here() -> None:
    now = [100.0]
    view = BulkView(lambda: now[0])
    view.notice(BulkBegan(prompts=100, finished=0, sequences=1))
    for _ in range(4):
        view.notice(TaskBegan(10))
    for place in range(10):
        view.notice(PromptFinished(place, 3, ""))
    view.notice(TaskEnded())
    now[0] += 10.0

    assert view.counts() == "3 tokens/s, 1 task done, 3 under way"
