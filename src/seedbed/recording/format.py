"""A recording on disk: a directory of text that diffs well, a tree of prefixes with one row each.

``manifest.json``: what was recorded, and whether it is finished::

    {"format": "seedbed recording", "version": 1, "sealed": true, "steps": 3, "sha256": "...", "tier": "top_k", "top_k": 20, "model": {...}}

``steps.jsonl``: one line for each distinct prefix, in the order they were first answered::

    {"step": 0, "parent": null, "tokens": [1, 2, 3], "top": {"token_ids": [7, 4], "logprobs": [-0.5, -1.25]}, "sha256": "..."}
    {"step": 1, "parent": 0, "tokens": [7], "top": {...}, "sha256": "..."}

Rule 1: the prefix of a step is its parent's prefix, which stands on an earlier line, and then ``tokens``; so a tree cannot have a cycle.
Rule 2: log-probabilities are float32 in the shortest decimal form that gives the same float32 back; -inf is null.
Rule 3: a line's ``sha256`` (16 hex digits) covers its prefix, ids and values, so that no edited or damaged line is ever believed.
Rule 4: the file only grows. A line without its line feed was cut off by a kill and is dropped, unless the manifest says "sealed"; a
sealed recording has exactly ``steps`` lines whose SHA-256 is ``sha256``.
Rule 5: no request headers, no URL and no key is ever written.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson

from seedbed.errors import MalformedRow, RecordingBroken, RecordingError, RecordingExists, RecordingNotFound, RecordingTooNew
from seedbed.llm.base import ModelInfo, TopLogprobs
from seedbed.llm.prefix_trie import PrefixTrie

__all__ = ["Recording", "RecordingWriter", "Step", "open_recording"]

FORMAT, VERSION = "seedbed recording", 1
MANIFEST, STEPS = "manifest.json", "steps.jsonl"


@dataclass(frozen=True, slots=True)
class Step:
    """One recorded answer.

    Attributes:
        number: its line, from 0.
        prefix: the token ids asked for.
        row: what the model answered.
    """

    number: int
    prefix: tuple[int, ...]
    row: TopLogprobs


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording, read whole.

    Attributes:
        path: its directory.
        info: the model recorded.
        top_k: how many tokens of each row were kept.
        is_sealed: whether it was finished; an unsealed one ends where its recorder was stopped.
        steps: every answer, in the order recorded.
        trie: the same, by prefix.
    """

    path: Path
    info: ModelInfo
    top_k: int
    is_sealed: bool
    steps: tuple[Step, ...]
    trie: PrefixTrie[Step]

    def __repr__(self) -> str:
        state = "" if self.is_sealed else ", not sealed"
        return f"<Recording {self.path.name}: {self.info.model}, {len(self.steps)} steps, top {self.top_k}{state}>"


def open_recording(path: str | os.PathLike[str]) -> Recording:
    """Read a recording and check every line of it.

    Args:
        path: its directory.

    Raises:
        RecordingNotFound: there is none.
        RecordingTooNew: a later version wrote it.
        RecordingBroken: it contradicts itself or the format; names the line.
    """
    where = Path(path)
    manifest = _read_manifest(where)
    try:
        data = (where / STEPS).read_bytes()
    except OSError as error:
        raise RecordingBroken(f"{where}: {STEPS} cannot be read: {error.strerror}") from error
    sealed = manifest["sealed"]
    whole = data[: data.rfind(b"\n") + 1]
    if sealed and (len(whole) != len(data) or hashlib.sha256(data).hexdigest() != manifest.get("sha256")):
        raise RecordingBroken(f"{where}: {STEPS} is not what was sealed; restore it, or record anew")
    info = _info_from(manifest["model"], where)
    steps: list[Step] = []
    trie: PrefixTrie[Step] = PrefixTrie()
    for number, line in enumerate(whole.splitlines()):
        step = _step_from(line, number, steps, info, where)
        if trie.get(step.prefix) is not None:
            raise RecordingBroken(f"{where}: {STEPS} line {number + 1} records a prefix a second time")
        steps.append(step)
        trie.insert(step.prefix, step)
    if sealed and manifest.get("steps") != len(steps):
        raise RecordingBroken(f"{where}: {len(steps)} steps are there, {manifest.get('steps')} were sealed")
    return Recording(where, info, manifest["top_k"], sealed, tuple(steps), trie)


class RecordingWriter:
    """The one who appends to a recording.

    Every answer is one write of one line, flushed to the operating system before ``append`` returns, so a killed process loses nothing that
    was answered; ``seal`` also forces it to the disk.

    Args:
        path: the directory; made if missing. An unsealed recording of the same model is continued.
        info: the model.
        top_k: how many tokens of each row are kept.
        extend: continue a sealed recording too.

    Raises:
        RecordingExists: a sealed recording is there, or one of another model or top_k, or files that are no recording.
        RecordingError: the directory cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], info: ModelInfo, top_k: int, *, extend: bool = False) -> None:
        self.path = Path(path)
        self._info, self._top_k = info, top_k
        self.trie: PrefixTrie[Step] = PrefixTrie()
        self._steps = 0
        try:
            self._begin(extend)
            self._file = (self.path / STEPS).open("ab", buffering=0)
        except OSError as error:
            raise RecordingError(f"{self.path} cannot be written: {error.strerror}") from error

    def _begin(self, extend: bool) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / MANIFEST).exists():
            self._continue(open_recording(self.path), extend)
        elif any(self.path.iterdir()):
            raise RecordingExists(f"{self.path} holds files that are no recording; give another path")
        else:
            (self.path / STEPS).touch()
        self._write_manifest(sealed=False)

    def _continue(self, recording: Recording, extend: bool) -> None:
        if recording.is_sealed and not extend:
            raise RecordingExists(f"{self.path} holds a finished recording; give another path, or extend it")
        if recording.info != self._info or recording.top_k != self._top_k:
            raise RecordingExists(
                f"{self.path} records {recording.info.model} (fingerprint {recording.info.fingerprint!r}) with top_k={recording.top_k}, "
                f"not {self._info.model} (fingerprint {self._info.fingerprint!r}) with top_k={self._top_k}; give another path"
            )
        self.trie, self._steps = recording.trie, len(recording.steps)
        data = (self.path / STEPS).read_bytes()
        os.truncate(self.path / STEPS, data.rfind(b"\n") + 1)

    def append(self, prefix: tuple[int, ...], row: TopLogprobs) -> Step:
        """Add an answer to a prefix that has none yet.

        Raises:
            RecordingError: the disk is full or gone; the recording is still valid without this answer.
        """
        nearest = self.trie.nearest(prefix)
        parent = nearest.value.number if nearest.value is not None else None
        begin = nearest.length if parent is not None else 0
        line = {
            "step": self._steps,
            "parent": parent,
            "tokens": prefix[begin:],
            "top": {"token_ids": row.token_ids, "logprobs": row.logprobs},
            "sha256": _digest(prefix, row),
        }
        self._write(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
        step = Step(self._steps, prefix, row)
        self.trie.insert(prefix, step)
        self._steps += 1
        return step

    def seal(self) -> None:
        """Finish: force everything to the disk and say so in the manifest. Idempotent."""
        if self._file.closed:
            return
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._write_manifest(sealed=True)
        except OSError as error:
            raise RecordingError(f"{self.path} cannot be sealed: {error.strerror}") from error

    def abandon(self) -> None:
        """Stop without sealing; what was appended can be continued."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(28, "no space left on device")
        except OSError as error:
            os.ftruncate(self._file.fileno(), end)
            raise RecordingError(f"{self.path}: an answer could not be written: {error.strerror}; all before it are kept") from error

    def _write_manifest(self, *, sealed: bool) -> None:
        manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION, "sealed": sealed}
        if sealed:
            manifest |= {"steps": self._steps, "sha256": hashlib.sha256((self.path / STEPS).read_bytes()).hexdigest()}
        model = {name: value for name, value in asdict(self._info).items() if name != "notes"}
        manifest |= {"tier": "top_k", "top_k": self._top_k, "model": model}
        temporary = self.path / f".{MANIFEST}"
        with temporary.open("wb") as file:
            file.write(orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / MANIFEST)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.seal()


def _digest(prefix: tuple[int, ...], row: TopLogprobs) -> str:
    digest = hashlib.sha256(np.array([len(prefix), *prefix], dtype="<i8").tobytes())
    digest.update(row.token_ids.astype("<i8").tobytes())
    digest.update(row.logprobs.astype("<f4").tobytes())
    return digest.hexdigest()[:16]


def _read_manifest(where: Path) -> dict[str, Any]:
    try:
        data = (where / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RecordingNotFound(f"no recording at {where}: it has no {MANIFEST}") from error
    except OSError as error:
        raise RecordingBroken(f"{where}: {MANIFEST} cannot be read: {error.strerror}") from error
    try:
        manifest = orjson.loads(data)
        if manifest["format"] != FORMAT:
            raise ValueError(f"format is {manifest['format']!r}")
        if type(manifest["version"]) is not int or manifest["version"] < 1:
            raise ValueError(f"version is {manifest['version']!r}")
        if manifest["version"] > VERSION:
            raise RecordingTooNew(
                f"{where} is version {manifest['version']} of the format, this seedbed reads up to {VERSION}: update seedbed"
            )
        if type(manifest["sealed"]) is not bool or type(manifest["top_k"]) is not int or manifest["tier"] != "top_k":
            raise ValueError("sealed, tier or top_k is wrong")
    except (ValueError, TypeError, KeyError) as error:
        raise RecordingBroken(f"{where}: {MANIFEST} is not a recording's: {error}") from error
    return manifest  # type: ignore[no-any-return]


def _info_from(data: Any, where: Path) -> ModelInfo:
    try:
        values = {f.name: data[f.name] for f in fields(ModelInfo) if f.name != "notes"}
        values["eos_token_ids"] = tuple(int(token_id) for token_id in values["eos_token_ids"])
        if type(values["vocab_size"]) is not int or values["vocab_size"] < 1 or not values["eos_token_ids"]:
            raise ValueError("vocab_size or eos_token_ids is wrong")
    except (ValueError, TypeError, KeyError) as error:
        raise RecordingBroken(f"{where}: {MANIFEST} does not describe a model: {error}") from error
    return ModelInfo(**values)


def _step_from(line: bytes, number: int, earlier: list[Step], info: ModelInfo, where: Path) -> Step:
    try:
        data = orjson.loads(line)
        parent = data["parent"]
        if data["step"] != number or not (parent is None or (type(parent) is int and 0 <= parent < number)):
            raise ValueError("step or parent is out of order")
        tokens = data["tokens"]
        if not all(type(token_id) is int for token_id in tokens):
            raise ValueError("tokens are no integers")
        prefix = (*(() if parent is None else earlier[parent].prefix), *tokens)
        values = [-np.inf if value is None else value for value in data["top"]["logprobs"]]
        assert info.vocab_size is not None
        row = TopLogprobs(data["top"]["token_ids"], values, info.vocab_size)
        if data["sha256"] != _digest(prefix, row):
            raise ValueError("its hash does not match")
    except (ValueError, TypeError, KeyError, OverflowError, MalformedRow) as error:
        raise RecordingBroken(f"{where}: {STEPS} line {number + 1} is damaged: {error}") from error
    return Step(number, prefix, row)
