"""``seedbed record``: keep what a model server says, while sampling from it or while standing between it and another client."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click
import trio

from seedbed.cli.commands import command_again, sampling_words
from seedbed.cli.generate import is_cut_short, sample_and_show
from seedbed.cli.options import (
    Integers,
    SamplingOption,
    SomePath,
    as_json_option,
    connection_options,
    sampler_of,
    sampling_options,
    seed_of,
    typed,
)
from seedbed.cli.prompts import PromptCommand, prompts_of
from seedbed.cli.running import deadline_of, run_trio
from seedbed.cli.serve import carrying
from seedbed.cli.source import open_model
from seedbed.cli.urls import shown_source
from seedbed.errors import RecordingError, RecordingExists, TruncatedRow, UsageError
from seedbed.generation.plan import Plan
from seedbed.recording import RecordingLLM
from seedbed.recording.record import DEFAULT_TOP_K
from seedbed.server import serve
from seedbed.server.listener import open_listeners
from seedbed.wording import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from seedbed.generation import GenerationResult
    from seedbed.llm import LLM

__all__ = ["record"]


@click.command(cls=PromptCommand, short_help="Sample from a server, and keep its answers in a directory.")
@click.argument("url")
@click.argument("path", type=SomePath())
@click.option(
    "--keep", default=str(DEFAULT_TOP_K), show_default=True, metavar="K|all", help="Tokens of each row to keep; all is the full tier."
)
@click.option("--repeats", type=Integers(1), default=1, show_default=True, help="Answers to each prefix, under varied load.")
@click.option("--scored", is_flag=True, help="Also ask for each sequence's rows in one request, as vLLM can.")
@click.option("--extend", is_flag=True, help="Add to a finished recording.")
@click.option("--listen", metavar="[HOST:]PORT", help="Do not sample: pass on other clients' questions, and record them. 0 is a free port.")
@sampling_options
@connection_options(rows="as many as --keep says")
@as_json_option
def record(url: str, path: str, keep: str, repeats: int, extend: bool, listen: str | None, as_json: bool, **options: Any) -> int:
    """Sample sequences from the server at URL, and keep its answers in the directory PATH.

    What is sampled from is what is kept, so replaying PATH with the same options gives the same tokens. A run that was
    interrupted, failed, or was cut short by --timeout goes on where it was when the same command is given again, with the
    --seed that it had: the command is printed.

    With --listen it is a proxy: clients of any protocol ask it instead of the server, one token a request and prompts as token
    ids, until Ctrl-C finishes the recording.

    \b
    Examples:
      seedbed record http://127.0.0.1:8017 recordings/seed --prompt "The seed" -n 16 --seed 7
      seedbed generate recordings/seed --token-ids 84,104,101,32,115,101,101,100 -n 16 --seed 7
      seedbed record http://127.0.0.1:8080 recordings/app --keep all --listen 8017

    \b
    Exit codes: 0 done; 2 wrong usage; 3 the server failed; 5 the recording, also when a deadline
    left it unfinished; 130 interrupted.
    """
    if "://" in path:
        raise UsageError("give the server's URL first, then the directory to record into")
    if keep != "all" and not (keep.isdecimal() and int(keep) >= 1):
        raise UsageError(f"--keep must be a number of 1 or more, or 'all', not {keep!r}")
    if listen is not None:
        _refuse_sampling(options, as_json)
    address = _address_of(listen) if listen is not None else None
    options["seed"] = seed_of(options)
    sampler_of(options)  # before anything is made
    if options["rows"] is None:
        options["rows"] = keep
    elif options["rows"] != "all" and (keep == "all" or (options["rows"].isdecimal() and int(options["rows"]) < int(keep))):
        raise UsageError(f"--rows {options['rows']} asks for fewer tokens than --keep {keep} keeps: leave --rows out, or keep fewer")

    async def main() -> int:
        deadline = deadline_of(options)
        async with open_model(url, options, deadline) as model:
            prompts = await _prompts(model, options, deadline) if address is None else []
            if address is not None:
                await _require_free(*address)
            kept: dict[str, Any] = {"repeats": repeats, "scored": options["scored"]}
            kept |= {"tier": "full"} if keep == "all" else {"top_k": int(keep)}
            recorded = RecordingLLM(model, path, extend=extend, **kept)
            if address is not None:
                return await _pass_on(recorded, *address, path)
            return await _sample(recorded, model, prompts, path, options, as_json, deadline)

    return run_trio(main)


def _refuse_sampling(options: dict[str, Any], as_json: bool) -> None:
    """What says how to sample means nothing to a proxy."""
    if options["texts"] or options["id_lists"]:
        raise UsageError("give either prompts to sample from, or --listen to record what other clients ask")
    for option in [*typed(SamplingOption), *(["--json"] if as_json else [])]:
        raise UsageError(f"{option} does not go with --listen, where other clients sample: leave it out")


async def _prompts(model: LLM, options: dict[str, Any], deadline: float) -> list[list[int]]:
    """The prompts, if all can be sampled from: a recording that holds nothing would be in the way of the command put right."""
    prompts = await prompts_of(model, options, deadline)
    Plan.of(
        prompts, model, range(options["n"]), sampler=sampler_of(options), seed=options["seed"], max_new_tokens=options["max_new_tokens"]
    )
    return prompts


async def _sample(
    recorded: RecordingLLM, model: LLM, prompts: list[list[int]], path: str, options: dict[str, Any], as_json: bool, deadline: float
) -> int:
    async with _recording(recorded, path, options["seed"]):
        for text in options["texts"]:
            await recorded.tokenize(text)  # once more, so that the text replays too
        result = await sample_and_show(recorded, prompts, options, as_json, deadline, shown_by=model)
        if is_cut_short(result):
            recorded.leave_unsealed()
        else:
            recorded.note(result)
    if is_cut_short(result):
        return _not_finished(recorded, path, options["seed"])
    if not as_json and result.sequences:
        click.echo(f"{_are_recorded(recorded, path)}. Replay them without the server:")
        click.echo(f"  {_replaying(path, result, options)}")
    return 0


async def _require_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on before anything is made, or the command put right would find a recording in its way."""
    for listener in await open_listeners(host, port):
        await listener.aclose()


async def _pass_on(recorded: RecordingLLM, host: str, port: int, path: str) -> int:
    async with _recording(recorded, path, seed=None):
        port = await _serve_until_interrupted(recorded, host, port, path)
    click.echo(f"{_are_recorded(recorded, path)}. Replay them without the server:")
    click.echo(f"  seedbed replay {shown_source(path)} --port {port}")
    return 0


@asynccontextmanager
async def _recording(recorded: RecordingLLM, path: str, seed: int | None) -> AsyncIterator[None]:
    """The recording, open; whatever ends it early is followed by what to type."""
    try:
        async with recorded:
            yield
    except RecordingExists as error:
        if "finished" in error.message:
            error.add_note("on the command line: --extend")
        raise
    except TruncatedRow as error:
        error.add_note(f"and another directory: {path} keeps as few of each row as it began with")
        raise
    except BaseException as error:
        if recorded.steps and not isinstance(error, UsageError):
            _not_finished(recorded, path, seed)
        raise


def _not_finished(recorded: RecordingLLM, path: str, seed: int | None) -> int:
    click.echo(f"{_are_recorded(recorded, path)}, which is not finished. The same command goes on where it stopped:", err=True)
    click.echo(f"  {command_again(seed=seed, timeout=None)}", err=True)
    return RecordingError.exit_code


def _are_recorded(recorded: RecordingLLM, path: str) -> str:
    return f"{counted(recorded.steps, 'step')} {'is' if recorded.steps == 1 else 'are'} recorded in {path}"


def _replaying(path: str, result: GenerationResult, options: dict[str, Any]) -> str:
    prompts = dict.fromkeys((s.prompt_index, s.prompt_token_ids) for s in result.sequences)
    ids = " ".join(f"--token-ids {','.join(map(str, prompt))}" for _, prompt in prompts)
    return f"seedbed generate {shown_source(path)} {ids} {sampling_words(options | {'seed': result.seed})}"


async def _serve_until_interrupted(recorded: RecordingLLM, host: str, port: int, path: str) -> int:
    """Ctrl-C is how this ends well, so it must not leave the recording unfinished; returns the port it was at."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with serve(recorded, host=host, port=port) as server:
            name = recorded.info.model or "the model"
            click.echo(
                f"{name} at {server.url}, recorded in {path}, speaking {', '.join(carrying(recorded))}; Ctrl-C finishes the recording."
            )
            async for _ in signals:
                break
    return int(server.url.rpartition(":")[2])


def _address_of(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--listen must be PORT or HOST:PORT, not {listen!r}")
    return host.strip("[]") or "127.0.0.1", int(port)
