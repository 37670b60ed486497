"""A new baseline in the place of one that a check found changed: only when somebody says so, and never one that fails its own check.

The live answers are recorded beside the old ones, checked against the server once more, and only then given the old one's name. Whatever
fails on the way, the old baseline stands as it was.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from seedbed.errors import CheckFailed, UsageError
from seedbed.llm.base import LLM, as_row
from seedbed.llm.threads import as_llm
from seedbed.recording import Acceptance, Recording, RecordingLLM, open_recording
from seedbed.recording.format import STEPS
from seedbed.recording.manifest import read_manifest, write_manifest
from seedbed.recording.merge import put_in_place, restore_interrupted
from seedbed.recording.record import DEFAULT_TOP_K
from seedbed.regression.asking import refuse_short_rows
from seedbed.regression.check import check
from seedbed.regression.figures import significant
from seedbed.regression.schema import finite
from seedbed.regression.verdict import EXIT_CODES, Verdict
from seedbed.regression.ways import ways_of

if TYPE_CHECKING:
    import os

    from seedbed.recording.texts import Texts
    from seedbed.regression.result import CheckReport
    from seedbed.regression.ways import Way

__all__ = ["accept"]


async def accept(path: str | os.PathLike[str], llm: object, report: CheckReport, *, who: str, why: str) -> Acceptance:
    """Make the live server's answers the baseline, and note who wanted it and why in its manifest.

    Every recorded prefix is recorded anew, as often as before, and every run sampled again with its seed.

    Args:
        path: the recording's directory.
        llm: the live model.
        report: of the check that is overruled.
        who, why: for those who read the manifest later; neither may be blank.

    Returns:
        What was noted.

    Raises:
        UsageError: nobody or no reason is given, or nothing changed.
        CheckFailed: the new recording does not pass a check against the very server it is of.
        RecordingError: the recording cannot be read, or the new one not be written.
        ServerError, RowError: what the model raises.

    Concurrency:
        As ``check``. Cancelled, or killed at any moment, the old recording or the new one is there, whole.

    Example:
        >>> import tempfile, trio
        >>> from seedbed import RecordingLLM, TinyLM, check, generate
        >>> async def main(path):
        ...     async with RecordingLLM(TinyLM(), path, repeats=2) as model:
        ...         await generate(list(b"The seed"), model, seed=7, max_new_tokens=4)
        ...     new = TinyLM(order=3)
        ...     await accept(path, new, await check(path, new), who="me", why="a smaller model, as planned")
        ...     return (await check(path, new)).verdict.value
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     trio.run(main, directory + "/recording")
        'IDENTICAL'
    """
    if not who.strip() or not why.strip():
        raise UsageError("a baseline is replaced by somebody, for a reason: give both")
    if report.verdict is Verdict.IDENTICAL:
        raise UsageError("every row is the recorded one: there is nothing to accept")
    where, model = Path(path), as_llm(llm)
    restore_interrupted(where)
    old = open_recording(where)
    refuse_short_rows(model, old)
    fresh = where.with_name(f".{where.name}.accepting")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        await _record(old, model, fresh)
        again = await check(fresh, model, margin=report.margin, alpha=report.alpha, free_run=False)
        if EXIT_CODES[again.verdict] == 1:
            raise CheckFailed(
                f"the server does not answer as it did a moment ago ({again.verdict}, drift {significant(again.drift.value)} nats): the "
                "baseline stands as it was; find out first what it depends on: seedbed probe"
            )
        acceptance = _acceptance(old, report, who.strip(), why.strip())
        write_manifest(fresh, replace(read_manifest(fresh), accepted=(*old.manifest.accepted, acceptance)))
        put_in_place(where, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return acceptance


async def _record(old: Recording, model: LLM, path: Path) -> None:
    repeats = max(step.asked_alone for step in old.steps)
    scored = getattr(model, "can_score", False) and any(step.scored for step in old.steps)
    ways, _ = ways_of(old)
    top_k = old.top_k if old.top_k is not None else DEFAULT_TOP_K
    async with RecordingLLM(model, path, old.tier, top_k, repeats, scored=scored) as recorded:
        for step in old.steps:
            await recorded.next_token_logits(step.prefix)
        for run in old.runs.values():
            again = [await _sampled(recorded, way) for way in ways if way.run == run.name]
            # A run that the recording alone does not give again depends on something else, which is as it was.
            recorded.keep(replace(run, token_ids=tuple(again)) if len(again) == len(run.token_ids) else run)
        await _ask_tokenizer(old.texts, recorded)


async def _ask_tokenizer(texts: Texts, recorded: RecordingLLM) -> None:
    """What the old baseline knows of a tokenizer, asked of the new model."""
    for text in texts.tokenized:
        await recorded.tokenize(text)
    for token_ids in texts.detokenized:
        await recorded.detokenize(token_ids)


async def _sampled(model: LLM, way: Way) -> tuple[int, ...]:
    """The same sequence from the live rows: as long, unless it ends before."""
    drawn: tuple[int, ...] = ()
    state: float | None = None
    while len(drawn) < len(way.token_ids) and not (drawn and drawn[-1] in model.eos_token_ids):
        row = as_row(await model.next_token_logits([*way.prompt, *drawn]))
        draw = replace(way, token_ids=drawn).draw(row, len(drawn), state)
        drawn, state = (*drawn, draw.token_id), draw.state
    return drawn


def _acceptance(old: Recording, report: CheckReport, who: str, why: str) -> Acceptance:
    info, seal = old.info, old.manifest.seal
    model = ", ".join(part for part in (info.model, info.server, info.fingerprint) if part)
    causes = tuple(cause.name for cause in report.causes)
    return Acceptance(who, why, report.verdict.value, finite(report.drift.value), causes, "" if seal is None else seal.sha256[STEPS], model)
