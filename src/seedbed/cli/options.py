"""Options that several commands share, and what they mean."""

from __future__ import annotations

import functools
import math
import shlex
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import click
import trio
from click.core import ParameterSource

from seedbed.errors import DeadlineExceeded, InvalidSeed, UsageError
from seedbed.http import connect
from seedbed.protocols import PROTOCOLS
from seedbed.recording import ReplayLLM
from seedbed.recording.replay import SHOWN_IN_COMMAND
from seedbed.sampling import Sampler
from seedbed.sampling.randomness import check_seed, fresh_seed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from seedbed.llm import LLM

__all__ = [
    "SamplingCommand",
    "as_json_option",
    "command_again",
    "connection_options",
    "deadline_of",
    "open_model",
    "prompts_of",
    "run_trio",
    "sampling_options",
    "shown_source",
    "to_try",
    "token_ids_in",
    "within",
]

PROMPT_ORDER = "seedbed.prompt_order"

F = TypeVar("F", bound="Callable[..., Any]")
T = TypeVar("T")


def run_trio(main: Callable[[], Awaitable[T]]) -> T:
    """``trio.run``, where Ctrl-C strikes at checkpoints only: in the middle of a statement it can break trio's own bookkeeping."""
    return trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)


def _all_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    return lambda function: functools.reduce(lambda inner, option: option(inner), reversed(options), function)


class SamplingCommand(click.Command):
    """A command that remembers in which order its prompts were given: click keeps the order within an option only."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and note the order."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[PROMPT_ORDER] = [option.name for option in order if option.name in ("texts", "id_lists")]
        return super().parse_args(ctx, args)


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")

connection_options = _all_of(
    click.option("--protocol", type=click.Choice(["auto", *PROTOCOLS]), default="auto", show_default=True, help="How the server is asked."),
    click.option("--model", metavar="NAME", help="Which of the server's models; refused if it has another."),
    click.option("--rows", metavar="K|all", help="Tokens of each row to ask the server for.  [default: what suits the protocol]"),
    click.option("--connections", type=click.IntRange(1), default=64, show_default=True, help="Requests under way at once."),
    click.option("--replica", "replicas", multiple=True, metavar="URL", help="Another server of the same model. Repeat for several."),
    click.option("--replicas-may-differ", is_flag=True, help="Take replicas of other fingerprints; tokens then depend on who answers."),
    click.option("--request-timeout", type=float, default=60.0, show_default=True, metavar="SECONDS", help="For one request."),
    click.option("--api-key", envvar="SEEDBED_API_KEY", help="Sent as a bearer token; or set SEEDBED_API_KEY."),
    click.option("--eos-token-id", "eos_token_ids", type=int, multiple=True, metavar="ID", help="For servers that do not tell."),
    click.option("--vocab-size", type=click.IntRange(1), help="For servers that do not tell."),
)

sampling_options = _all_of(
    click.option("--prompt", "texts", multiple=True, metavar="TEXT", help="A prompt; the server tokenizes it. Repeat for several."),
    click.option("--token-ids", "id_lists", multiple=True, metavar="ID,ID,...", help="A prompt as token ids. Repeat for several."),
    click.option("-n", type=click.IntRange(0), default=1, show_default=True, help="Sequences from each prompt."),
    click.option("--seed", type=str, help="The seed, 0 to 2**128 - 1.  [default: a fresh one, which is printed]"),
    click.option("--max-new-tokens", type=click.IntRange(0), default=64, show_default=True, help="Most tokens of a sequence."),
    click.option("--temperature", type=float, default=1.0, show_default=True, help="0 is greedy."),
    click.option("--top-k", type=int, default=0, help="Keep the k most probable tokens.  [default: all]"),
    click.option("--top-p", type=float, default=1.0, help="Keep the most probable tokens up to this mass.  [default: 1, all]"),
    click.option("--min-p", type=float, default=0.0, help="Keep tokens this many times as probable as the best.  [default: 0, all]"),
    click.option(
        "--timeout",
        type=float,
        default=float("inf"),
        metavar="SECONDS",
        help="For all; keeps what there is by then.",
    ),
)


def deadline_of(options: dict[str, Any]) -> float:
    """When everything must be over, on trio's clock; inf when ``--timeout`` was not given."""
    seconds: float = options["timeout"]
    if not seconds >= 0:
        raise UsageError(f"--timeout must be seconds >= 0, not {seconds}")
    return trio.current_time() + seconds


@contextmanager
def within(deadline: float, what: str) -> Iterator[trio.CancelScope]:
    """What must be done by then, or there is nothing to keep; push the scope's deadline away once it is done.

    Raises:
        DeadlineExceeded: it was not.
    """
    with trio.CancelScope(deadline=deadline) as scope:
        yield scope
    if scope.cancelled_caught:
        raise DeadlineExceeded(f"the deadline came before {what}: nothing was sampled; give a longer --timeout, or look after the server")


@asynccontextmanager
async def open_model(source: str, options: dict[str, Any], deadline: float = math.inf) -> AsyncIterator[LLM]:
    """The model a command was pointed at: behind a URL and those of its replicas, or in a recording's directory.

    Raises:
        DeadlineExceeded: it could not be connected to by then.
    """
    try:
        async with _opened(source, options, deadline) as model:
            yield model
    except UsageError as error:
        for name, option in (("eos_token_ids=", "--eos-token-id ID"), ("vocab_size=", "--vocab-size N")):
            if name in error.message:
                error.add_note(f"on the command line: {option}")
        raise


@asynccontextmanager
async def _opened(source: str, options: dict[str, Any], deadline: float) -> AsyncIterator[LLM]:
    if _is_path(source):
        if options["replicas"]:
            raise UsageError("a recording has no replicas: give --replica beside a URL")
        yield ReplayLLM(source)
        return
    if "://" not in source:
        raise UsageError(f"{source!r} is neither a URL such as http://host:port nor the directory of a recording")
    rows = options["rows"]
    if rows is not None and rows != "all" and not rows.isdecimal():
        raise UsageError(f"--rows must be a number or 'all', not {rows!r}")
    with within(deadline, f"{shown_source(source)} had said what it is") as scope:
        async with connect(
            [source, *options["replicas"]],
            options["protocol"],
            model=options["model"],
            top_k=int(rows) if rows is not None and rows != "all" else rows,
            max_connections=options["connections"],
            request_timeout=options["request_timeout"],
            api_key=options["api_key"],
            eos_token_ids=options["eos_token_ids"] or None,
            vocab_size=options["vocab_size"],
            replicas_may_differ=options["replicas_may_differ"],
        ) as model:
            scope.deadline = math.inf
            yield model
            for replica in model.statistics().replicas:
                if replica.trouble:
                    click.echo(f"note: {replica.where} is left out at present: {replica.trouble}", err=True)


def shown_source(source: str) -> str:
    """A URL or path to print, quoted for the shell, without user info and query, which may be secret."""
    if "://" in source:
        parts = urlsplit(source)
        source = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return shlex.quote(source)


def _is_path(source: str) -> bool:
    return "://" not in source and Path(source).exists()


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


async def prompts_of(model: LLM, options: dict[str, Any], deadline: float = math.inf) -> list[list[int]]:
    """All prompts, in the order they were given in.

    Raises:
        DeadlineExceeded: they were not tokenized by then.
    """
    ids = [token_ids_in(text, "--token-ids", "; for text there is --prompt") for text in options["id_lists"]]
    for text in options["texts"]:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError("--prompt holds octets that are no UTF-8: give token ids instead")
    if not (options["texts"] or ids):
        raise UsageError("give a prompt: --prompt TEXT, or --token-ids 1,2,3")
    with within(deadline, "the prompts were tokenized"):
        tokenized = [await model.tokenize(text) for text in options["texts"]]
    given = {"texts": iter(tokenized), "id_lists": iter(ids)}
    return [next(given[name]) for name in click.get_current_context().meta[PROMPT_ORDER]]


def token_ids_in(text: str, option: str, instead: str = "") -> list[int]:
    """The token ids of an option's value.

    Raises:
        UsageError: it holds something else; ``instead`` ends the message.
    """
    ids = []
    for word in text.replace(",", " ").split():
        try:
            ids.append(int(word))
        except ValueError:
            raise UsageError(f"{option} must be token ids with commas between, such as 1,2,3, not {word!r:.80}{instead}") from None
    return ids


def to_try(source: str, llm: LLM, *, tokenizes: bool) -> str:
    """A command that samples from a model, to be typed as it is; of a recording what it holds for certain."""
    prompt = '--prompt "The seed" -n 8' if tokenizes else "--token-ids 1,2,3 -n 8"
    if isinstance(llm, ReplayLLM):
        # The first asked for after what every recording begins with, if it is short.
        steps = [step for step in llm.recording.steps if step.length <= SHOWN_IN_COMMAND]
        prefix = ",".join(map(str, steps[2 if len(steps) > 2 else 0].prefix)) if steps else "0"
        prompt = f"--token-ids {prefix} --max-new-tokens 1"
    return f"seedbed generate {shown_source(source)} {prompt} --seed 7"


def command_again(**changes: Any) -> str:
    """The command under way as it would be typed, with some options changed (None leaves one out), and without the API key."""
    context = click.get_current_context()
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE} | set(changes)
    values = context.params | changes
    words = [f"seedbed {context.info_name}"]
    prompts = {name: iter(values.get(name, ())) for name in ("texts", "id_lists")}
    spelled = {"texts": "--prompt", "id_lists": "--token-ids"}
    for option in context.command.get_params(context):
        name, value = option.name or "", values.get(option.name or "")
        if isinstance(option, click.Argument):
            words.append(shown_source(str(value)))
        elif name in prompts or name not in given or name == "api_key" or value is None or value is False:
            continue
        else:
            flag = max(option.opts, key=len)
            words += [flag if value is True else f"{flag} {shown_source(str(each))}" for each in (value if option.multiple else [value])]
    order = context.meta.get(PROMPT_ORDER, ())
    words += [f"{spelled[name]} {shlex.quote(next(prompts[name]))}" for name in order]
    return " ".join(words)
