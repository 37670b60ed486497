"""``seedbed_check``: is what a test sampled what was recorded? If not, where do they part, how probable was either, what to type next."""

from __future__ import annotations

import math
import operator
import reprlib
import shlex
from typing import TYPE_CHECKING, Any

from seedbed.errors import UsageError
from seedbed.generation.result import GenerationResult
from seedbed.llm.base import as_row, row_length
from seedbed.protocols.rows import logprob_of
from seedbed.recording.compare import furthest, same_row
from seedbed.recording.runs import Run
from seedbed.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.pytest_plugin.model import RecordedModel

__all__ = ["Check"]

SHOWN = 8  # tokens before and after the place


class Check:
    """Compares with what is recorded; in a mode that may write, keeps what is new and accepts what changed."""

    def __init__(self, model: RecordedModel) -> None:
        self._model = model
        self._calls = 0

    def __call__(self, have: GenerationResult | Sequence[int] | Sequence[Sequence[int]], name: str | None = None) -> None:
        """Assert that tokens are those recorded under this test's name.

        Args:
            have: a result, the token ids of one sequence, or those of several.
            name: for tests that check several things; the default counts them.

        Raises:
            AssertionError: they are not, or nothing is recorded yet; says where they part, and what to type.
            UsageError: they are no token ids.
        """
        __tracebackhide__ = True
        self._calls += 1
        settings = self._model.settings
        label = settings.name + (f"-{name}" if name is not None else f"-{self._calls}" if self._calls > 1 else "")
        run = _run_of(label, have)
        want = self._model.recording.runs.get(label)
        if want is not None and want.token_ids == run.token_ids:
            return
        if self._model.may_write:
            self._model.note(run, is_change=want is not None)
            return
        if want is None:
            raise AssertionError(
                f"nothing is recorded yet for this check ({label})\n  to record it:      {settings.command('new', url=False)}"
            )
        raise AssertionError(self._difference(want, run))

    def row(self, prefix: Sequence[int], have: object, *, atol: float = 0.0) -> None:
        """Assert that a row is the one recorded after a prefix: bit for bit, or within ``atol`` nats of each log-probability.

        Args:
            prefix: token ids.
            have: a row, as a model answers it.
            atol: the largest difference allowed; of full rows after normalising them.

        Raises:
            AssertionError: it is not; names the token that differs most.
        """
        __tracebackhide__ = True
        recording, settings = self._model.recording, self._model.settings
        step = recording.get(prefix)
        if step is None:
            raise AssertionError(f"no row is recorded after {list(prefix)}\n  to record it:      {settings.command('new', url=True)}")
        want, got = step.row, as_row(have)  # type: ignore[arg-type]
        if same_row(want, got):
            return
        sizes = [row_length(row) for row in (want, got)]
        if sizes[0] != sizes[1]:
            raise AssertionError(f"the row is for a vocabulary of {sizes[1]} tokens, the recorded one for one of {sizes[0]}")
        token_id, want_logprob, have_logprob = furthest(want, got)
        if abs(want_logprob - have_logprob) <= atol:
            return
        raise AssertionError(
            "\n".join(
                [
                    f"the row after {counted(len(prefix), 'token')} is not the one recorded in {recording.path.name} (step {step.number})",
                    f"  want: token {token_id} {_probability(want_logprob)}",
                    f"  have: token {token_id} {_probability(have_logprob)}, the largest difference of all tokens",
                    *self._hints(prefix, settings.command("all", url=True)),
                ]
            )
        )

    def _difference(self, want: Run, have: Run) -> str:
        if len(want.token_ids) != len(have.token_ids):
            places = f"want {counted(len(want.token_ids), 'sequence')}, have {len(have.token_ids)}"
            return "\n".join([places, *self._hints((), self._model.settings.command("new", url=False))])
        index = next(i for i, (one, other) in enumerate(zip(want.token_ids, have.token_ids, strict=True)) if one != other)
        one, other = want.token_ids[index], have.token_ids[index]
        step = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        prompt = have.prompts[index] if have.prompts else ()
        prefix = (*prompt, *other[:step])
        lines = [f"sequence {index} parts from what was recorded at step {step}"]
        lines += [
            f"  want: {_around(one, step)}{self._likelihood(prefix, one, step)}",
            f"  have: {_around(other, step)}{self._likelihood(prefix, other, step)}",
        ]
        for what, wanted, got in (("seed", want.seed, have.seed), ("sampler", want.sampler, have.sampler)):
            if wanted != got and wanted not in (None, ""):
                lines.append(f"  {what}: want {wanted}, have {got}")
        return "\n".join([*lines, *self._hints(prefix, self._model.settings.command("new", url=False))])

    def _likelihood(self, prefix: tuple[int, ...], token_ids: tuple[int, ...], step: int) -> str:
        recorded = self._model.recording.get(prefix)
        if recorded is None or step >= len(token_ids):
            return ""
        return f"  (token {token_ids[step]} {_probability(logprob_of(recorded.row, token_ids[step]))})"

    def _hints(self, prefix: Sequence[int], accept: str) -> list[str]:
        path = shlex.quote(str(self._model.settings.path))
        at = f" --prefix {','.join(map(str, prefix))}" if prefix else ""
        shown = ",".join(map(str, prefix)) if len(prefix) <= 2 * SHOWN else f"...,{','.join(map(str, prefix[-2 * SHOWN :]))}"
        return [
            *([f"  prefix: {shown} ({counted(len(prefix), 'token')})"] if prefix else []),
            f"  to look closer:       seedbed inspect {path}{at}",
            f"  to accept the change: {accept}",
        ]


def _run_of(label: str, have: Any) -> Run:
    if isinstance(have, GenerationResult):
        return Run.of(label, have)
    try:
        several = list(have)
        if several and not hasattr(several[0], "__len__"):
            several = [several]
        return Run(label, tuple(tuple(map(operator.index, token_ids)) for token_ids in several))
    except TypeError as error:
        kinds = "a GenerationResult, the token ids of one sequence, or a list of those of several"
        raise UsageError(f"seedbed_check takes {kinds}, not {reprlib.repr(have)}") from error


def _probability(logprob: float) -> str:
    return f"has probability {math.exp(logprob):.4g}" if logprob > -math.inf else "is not listed there"


def _around(token_ids: tuple[int, ...], step: int) -> str:
    begin, end = max(0, step - SHOWN), step + SHOWN
    words = [f"[{t}]" if i == step else str(t) for i, t in enumerate(token_ids[begin:end], begin)]
    if step >= len(token_ids):
        words.append("[end]")
    return f"{'... ' if begin else ''}{' '.join(words)}{' ...' if end < len(token_ids) else ''}"
