"""What a command is pointed at, opened: the model behind a URL, or in a recording's directory."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from seedbed.cli.commands import sampling_words, typed_prompts
from seedbed.cli.options import ConnectionOption, typed
from seedbed.cli.running import within
from seedbed.cli.urls import shown_source
from seedbed.errors import UsageError
from seedbed.http import connect
from seedbed.recording import Recording, ReplayLLM, open_recording
from seedbed.recording.replay import command_to_extend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from seedbed.llm import LLM

__all__ = ["open_model"]

# What the library's messages advise, and what is typed for it.
OPTIONS = {
    "eos_token_ids=": "--eos-token-id ID",
    "api_key is empty": "--api-key, or the variable SEEDBED_API_KEY",
    "vocab_size=": "--vocab-size N",
    'with top_k="all"': "--rows all",
    "record with top_k=": "--keep K",
}


@asynccontextmanager
async def open_model(source: str, options: dict[str, Any], deadline: float = math.inf) -> AsyncIterator[LLM]:
    """The model a command was pointed at: behind a URL and those of its replicas, or in a recording's directory.

    Raises:
        DeadlineExceeded: it could not be connected to by then.
        UsageError: ``source`` is neither, or options do not go with it.
    """
    try:
        async with _opened(source, options, deadline) as model:
            yield model
    except UsageError as error:
        for name, option in OPTIONS.items():
            if name in error.message:
                error.add_note(f"on the command line: {option}")
        raise


@asynccontextmanager
async def _opened(source: str, options: dict[str, Any], deadline: float) -> AsyncIterator[LLM]:
    if _is_path(source):
        yield _replayed(source, options)
        return
    if "://" not in source:
        raise UsageError(f"{source!r} is neither a URL such as http://host:port nor the directory of a recording")
    for replica in options["replicas"]:
        if "://" not in replica:
            raise UsageError(f"--replica {replica!r} is no URL such as http://host:port")
    top_k = _top_k(options["rows"])
    if not options["request_timeout"] > 0:
        raise UsageError(f"--request-timeout must be seconds above 0, or 'inf', not {options['request_timeout']:g}")
    with within(deadline, f"{shown_source(source)} had said what it is") as scope:
        async with connect(
            [source, *options["replicas"]],
            options["protocol"],
            model=options["model"],
            top_k=top_k,
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


def _is_path(source: str) -> bool:
    return "://" not in source and bool(source.strip()) and Path(source).exists()


def _replayed(path: str, options: dict[str, Any]) -> ReplayLLM:
    for option in typed(ConnectionOption):
        raise UsageError(f"{option} says how a server is asked, and {shown_source(path)} is a recording: give a URL, or leave it out")
    recording = open_recording(path)
    model = ReplayLLM(recording, how_to_extend=_how_to_extend(recording, options))
    if options["model"] not in (None, model.info.model):
        raise UsageError(f"{shown_source(path)} was recorded from the model {model.info.model!r}, not {options['model']!r}")
    return model


def _how_to_extend(recording: Recording, options: dict[str, Any]) -> str | None:
    """What adds all that a command samples; None where it does not sample from prompts that stand on the command line."""
    context = click.get_current_context(silent=True)
    prompts = typed_prompts(context) if context is not None else []
    return command_to_extend(recording, " ".join([*prompts, sampling_words(options)])) if prompts else None


def _top_k(rows: str | None) -> int | Literal["all"] | None:
    if rows is None:
        return None
    if rows == "all":
        return "all"
    if not rows.isdecimal() or int(rows) < 1:
        raise UsageError(f"--rows must be a number of 1 or more, or 'all', not {rows!r}")
    return int(rows)
