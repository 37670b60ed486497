"""Two small recordings of the same prefixes, one of each tier, that the tests of this directory damage in every way."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seedbed.llm import ModelInfo, TopLogprobs
from seedbed.recording.runs import Run
from seedbed.recording.steps import Asked
from seedbed.recording.write import RecordingWriter

V = 50
PREFIXES = [(1, 2), (1, 2, 3), (4,), (1, 2, 3, 0), (4, 4)]
TIERS = ["top_k", "full"]
ALONE = Asked(1, "cold", 0.25)
RUN = Run("r", ((1, 2), (3,)), ((4, 5), (4, 5)), 7, "Sampler(chain=[])", ("stop", "length"))
MAX_SHARD = 400  # two rows of float32, four narrow ones


def info_of(tier: str) -> ModelInfo:
    return ModelInfo(
        model="m",
        server="s",
        fingerprint="f",
        vocab_size=V,
        eos_token_ids=(0,),
        context_length=9,
        protocol="native",
        max_top_k=3 if tier == "top_k" else None,
    )


def row_of(number: int, tier: str):
    if tier == "top_k":
        ids = [number % V, (number + 1) % V, (number + 2) % V]
        return TopLogprobs(ids, [-0.5 - number / 7, -2.0 - number / 3, -np.inf], V)
    row = np.random.default_rng(number).normal(size=V).astype(np.float32)
    return row if number % 2 else (row.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)  # every other one is bfloat16


def writer_of(path: Path, tier: str, **more) -> RecordingWriter:
    return RecordingWriter(path, info_of(tier), 3 if tier == "top_k" else None, max_shard=MAX_SHARD, **more)


def write(path: Path, tier: str = "top_k", *, seal: bool = True, with_run: bool = False) -> Path:
    writer = writer_of(path, tier)
    for number, prefix in enumerate(PREFIXES):
        writer.append(prefix, row_of(number, tier), ALONE)
    step = writer.recording.steps[1]
    writer.append_repeat(step, row_of(1, tier), Asked(4, "warm", 0.5))
    writer.append_repeat(step, row_of(99, tier), Asked(2, "warm", 0.5))
    if with_run:
        writer.note(RUN)
    if seal:
        writer.seal()
    else:
        writer.abandon()
    return path


def same_rows(one, other) -> bool:
    if isinstance(one, TopLogprobs):
        return one == other
    return np.array_equal(np.asarray(one).view(np.uint32), np.asarray(other).view(np.uint32))


def content(recording) -> dict[tuple[int, ...], list[str]]:
    """What a recording says, without conditions and order: the hash of every answer to every prefix."""
    from seedbed.recording.steps import row_sha256

    return {step.prefix: sorted(row_sha256(step.key, o.row) for o in step.observations) for step in recording.steps}
