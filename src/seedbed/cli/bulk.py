"""``seedbed generate --prompts FILE --out FILE``: many prompts, from a file to a file."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import trio
from rich.console import Console

from seedbed.cli.bulk_progress import BulkView
from seedbed.cli.options import echo_json, sampler_of, seed_of
from seedbed.cli.running import deadline_of, run_trio, within
from seedbed.cli.source import open_model
from seedbed.errors import RecordingMiss, SeedbedError, UsageError
from seedbed.generation.bulk import Pace, Recipe
from seedbed.generation.bulk.cluster import require_cluster, sample_on_ray
from seedbed.generation.bulk.run import open_job, sample_missing
from seedbed.observing import observe
from seedbed.wording import counted

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from seedbed.generation.bulk import BulkReport
    from seedbed.generation.bulk.run import Job

__all__ = ["generate_in_bulk"]

GOES_ON = "the same command goes on"
GAINED_NOTHING = "the time was over before one more was: give a longer --timeout"


def generate_in_bulk(source: str, options: dict[str, Any], as_json: bool) -> None:
    """Do it, and say what was done."""
    if options["ray_address"] is not None:
        require_cluster(options["ray_address"])
    console = Console(stderr=True)
    view = BulkView()
    watching: AbstractContextManager[object] = nullcontext() if as_json or not console.is_terminal else view.shown_on(console)
    with observe(view), watching:
        report, skipped_path = _run(source, options)
    if as_json:
        echo_json(asdict(report) | {"out": options["out"], "seed": str(report.seed)})
    else:
        _print_report(report, options["out"], skipped_path)


def _run(source: str, options: dict[str, Any]) -> tuple[BulkReport, Path]:
    seed = None if options["seed"] is None else seed_of(options)  # without one, what is gone on with has its own
    recipe = Recipe(seed, options["n"], sampler_of(options), options["max_new_tokens"])
    concurrency = options["concurrency"] or 4 * options["connections"]
    pace = Pace(concurrency=concurrency, lookahead=options["lookahead"])
    job: Job | None = None

    async def begin_here() -> None:
        nonlocal job
        deadline = deadline_of(options)
        async with open_model(source, options, deadline) as model:
            with within(deadline, "the model had said whether it has text"):
                job = await open_job(
                    options["prompts_path"], options["out"], model, recipe, keep_going=options["keep_going"], how_to_skip="--keep-going"
                )
            if options["ray_address"] is None:
                with trio.CancelScope(deadline=deadline):
                    await sample_missing(job, model, pace)

    try:
        run_trio(begin_here)
        assert job is not None
        if options["ray_address"] is not None:
            with redirect_stdout(sys.stderr):  # where Ray tells of workers that died
                sample_on_ray(job, partial(open_model, source, options), address=options["ray_address"], pace=pace)
        return job.report(), job.skipped_path
    except SeedbedError as error:
        if job is not None:
            done = _how_far(job.report(), options["out"])
            error.add_note(done if isinstance(error, (UsageError, RecordingMiss)) else f"{done}: {GOES_ON}")
        raise
    except BaseException:
        if job is not None:
            click.echo(f"{_how_far(job.report(), options['out'])}: {GOES_ON}", err=True)
        raise
    finally:
        if job is not None:
            job.close()


def _how_far(report: BulkReport, out: str) -> str:
    where = f", and their rows in {shlex.quote(out)}" if report.done else ""
    return f"{report.done} of {counted(report.lines, 'line')} {'is' if report.lines == 1 else 'are'} done{where}"


def _print_report(report: BulkReport, out: str, skipped_path: Path) -> None:
    before = f"; {counted(report.before, 'line')} {'was' if report.before == 1 else 'were'} done before" if report.before else ""
    added = f"{counted(report.prompts, 'prompt')}, {counted(report.sequences, 'sequence')}, {counted(report.tokens, 'token')}"
    click.echo(f"{added} in {shlex.quote(out)}{before}")
    if report.skipped:
        click.echo(f"skipped {report.skipped}, listed in {shlex.quote(str(skipped_path))}:")
        for problem in report.problems:
            click.echo(f"  {problem}")
        if report.skipped > len(report.problems):
            click.echo("  ...")
    if not report.is_complete:
        has_gained = report.prompts or report.skipped
        click.echo(f"cut short: {_how_far(report, out)}: {GOES_ON if has_gained else GAINED_NOTHING}")
    click.echo(f"seed   {report.seed}")
