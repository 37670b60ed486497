"""Recordings on disk: lossless, append-only, checked line by line; whatever is damaged is refused with its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seedbed.errors import RecordingBroken, RecordingError, RecordingExists, RecordingNotFound, RecordingTooNew
from seedbed.llm import ModelInfo, TopLogprobs
from seedbed.recording.format import MANIFEST, STEPS, RecordingWriter, open_recording

INFO = ModelInfo(
    model="m", server="s", fingerprint="f", vocab_size=50, eos_token_ids=(0,), context_length=9, protocol="native", max_top_k=3
)
STEP_PREFIXES = [(1, 2), (1, 2, 3), (4,), (1, 2, 3, 0), (4, 4)]


def row(number: int) -> TopLogprobs:
    return TopLogprobs([number % 50, (number + 1) % 50, (number + 2) % 50], [-0.5 - number / 7, -2.0 - number / 3, -np.inf], 50)


def write(path: Path, *, seal: bool = True) -> Path:
    writer = RecordingWriter(path, INFO, 3)
    for number, prefix in enumerate(STEP_PREFIXES):
        writer.append(prefix, row(number))
    if seal:
        writer.seal()
    else:
        writer.abandon()
    return path


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sealed") / "recording")


@pytest.fixture
def copy(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "copy"))


def test_what_was_written_is_read_back_bit_for_bit(sealed: Path) -> None:
    recording = open_recording(sealed)

    assert recording.info == INFO
    assert (recording.top_k, recording.is_sealed) == (3, True)
    assert [(step.prefix, step.row) for step in recording.steps] == [(p, row(n)) for n, p in enumerate(STEP_PREFIXES)]
    assert repr(recording) == "<Recording recording: m, 5 steps, top 3>"


def test_a_prefix_is_written_as_what_it_adds_to_its_longest_recorded_beginning(sealed: Path) -> None:
    lines = [json.loads(line) for line in (sealed / STEPS).read_text().splitlines()]

    assert [(line["parent"], line["tokens"]) for line in lines] == [(None, [1, 2]), (0, [3]), (None, [4]), (1, [0]), (2, [4])]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(rows=st.lists(st.lists(st.floats(-90, -4, width=32) | st.just(-np.inf), min_size=1, max_size=50), min_size=1, max_size=6))
def test_any_float32_survives(rows: list[list[float]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """50 values of at most e**-4 sum below 1."""
    path = tmp_path_factory.mktemp("any") / "recording"
    want = [TopLogprobs(range(len(values)), np.array(values, dtype=np.float32), 50) for values in rows]
    with RecordingWriter(path, INFO, 50) as writer:
        for number, value in enumerate(want):
            writer.append((number,), value)

    assert [step.row for step in open_recording(path).steps] == want


def test_a_writer_that_was_killed_leaves_what_was_answered(tmp_path: Path) -> None:
    """A kill is a writer that is never closed, and possibly half a line."""
    path = write(tmp_path / "killed", seal=False)
    whole = (path / STEPS).read_bytes()
    for cut in range(len(whole) + 1):
        (path / STEPS).write_bytes(whole[:cut])
        recording = open_recording(path)
        assert not recording.is_sealed
        assert len(recording.steps) == whole[:cut].count(b"\n")


def test_an_unsealed_recording_is_continued_and_ends_like_an_undisturbed_one(sealed: Path, tmp_path: Path) -> None:
    for survived in range(len(STEP_PREFIXES) + 1):
        path = tmp_path / str(survived)
        writer = RecordingWriter(path, INFO, 3)
        for number, prefix in enumerate(STEP_PREFIXES[:survived]):
            writer.append(prefix, row(number))
        writer.abandon()
        with (path / STEPS).open("ab") as file:
            file.write(b'{"step":')
        with RecordingWriter(path, INFO, 3) as writer:
            for number, prefix in enumerate(STEP_PREFIXES):
                if writer.trie.get(prefix) is None:
                    writer.append(prefix, row(number))
        for name in (MANIFEST, STEPS):
            assert (path / name).read_bytes() == (sealed / name).read_bytes()


def test_a_finished_recording_is_not_written_to_unasked(copy: Path) -> None:
    with pytest.raises(RecordingExists, match="finished recording"):
        RecordingWriter(copy, INFO, 3)
    with RecordingWriter(copy, INFO, 3, extend=True) as writer:
        writer.append((7,), row(9))

    assert len(open_recording(copy).steps) == 6


def test_another_model_or_other_files_are_not_written_to(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordingExists, match="records m .* with top_k=3, not m .* with top_k=4"):
        RecordingWriter(copy, INFO, 4, extend=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("dear to me")
    with pytest.raises(RecordingExists, match="no recording"):
        RecordingWriter(tmp_path / "other", INFO, 3)
    with pytest.raises(RecordingError, match="cannot be written"):
        RecordingWriter(tmp_path / "other" / "thesis.txt", INFO, 3)

    assert [file.name for file in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_a_full_disk_is_a_typed_error_and_the_recording_stays_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RecordingWriter(tmp_path / "full", INFO, 3)
    writer.append((1,), row(0))

    class Full:
        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, data):
            return self._file.write(data[:20])

    monkeypatch.setattr(writer, "_file", Full(writer._file))
    with pytest.raises(RecordingError, match="no space left on device; all before it are kept"):
        writer.append((2,), row(1))
    monkeypatch.undo()
    writer.append((3,), row(2))
    writer.seal()

    assert [step.prefix for step in open_recording(tmp_path / "full").steps] == [(1,), (3,)]


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordingNotFound, match="no recording at .*nowhere"):
        open_recording(tmp_path / "nowhere")
    with pytest.raises(RecordingNotFound):
        open_recording(tmp_path)


def test_a_later_version_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(RecordingTooNew, match="update seedbed"):
        open_recording(copy)


@pytest.mark.parametrize("name", [MANIFEST, STEPS])
def test_truncated_at_any_byte_a_sealed_recording_is_refused(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    for cut in range(len(whole) - (name == MANIFEST)):  # the manifest's last byte is a line feed
        (copy / name).write_bytes(whole[:cut])
        with pytest.raises(RecordingBroken):
            open_recording(copy)


@pytest.mark.parametrize("is_sealed", [True, False])
def test_with_one_bit_changed_a_step_is_refused_or_the_same(sealed: Path, tmp_path: Path, is_sealed: bool) -> None:
    """In an unsealed recording only each line's own hash can tell; a changed line feed drops what follows it at the end."""
    path = Path(shutil.copytree(sealed, tmp_path / "bits")) if is_sealed else write(tmp_path / "bits", seal=False)
    whole = (path / STEPS).read_bytes()
    want = [(step.prefix, step.row) for step in open_recording(path).steps]
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 7
        (path / STEPS).write_bytes(changed)
        try:
            have = [(step.prefix, step.row) for step in open_recording(path).steps]
        except RecordingBroken:
            continue
        assert not is_sealed
        assert have == want[: len(have)]


@pytest.mark.parametrize(
    "change",
    [
        {"format": "x"}, {"version": "1"}, {"sealed": "yes"}, {"tier": "all"}, {"top_k": None}, {"model": {}}, {"model": None},
        {"model": {"vocab_size": 0}}, {"steps": 4}, {"sha256": ""},
    ],
)  # fmt: skip
def test_a_manifest_that_contradicts_itself_is_refused(copy: Path, change: dict[str, object]) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    if change.get("model"):
        change = {"model": manifest["model"] | change["model"]}
    (copy / MANIFEST).write_text(json.dumps(manifest | change))
    with pytest.raises(RecordingBroken):
        open_recording(copy)


@pytest.mark.parametrize(
    "change",
    [{"parent": 1}, {"parent": -1}, {"parent": True}, {"step": 2}, {"tokens": ["1"]}, {"tokens": []}, {"top": {}}, {"sha256": "0"}],
)
def test_a_line_that_breaks_the_rules_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    path = write(tmp_path / "recording", seal=False)
    lines = (path / STEPS).read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    (path / STEPS).write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordingBroken, match=r"line 2 is damaged"):
        open_recording(path)


def test_a_prefix_recorded_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "recording", seal=False)
    line = json.loads((path / STEPS).read_text().splitlines()[0]) | {"step": 5}
    with (path / STEPS).open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(RecordingBroken, match="line 6 records a prefix a second time"):
        open_recording(path)


def test_the_recordings_we_ship_are_small_and_name_no_path() -> None:
    shipped = Path(__file__).parents[2] / "fixtures" / "recordings"
    for path in sorted(shipped.iterdir()):
        recording = open_recording(path)
        assert recording.is_sealed
        assert (path / STEPS).stat().st_size < 700 * len(recording.steps)
        assert "/" not in recording.info.model
