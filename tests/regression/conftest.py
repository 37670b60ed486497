"""Recordings to hold faulty servers against: a model that looks at its whole prefix, with and without noise, in both tiers."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import trio

from seedbed import HashLM, RecordingLLM, generate
from seedbed.recording import record
from seedbed.server.planted import Noise, PlantedLLM

VOCAB_SIZE = 257
BOS = 256
PROMPTS = [list(text) for text in (b"The seed", b"In", b"Every draw of it", b"A server")]


def model() -> HashLM:
    return HashLM(VOCAB_SIZE)


def noisy(llm: object, *, seed: int = 1, size: float = 0.02) -> PlantedLLM:
    """The same, each answer with noise of its own: KL of two answers about 4e-4."""
    return PlantedLLM(llm, Noise(size, "repeat", seed=seed))


async def sampled(llm: object, path: object, *, tier: str, bos: bool, n: int = 2, length: int = 20) -> None:
    async with RecordingLLM(llm, path, tier=tier, repeats=2) as recorded:  # type: ignore[arg-type]
        await generate([[BOS] * bos + prompt for prompt in PROMPTS], recorded, n=n, seed=7, max_new_tokens=length)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """{name: path}: "full", "top_k", "no-bos", "noisy", "noisy-top_k"."""
    base = tmp_path_factory.mktemp("recordings")

    async def main() -> None:
        await sampled(model(), base / "full", tier="full", bos=True)
        await sampled(model(), base / "top_k", tier="top_k", bos=True)
        await sampled(model(), base / "no-bos", tier="full", bos=False)
        await sampled(noisy(model(), seed=0), base / "noisy", tier="full", bos=True)
        await sampled(noisy(model(), seed=0), base / "noisy-top_k", tier="top_k", bos=True)

    # Repeats are asked for in groups drawn from the system's entropy; here they are the same in every run.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(record, "random", SimpleNamespace(Random=lambda: random.Random(1)))
        trio.run(main)
    return base
