"""``seedbed conformance``: does a server's own sampler draw from what the server reports?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from seedbed.cli.options import Integers, as_json_option, connection_options, echo_json, filter_options
from seedbed.cli.progress import counting
from seedbed.cli.prompts import PromptCommand, prompts_of
from seedbed.cli.running import run_trio
from seedbed.cli.source import open_model
from seedbed.cli.urls import require_url
from seedbed.regression.conformance import conformance
from seedbed.regression.figures import significant

if TYPE_CHECKING:
    from seedbed.regression import ConformanceReport

__all__ = ["conformance_command"]


@click.command("conformance", cls=PromptCommand, otherwise="chosen ones", short_help="Does a server draw from the rows that it reports?")
@click.argument("source", metavar="URL")
@click.option("--draws", type=Integers(1), default=1000, show_default=True, help="Tokens to ask for.")
@filter_options(temperature="Above 0.")
@click.option(
    "--order", type=click.Choice(["hf", "vllm", "sglang", "llama.cpp"]), help="Whose order to expect.  [default: the protocol's engine's]"
)
@click.option("--alpha", type=float, default=0.01, show_default=True, help="How often a server that conforms may be called flawed.")
@click.option("--seed", type=Integers(0), help="The first of the seeds sent, below 2**24.  [default: a fresh one]")
@connection_options(rows="all")
@as_json_option
def conformance_command(source: str, as_json: bool, **options: Any) -> int:
    """Ask the server at URL for tokens of its own and hold them against the rows it reports.

    Every parameter is sent with every request. Names another temperature, a filter too many or too few, another engine's order,
    and seeds that are ignored, repeat, or overlap.

    \b
    Examples:
      seedbed conformance http://127.0.0.1:8080
      seedbed conformance http://127.0.0.1:8080 --temperature 1.5 --top-p 0.9 --top-k 20 --draws 5000

    \b
    Exit codes: 0 draws are what was asked for; 1 not; 2 wrong usage; 3 the server failed; 130 interrupted.
    """
    require_url(source, "a recording draws no tokens itself, so there is nothing to hold against its rows")
    parameters = {name: options[name] for name in ("draws", "temperature", "top_k", "top_p", "min_p", "order", "alpha", "seed")}
    # A row that is cut off has no distribution to hold a draw against.
    options["rows"] = options["rows"] or "all"

    async def main() -> ConformanceReport:
        async with open_model(source, options) as model:
            prompts = await prompts_of(model, options) if options["texts"] or options["id_lists"] else []
            with counting(quiet=as_json) as show:
                return await conformance(
                    model,
                    prompts=prompts,
                    progress=lambda progress: show(f"{progress.draws} of {progress.of} draws, e-value {significant(progress.e_value)}"),
                    **parameters,
                )

    report = run_trio(main)
    if as_json:
        echo_json(report.to_dict())
    else:
        for line in report.lines():
            click.echo(line)
    return 0 if report.is_conforming else 1
