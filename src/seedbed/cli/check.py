"""``seedbed check``: is the server that answers now the one that was recorded?"""

from __future__ import annotations

import getpass
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from seedbed.cli.options import Integers, NewFile, SomePath, SomeText, as_json_option, connection_options, echo_json
from seedbed.cli.progress import counting
from seedbed.cli.running import run_trio
from seedbed.cli.source import open_model
from seedbed.errors import UsageError
from seedbed.recording import open_recording
from seedbed.regression.accept import accept
from seedbed.regression.check import MARGIN, check
from seedbed.regression.continued import Evidence
from seedbed.regression.figures import significant
from seedbed.regression.page import as_html
from seedbed.regression.report import as_junit, as_lines
from seedbed.regression.verdict import EXIT_CODES, Verdict

if TYPE_CHECKING:
    from seedbed.recording import Acceptance, Recording
    from seedbed.regression import CheckReport

__all__ = ["check_command"]


@click.command("check", short_help="Is a server still what was recorded, and if not, what changed?")
@click.argument("recording", type=SomePath())
@click.argument("source", metavar="URL")
@click.option("--margin", type=float, default=MARGIN, show_default=True, metavar="NATS", help="The drift that matters.")
@click.option("--alpha", type=float, default=0.01, show_default=True, help="How often a server that is the same may be called changed.")
@click.option("--repeats", type=Integers(1), help="Live answers to each prefix.  [default: as many as recorded, at least 2]")
@click.option("--stop-early", is_flag=True, help="Stop once the evidence is there; a drift is then found, not measured.")
@click.option("--no-free-running", is_flag=True, help="Do not sample the recorded runs again.")
@click.option("--continue", "earlier", type=SomePath(), metavar="FILE", help="Go on from the evidence in an earlier --json output.")
@click.option(
    "--accept",
    "why",
    type=SomeText("a reason"),
    metavar="WHY",
    help="Make the live answers the new baseline, and note who said so and why.",
)
@click.option("--by", "who", type=SomeText("a name"), metavar="WHO", help="Who accepts.  [default: the name you are logged in with]")
@click.option("--html", type=NewFile(), metavar="FILE", help="Write a page with plots.")
@click.option("--junit", type=NewFile(), metavar="FILE", help="Write JUnit XML.")
@connection_options(rows="as many as were recorded")
@as_json_option
def check_command(
    recording: str,
    source: str,
    margin: float,
    alpha: float,
    repeats: int | None,
    stop_early: bool,
    no_free_running: bool,
    earlier: str | None,
    why: str | None,
    who: str | None,
    html: str | None,
    junit: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Hold the server at URL against the RECORDING of it: is it still the same, and if not, what changed?

    Asks for every recorded prefix again, under the conditions it was recorded under, and finds drift far below the server's own
    noise when the recording has two answers or more to each prefix.

    \b
    Examples:
      seedbed check recordings/seed http://127.0.0.1:8017
      seedbed check recordings/seed http://127.0.0.1:8017 --html report.html --junit report.xml
      seedbed check recordings/seed http://127.0.0.1:8017 --accept "llama.cpp b11549: new kernels" --by ada

    A recording is never replaced by a run that fails: only --accept does so, and only with answers that pass a check of their own.

    \b
    Exit codes: 0 the same, changed by less than the margin, or accepted; 1 drift; 2 wrong usage; 3 the server failed;
    4 inconclusive; 5 the recording; 130 interrupted.
    """
    _refuse_unusable(recording, why, who, html, junit)
    evidence = _evidence_in(earlier) if earlier is not None else None
    options["rows"] = _rows(options["rows"], open_recording(recording))
    accepted: Acceptance | None = None

    async def main() -> CheckReport:
        nonlocal accepted
        async with open_model(source, options) as model:
            with counting(quiet=as_json) as show:
                report = await check(
                    recording,
                    model,
                    margin=margin,
                    alpha=alpha,
                    repeats=repeats,
                    stop_early=stop_early,
                    free_run=not no_free_running,
                    evidence=evidence,
                    progress=lambda progress: show(f"{progress.answers} of {progress.of} answers, e-value {significant(progress.e_value)}"),
                )

            if why is not None and report.verdict is not Verdict.IDENTICAL:
                accepted = await accept(recording, model, report, who=who or _logged_in(), why=why)
            return report

    report = run_trio(main)
    _print_report(report, accepted, as_json=as_json, is_to_be_accepted=why is not None)
    for path, text in ((html, as_html), (junit, as_junit)):
        if path is not None:
            _write(path, text(report))
    return 0 if accepted is not None else EXIT_CODES[report.verdict]


def _refuse_unusable(recording: str, why: str | None, who: str | None, html: str | None, junit: str | None) -> None:
    """What is wrong with the command line, before minutes are spent on it."""
    if "://" in recording:
        raise UsageError("give the recording first, then the URL of the server to hold against it")
    if who is not None and why is None:
        raise UsageError("--by says who accepts: give --accept WHY with it")
    if html is not None and junit is not None and Path(html).resolve() == Path(junit).resolve():
        raise UsageError(f"--html and --junit both write {html}: name two files")


def _print_report(report: CheckReport, accepted: Acceptance | None, *, as_json: bool, is_to_be_accepted: bool) -> None:
    if as_json:
        told = report.to_dict() | ({"accepted": None if accepted is None else asdict(accepted)} if is_to_be_accepted else {})
        echo_json(told)
        return
    for line in as_lines(report):
        click.echo(line)
    if is_to_be_accepted:
        click.echo(f"{'accepted':<14} {_accepted(accepted)}")


def _logged_in() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise UsageError("who accepts is unknown here: give --by WHO") from error


def _accepted(accepted: Acceptance | None) -> str:
    if accepted is None:
        return "nothing: the recording stands as it is, and every live row is the recorded one"
    return f"by {accepted.who}: {accepted.why}; the live answers are the baseline now, and its manifest says so"


def _rows(given: str | None, recording: Recording) -> str:
    """As many tokens of each row as the recording keeps, or the more that are asked for: with fewer every row would look changed."""
    vocab_size, kept = recording.info.vocab_size, recording.top_k
    kept = kept if kept is None or vocab_size is None else min(kept, vocab_size)
    enough = "all" if kept is None else str(kept)
    if given is None or given == "all" or not given.isdecimal():
        return given or enough
    if kept is None or int(given) < kept:
        what = "whole rows" if kept is None else f"{kept} tokens of each row"
        raise UsageError(f"--rows {given} is less than the recording keeps, {what}: leave --rows out, or give {enough}")
    return given


def _evidence_in(path: str) -> Evidence:
    try:
        report = orjson.loads(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"--continue: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--continue: {path} is no output of 'seedbed check --json': {error}") from error
    if not isinstance(report, dict) or not isinstance(report.get("evidence"), dict):
        raise UsageError(f"--continue: {path} is no output of 'seedbed check --json': there is no evidence in it")
    try:
        return Evidence.from_dict(report["evidence"])
    except UsageError as error:
        raise UsageError(f"--continue: {path}: {error.message}") from error


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
