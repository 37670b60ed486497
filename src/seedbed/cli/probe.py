"""``seedbed probe``: under which condition does a server stop giving the same bits for the same question?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from seedbed.cli.options import Integers, as_json_option, connection_options, echo_json
from seedbed.cli.progress import counting
from seedbed.cli.running import run_trio
from seedbed.cli.source import open_model
from seedbed.cli.urls import require_url, shown_source
from seedbed.regression.probe import probe

if TYPE_CHECKING:
    from seedbed.regression import ProbeReport

__all__ = ["probe_command"]


@click.command("probe", short_help="Find what makes a server give other bits for the same question.")
@click.argument("source", metavar="URL")
@click.option("--max-length", type=Integers(4), default=257, show_default=True, help="The longest prompt, in tokens.")
@click.option("--max-concurrency", type=Integers(1), default=16, show_default=True, help="The most questions at once.")
@click.option("--prompts", type=Integers(1), default=2, show_default=True, help="Prompts of each length.")
@click.option("--seed", type=Integers(0), help="Of the prompts.  [default: a fresh one, so that no prompt is in a cache]")
@connection_options()
@as_json_option
def probe_command(source: str, max_length: int, max_concurrency: int, prompts: int, seed: int | None, as_json: bool, **options: Any) -> int:
    """Find the first condition under which the server at URL stops giving the same bits for the same question.

    Asks the same question twice, after others, from the prompt cache and in company, at prompt lengths around block sizes, and
    bisects to where a difference begins. The server should have nothing else to do meanwhile.

    \b
    Examples:
      seedbed probe http://127.0.0.1:8080
      seedbed probe http://127.0.0.1:8080 --max-length 1025 --max-concurrency 64

    \b
    Exit codes: 0 the same bits under every condition tried; 1 not; 2 wrong usage; 3 the server failed; 130 interrupted.
    """

    require_url(source, "a recording gives the same answer every time, so there is nothing to probe")

    async def main() -> ProbeReport:
        async with open_model(source, options) as model:
            with counting(quiet=as_json) as show:
                return await probe(
                    model,
                    max_length=max_length,
                    max_concurrency=max_concurrency,
                    prompts=prompts,
                    seed=seed,
                    progress=lambda progress: show(f"{progress.questions} questions; {progress.doing}"),
                )

    report = run_trio(main)
    if as_json:
        echo_json(report.to_dict())
    else:
        for line in report.lines():
            click.echo(line)
        click.echo(f"{'next':<14} {_advice(report, shown_source(source))}")
    return 1 if report.breaks else 0


def _advice(report: ProbeReport, source: str) -> str:
    match report.first:
        case None:
            return f"record it as it is: seedbed record {source} DIRECTORY --prompt TEXT -n 8"
        case first if first.condition == "concurrency":
            return f"record with repeats, which are asked alone and in company: seedbed record {source} DIRECTORY --repeats 2 ..."
        case first if first.condition == "prompt cache":
            return "switch the server's prompt cache off for repeatable rows, or record with --repeats 2: cold and warm are told apart"
    return f"record with repeats, so that a check knows the noise: seedbed record {source} DIRECTORY --repeats 2 ..."
