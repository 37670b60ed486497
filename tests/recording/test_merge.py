"""A recording made anew takes the place of the old one whole, and what did not change does not change on disk either."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tests.recording.samples import ALONE, PREFIXES, TIERS, content, info_of, row_of, write, writer_of

from seedbed.errors import RecordingError, RecordingExists
from seedbed.recording import Acceptance, Asked, Run, open_recording
from seedbed.recording.manifest import read_manifest, write_manifest
from seedbed.recording.merge import Merged, put_in_place, replace_recording, restore_interrupted
from seedbed.recording.write import RecordingWriter


def fresh(path: Path, tier: str, rows: dict[tuple[int, ...], int]) -> Path:
    with writer_of(path, tier) as writer:
        for prefix, number in rows.items():
            writer.append(prefix, row_of(number, tier), Asked(7, "warm", 9.0))
    return path


@pytest.mark.parametrize("tier", TIERS)
def test_answers_that_came_back_with_the_same_bits_change_no_octet(tmp_path: Path, tier: str) -> None:
    path = write(tmp_path / "recording", tier)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    answers = content(open_recording(path))
    again = fresh(tmp_path / "fresh", tier, {prefix: number for number, prefix in reversed(list(enumerate(PREFIXES)))})
    merged = replace_recording(path, again, keep_unasked=False)

    assert merged == Merged(5, 0, 0, 0)
    assert tier == "full" or {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert content(open_recording(path)) == answers  # a full one was written with shards of another size here
    assert [entry.name for entry in tmp_path.iterdir()] == ["recording"]


def test_a_directory_that_is_no_recording_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "project" / "tests").mkdir(parents=True)
    (tmp_path / "project" / "tests" / "test_all.py").write_text("assert True")
    again = fresh(tmp_path / "fresh", "top_k", {(1,): 0})
    for path, put in ((tmp_path / "project", put_in_place), (tmp_path / "project", partial(replace_recording, keep_unasked=False))):
        with pytest.raises(RecordingExists, match="holds files that are no recording"):
            put(path, again)

    assert (tmp_path / "project" / "tests" / "test_all.py").read_text() == "assert True"
    assert open_recording(again).steps


def test_what_others_put_beside_a_recording_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "recording", "top_k")
    (path / "README.md").write_text("recorded on the old server")
    (path / "notes").mkdir()
    (path / "notes" / "why.txt").write_text("since")
    (path / "link").symlink_to("README.md")
    replace_recording(path, fresh(tmp_path / "fresh", "top_k", {(9,): 5}), keep_unasked=False)

    assert (path / "README.md").read_text() == "recorded on the old server"
    assert (path / "notes" / "why.txt").read_text() == "since"
    assert (path / "link").is_symlink()
    assert [step.prefix for step in open_recording(path).steps] == [(9,)]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("keep_unasked", [True, False])
def test_what_changed_what_is_new_and_what_was_not_asked_for(tmp_path: Path, tier: str, keep_unasked: bool) -> None:
    path = write(tmp_path / "recording", tier)
    again = fresh(tmp_path / "fresh", tier, {PREFIXES[0]: 0, PREFIXES[1]: 33, (9,): 5})
    merged = replace_recording(path, again, keep_unasked=keep_unasked)
    recording = open_recording(path)
    asked = {step.prefix: step.observations[0].asked for step in recording.steps}

    assert merged == (Merged(4, 1, 1, 0) if keep_unasked else Merged(1, 1, 1, 3))
    assert list(asked) == [*(PREFIXES if keep_unasked else PREFIXES[:2]), (9,)]
    assert (asked[PREFIXES[0]], asked[PREFIXES[1]].concurrency) == (ALONE, 7)
    assert recording.verify() == len(recording.steps)


def test_runs_are_kept_as_steps_are(tmp_path: Path) -> None:
    for keep_unasked in (True, False):
        path = tmp_path / "recording"
        for where, name in ((path, "old"), (tmp_path / "fresh", "new")):
            with writer_of(where, "top_k") as writer:
                writer.append((1,), row_of(0, "top_k"))
                writer.note(Run(name, ((1,),)))
        replace_recording(path, tmp_path / "fresh", keep_unasked=keep_unasked)
        assert set(open_recording(path).runs) == ({"old", "new"} if keep_unasked else {"new"})
        shutil.rmtree(path)


def test_two_models_do_not_mix(tmp_path: Path) -> None:
    path = write(tmp_path / "recording")
    with RecordingWriter(tmp_path / "fresh", replace(info_of("top_k"), fingerprint="other"), 3) as writer:
        writer.append((1, 2), row_of(0, "top_k"))
    before = content(open_recording(path))
    with pytest.raises(RecordingExists, match="do not mix"):
        replace_recording(path, tmp_path / "fresh", keep_unasked=True)

    assert content(open_recording(path)) == before
    replace_recording(path, tmp_path / "fresh", keep_unasked=False)
    assert open_recording(path).info.fingerprint == "other"


def test_killed_between_the_two_renames_the_old_one_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "recording")
    want = content(open_recording(path))
    real, renames = Path.rename, []

    def dying(self: Path, target: Path) -> Path:
        renames.append(target)
        if len(renames) == 2:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        replace_recording(path, fresh(tmp_path / "fresh", "top_k", {(1,): 1}), keep_unasked=False)
    monkeypatch.undo()
    restore_interrupted(path)

    assert content(open_recording(path)) == want
    assert replace_recording(path, tmp_path / "fresh", keep_unasked=False) == Merged(0, 0, 1, 5)
    assert [entry.name for entry in tmp_path.iterdir()] == ["recording"]


def interrupted(tmp_path: Path, *, whole: bool = True) -> tuple[Path, Path]:
    """A recording that was replaced, and the old one, which a kill left aside, whole or half removed."""
    path, aside = write(tmp_path / "recording"), tmp_path / ".recording.old"
    shutil.copytree(path, aside)
    if not whole:
        (aside / "manifest.json").unlink()
    return path, aside


@pytest.mark.parametrize("whole", [True, False])
def test_killed_after_the_second_rename_the_new_one_can_be_replaced_again(tmp_path: Path, whole: bool) -> None:
    path, _ = interrupted(tmp_path, whole=whole)

    assert replace_recording(path, fresh(tmp_path / "fresh", "top_k", {(1,): 1}), keep_unasked=False) == Merged(0, 0, 1, 5)
    assert [entry.name for entry in tmp_path.iterdir()] == ["recording"]

    path, _ = interrupted(tmp_path / "other", whole=whole)
    put_in_place(path, fresh(tmp_path / "other" / "new", "top_k", {(1,): 1}))

    assert [step.prefix for step in open_recording(path).steps] == [(1,)]
    assert [entry.name for entry in path.parent.iterdir()] == ["recording"]


def test_what_was_replaced_does_not_come_back_when_the_new_one_is_deleted(tmp_path: Path) -> None:
    path, aside = interrupted(tmp_path)
    restore_interrupted(path)
    assert (path.exists(), aside.exists()) == (True, False)
    shutil.rmtree(path)
    restore_interrupted(path)

    assert not path.exists()


@pytest.mark.parametrize("survived", [0, 1])
def test_a_rename_that_is_refused_is_a_typed_error_and_the_old_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    path = write(tmp_path / "recording")
    want, new = content(open_recording(path)), fresh(tmp_path / "fresh", "top_k", {(1,): 1})
    real, renames = Path.rename, []

    def refusing(self: Path, target: Path) -> Path:
        renames.append(target)
        if len(renames) == survived + 1:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(RecordingError, match=r"recording cannot be replaced, and is as it was: Permission denied \(.*\)"):
        put_in_place(path, new)

    assert content(open_recording(path)) == want
    assert new.exists()


def test_what_cannot_be_removed_or_brought_back_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, aside = interrupted(tmp_path)

    def refused(where: Path, *_: object, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(13, "Permission denied", str(where))

    monkeypatch.setattr(shutil, "rmtree", refused)
    with pytest.raises(RecordingError, match=r"cannot be replaced, and is as it was: Permission denied \(.*\.recording\.old\)"):
        put_in_place(path, tmp_path / "new")
    monkeypatch.undo()
    shutil.rmtree(path)
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(RecordingError, match=r"is .*\.recording\.old now: Permission denied"):
        restore_interrupted(path)

    assert aside.exists()


def test_brought_back_by_two_processes_at_once_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = interrupted(tmp_path)
    shutil.rmtree(path)
    real = Path.rename

    def overtaken(self: Path, target: Path) -> Path:
        real(self, target)
        return real(self, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    restore_interrupted(path)

    assert [entry.name for entry in tmp_path.iterdir()] == ["recording"]


def test_a_disk_that_is_full_before_the_first_rename_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "recording")
    noted = Acceptance("me", "planned", "DRIFT", 0.5, (), "", "m")
    write_manifest(path, replace(read_manifest(path), accepted=(noted,)))
    want = {file.name: file.read_bytes() for file in path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seedbed.recording.merge.write_manifest", full)
    with pytest.raises(RecordingError, match="cannot be written: No space left on device"):
        replace_recording(path, fresh(tmp_path / "fresh", "top_k", {(1,): 1}), keep_unasked=False)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == want
    monkeypatch.undo()
    replace_recording(path, tmp_path / "fresh", keep_unasked=False)

    assert open_recording(path).manifest.accepted == (noted,)
