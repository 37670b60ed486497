"""A file of prompts in, a file of rows out: what is missing is sampled, what is there stays."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import trio

from seedbed.errors import BrokenAnswer, DeadlineExceeded, RecordingMiss, RequestRefused, UsageError
from seedbed.generation.bulk.output import Output
from seedbed.generation.bulk.prompts import PromptFile, read_prompts
from seedbed.generation.bulk.stream import Recipe, open_stream
from seedbed.generation.plan import Deadlines
from seedbed.llm.arguments import check_end_token_ids, shown, whole_number
from seedbed.llm.base import ModelInfo
from seedbed.llm.running import require_trio
from seedbed.llm.threads import as_llm
from seedbed.observing.observer import BulkBegan, PromptFinished, observers
from seedbed.sampling.configuration import configuration_of
from seedbed.sampling.randomness import fresh_seed
from seedbed.sampling.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    from seedbed.generation.bulk.output import Finished
    from seedbed.generation.bulk.prompts import BadLine, Prompt
    from seedbed.generation.bulk.stream import Pace
    from seedbed.llm.base import LLM

__all__ = ["BulkReport", "Job", "generate_file", "open_job", "sample_missing"]

FORMAT = 1  # of the rows
SEED_DIGITS = 39  # those of 2**128
SHOWN = 10  # problems that a report holds; all are in the list of the skipped


@dataclass(frozen=True, slots=True)
class BulkReport:
    """What a run did.

    Attributes:
        is_complete: whether the output has all there is to have.
        lines: lines of the prompts' file.
        before: how many of them were done already.
        done: how many are now, blank ones included.
        prompts, sequences, tokens: what this run added.
        skipped: how many prompts this run skipped.
        problems: of the first few of them, with file and line.
        seed: the seed, fresh if none was given.
    """

    is_complete: bool
    lines: int
    before: int
    done: int
    prompts: int
    sequences: int
    tokens: int
    skipped: int
    problems: tuple[str, ...]
    seed: int


class Job:
    """A run under way, without any model: which prompts are missing, and where their rows go. A context manager.

    Attributes:
        recipe: what decides the rows, with the seed and the text as an earlier run chose them.
        seed: the recipe's.
        skipped_path: where skipped prompts are listed.
    """

    def __init__(self, path: Path, prompts: PromptFile, output: Output, recipe: Recipe, how_to_skip: str) -> None:
        assert recipe.seed is not None
        self.recipe, self.seed, self.skipped_path = recipe, recipe.seed, output.skipped_path
        self._path, self._output, self._how_to_skip = path, output, how_to_skip
        self._lines = prompts.lines
        self._before = prompts.lines if output.is_complete else output.next_index
        self._prompts = self._tokens = self._skipped = 0
        self._problems: list[str] = []
        for observer in observers():
            observer.notice(BulkBegan(self._lines, self._before, recipe.n))

    @property
    def left(self) -> int:
        """How many lines are not done, blank ones behind the last that is included."""
        return 0 if self._output.is_complete else self._lines - self._output.next_index

    def missing(self) -> Iterator[Prompt | BadLine]:
        """What is not in the output yet, in order."""
        return read_prompts(self._path, self._before, self._lines)

    def write(self, finished: Finished) -> None:
        """Add the next prompt's rows.

        Raises:
            UsageError: it was skipped, and nothing is to be; names file and line.
            RecordingMiss: so, too, where a recording does not know it.
        """
        problem = finished.problem and f"{self._path}:{finished.prompt_index + 1}: {finished.problem}"
        if finished.miss is not None and self._how_to_skip:
            text = f"{problem}. Skip such lines with {self._how_to_skip}"
            raise RecordingMiss(text, prev_token_ids=finished.miss.prev_token_ids, known=finished.miss.known)
        if problem and self._how_to_skip:
            raise UsageError(f"{problem}. Skip such lines with {self._how_to_skip}; or correct it, and write elsewhere")
        self._output.append(finished)
        if problem:
            self._skipped += 1
            self._problems += [problem][: SHOWN - len(self._problems)]
        else:
            self._prompts += 1
            self._tokens += finished.tokens
        for observer in observers():
            observer.notice(PromptFinished(finished.prompt_index, finished.tokens, problem))

    def complete(self) -> None:
        """All that was missing is there."""
        self._output.complete()

    def report(self) -> BulkReport:
        """What was done so far."""
        return BulkReport(
            is_complete=self._output.is_complete,
            lines=self._lines,
            before=self._before,
            done=self._lines - self.left,
            prompts=self._prompts,
            sequences=self._prompts * self.recipe.n,
            tokens=self._tokens,
            skipped=self._skipped,
            problems=tuple(self._problems),
            seed=self.seed,
        )

    def close(self) -> None:
        """Let go of the output. Idempotent."""
        self._output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def open_job(
    prompts: str | PathLike[str],
    out: str | PathLike[str],
    model: LLM,
    recipe: Recipe,
    *,
    keep_going: bool = False,
    how_to_skip: str = "keep_going=True",
) -> Job:
    """Begin a run, or find out how far an earlier one came.

    Args:
        prompts, out, model, keep_going: as for ``generate_file``.
        how_to_skip: how the caller's own caller says ``keep_going``, for the error that advises it.
        recipe: what decides the rows; where seed or text is None, the earlier run's are taken, or else a fresh seed, and text if the
            model has any.

    Raises:
        UsageError: as ``generate_file``.
        ServerError: the model could not be asked whether it has text.
    """
    recipe.plan([], model)  # whatever is wrong with it is wrong with every prompt
    file = PromptFile.of(Path(prompts))
    if_new = {"seed": str(fresh_seed()), "text": await _has_text(model) if recipe.text is None else recipe.text}
    decides = _what_decides(recipe, file, model)
    output = Output(Path(out), decides, {name: value for name, value in if_new.items() if name not in decides}, recipe.n, Path(prompts))
    try:
        return Job(Path(prompts), file, output, _as_chosen(recipe, output), "" if keep_going else how_to_skip)
    except BaseException:
        output.close()
        raise


async def _has_text(model: LLM) -> bool:
    """Whether a model can say what its tokens mean.

    Raises:
        ServerError: it could not be asked.
    """
    try:
        await model.detokenize(model.eos_token_ids[:1])
    except (UsageError, RequestRefused, BrokenAnswer) as error:
        if isinstance(error, RequestRefused) and error.retryable:
            raise
        return False
    return True


def _as_chosen(recipe: Recipe, output: Output) -> Recipe:
    """With the seed and the text that the output's first run chose.

    Raises:
        UsageError: what is written beside the output does not tell them.
    """
    seed, text = output.decides.get("seed"), output.decides.get("text")
    if not (isinstance(seed, str) and seed.isdecimal() and len(seed) <= SEED_DIGITS and isinstance(text, bool)):
        raise UsageError(f"{output.run_path} is not what a run writes: its seed is {shown(seed)}, its text {shown(text)}")
    return replace(recipe, seed=int(seed), text=text)


async def generate_file(
    prompts: str | PathLike[str],
    out: str | PathLike[str],
    llm: object,
    n: int = 1,
    *,
    sampler: Sampler | None = None,
    seed: int | None = None,
    max_new_tokens: int | None = None,
    stop_token_ids: Sequence[int] = (),
    stop_sequences: Sequence[Sequence[int]] = (),
    text: bool | None = None,
    timeout: float = math.inf,
    keep_going: bool = False,
    pace: Pace | None = None,
) -> BulkReport:
    """Sample n sequences from every prompt in a file, and write them to another in the order of the prompts.

    Called again with the same arguments, after kill -9 too, it goes on where it was, and in the end the octets are those of a run that was
    never interrupted. Memory does not depend on the number of prompts.

    Args:
        prompts: a file with a prompt a line (see ``seedbed.generation.bulk.prompts``).
        out: a ``.jsonl`` or ``.parquet`` file, or a directory of parts (see ``seedbed.generation.bulk.output`` and ``.columns``).
        llm: an ``LLM``, ``BlockingLLM`` or look-alike.
        n, sampler, max_new_tokens, stop_token_ids, stop_sequences: as for ``generate``.
        seed: as for ``generate``; None takes the one of the run that is gone on with, or a fresh one.
        text: whether rows have their text; None is when the model has a tokenizer.
        timeout: seconds for this run, inf for none; what is missing then is had by calling again.
        keep_going: whether a prompt that cannot be continued is skipped, and listed beside ``out``, instead of ending the run.
        pace: what decides the speed and nothing else.

    Raises:
        UsageError: a wrong argument; ``out`` was begun with others, which are named; a prompt that cannot be continued, with file and line.
        RecordingMiss: a prompt that the recording does not know, with file and line.
        MissingExtra: ``out`` is parquet, and pyarrow is not installed.
        DeadlineExceeded: ``timeout`` was over before the model had said whether it has text.
        ServerError: the model failed; what was finished before is kept.
        OSError: ``out`` could not be written.

    Concurrency:
        One run at a time for each ``out``. Cancelled: what was written stays, and can be gone on with. Always a checkpoint.

    Example:
        >>> import tempfile
        >>> from seedbed import TinyLM
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     prompts, out = Path(directory, "prompts.jsonl"), Path(directory, "rows.jsonl")
        ...     _ = prompts.write_text('"The seed"' + chr(10) + '"In spring"' + chr(10))
        ...     report = trio.run(lambda: generate_file(prompts, out, TinyLM(), n=2, seed=7, max_new_tokens=5))
        ...     print(report.prompts, report.sequences, report.tokens, out.read_text().count(chr(10)))
        2 4 20 4
    """
    require_trio()
    deadline = trio.current_time() + Deadlines(timeout, math.inf).total
    model = as_llm(llm)
    recipe = Recipe(seed, n, sampler, max_new_tokens, stop_token_ids, stop_sequences, text)
    with trio.CancelScope(deadline=deadline) as scope:
        job = await open_job(prompts, out, model, recipe, keep_going=keep_going)
    if scope.cancelled_caught:
        raise DeadlineExceeded("the deadline came before the model had said whether it has text: nothing was begun")
    with job:
        with trio.CancelScope(deadline=deadline):
            await sample_missing(job, model, pace)
        return job.report()


async def sample_missing(job: Job, model: LLM, pace: Pace | None = None) -> None:
    """Sample what is missing, and write it.

    Raises:
        UsageError, RecordingMiss, ServerError, OSError: as ``generate_file``.

    Concurrency:
        As ``generate_file``.
    """
    async with open_stream(job.missing(), model, job.recipe, pace) as stream:
        async for finished in stream:
            job.write(finished)
    job.complete()


def _what_decides(recipe: Recipe, prompts: PromptFile, model: LLM) -> dict[str, Any]:
    """What decides every row, under the names a user knows; what a run chooses for itself is left out."""
    info = model.info or ModelInfo()
    decides: dict[str, Any] = {
        "format": FORMAT,
        "prompts": f"{prompts.lines} lines, sha256 {prompts.sha256}",
        "n": recipe.n,
        "sampler": configuration_of(recipe.sampler or Sampler()),
        "max_new_tokens": recipe.max_new_tokens,
        "stop_token_ids": list(recipe.stop_token_ids),
        "stop_sequences": [list(stop) for stop in recipe.stop_sequences],
        "model": info.model,
        "fingerprint": info.fingerprint,
        "rows": whole_number(model.top_k) or "all",
        "kind": info.kind,
        "vocab_size": info.vocab_size,
        "eos_token_ids": list(check_end_token_ids(model.eos_token_ids)),
        "context_length": info.context_length,
    }
    if recipe.seed is not None:
        decides["seed"] = str(recipe.seed)
    if recipe.text is not None:
        decides["text"] = recipe.text
    return decides
