"""One recording out of an old one and one that was made anew: what came back with the same bits keeps its old line."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from seedbed.errors import RecordingError, RecordingExists
from seedbed.recording.format import MANIFEST, Recording, open_recording
from seedbed.recording.manifest import read_manifest, write_manifest
from seedbed.recording.write import RecordingWriter, refuse_other_files

if TYPE_CHECKING:
    from pathlib import Path

    from seedbed.recording.steps import Step

__all__ = ["Merged", "put_in_place", "replace_recording", "restore_interrupted"]


# The files that ``format`` names, and a manifest that is being written.
OF_A_RECORDING = re.compile(r"\.?manifest\.json|(steps|runs|texts)\.jsonl|logits-\d+\.safetensors")


class Merged(NamedTuple):
    """What became of the steps: how many are as they were, have another row, are new, are gone."""

    same: int
    changed: int
    added: int
    dropped: int


def replace_recording(path: Path, fresh: Path, *, keep_unasked: bool) -> Merged:
    """Put a recording that was made anew in the place of the old one; killed at any moment, one of the two is there, whole.

    Args:
        path: the old one; need not exist.
        fresh: the new one, in the same directory; gone afterwards.
        keep_unasked: whether steps stay that only the old one has.

    Raises:
        RecordingExists: steps are to be kept, and they are another model's; or there is something else in that place.
        RecordingError: one of them cannot be read, the disk is full, or the directory cannot be written; the old one is as it was.
    """
    restore_interrupted(path)
    refuse_other_files(path)
    new = open_recording(fresh)
    old = open_recording(path) if (path / MANIFEST).exists() else None
    if keep_unasked and old is not None and (old.info, old.top_k) != (new.info, new.top_k):
        raise RecordingExists(f"{path} records another model than {fresh}, and the answers of two models do not mix")
    merging = path.with_name(f".{path.name}.merging")
    shutil.rmtree(merging, ignore_errors=True)
    merged = _write(merging, old, new, keep_unasked=keep_unasked)
    put_in_place(path, merging)
    shutil.rmtree(fresh, ignore_errors=True)
    return merged


def put_in_place(path: Path, new: Path) -> None:
    """Give a recording's directory the name of another, which goes; killed at any moment, one of the two is there, whole.

    What else somebody put into the old one, such as a README.md, is in the new one too.

    Raises:
        RecordingExists: what is there is no recording.
        RecordingError: the system does not let it; the old one is as it was.
    """
    aside = _aside(path)
    try:
        restore_interrupted(path)
        refuse_other_files(path)
        if path.exists():
            _copy_other_files(path, new)
            if aside.exists():
                shutil.rmtree(aside)
            path.rename(aside)
        new.rename(path)
    except OSError as error:
        restore_interrupted(path)
        raise RecordingError(f"{path} cannot be replaced, and is as it was: {error.strerror} ({error.filename})") from error
    shutil.rmtree(aside, ignore_errors=True)


def _copy_other_files(path: Path, new: Path) -> None:
    for entry in path.iterdir():
        if OF_A_RECORDING.fullmatch(entry.name) or (new / entry.name).exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, new / entry.name, follow_symlinks=False)


def restore_interrupted(path: Path) -> None:
    """Finish what a kill left of ``put_in_place``: what was put aside comes back, or goes where the new one is in its place.

    Raises:
        RecordingError: it cannot come back; says where it lies.
    """
    aside = _aside(path)
    # In this order: what another process puts aside at this moment is not taken for what it has replaced already.
    if not aside.exists():
        return
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)  # what is left of it is in nobody's way until something else is put aside
        return
    try:
        aside.rename(path)
    except OSError as error:
        if path.exists():
            return  # another process has brought it back meanwhile
        raise RecordingError(f"{path} was being replaced when it was interrupted and is {aside} now: {error.strerror}") from error


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _write(path: Path, old: Recording | None, new: Recording, *, keep_unasked: bool) -> Merged:
    same = changed = added = dropped = 0
    copied: list[tuple[Step, Step]] = []
    with RecordingWriter(path, new.info, new.top_k) as writer:
        for step in old.steps if old is not None else ():
            again = new.get(step.prefix)
            if again is None:
                dropped += not keep_unasked
                same += keep_unasked
                if not keep_unasked:
                    continue
            else:
                is_same = again.sha256 == step.sha256
                same, changed = same + is_same, changed + (not is_same)
                step = step if is_same else again
            copied.append((step, writer.append(step.prefix, step.row, step.observations[0].asked)))
        for step in new.steps:
            if writer.recording.get(step.prefix) is None:
                added += 1
                copied.append((step, writer.append(step.prefix, step.row, step.observations[0].asked)))
        for step, copy in copied:  # after all steps, as a recorder does it
            for observation in step.observations[1:]:
                writer.append_repeat(copy, observation.row, observation.asked)
        runs = (old.runs if old is not None and keep_unasked else {}) | new.runs
        for run in runs.values():
            writer.note(run)
        for texts in [new.texts, *([old.texts] if old is not None and keep_unasked else [])]:
            for text, token_ids, is_tokenized in texts.missing_from(writer.recording.texts):
                writer.note_text(text, token_ids, is_tokenized=is_tokenized)
        writer.seal((old.manifest.token_texts if old is not None else {}) | new.manifest.token_texts)
    if old is not None and old.manifest.accepted:
        _keep_accepted(path, old)
    return Merged(same, changed, added, dropped)


def _keep_accepted(path: Path, old: Recording) -> None:
    try:
        write_manifest(path, replace(read_manifest(path), accepted=old.manifest.accepted))
    except OSError as error:
        raise RecordingError(f"{path} cannot be written: {error.strerror}") from error
