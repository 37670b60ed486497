"""Is the server that answers now the one that was recorded? Ask it again, under the same conditions, and weigh the difference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import trio

from seedbed.errors import RecordingBroken, UsageError
from seedbed.llm.running import require_trio
from seedbed.llm.threads import as_llm
from seedbed.recording import open_recording
from seedbed.regression.asking import Asking, OtherVocabulary, refuse_short_rows
from seedbed.regression.causes import Case, Finding, find_causes
from seedbed.regression.compared import Answer, Compared, compare
from seedbed.regression.continued import Evidence
from seedbed.regression.evidence import EProcess, parting_p_value, sequence_scores, sparse_corruption
from seedbed.regression.free_run import run_freely
from seedbed.regression.metrics import common_logprobs, kl_of_logprobs
from seedbed.regression.profiles import noise_levels
from seedbed.regression.result import CheckReport, Prefix, Worst
from seedbed.regression.statistics import Statistics, gap_sigma
from seedbed.regression.targets import targets_of
from seedbed.regression.verdict import Verdict, judge
from seedbed.regression.ways import ways_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from seedbed.llm.base import LLM
    from seedbed.recording import Recording
    from seedbed.regression.targets import Target

__all__ = ["Progress", "check", "report_of"]

MARGIN = 1e-4
"""Nats: changes of kernel or of dtype stay below, 8-bit weights do not (bf16 against fp16 weights 2.5e-5, q8_0 1.4e-3, Llama-3-8B; README
of llama.cpp's perplexity tool)."""
WORST = 6
"""Prefixes shown with both rows side by side."""
BATCH = 4
"""Sequences asked before the evidence is looked at."""
INSTEAD = 16
"""Prefixes that are asked for in another form, to name causes."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a check is.

    Attributes:
        answers, of: live answers had, and how many there will be unless it stops early or sequences part.
        e_value: the evidence against "nothing changed" so far, that of earlier checks included; looked at after every few sequences.
    """

    answers: int
    of: int
    e_value: float


async def check(
    recording_path: str | os.PathLike[str],
    llm: object,
    *,
    margin: float = MARGIN,
    alpha: float = 0.01,
    repeats: int | None = None,
    seed: int = 0,
    stop_early: bool = False,
    free_run: bool = True,
    evidence: Evidence | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> CheckReport:
    """Hold a live server against a recording of it, and say whether it is still the same and what changed.

    Every recorded prefix is asked for (teacher forcing), as often as it was recorded and at least twice, in random order. Answers had alone
    are held against answers had alone, those in company against those in company, warm against warm: a difference between conditions is no
    drift, and is never reported as one. Record with ``repeats=2`` or more: from two recorded answers to one question the check knows the
    server's noise and finds drift far below it; from one it must take the live server's noise for the recorded one's.

    Args:
        recording_path: the recording's directory.
        llm: the live model.
        margin: the drift that matters, in nats; see ``MARGIN``.
        alpha: how often DRIFT or CHANGED may be said of a server that is the same.
        repeats: live answers to each prefix; None: as many as were recorded, at least 2.
        seed: of the order in which prefixes are asked for.
        stop_early: stop as soon as the evidence of this check against "nothing changed" reaches 1/alpha; valid at any time, see
            ``EProcess``.
        free_run: sample the recorded runs again afterwards, with their seeds: does the server still give these tokens? Says more about
            what the drift does than about whether there is one, so the verdict is that of the rows.
        evidence: ``CheckReport.evidence`` of an earlier check of the same recording, to go on from; see ``Evidence`` for what it is worth.
        progress: called after every answer.

    Returns:
        The report; ``.verdict``, ``.drift``, ``.interval`` and ``.causes`` say it in short.

    Raises:
        RecordingError: the recording cannot be read, or holds nothing.
        ServerError, RowError: the live server failed, or answered with rows that are none.
        UsageError: an argument outside its range, or a model whose rows are shorter than the recorded ones.
        EvidenceRefused: the evidence is of another recording, of the one that this replaced, or of checks with another ``alpha``,
            ``repeats`` or ``stop_early``.

    Concurrency:
        Asks up to 16 questions at once, with the model to itself: other traffic is another condition. Cancelled, nothing is kept.

    Example:
        >>> import tempfile
        >>> from seedbed import RecordingLLM, TinyLM, generate
        >>> async def main(path):
        ...     async with RecordingLLM(TinyLM(), path, tier="full", repeats=2) as model:
        ...         await generate(list(b"The seed"), model, n=2, seed=7, max_new_tokens=8)
        ...     return await check(path, TinyLM())
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     report = trio.run(main, directory + "/recording")
        >>> report.verdict.value, report.drift.value
        ('IDENTICAL', 0.0)
    """
    require_trio()
    _refuse_unusable(margin, alpha, repeats, evidence)
    model, recording = as_llm(llm), open_recording(recording_path)
    refuse_short_rows(model, recording)
    targets = targets_of(recording)
    if not targets:
        raise RecordingBroken(f"{recording.path} holds no answer to hold a server against")
    passes = repeats or max(2, max(target.step.asked_alone for target in targets))
    process = EProcess()
    begun = Evidence.begun(recording, alpha=alpha, repeats=passes, stop_early=stop_early, earlier=evidence)
    ways, skipped = ways_of(recording) if free_run else ([], 0)
    counter = _Counter(len(targets) * passes + sum(len(way.token_ids) for way in ways), lambda: begun.after(process).e_value, progress)
    assert recording.info.vocab_size is not None
    asking = Asking(model, recording.info.vocab_size, recording.top_k, seed=seed, answered=counter.answered)
    rows: list[Compared] = []
    refused = 0
    try:
        for batch in _batches(targets):
            await asking.ask(batch, passes)
            await asking.score(batch, passes)
            fresh, unusable = _compared(batch)
            rows += fresh
            refused += unusable
            for score in sequence_scores([row.rho for row in fresh], [row.sequence for row in fresh]):
                process.add(score)
            if stop_early and process.is_alarm(alpha):
                break
        if not rows:
            raise UsageError(
                "no live answer was had under the condition of a recorded one; ask with repeats=2 or more, or, if its rows were had ahead "
                '("decode"), record with repeats=2'
            )
        instead = await _ask_instead(asking, rows, targets)
    except OtherVocabulary as error:
        return _other_vocabulary(error, recording, model, begun.after(process), margin=margin)
    report = report_of(rows, begun.after(process), margin=margin, asked_instead=instead)
    report.describe(recording, model, refused=refused, of=len(targets))
    report.path = begun.path(process)
    off = [row for row in rows if not all(row.identical)]
    report.worst = tuple(Worst.of(row, recording.manifest.token_texts) for row in sorted(off, key=lambda row: -max(row.kl))[:WORST])
    if ways or skipped:
        report.free_run = await run_freely(model, ways, skipped, sigma=gap_sigma(rows), answered=counter.answered)
    return report


def report_of(
    rows: Sequence[Compared],
    evidence: Evidence,
    *,
    margin: float = MARGIN,
    asked_instead: Mapping[str, Sequence[tuple[int, float]]] | None = None,
) -> CheckReport:
    """The verdict over compared prefixes, without asking anybody.

    Args:
        rows: at least one.
        evidence: with these rows' sequences taken in.
        margin: as in ``check``.
        asked_instead: as in ``causes.Case``.
    """
    statistics = Statistics.of(rows)
    noises = [kl for row in rows for kl in row.noise] or [kl for row in rows for kl in row.live_noise]
    # Answers under several conditions say nothing of the noise under one, unless they are the same in every bit.
    noises = noises or [0.0 for row in rows if any(row.alike)]
    width = max(len(row.kl) for row in rows)
    kl = [[*row.kl, *[math.nan] * (width - len(row.kl))] for row in rows]
    sparse = sparse_corruption([row.d for row in rows], kl, noises, margin=margin)
    is_exact = not any(False in row.repeated for row in rows) and any(row.repeated[1] or row.alike[1] for row in rows)
    is_parted = _parting(rows) <= evidence.alpha
    verdict = judge(
        statistics.drift,
        margin=margin,
        alpha=evidence.alpha,
        is_identical=all(all(row.identical) for row in rows),
        is_exact=is_exact and is_parted,
        is_changed=evidence.is_alarm or is_parted,
        is_corrupt=sparse.is_alarm,
    )
    causes: tuple[Finding, ...] = ()
    if verdict not in (Verdict.IDENTICAL, Verdict.PASS):
        causes = find_causes(Case(rows, noise_levels(rows), asked_instead or {}))
    prefixes = tuple(Prefix(row.position, row.sequence, row.d, max(row.kl), row.gap, row.flipped) for row in rows)
    return CheckReport(verdict, statistics, margin, evidence.alpha, is_exact, evidence, sparse, causes, prefixes, _conditions(rows))


def _parting(rows: Sequence[Compared]) -> float:
    """The p-value of "nothing changed", by which prefixes differ in bits and how; 1 when none tells."""
    telling = [row for row in rows if row.differs and row.parting < 1]
    parted = sum(row.is_parted for row in telling)
    return parting_p_value(parted, len(telling), max((row.parting for row in telling), default=1.0))


class _Counter:
    def __init__(self, of: int, e_value: Callable[[], float], progress: Callable[[Progress], None] | None) -> None:
        self._count, self._of, self._e_value, self._progress = 0, of, e_value, progress

    def answered(self, count: int = 1) -> None:
        self._count += count
        if self._progress is not None:
            self._progress(Progress(self._count, self._of, self._e_value()))


def _refuse_unusable(margin: float, alpha: float, repeats: int | None, evidence: object) -> None:
    if not (margin > 0 and math.isfinite(margin)):
        raise UsageError(f"margin must be nats above 0, not {margin!r}")
    if not 0 < alpha < 0.5:
        raise UsageError(f"alpha must be in (0, 0.5), not {alpha!r}")
    if repeats is not None and (isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1):
        raise UsageError(f"repeats must be an int of 1 or more, not {repeats!r}")
    if evidence is not None and not isinstance(evidence, Evidence):
        raise UsageError(f"evidence must be that of a CheckReport, or Evidence.from_dict(...), not {evidence!r:.80}")


def _batches(targets: Sequence[Target]) -> list[list[Target]]:
    batches: dict[int, list[Target]] = {}
    for target in targets:
        batches.setdefault(target.sequence // BATCH, []).append(target)
    return list(batches.values())


def _compared(targets: Sequence[Target]) -> tuple[list[Compared], int]:
    """What could be compared, and how many prefixes could not; rows are let go of."""
    rows = []
    for target in targets:
        row = compare(
            target.prefix,
            target.recorded(),
            target.live,
            sequence=target.sequence,
            prompt=target.prompt,
            next_token=target.next_token,
        )
        target.live.clear()
        if row is not None:
            rows.append(row)
    return rows, len(targets) - len(rows)


async def _ask_instead(asking: Asking, rows: Sequence[Compared], targets: Sequence[Target]) -> dict[str, list[tuple[int, float]]]:
    """The live answers to what a server that misreads its prompt would have to be asked, for the prefixes that are furthest off."""
    await trio.lowlevel.checkpoint()
    levels = noise_levels(rows)
    far = [place for place, row in enumerate(rows) if row.kl[0] > 3 * levels[place] and row.position > 1]
    if len(far) < 3:
        return {}
    # Spread over the recording, not the worst ones only: a cause must explain ordinary prefixes too.
    chosen = [far[i] for i in np.unique(np.linspace(0, len(far) - 1, INSTEAD).astype(int))]
    steps = {target.prefix: target for target in targets}
    found: dict[str, list[tuple[int, float]]] = {"one token more": [], "without the first token": [], "the first token twice": []}
    for place in chosen:
        prefix = rows[place].prefix
        recorded = steps[prefix].recorded()[0].row
        variants = ((*prefix, prefix[-1]), prefix[1:], (prefix[0], *prefix))
        for key, variant in zip(found, variants, strict=True):
            answer: Answer = await asking.answer(variant)
            _, (one, other) = common_logprobs([recorded, answer.row], union=True)
            found[key].append((place, float(kl_of_logprobs(one, other))))
    return found


def _conditions(rows: Sequence[Compared]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        for tags, _ in row.pairs:
            name = ", ".join(tags) or "unknown"
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _other_vocabulary(error: OtherVocabulary, recording: Recording, model: LLM, evidence: Evidence, *, margin: float) -> CheckReport:
    finding = Finding("other vocabulary", 1.0, str(error))
    statistics = Statistics.unknown()
    sparse = sparse_corruption([0.0], [[0.0]], [0.0], margin=margin)
    report = CheckReport(Verdict.DRIFT, statistics, margin, evidence.alpha, True, evidence, sparse, (finding,), (), {})
    report.describe(recording, model, refused=0, of=len(recording.steps))
    return report
