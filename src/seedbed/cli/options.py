"""Options that several commands share, and what they mean."""

from __future__ import annotations

import functools
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import orjson
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from seedbed.errors import InvalidSeed, UsageError
from seedbed.protocols import PROTOCOLS
from seedbed.sampling import Sampler
from seedbed.sampling.randomness import check_seed, fresh_seed

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ConnectionOption",
    "Integers",
    "NewFile",
    "SamplingOption",
    "SomePath",
    "SomeText",
    "as_json_option",
    "connection_options",
    "echo_json",
    "filter_options",
    "sampler_of",
    "sampling_options",
    "seed_of",
    "spelling",
    "typed",
]

F = TypeVar("F", bound="Callable[..., Any]")


class ConnectionOption(click.Option):
    """How a server is asked."""


class SamplingOption(click.Option):
    """How sequences are sampled."""


def typed(kind: type[click.Option]) -> list[str]:
    """The options of a kind that stand on the command line under way; none outside of one, as on a worker of a cluster."""
    context = click.get_current_context(silent=True)
    if context is None:
        return []
    options = (option for option in context.command.params if isinstance(option, kind))
    return [spelling(option) for option in options if context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE]


def spelling(option: click.Parameter) -> str:
    """How an option is typed, the long way."""
    return max(option.opts, key=len)


class Integers(click.IntRange):
    """Those of a range; what is no integer is called that, and not "no valid integer range"."""

    name = "integer"


class SomeText(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in some versions of click only
    """What may be anything but blank, as an empty variable of a script is."""

    name = "text"

    def __init__(self, what: str) -> None:
        self.what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """As it was typed."""
        if not value.strip():
            which = spelling(param) if isinstance(param, click.Option) else f"the {self.what.split()[-1]}"
            raise UsageError(f"{which} is blank, and must be {self.what}: give one")
        return str(value)


class SomePath(SomeText):
    """A path, which no blank is: it would mean the directory one is in."""

    name = "path"

    def __init__(self) -> None:
        super().__init__("a path")

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What the shell itself finds."""
        return [CompletionItem(incomplete, type="file")]


class NewFile(SomePath):
    """Where a file is to be written at the end, checked at the beginning."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path as it was typed."""
        path = Path(super().convert(value, param, ctx))
        if value == "-":
            raise UsageError(f"{spelling(param) if param else value} writes a file, and - is none: name it; standard output takes --json")
        try:
            is_directory = stat.S_ISDIR(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            is_directory = False
        except OSError as error:
            raise UsageError(f"{value} cannot be written: {error.strerror}") from error
        if is_directory:
            raise UsageError(f"{value} cannot be written: it is a directory")
        if not path.absolute().parent.is_dir():
            raise UsageError(f"{value} cannot be written: its directory is not there")
        return str(value)


def _all_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    return lambda function: functools.reduce(lambda inner, option: option(inner), reversed(options), function)


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")


def echo_json(value: Any) -> None:
    """Print what ``--json`` asks for."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


_connection = functools.partial(click.option, cls=ConnectionOption)
_sampling = functools.partial(click.option, cls=SamplingOption)


def connection_options(*, rows: str = "what suits the protocol") -> Callable[[F], F]:
    """Options of commands that ask a model server; ``rows`` says in the help what ``--rows`` is when it is not given."""
    return _all_of(
        _connection(
            "--protocol", type=click.Choice(["auto", *PROTOCOLS]), default="auto", show_default=True, help="How the server is asked."
        ),
        click.option("--model", type=SomeText("a name"), metavar="NAME", help="Which of the server's models; refused if it has another."),
        _connection("--rows", metavar="K|all", help=f"Tokens of each row to ask the server for.  [default: {rows}]"),
        _connection("--connections", type=Integers(1), default=64, show_default=True, help="Requests under way at once."),
        _connection("--replica", "replicas", multiple=True, metavar="URL", help="Another server of the same model. Repeat for several."),
        _connection("--replicas-may-differ", is_flag=True, help="Take replicas of other fingerprints; tokens then depend on who answers."),
        _connection("--request-timeout", type=float, default=60.0, show_default=True, metavar="SECONDS", help="For one request."),
        _connection("--api-key", envvar="SEEDBED_API_KEY", help="Sent as a bearer token; or set SEEDBED_API_KEY."),
        _connection("--eos-token-id", "eos_token_ids", type=int, multiple=True, metavar="ID", help="For servers that do not tell."),
        _connection("--vocab-size", type=Integers(1), help="For servers that do not tell."),
    )


def filter_options(*, temperature: str = "0 is greedy.") -> Callable[[F], F]:
    """Options for what is drawn from; ``temperature`` says in the help which ones will do."""
    return _all_of(
        _sampling("--temperature", type=float, default=1.0, show_default=True, help=temperature),
        _sampling("--top-k", type=int, default=0, help="Keep the k most probable tokens.  [default: all]"),
        _sampling("--top-p", type=float, default=1.0, help="Keep the most probable tokens up to this mass.  [default: 1, all]"),
        _sampling("--min-p", type=float, default=0.0, help="Keep tokens this many times as probable as the best.  [default: 0, all]"),
    )


sampling_options = _all_of(
    _sampling("-n", type=Integers(0), default=1, show_default=True, help="Sequences from each prompt."),
    _sampling("--seed", type=str, help="The seed, 0 to 2**128 - 1.  [default: a fresh one, which is printed]"),
    _sampling("--max-new-tokens", type=Integers(0), default=64, show_default=True, help="Most tokens of a sequence."),
    filter_options(),
    _sampling("--timeout", type=float, default=float("inf"), metavar="SECONDS", help="For all; keeps what there is by then."),
)


def sampler_of(options: dict[str, Any]) -> Sampler:
    """The sampler the options describe."""
    return Sampler(options["temperature"], options["top_k"], options["top_p"], options["min_p"])


def seed_of(options: dict[str, Any]) -> int:
    """The seed given, or a fresh one."""
    try:
        return fresh_seed() if options["seed"] is None else check_seed(int(options["seed"], 0))
    except InvalidSeed:
        raise
    except ValueError:
        raise UsageError(f"--seed must be a whole number, not {options['seed']!r}") from None
