"""What both demos do, and what seedbed is for: sample from a server over HTTP, keep what it said, sample the same without it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from seedbed import RecordingLLM, connect, open_generation, replay_transport
from seedbed.cli.progress import shown_text, watch

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from seedbed import GenerationResult, Sampler

SHOWN = 6


async def main_job(
    server: AbstractAsyncContextManager[str],
    directory: Path,
    *,
    prompt: str,
    n: int,
    seed: int,
    sampler: Sampler,
    max_new_tokens: int,
    top_k: int,
) -> bool:
    """Run it, say what happens; whether the offline run gave the same tokens."""
    shutil.rmtree(directory, ignore_errors=True)
    began = trio.current_time()
    async with server as url:
        print(f"1. A model server is running at {url}")
        async with connect(url, top_k=top_k) as model, RecordingLLM(model, directory, top_k=top_k) as recorded:
            print(f"2. Found {model.info.model} on {model.info.server}: {model.protocol} protocol, vocabulary of {model.info.vocab_size}")
            ids = await recorded.tokenize(prompt)
            print(f"3. Sampling {n} sequences after {prompt!r} with {sampler}, seed {seed}")
            arguments = {"n": n, "seed": seed, "sampler": sampler, "max_new_tokens": max_new_tokens}
            async with watch(recorded, quiet=False), open_generation(ids, recorded, **arguments) as generation:
                await generation.wait()
            live = generation.result()
            recorded.note(live)
            for sequence in live.sequences[:SHOWN]:
                text = await shown_text(recorded, sequence.token_ids)
                print(f"   {sequence.index:>2} {sequence.finish_reason:<7}{text}")
                print(f"      = {' '.join(map(str, sequence.token_ids[:16]))}{' ...' if len(sequence.token_ids) > 16 else ''}")
        print(f"   {live.stats.tokens} tokens, {live.stats.requests} requests, {trio.current_time() - began:.1f} s")
        print(f"   sha256 {live.sha256}")
    print(f"4. The server is stopped; what it said is in {shown_path(directory)}")
    offline = await _replay(directory, ids, arguments)
    print("5. The same, from the recording alone, through a respx-mocked server:")
    print(f"   sha256 {offline.sha256}")
    same = offline.sha256 == live.sha256 and offline.token_ids == live.token_ids
    print("   The same tokens." if same else "   DIFFERENT TOKENS: this is a fault in seedbed, please report it.")
    return same


async def _replay(directory: Path, ids: list[int], arguments: dict[str, object]) -> GenerationResult:
    async with connect("http://nobody.invalid", transport=replay_transport(directory)) as model:
        async with open_generation(ids, model, **arguments) as generation:
            await generation.wait()
        return generation.result()


def shown_path(directory: Path) -> str:
    """As short as it can be typed here."""
    return str(directory.relative_to(Path.cwd()) if directory.is_relative_to(Path.cwd()) else directory)
