"""The options of ``seedbed generate`` for files of prompts, and whether they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from seedbed.cli.options import Integers, SomePath, SomeText
from seedbed.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["bulk_options", "is_bulk"]


class _Lookahead(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in some versions of click only
    name = "lookahead"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "auto" or isinstance(value, int):
            return value
        if not value.isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither 'auto' nor a number of 1 or more", param, ctx)
        return int(value)


def bulk_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of ``generate`` for files of prompts."""
    for option in reversed(
        (
            click.option(
                "--lookahead",
                type=_Lookahead(),
                metavar="K|auto",
                default=1,
                show_default=True,
                help="Rows to ask for at once; no token changes.",
            ),
            click.option(
                "--prompts", "prompts_path", type=SomePath(), metavar="FILE", help="A file with a prompt a line, as JSON. Needs --out."
            ),
            click.option("--out", type=SomePath(), metavar="PATH", help="Where the rows go: a .jsonl or .parquet file, or a directory."),
            click.option("--keep-going", is_flag=True, help="Skip prompts that cannot be continued, and list them beside --out."),
            click.option("--concurrency", type=Integers(1), help="Sequences under way at once.  [default: 4 for each connection]"),
            click.option("--telemetry", is_flag=True, help="Tell OpenTelemetry; run it under opentelemetry-instrument."),
            click.option(
                "--ray",
                "ray_address",
                type=SomeText("an address"),
                metavar="ADDRESS|auto|local",
                help="Split the prompts over a Ray cluster.",
            ),
        )
    ):
        function = option(function)
    return function


def is_bulk(options: dict[str, Any]) -> bool:
    """Whether a file of prompts was given.

    Raises:
        UsageError: options that do not go together.
    """
    if options["prompts_path"] is None:
        needless = [
            name
            for name, value in (
                ("--out", options["out"]),
                ("--keep-going", options["keep_going"]),
                ("--concurrency", options["concurrency"]),
                ("--ray", options["ray_address"]),
            )
            if value
        ]
        if needless:
            raise UsageError(f"{needless[0]} goes with --prompts FILE")
        return False
    if options["texts"] or options["id_lists"]:
        raise UsageError("give either a file with --prompts, or prompts with --prompt and --token-ids")
    if options["prompts_path"] == "-":
        raise UsageError("prompts are read more than once, so standard input will not do: write them to a file, --prompts FILE")
    if options["out"] is None:
        raise UsageError("say where the rows go: --out FILE.jsonl, FILE.parquet or a directory")
    if options["ray_address"] is not None and options["timeout"] != float("inf"):
        raise UsageError("--timeout does not go with --ray: interrupt it instead, the same command goes on")
    if options["ray_address"] is not None and options["telemetry"]:
        raise UsageError("--telemetry does not go with --ray: what happens on the workers is not told here")
    return True
