"""``seedbed conformance``: does a server's own sampler draw from what the server reports?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import orjson

from seedbed.cli.options import as_json_option, connection_options, open_model, prompts_of, run_trio
from seedbed.cli.progress import counting
from seedbed.regression.conformance import conformance
from seedbed.regression.figures import significant

if TYPE_CHECKING:
    from seedbed.regression import ConformanceReport

__all__ = ["conformance_command"]


@click.command("conformance")
@click.argument("source", metavar="URL")
@click.option("--prompt", "texts", multiple=True, metavar="TEXT", help="Draw after this. Repeat for several.  [default: chosen ones]")
@click.option("--token-ids", "id_lists", multiple=True, metavar="ID,ID,...", help="Draw after these ids. Repeat for several.")
@click.option("--draws", type=click.IntRange(1), default=1000, show_default=True, help="Tokens to ask for.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Above 0.")
@click.option("--top-k", type=int, default=0, help="Keep the k most probable tokens.  [default: all]")
@click.option("--top-p", type=float, default=1.0, help="Keep the most probable tokens up to this mass.  [default: 1, all]")
@click.option("--min-p", type=float, default=0.0, help="Keep tokens this many times as probable as the best.  [default: 0, all]")
@click.option(
    "--order", type=click.Choice(["hf", "vllm", "sglang", "llama.cpp"]), help="Whose order to expect.  [default: the protocol's engine's]"
)
@click.option("--alpha", type=float, default=0.01, show_default=True, help="How often a server that conforms may be called flawed.")
@click.option("--seed", type=click.IntRange(0), help="The first of the seeds sent, below 2**24.  [default: a fresh one]")
@connection_options
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
        click.echo(orjson.dumps(report.to_dict(), option=orjson.OPT_INDENT_2))
    else:
        for line in report.lines():
            click.echo(line)
    return 0 if report.is_conforming else 1
