"""The one who appends to a recording: a row, then its line, and never over anything that stands."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from seedbed.errors import RecordingError, RecordingExists
from seedbed.files import sync_directory, write_whole
from seedbed.llm.base import Row, TopLogprobs
from seedbed.recording import lines
from seedbed.recording.files import lock, open_regular, read_file, replace_file
from seedbed.recording.format import MANIFEST, RUNS, STEPS, Recording, read_recording
from seedbed.recording.manifest import Manifest, Seal, read_manifest, write_manifest
from seedbed.recording.shards import MAX_SHARD, Shards
from seedbed.recording.steps import Asked, Observation, Step, StoredRow, best_of, check_first, prefix_key, row_sha256
from seedbed.recording.texts import TEXTS, text_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seedbed.llm.base import ModelInfo
    from seedbed.recording.runs import Run

__all__ = ["RecordingWriter", "refuse_other_files"]

UNKNOWN = Asked()

WRITTEN = {STEPS: "an answer", RUNS: "a run", TEXTS: "an answer of the tokenizer"}
"""What a line of a text file is, to say which could not be written."""


def refuse_other_files(path: Path) -> None:
    """Whether a recording may be written where this path leads: to nothing yet, a recording, or what is left of one that was just begun.

    Raises:
        RecordingExists: to a file, or to a directory with other things in it, which would be lost or mixed up with it.
    """
    if path.is_file():
        raise RecordingExists(f"{path} is a file, and a recording a directory; give another path")
    # A recorder that was killed between its first two files leaves an empty steps.jsonl, and perhaps half a manifest.
    remains = {STEPS, f".{MANIFEST}"}
    if not path.is_dir() or (path / MANIFEST).exists():
        return
    if any(entry.name not in remains or _size(path / STEPS) for entry in path.iterdir()):
        raise RecordingExists(f"{path} holds files that are no recording; give another path")


class RecordingWriter:
    """Append to a recording, holding its lock until closed.

    Every answer is in the operating system's hands before ``append`` returns, so a killed process loses nothing that was answered;
    ``seal`` also forces everything to the disk. A finished recording that is extended stays sealed until something is appended.

    Args:
        path: the directory; made if missing. An unsealed recording of the same model is continued.
        info: the model.
        top_k: how many tokens of each row are kept; None keeps full rows.
        extend: continue a sealed recording too.
        max_shard: octets of full rows after which a new shard is begun.

    Attributes:
        recording: what is there so far.

    Raises:
        RecordingExists: a sealed recording is there, or one of another model or top_k, or files that are no recording.
        RecordingLocked: somebody else is writing to it.
        RecordingBroken: what is there is damaged.
        RecordingError: the directory cannot be written.
    """

    recording: Recording

    def __init__(
        self,
        path: str | os.PathLike[str],
        info: ModelInfo,
        top_k: int | None,
        *,
        extend: bool = False,
        max_shard: int = MAX_SHARD,
    ) -> None:
        self.path = Path(path)
        self._descriptors: dict[str, int] = {}  # {name of a text file: descriptor}
        self._is_growing = False  # the manifest on disk says so
        self._ends: dict[str, int] = {}  # {name of a text file: octets of whole lines}
        try:
            self._begin(Manifest(replace(info, notes=()), top_k), extend, max_shard)
        except OSError as error:
            self._close()
            raise RecordingError(f"{self.path} cannot be written: {error.strerror}") from error
        except BaseException:
            self._close()
            raise

    def _begin(self, wanted: Manifest, extend: bool, max_shard: int) -> None:
        refuse_other_files(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        manifest, steps = self.path / MANIFEST, self.path / STEPS
        self._descriptors[STEPS] = open_regular(steps, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        lock(self._descriptors[STEPS], steps)
        if manifest.exists():
            self.recording = self._continued(wanted, extend, max_shard)
        else:
            assert wanted.info.vocab_size is not None
            self.recording = Recording(self.path, wanted, Shards(self.path, wanted.info.vocab_size, max_shard=max_shard))
            self._grow()

    def _continued(self, wanted: Manifest, extend: bool, max_shard: int) -> Recording:
        found = read_manifest(self.path)
        if found.seal is not None and not extend:
            raise RecordingExists(f"{self.path} holds a finished recording; give another path, or extend it")
        there, here = _described(found), _described(wanted)
        differing = [f"{name} {value!r} (here {here[name]!r})" for name, value in there.items() if value != here[name]]
        if differing:
            raise RecordingExists(f"{self.path} records {found.info.model} with {', '.join(differing)}; give another path")
        recording = read_recording(self.path, found, max_shard=max_shard)
        if found.seal is None:
            self._grow_from(recording)
        return recording

    def _grow_from(self, recording: Recording) -> None:
        """Cut off what a kill left half done."""
        for name in (STEPS, RUNS, TEXTS):
            if name == STEPS or (self.path / name).exists():
                self._ends[name] = end = read_file(self.path / name).rfind(b"\n") + 1
                os.ftruncate(self._text(name), end)
        recording.shards.resume()
        self._is_growing = True

    def _grow(self) -> None:
        """Say in the manifest that the recording is not finished, before anything is appended."""
        if not self._is_growing:
            manifest = replace(self.recording.manifest, seal=None)
            write_manifest(self.path, manifest)
            self.recording.manifest = manifest
            self._grow_from(self.recording)

    def append(self, prefix: tuple[int, ...], row: Row, asked: Asked = UNKNOWN) -> Step:
        """Add an answer to a prefix that has none yet.

        Args:
            prefix: at least one id.
            row: ``TopLogprobs``, or float32 of shape (vocab_size,) when full rows are kept; written bit for bit.
            asked: the condition under which it was had.

        Raises:
            UsageError: it was had with those of all beginnings of a longer prefix: it can only be a repeat.
            RecordingError: the disk is full or gone; the recording is still valid without this answer.
        """
        check_first(asked)
        recording = self.recording
        parent = recording.nearest(prefix)
        tokens = prefix[parent.length :] if parent is not None else prefix
        key, number = prefix_key(prefix), len(recording.steps)
        best, logsumexp = best_of(row)
        head = {"step": number, "parent": None if parent is None else parent.number, "tokens": tokens}
        observation = self._write(head, row, asked, key, number, {"top": _top(best), "logsumexp": logsumexp})
        step = Step(number, parent, tokens, key, observation, best, logsumexp)
        recording.steps.append(step)
        recording.index.add(step)
        return step

    def append_repeat(self, step: Step, row: Row, asked: Asked = UNKNOWN) -> Observation:
        """Add another answer to a prefix that has one; of the same bits it takes a short line, of others a row.

        Raises:
            RecordingError: as ``append``.
        """
        head: dict[str, Any] = {"repeat": step.number}
        sha256 = row_sha256(step.key, row)
        for place, earlier in enumerate(step.observations):
            source = earlier.source
            if sha256 == (source.sha256 if isinstance(source, StoredRow) else row_sha256(step.key, source)):
                self._append_lines(lines.checked(head | {"same": place} | asked.to_line()), STEPS)
                observation = Observation(asked, source, place)
                break
        else:
            observation = self._write(head, row, asked, step.key, step.number, {})
        step.observations.append(observation)
        return observation

    def note(self, run: Run) -> None:
        """Keep which tokens were sampled; nothing is written when the same is noted already.

        Raises:
            RecordingError: as ``append``.
        """
        if self.recording.runs.get(run.name) != run:
            self._append_lines(run.to_line(), RUNS)
            self.recording.runs[run.name] = run

    def note_text(self, text: str, token_ids: Sequence[int], *, is_tokenized: bool) -> None:
        """Keep what the tokenizer made of a text or, not ``is_tokenized``, of token ids; nothing is written when that is known.

        Raises:
            RecordingError: as ``append``.
        """
        texts = self.recording.texts
        if not texts.know(text, token_ids, is_tokenized=is_tokenized):
            self._append_lines(text_line(text, token_ids, is_tokenized=is_tokenized), TEXTS)
            texts.add(text, token_ids, is_tokenized=is_tokenized)

    def _write(self, head: dict[str, Any], row: Row, asked: Asked, key: bytes, number: int, seen: dict[str, Any]) -> Observation:
        if isinstance(row, TopLogprobs) != (self.recording.top_k is not None):
            raise TypeError(f"a recording of {_kept(self.recording.manifest)} does not take a {type(row).__name__}")
        if isinstance(row, TopLogprobs):
            self._append_lines(lines.checked(head | {"top": _top(row)} | asked.to_line()), STEPS)
            return Observation(asked, row)
        self._ready(STEPS)
        try:
            shard, place = self.recording.shards.append(row)
        except OSError as error:
            raise self._failed(error, STEPS) from error
        sha256 = row_sha256(key, row)
        try:
            self._append_lines(lines.checked(head | {"row": (shard, place), "sha256": sha256} | seen | asked.to_line()), STEPS)
        except RecordingError:
            self.recording.shards.take_back(shard)
            raise
        return Observation(asked, StoredRow(self.recording.shards, shard, place, sha256, key=key, number=number))

    def _append_lines(self, data: bytes, name: str) -> None:
        self._ready(name)
        try:
            write_whole(self._text(name), data, self._ends.get(name, 0))
        except OSError as error:
            raise self._failed(error, name) from error
        self._ends[name] = self._ends.get(name, 0) + len(data)

    def _ready(self, name: str) -> None:
        if not self._descriptors:
            raise RecordingError(f"{self.path} is closed")
        try:
            self._grow()
        except OSError as error:
            raise self._failed(error, name) from error

    def _failed(self, error: OSError, name: str) -> RecordingError:
        return RecordingError(f"{self.path}: {WRITTEN[name]} could not be written: {error.strerror}; all before it are kept")

    def _text(self, name: str) -> int:
        if name not in self._descriptors:
            self._descriptors[name] = open_regular(self.path / name, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        return self._descriptors[name]

    def seal(self, token_texts: Mapping[int, str] | None = None) -> None:
        """Finish: force everything to the disk and say so in the manifest. Idempotent; nothing is written when nothing was appended.

        Args:
            token_texts: how tokens are spelled, for people.

        Raises:
            RecordingError: the disk is full or gone; the recording can be continued.
        """
        if not self._descriptors:
            return
        try:
            if self._is_growing:
                self._write_seal(dict(token_texts or {}))
        except OSError as error:
            raise RecordingError(f"{self.path} cannot be sealed: {error.strerror}") from error
        finally:
            self._close()

    def _write_seal(self, token_texts: dict[int, str]) -> None:
        shards = self.recording.shards.finish()
        self._drop_replaced_runs()
        hashes = {}
        for name, descriptor in self._descriptors.items():
            os.fsync(descriptor)
            hashes[name] = hashlib.sha256(read_file(self.path / name)).hexdigest()
        sync_directory(self.path)
        texts = self.recording.manifest.token_texts | token_texts
        seal = Seal(len(self.recording.steps), dict(sorted(hashes.items())), shards)
        manifest = replace(self.recording.manifest, seal=seal, token_texts=texts)
        write_manifest(self.path, manifest)
        self.recording.manifest = manifest

    def _drop_replaced_runs(self) -> None:
        """So that a recording that is made anew, of a model that did not change, is the same file."""
        runs = self.recording.runs
        if runs and read_file(self.path / RUNS).count(b"\n") > len(runs):
            replace_file(self.path / RUNS, b"".join(run.to_line() for run in runs.values()))

    def abandon(self) -> None:
        """Stop without sealing; what was appended can be continued. Idempotent."""
        self._close()

    def _close(self) -> None:
        if hasattr(self, "recording"):
            self.recording.shards.close()
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.seal()
        else:
            self.abandon()


def _top(row: TopLogprobs | None) -> dict[str, Any] | None:
    return None if row is None else {"token_ids": row.token_ids, "logprobs": row.logprobs}


def _described(manifest: Manifest) -> dict[str, object]:
    """What all answers of one recording have in common."""
    info = asdict(manifest.info)
    del info["notes"], info["max_top_k"]  # which follows from what is kept
    return info | {"top_k": "all" if manifest.top_k is None else manifest.top_k}


def _kept(manifest: Manifest) -> str:
    return "full rows" if manifest.top_k is None else f"top_k={manifest.top_k}"


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
