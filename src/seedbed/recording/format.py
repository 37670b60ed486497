"""A recording on disk: a directory that holds a tree of prefixes with every answer to each. This page specifies it.

::

    manifest.json             the model, tier and top_k; once sealed also the number of steps, SHA-256 of the text files, the shards;
                              "accepted": who replaced which earlier baseline by this one, and why
    steps.jsonl               {"step":1,"parent":0,"tokens":[7],"top":{"token_ids":[4,9],"logprobs":[-0.5,-1.25]},"concurrency":1,
                               "cache":"warm","latency":0.021,"crc32":"5a0c3e11"}                                   (tier top_k)
                              {"step":1,"parent":0,"tokens":[7],"row":[1,12],"sha256":"90ab...","top":{the 5 best},"logsumexp":9.5,
                               ...}                                                                                   (tier full)
                              {"repeat":1,"same":0,...} or {"repeat":1,"top":...} or {"repeat":1,"row":...}: step 1 answered again
    logits-00001.safetensors  full rows (see ``shards``)
    runs.jsonl                tokens that were sampled from it (see ``runs``)
    texts.jsonl               {"tokenized":"The","token_ids":[7],...} or {"detokenized":[7],"text":"The",...}: what its tokenizer said

1. A step's prefix is its parent's, which stands on an earlier line, then its ``tokens``, at least one. So no tree has a cycle.
2. No prefix is a step twice; another answer to it is a repeat. So no look-up has two answers to choose from.
   Members of its condition, where known: concurrency, cache, latency, and "phase":"decode" for a row that was had ahead,
   "phase":"scored" for one that was had with those of all beginnings of a longer prefix, which is never a step's first.
3. Log-probabilities are float32 in the shortest decimal form that gives the same float32 back, -inf is null, NaN does not exist.
4. Every line, and the manifest, ends with a CRC-32 of the text before it; a full row has a SHA-256 over its prefix and its float32 values.
   So nothing damaged is believed: not a line, not a row, nor a row in another's place. Numbers computed from a row, which depend on
   the machine's exponentials, are in no SHA-256.
5. ``row`` is [shard, place], each place of a shard referred to in order; a repeat with the bits of an earlier answer says ``same``. Shards
   are found by number and have one possible header. So no name leads out of the directory, and no shape promises what is not there.
6. Every file is a regular file, never a link. So neither reading nor extending a recording touches anything outside it.
7. Text files only grow, but that sealing drops runs that were replaced. While the manifest does not say "sealed", a last line without
   line feed was cut off by a kill and is dropped; a sealed recording is exactly what its manifest says, each text file by its SHA-256.
8. A recorder writes a row, then its line, both before the answer is handed out; a killed process loses nothing it has answered. Forced to
   the disk (fsync) are a shard when it is full and everything when it is sealed; after a power cut, what came since may be lost or damaged.
9. No request header, no URL and no key is written, only what the model was asked, what it answered, and what it says of
   itself.
10. ``version`` is 1. A reader refuses a later one; within it, members may be added that a reader may ignore.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seedbed.errors import RecordingBroken
from seedbed.llm.token_ids import check_token_ids, is_iterable
from seedbed.recording import lines
from seedbed.recording.files import read_file
from seedbed.recording.manifest import MANIFEST, Manifest, read_manifest
from seedbed.recording.runs import RUNS, Run
from seedbed.recording.shards import MAX_SHARD, MAX_SHARDS, Shards
from seedbed.recording.steps import Asked, Observation, Step, StepIndex, StoredRow, check_first, prefix_hasher, top_from_line
from seedbed.recording.texts import TEXTS, Texts

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from seedbed.llm.base import ModelInfo, TopLogprobs

__all__ = ["MANIFEST", "RUNS", "STEPS", "Recording", "Step", "open_recording"]

STEPS = "steps.jsonl"


class Recording:
    """A recording, open for reading. Made by ``open_recording``. Full rows stay on disk until they are asked for.

    Attributes:
        path: its directory.
        manifest: what its manifest says.
        steps: every recorded prefix, in the order first answered.
        index: the same, by prefix.
        runs: what was sampled from it, by name.
        texts: what the model's tokenizer was asked, and what it said.
    """

    def __init__(self, path: Path, manifest: Manifest, shards: Shards) -> None:
        self.path, self.manifest, self.shards = path, manifest, shards
        self.steps: list[Step] = []
        self.index = StepIndex()
        self.runs: dict[str, Run] = {}
        self.texts = Texts()

    @property
    def info(self) -> ModelInfo:
        """The model recorded."""
        return self.manifest.info

    @property
    def tier(self) -> Literal["full", "top_k"]:
        """How much of each row is kept."""
        return self.manifest.tier

    @property
    def top_k(self) -> int | None:
        """How many tokens of each row are kept; None is the full row."""
        return self.manifest.top_k

    @property
    def is_sealed(self) -> bool:
        """Whether it was finished; an unsealed one ends where its recorder is, or was stopped."""
        return self.manifest.seal is not None

    def get(self, prefix: Sequence[int]) -> Step | None:
        """The step of exactly this prefix, or None."""
        return self.index.get(prefix)

    def nearest(self, prefix: Sequence[int]) -> Step | None:
        """The step of the longest recorded beginning of ``prefix``, or None.

        Raises:
            InvalidPrompt: it is no list at all; of anything else, nothing longer than its beginning was recorded.
        """
        if not is_iterable(prefix):
            check_token_ids(prefix, "the prefix")
        return self.index.nearest(prefix)

    @cached_property
    def children(self) -> dict[int | None, list[Step]]:
        """{number of a step: the steps it is the longest recorded beginning of}; under None those that have none."""
        children: dict[int | None, list[Step]] = {None: []}
        for step in self.steps:
            above = step.parent
            if len(step.tokens) > 1 or above is None:
                # A shorter beginning may have been recorded later than its continuation.
                above = self.index.nearest(step.prefix[:-1])
            children.setdefault(None if above is None else above.number, []).append(step)
        return children

    def take_run(self, line: bytes) -> None:
        """Read a line of ``runs.jsonl``.

        Raises:
            ValueError, TypeError, KeyError: damaged.
        """
        run = Run.from_line(line)
        self.runs[run.name] = run

    def verify(self) -> int:
        """Read every row and check every hash again; returns how many answers that are.

        Raises:
            RecordingBroken: one is not what was recorded; names the step.
        """
        count = 0
        for step in self.steps:
            for observation in step.observations:
                if isinstance(observation.source, StoredRow):
                    observation.source.load(check=True)
                count += 1
        return count

    def __repr__(self) -> str:
        kept = "full rows" if self.top_k is None else f"top {self.top_k}"
        return f"<Recording {self.path.name}: {self.info.model}, {len(self.steps)} steps, {kept}{'' if self.is_sealed else ', not sealed'}>"


def open_recording(path: str | os.PathLike[str]) -> Recording:
    """Open a recording and check every line of it. Of full rows only the files' headers are read; each row is checked when it is read.

    Args:
        path: its directory.

    Raises:
        RecordingNotFound: there is none.
        RecordingTooNew: a later version wrote it.
        RecordingBroken: it contradicts itself or the format; names the step or line.

    Example:
        >>> import tempfile, trio
        >>> from seedbed import RecordingLLM, TinyLM
        >>> async def record(path):
        ...     async with RecordingLLM(TinyLM(), path, tier="full") as model:
        ...         await model.next_token_logits(list(b"The "))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     trio.run(record, directory + "/recording")
        ...     open_recording(directory + "/recording")
        <Recording recording: tiny-lm, 3 steps, full rows>
    """
    where = Path(path)
    manifest = read_manifest(where)
    return read_recording(where, manifest)


def read_recording(where: Path, manifest: Manifest, *, max_shard: int = MAX_SHARD) -> Recording:
    """The recording of a manifest that has been read; ``max_shard`` is for who continues it."""
    assert manifest.info.vocab_size is not None
    recording = Recording(where, manifest, Shards(where, manifest.info.vocab_size, max_shard=max_shard))
    reader = _StepReader(recording)
    for number, line in enumerate(_whole_lines(recording, STEPS), 1):
        reader.take(number, line)
    for name, take in ((RUNS, recording.take_run), (TEXTS, recording.texts.take)):
        for number, line in enumerate(_whole_lines(recording, name), 1):
            try:
                take(line)
            except (ValueError, TypeError, KeyError) as error:
                raise RecordingBroken(f"{where}: {name} line {number} is damaged: {error}") from error
    seal = manifest.seal
    if seal is not None and seal.steps != len(recording.steps):
        raise RecordingBroken(f"{where}: {len(recording.steps)} steps are there, {seal.steps} were sealed")
    recording.shards.admit(reader.rows, None if seal is None else seal.shards)
    return recording


def _whole_lines(recording: Recording, name: str) -> list[bytes]:
    """Lines of a text file with their line feeds; of an unsealed recording those that a kill left whole."""
    try:
        data = read_file(recording.path / name)
    except FileNotFoundError as error:
        if name == STEPS or (recording.manifest.seal is not None and name in recording.manifest.seal.sha256):
            raise RecordingBroken(f"{recording.path}: {name} is missing") from error
        return []
    seal = recording.manifest.seal
    if seal is not None and hashlib.sha256(data).hexdigest() != seal.sha256.get(name):
        raise RecordingBroken(f"{recording.path}: {name} is not what was sealed{_first_damage(data)}; restore it, or record anew")
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def _first_damage(data: bytes) -> str:
    for number, line in enumerate(data.rstrip(b"\n").split(b"\n"), 1):
        try:
            lines.parse(line + b"\n")
        except ValueError as error:
            return f": in line {number}, {error}"
    return ""


class _StepReader:
    """Lines of ``steps.jsonl`` in order, each checked against those before it."""

    def __init__(self, recording: Recording) -> None:
        assert recording.info.vocab_size is not None
        self._recording, self._vocab_size = recording, recording.info.vocab_size
        self._hashers: list[hashlib.blake2b] = []
        self.rows: list[int] = []  # rows referred to, by shard

    def take(self, number: int, line: bytes) -> None:
        """Read one line.

        Raises:
            RecordingBroken: names it.
        """
        try:
            data = lines.parse(line)
            if "repeat" in data:
                self._take_repeat(data)
            else:
                self._take_step(data)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            steps = len(self._recording.steps)
            raise RecordingBroken(f"{self._recording.path}: {STEPS} line {number} (step {steps}) is damaged: {error}") from error

    def _take_step(self, data: dict[str, Any]) -> None:
        steps = self._recording.steps
        number, parent, tokens = data["step"], data["parent"], data["tokens"]
        if number != len(steps) or not (parent is None or (type(parent) is int and 0 <= parent < number)):
            raise ValueError("step or parent is out of order")
        if not tokens or not all(type(token_id) is int for token_id in tokens):
            raise ValueError("tokens are no integers, or there are none")
        hasher = prefix_hasher(tokens, None if parent is None else self._hashers[parent])
        key = hasher.digest()
        if self._recording.index.by_key(key) is not None:
            raise ValueError("it records a prefix a second time")
        asked = Asked.from_line(data)
        check_first(asked)
        source = self._source(data, key, number)
        best, logsumexp = self._best(data, source)
        step = Step(
            number,
            None if parent is None else steps[parent],
            tuple(tokens),
            key,
            Observation(asked, source),
            best,
            logsumexp,
        )
        steps.append(step)
        self._hashers.append(hasher)
        self._recording.index.add(step)

    def _take_repeat(self, data: dict[str, Any]) -> None:
        number = data["repeat"]
        if type(number) is not int or not 0 <= number < len(self._recording.steps):
            raise ValueError("it repeats a step that is not there")
        step = self._recording.steps[number]
        same = data.get("same")
        if same is None:
            source = self._source(data, step.key, number)
        elif type(same) is int and 0 <= same < len(step.observations):
            source = step.observations[same].source
        else:
            raise ValueError("it is the same as an answer that is not there")
        step.observations.append(Observation(Asked.from_line(data), source, same))

    def _source(self, data: dict[str, Any], key: bytes, number: int) -> TopLogprobs | StoredRow:
        if self._recording.top_k is not None:
            return top_from_line(data["top"], self._vocab_size)
        shard, row = data["row"]
        if type(shard) is not int or not 1 <= shard <= MAX_SHARDS or type(row) is not int:
            raise ValueError("row is wrong")
        self.rows += [0] * (shard - len(self.rows))
        if row != self.rows[shard - 1]:
            raise ValueError(f"it refers to row {row} of shard {shard}, the next one is {self.rows[shard - 1]}")
        self.rows[shard - 1] += 1
        sha256 = data["sha256"]
        if not isinstance(sha256, str) or len(sha256) != 16:
            raise ValueError("sha256 is wrong")
        return StoredRow(self._recording.shards, shard, row, sha256, key=key, number=number)

    def _best(self, data: dict[str, Any], source: TopLogprobs | StoredRow) -> tuple[TopLogprobs | None, float | None]:
        if not isinstance(source, StoredRow):
            return source, None
        logsumexp = data["logsumexp"]
        if not (logsumexp is None or type(logsumexp) in (float, int)):
            raise ValueError("logsumexp is wrong")
        return None if data["top"] is None else top_from_line(data["top"], self._vocab_size), logsumexp
