"""Writing a recording: append-only, locked, continued after any kill, valid on a full disk."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.recording.samples import ALONE, PREFIXES, RUN, TIERS, content, info_of, row_of, same_rows, write, writer_of

from seedbed import TopLogprobs
from seedbed.errors import RecordingBroken, RecordingError, RecordingExists, RecordingLocked, UsageError
from seedbed.recording import Asked, Run
from seedbed.recording.format import MANIFEST, RUNS, STEPS, open_recording
from seedbed.recording.shards import HEADER, shard_name
from seedbed.recording.write import RecordingWriter

INFO = info_of("top_k")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(rows=st.lists(st.lists(st.floats(-90, -4, width=32) | st.just(-np.inf), min_size=1, max_size=50), min_size=1, max_size=6))
def test_any_log_probability_survives_as_text(rows: list[list[float]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """50 values of at most e**-4 sum below 1."""
    path = tmp_path_factory.mktemp("any") / "recording"
    want = [TopLogprobs(range(len(values)), np.array(values, dtype=np.float32), 50) for values in rows]
    with RecordingWriter(path, INFO, 50) as writer:
        for number, value in enumerate(want):
            writer.append((number,), value)

    assert [step.row for step in open_recording(path).steps] == want


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(rows=st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=50, max_size=50), min_size=1, max_size=6))
def test_any_float32_bits_survive_in_a_full_row(rows: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """The format does not judge: what a broken model said is kept too (``RecordingLLM`` refuses it before)."""
    path = tmp_path_factory.mktemp("any") / "recording"
    want = [np.array(bits, dtype=np.uint32).view(np.float32) for bits in rows]
    with writer_of(path, "full") as writer:
        for number, value in enumerate(want):
            writer.append((number,), value)

    assert all(same_rows(step.row, row) for step, row in zip(open_recording(path).steps, want, strict=True))


def test_the_best_beside_a_huge_logit_are_still_a_distribution(tmp_path: Path) -> None:
    """The logarithm of the sum is lost when it is added to 7e13 first."""
    row = np.zeros(50, dtype=np.float32)
    row[-2:] = 7e13
    with writer_of(tmp_path / "huge", "full") as writer:
        best = writer.append((1,), row).best

    assert best.logprobs[:2].tolist() == [np.float32(-math.log(2))] * 2


@pytest.mark.parametrize("tier", TIERS)
def test_a_writer_that_was_killed_leaves_what_was_answered(tmp_path: Path, tier: str) -> None:
    """A kill is a writer that is never closed, and possibly half a line."""
    path = write(tmp_path / "killed", tier, seal=False)
    whole = (path / STEPS).read_bytes()
    ends = [place + 1 for place, octet in enumerate(whole) if octet == ord("\n")]
    for cut in sorted({*range(0, len(whole) + 1, 5), *ends, *(end - 1 for end in ends)}):
        (path / STEPS).write_bytes(whole[:cut])
        recording = open_recording(path)
        assert not recording.is_sealed
        assert sum(len(step.observations) for step in recording.steps) == whole[:cut].count(b"\n")


@pytest.mark.parametrize("tier", TIERS)
def test_an_unsealed_recording_is_continued_and_ends_octet_for_octet_like_an_undisturbed_one(tmp_path: Path, tier: str) -> None:
    want = write(tmp_path / "undisturbed", tier)
    for survived in range(len(PREFIXES) + 1):
        path = tmp_path / str(survived)
        writer = writer_of(path, tier)
        for number, prefix in enumerate(PREFIXES[:survived]):
            writer.append(prefix, row_of(number, tier), ALONE)
        writer.abandon()
        with (path / STEPS).open("ab") as file:
            file.write(b'{"step":')
        if tier == "full":  # a row whose line was never written, in a shard that has rows and in one that has none
            for name in [shard_name(n) for n in range(1, 4) if (path / shard_name(n)).exists()]:
                with (path / name).open("ab") as file:
                    file.write(b"\x01" * 130)
            if survived:
                free = shard_name(1 + len(list(path.glob("*.safetensors"))))
                (path / free).write_bytes(b"half a hea")
        with writer_of(path, tier) as writer:
            for number, prefix in enumerate(PREFIXES):
                if writer.recording.get(prefix) is None:
                    writer.append(prefix, row_of(number, tier), ALONE)
            step = writer.recording.steps[1]
            writer.append_repeat(step, row_of(1, tier), Asked(4, "warm", 0.5))
            writer.append_repeat(step, row_of(99, tier), Asked(2, "warm", 0.5))
        assert sorted(f.name for f in path.iterdir()) == sorted(f.name for f in want.iterdir())
        for file in want.iterdir():
            assert (path / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_recorder_killed_before_its_first_manifest_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.mkdir()
    (path / STEPS).touch()
    (path / f".{MANIFEST}").write_text('{"for')
    write(path)

    assert len(open_recording(path).steps) == 5


def test_a_repeat_of_the_same_bits_takes_a_short_line(tmp_path: Path) -> None:
    path = write(tmp_path / "recording", "full")
    lines = (path / STEPS).read_text().splitlines()

    assert json.loads(lines[5]).keys() == {"repeat", "same", "concurrency", "cache", "latency", "crc32"}
    assert json.loads(lines[6]).keys() == {"repeat", "row", "sha256", "concurrency", "cache", "latency", "crc32"}


def test_a_run_is_kept_under_its_name_and_replaced_under_it(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    other = Run("r", ((9,),))
    with writer_of(path, "top_k") as writer:
        writer.note(RUN)
        writer.note(RUN)
    assert open_recording(path).runs == {"r": RUN}
    assert (path / RUNS).read_text().count("\n") == 1
    with writer_of(path, "top_k", extend=True) as writer:
        writer.note(other)

    assert open_recording(path).runs == {"r": other}
    assert (path / RUNS).read_bytes() == other.to_line()


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    writer = writer_of(path, "top_k")
    writer.note(RUN)
    writer.abandon()
    whole = (path / RUNS).read_bytes()
    for place in range(len(whole) - 1):
        (path / RUNS).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RecordingBroken, match="runs.jsonl line 1 is damaged"):
            open_recording(path)
        (path / RUNS).write_bytes(whole[:place])
        assert open_recording(path).runs == {}


@pytest.mark.parametrize("tier", TIERS)
def test_a_finished_recording_is_not_written_to_unasked(tmp_path: Path, tier: str) -> None:
    path = write(tmp_path / "recording", tier)
    with pytest.raises(RecordingExists, match="finished recording"):
        writer_of(path, tier)
    with writer_of(path, tier, extend=True) as writer:
        writer.append((7,), row_of(9, tier))
    recording = open_recording(path)

    assert len(recording.steps) == 6
    assert recording.verify() == 8


@pytest.mark.parametrize("tier", TIERS)
def test_extending_by_nothing_touches_no_file(tmp_path: Path, tier: str) -> None:
    path = write(tmp_path / "recording", tier)
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.iterdir()}
    with writer_of(path, tier, extend=True):
        pass

    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.iterdir()} == before


def test_another_model_or_other_files_are_not_written_to(tmp_path: Path) -> None:
    path = write(tmp_path / "recording")
    with pytest.raises(RecordingExists, match=r"records m with top_k 3 \(here 4\); give another path"):
        RecordingWriter(path, INFO, 4, extend=True)
    with pytest.raises(RecordingExists, match=r"with top_k 3 \(here 'all'\)"):
        RecordingWriter(path, INFO, None, extend=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("dear to me")
    with pytest.raises(RecordingExists, match="no recording"):
        RecordingWriter(tmp_path / "other", INFO, 3)
    with pytest.raises(RecordingExists, match="thesis.txt is a file, and a recording a directory"):
        RecordingWriter(tmp_path / "other" / "thesis.txt", INFO, 3)
    with pytest.raises(RecordingError, match="cannot be written"):
        RecordingWriter(tmp_path / "other" / "thesis.txt" / "inside", INFO, 3)
    (path / MANIFEST).unlink()
    with pytest.raises(RecordingExists, match="no recording"):
        RecordingWriter(path, INFO, 3)

    assert [file.name for file in (tmp_path / "other").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", [STEPS, MANIFEST, f".{MANIFEST}"])
def test_nothing_is_ever_written_through_a_link(tmp_path: Path, name: str) -> None:
    path, target = write(tmp_path / "recording", seal=False), tmp_path / "target"
    target.write_bytes((path / name).read_bytes() if (path / name).exists() else b"")
    before = target.read_bytes()
    (path / name).unlink(missing_ok=True)
    (path / name).symlink_to(target)
    with pytest.raises(RecordingBroken, match="is a link"), writer_of(path, "top_k") as writer:
        writer.append((9,), row_of(0, "top_k"))

    assert target.read_bytes() == before


class TestLock:
    def test_a_second_writer_is_refused_in_this_process_and_in_another(self, tmp_path: Path) -> None:
        path = tmp_path / "recording"
        code = f"from seedbed.recording.write import *; from tests.recording.samples import *; writer_of({str(path)!r}, 'top_k')"
        with writer_of(path, "top_k") as writer:
            writer.append((1,), row_of(0, "top_k"))
            with pytest.raises(RecordingLocked, match="it holds the lock on steps.jsonl"):
                writer_of(path, "top_k")
            ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            assert "RecordingLocked: another recorder is writing to" in ran.stderr
            writer.append((2,), row_of(1, "top_k"))

        assert len(open_recording(path).steps) == 2

    def test_reading_is_never_locked_out(self, tmp_path: Path) -> None:
        with writer_of(tmp_path / "recording", "top_k") as writer:
            writer.append((1,), row_of(0, "top_k"))
            assert len(open_recording(tmp_path / "recording").steps) == 1
            writer.append((2,), row_of(0, "top_k"))
            with pytest.raises(RecordingLocked):
                writer_of(tmp_path / "recording", "top_k")

    def test_a_refused_writer_leaves_the_lock_where_it_was_and_nothing_open(self, tmp_path: Path) -> None:
        path = write(tmp_path / "recording")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(RecordingExists):
                writer_of(path, "top_k")

        assert len(os.listdir("/proc/self/fd")) == before


FULL_DISK = """
import resource, sys
from pathlib import Path
from seedbed.errors import RecordingError
from seedbed.recording import Run
from tests.recording.samples import *
_, path, tier, *limits = sys.argv
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit in limits:
    writer = writer_of(Path(path, limit), tier)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), hard))
    failed = None
    for number in range(40):
        try:
            writer.append((number,), row_of(number, tier))
        except RecordingError as error:
            failed = failed or (number, str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    writer.abandon()
    print(limit, *failed, sep="|")
"""


@pytest.mark.parametrize(("tier", "limits"), [("top_k", (1500, 1510, 1520)), ("full", (4096, 4200, 4300, 4500, 6000))])
def test_a_full_disk_is_a_typed_error_and_the_recording_stays_valid(tmp_path: Path, tier: str, limits: tuple[int, ...]) -> None:
    """A limit on file sizes is a disk that is full in the middle of a write, as the kernel does it."""
    pytest.importorskip("resource")
    words = [sys.executable, "-c", FULL_DISK, str(tmp_path), tier, *map(str, limits)]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == len(limits)
    for line in lines:
        limit, survived, said = line.split("|")
        path = tmp_path / limit
        assert said.endswith("File too large; all before it are kept")
        recording = open_recording(path)
        assert [step.prefix for step in recording.steps][: int(survived)] == [(n,) for n in range(int(survived))]
        assert recording.verify() == len(recording.steps)
        with writer_of(path, tier) as writer:
            writer.append((77,), row_of(3, tier))
        assert same_rows(open_recording(path).get([77]).row, row_of(3, tier))


@pytest.mark.parametrize("tier", TIERS)
def test_after_a_failed_write_the_next_one_succeeds(tmp_path: Path, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room again, in the same process; and the taking back may itself have failed."""
    path = tmp_path / "recording"
    writer = writer_of(path, tier)
    writer.append((1,), row_of(1, tier))
    real_write, real_truncate = os.write, os.ftruncate
    for skipped in range(2 if tier == "full" else 1):
        calls = [0]

        def short(descriptor, data, calls=calls, skipped=skipped):
            calls[0] += 1
            if calls[0] <= skipped:
                return real_write(descriptor, data)
            if calls[0] == skipped + 1:
                return real_write(descriptor, bytes(data)[:20])
            raise OSError(28, "No space left on device")

        def failing(*_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "write", short)
        monkeypatch.setattr(os, "ftruncate", failing if skipped == 0 else real_truncate)
        with pytest.raises(RecordingError, match="No space left on device; all before it are kept"):
            writer.append((2,), row_of(3, tier))
        monkeypatch.undo()
    writer.append((3,), row_of(5, tier))
    writer.seal()
    recording = open_recording(path)

    assert [step.prefix for step in recording.steps] == [(1,), (3,)]
    assert same_rows(recording.steps[1].row, row_of(5, tier))
    assert recording.verify() == 2


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (lambda writer: writer.append((9,), row_of(1, "top_k")), "an answer could not be written"),
        (lambda writer: writer.append_repeat(writer.recording.steps[0], row_of(8, "top_k")), "an answer could not be written"),
        (lambda writer: writer.note(RUN), "a run could not be written"),
        (lambda writer: writer.note_text("The", [7], is_tokenized=True), "an answer of the tokenizer could not be written"),
        (lambda writer: writer.note_text("The", [7], is_tokenized=False), "an answer of the tokenizer could not be written"),
    ],
)
def test_what_could_not_be_written_is_not_believed_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt, said: str) -> None:
    """So that trying again writes it: a sealed recording holds whatever was not refused."""
    path = write(tmp_path / "recording")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with writer_of(path, "top_k", extend=True) as writer:
        for name in ("seedbed.recording.write.write_manifest", "seedbed.recording.write.write_whole"):
            with monkeypatch.context() as patched:
                patched.setattr(name, full)
                with pytest.raises(RecordingError, match=f"{said}: No space left on device; all before it are kept"):
                    attempt(writer)
        attempt(writer)
        inside = writer.recording
    recording = open_recording(path)

    assert content(recording) == content(inside)
    assert (recording.runs, recording.texts) == (inside.runs, inside.texts)
    assert len(recording.runs) + len(recording.texts) + recording.verify() == 8


@pytest.mark.parametrize("tier", TIERS)
def test_a_disk_that_is_full_when_it_is_sealed_leaves_it_to_be_continued(
    tmp_path: Path, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "recording", tier, seal=False)
    before = content(open_recording(path))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        writer = writer_of(path, tier)
        with monkeypatch.context() as patched:
            patched.setattr(os, name, full)
            with pytest.raises(RecordingError, match="cannot be sealed: No space left on device"):
                writer.seal()
        recording = open_recording(path)
        assert (recording.is_sealed, content(recording)) == (False, before)
    writer_of(path, tier).seal()

    assert open_recording(path).is_sealed


def test_a_closed_writer_says_so(tmp_path: Path) -> None:
    writer = writer_of(tmp_path / "recording", "top_k")
    writer.seal()
    writer.seal()
    writer.abandon()
    with pytest.raises(RecordingError, match="is closed"):
        writer.append((1,), row_of(0, "top_k"))


def test_a_row_of_the_other_tier_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with writer_of(tmp_path / "recording", "top_k") as writer, pytest.raises(TypeError, match="top_k=3 does not take a ndarray"):
        writer.append((1,), row_of(0, "full"))


def test_a_first_answer_that_was_scored_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with writer_of(tmp_path / "recording", "top_k") as writer:
        with pytest.raises(UsageError, match="only a repeat can"):
            writer.append((1,), row_of(0, "top_k"), Asked(phase="scored"))
        step = writer.append((1,), row_of(0, "top_k"))
        assert (step.asked_alone, step.scored) == (1, 0)
        writer.append_repeat(step, row_of(0, "top_k"), Asked(phase="scored"))

        assert (step.asked_alone, step.scored) == (1, 1)


def test_a_recording_that_cannot_hold_more_shards_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seedbed.recording.shards.MAX_SHARDS", 1)
    with writer_of(tmp_path / "recording", "full") as writer:
        writer.append((1,), row_of(1, "full"))
        with pytest.raises(
            RecordingError, match="could not be written: a recording holds at most 1 shards; all before it are kept"
        ) as raised:
            writer.append((2,), row_of(2, "full"))  # of another dtype, so for another shard

    assert raised.value.__cause__.errno == errno.EFBIG
    assert len(open_recording(tmp_path / "recording").steps) == 1


def test_two_recordings_of_the_same_answers_have_the_same_content(tmp_path: Path) -> None:
    for tier in TIERS:
        one = write(tmp_path / f"{tier}-1", tier)
        other = Path(shutil.copytree(one, tmp_path / f"{tier}-2"))
        assert content(open_recording(one)) == content(open_recording(other))
        assert (one / shard_name(1)).exists() == (tier == "full")
    assert HEADER == 4096
