"""``seedbed check`` from its arguments to its exit code, over HTTP."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from typing import NamedTuple

import pytest
import trio
from tests.regression.conftest import HashLM, model

from seedbed import serve
from seedbed.cli import run
from seedbed.regression import Promise
from seedbed.server.planted import PlantedLLM, Scaled


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def _run(arguments: list[str]) -> Ran:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    argv, sys.argv = sys.argv, ["seedbed", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            run()
    finally:
        sys.argv = argv
    return Ran(ended.value.code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


async def ran_command(llm: object, *arguments: object) -> Ran:
    """A command in a thread of its own, against a server of ``llm`` in this one."""
    async with serve(llm) as server:
        words = [server.url if word == "URL" else str(word) for word in arguments]
        return await trio.to_thread.run_sync(_run, words)


async def ran(llm: object, *arguments: object) -> Ran:
    return await ran_command(llm, "check", *arguments)


async def test_the_same_server_ends_with_0_and_writes_what_was_asked(recordings, tmp_path):
    result = await ran(model(), recordings / "top_k", "URL", "--html", tmp_path / "r.html", "--junit", tmp_path / "r.xml")

    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("verdict        IDENTICAL: Every row is the recorded one")
    assert "IDENTICAL" in (tmp_path / "r.html").read_text("utf-8")
    assert 'failures="0"' in (tmp_path / "r.xml").read_text("utf-8")


async def test_a_drift_ends_with_1_and_its_cause(recordings):
    result = await ran(PlantedLLM(model(), Scaled(1.1)), recordings / "top_k", "URL", "--json")
    report = json.loads(result.out)

    assert (result.code, result.err) == (1, "")
    assert (report["verdict"], report["causes"][0]["name"]) == ("DRIFT", "temperature applied")


async def test_evidence_is_continued_from_a_file_over_its_own_recording(recordings, tmp_path):
    first = await ran(model(), recordings / "top_k", "URL", "--json")
    (tmp_path / "first.json").write_text(first.out)
    second, other = [
        await ran(model(), recordings / name, "URL", "--no-free-running", "--json", "--continue", tmp_path / "first.json")
        for name in ("top_k", "noisy-top_k")
    ]

    sequences = [json.loads(result.out)["evidence"]["sequences"] for result in (first, second)]
    assert sequences[1] == 2 * sequences[0]
    assert (other.code, other.out) == (2, "")
    assert "the evidence is of another recording" in other.err


async def test_full_rows_come_over_the_wire_bit_by_bit(recordings):
    result = await ran(model(), recordings / "full", "URL", "--rows", "all")

    assert (result.code, result.out.split(":")[0]) == (0, "verdict        IDENTICAL")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["no/such/path", "URL"], 5, "no recording at no/such/path"),
        (["RECORDING", "http://127.0.0.1:1"], 3, "connection refused"),
        (["URL", "RECORDING"], 2, "give the recording first, then the URL"),
        (["RECORDING", "URL", "--by", "ada"], 2, "--by says who accepts"),
        (["RECORDING", "URL", "--margin", "0"], 2, "margin must be nats above 0"),
        (["RECORDING", "URL", "--continue", "no-file"], 2, "--continue: no-file cannot be read: No such file or directory"),
        (["RECORDING", "URL", "--continue", "."], 2, "--continue: . cannot be read: Is a directory"),
        (["RECORDING", "URL", "--continue", "pyproject.toml"], 2, "pyproject.toml is no output of 'seedbed check --json'"),
        (["RECORDING", "URL", "--html", "no/such/dir/x.html"], 2, "no/such/dir/x.html cannot be written: its directory is not there"),
        (["RECORDING", "URL", "--junit", "pyproject.toml/x.xml"], 2, "cannot be written: its directory is not there"),
        (["RECORDING", "URL", "--accept", " "], 2, "--accept is blank, and must be a reason"),
        (["RECORDING", "URL", "--accept", "why", "--by", ""], 2, "--by is blank, and must be a name"),
        (["RECORDING", "URL", "--continue", "x" * 300], 2, "cannot be read: File name too long"),
        (["RECORDING", "URL", "--html", "x" * 300], 2, "cannot be written: File name too long"),
        (["RECORDING", "URL", "--rows", "5"], 2, "--rows 5 is less than the recording keeps, 20 tokens of each row"),
    ],
)
async def test_a_mistake_gets_one_line(recordings, arguments, code, says):
    result = await ran(HashLM(257), *[recordings / "top_k" if word == "RECORDING" else word for word in arguments])

    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert says in result.err


async def test_a_report_that_cannot_be_written_is_printed_all_the_same(recordings):
    result = await ran(model(), recordings / "top_k", "URL", "--no-free-running", "--html", "/dev/full")

    assert (result.code, result.out.split(":")[0]) == (2, "verdict        IDENTICAL")
    assert result.err == "Error: /dev/full cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    "words", [["generate", "x" * 300, "--token-ids", "1"], ["generate", "URL", "--prompts", "FILE", "--out", "x" * 300]]
)
async def test_a_path_that_the_system_does_not_take_is_no_fault_of_ours(words, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "The"}')
    result = await ran_command(model(), *[tmp_path / "prompts.jsonl" if word == "FILE" else word for word in words])

    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "x cannot be used: File name too long" in result.err


def test_selftest_prints_a_line_a_promise(monkeypatch):
    def simulated(*, checks, seed, tell):
        promises = [Promise("same server", wrong, checks, 0.01, is_ceiling=True) for wrong in (0, seed)]
        for promise in promises:
            tell(promise)
        return promises

    monkeypatch.setattr(import_module("seedbed.cli.selftest"), "selftest", simulated)
    kept, broken = _run(["selftest"]), _run(["selftest", "--checks", "20", "--seed", "9"])

    assert (kept.code, kept.err, broken.code) == (0, "", 1)
    assert [line.split()[0] for line in kept.out.splitlines()] == ["kept", "kept"]
    assert [line.split()[0] for line in broken.out.splitlines()] == ["kept", "BROKEN"]
