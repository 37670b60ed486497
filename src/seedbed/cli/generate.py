"""``seedbed generate``: sample sequences and show them, also those that were finished when something ended the rest."""

from __future__ import annotations

import math
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import click
import trio

from seedbed.cli.bulk_options import bulk_options, is_bulk
from seedbed.cli.commands import command_again
from seedbed.cli.options import as_json_option, connection_options, echo_json, sampler_of, sampling_options, seed_of
from seedbed.cli.progress import printable, watch
from seedbed.cli.prompts import PromptCommand, prompts_of
from seedbed.cli.running import deadline_of, run_trio
from seedbed.cli.source import open_model
from seedbed.errors import RecordingMiss, SeedbedError, TruncatedRow
from seedbed.generation import open_generation
from seedbed.observing import Telemetry, observe
from seedbed.recording import RecordingLLM, ReplayLLM
from seedbed.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.generation import Generation, GenerationResult, SampledSequence
    from seedbed.llm import LLM

# Below a thousandth of a step's mass even a thousand draws would hardly show what was not listed.
NOTEWORTHY = 1e-3
# For the texts of what was finished, when the server that spells them may be what failed.
PATIENCE = 2.0  # seconds

__all__ = ["generate", "is_cut_short", "sample_and_show"]


@click.command(cls=PromptCommand, short_help="Sample sequences from a server or a recording, and print them.")
@click.argument("source")
@sampling_options
@bulk_options
@connection_options()
@as_json_option
def generate(source: str, as_json: bool, **options: Any) -> None:
    """Sample sequences from SOURCE, a model server's URL or a recording's directory.

    When it is interrupted, or the server fails, the sequences that were finished are printed all the same.

    \b
    Examples:
      seedbed generate http://127.0.0.1:8017 --prompt "The seed" -n 16 --seed 7
      seedbed generate http://127.0.0.1:8080 --token-ids 504,3575,282 --temperature 0.8 --top-k 40
      seedbed generate fixtures/recordings/tiny-lm --token-ids 84,104,101,32,115,101,101,100 -n 8 --seed 7 \\
        --temperature 0.9 --top-k 10 --max-new-tokens 40 --json

    \b
    Many prompts, from a file with one a line: {"prompt": "text"} or {"token_ids": [1, 2]}, with an "id" if
    you like. The same command goes on with what was interrupted, and ends with the same rows:
      seedbed generate http://127.0.0.1:8017 --prompts prompts.jsonl --out rows.jsonl -n 4 --seed 7
      seedbed generate http://127.0.0.1:8017 --prompts prompts.jsonl --out rows.parquet --ray auto

    \b
    Exit codes: 0 done, also when a deadline cut it short; 2 wrong usage; 3 the server failed, or had not
    answered at all by the deadline; 5 the recording does not have what was asked; 130 interrupted.
    """
    has_file = is_bulk(options)
    with observe(Telemetry()) if options["telemetry"] else nullcontext():
        if has_file:
            from seedbed.cli.bulk import generate_in_bulk  # which samples from files, and on clusters

            generate_in_bulk(source, options, as_json)
        else:
            _generate(source, options, as_json)


def _generate(source: str, options: dict[str, Any], as_json: bool) -> None:
    options["seed"] = seed_of(options)
    sampler_of(options)  # before anybody is asked anything

    async def main() -> None:
        deadline = deadline_of(options)
        async with open_model(source, options, deadline) as model:
            result = await sample_and_show(model, await prompts_of(model, options, deadline), options, as_json, deadline)
        if is_cut_short(result) and not as_json:
            click.echo(f"next   all of it, these tokens included: {command_again(seed=result.seed, timeout=None)}")

    run_trio(main)


def is_cut_short(result: GenerationResult) -> bool:
    """Whether a deadline ended one of the sequences."""
    return any(sequence.finish_reason == "deadline" for sequence in result.sequences)


async def sample_and_show(
    model: LLM, prompts: list[list[int]], options: dict[str, Any], as_json: bool, deadline: float, *, shown_by: LLM | None = None
) -> GenerationResult:
    """Sample what the options say from a model, until the deadline, and print it; of a generation that fails, what was finished."""
    generation: Generation | None = None
    try:
        async with (
            watch(model if shown_by is None else shown_by, quiet=as_json),
            open_generation(
                prompts,
                model,
                options["n"],
                sampler=sampler_of(options),
                seed=options["seed"],
                max_new_tokens=options["max_new_tokens"],
                lookahead=options.get("lookahead", 1),
                timeout=max(0.0, deadline - trio.current_time()),
            ) as generation,
        ):
            await generation.wait()
    except BaseException as error:
        if isinstance(error, TruncatedRow):
            error.add_note(_how_to_have_more(model, error.needed))
        if generation is not None:
            with trio.CancelScope(shield=True):
                await _show_what_there_is(generation.result(), model, as_json, may_go_on=not isinstance(error, RecordingMiss))
        raise
    result = generation.result()
    # A server that let the deadline pass may not say what the tokens mean either.
    texts = await _texts(model, result.sequences, PATIENCE if trio.current_time() >= deadline else math.inf)
    if as_json:
        _print_json(result, texts, model)
    else:
        _print_lines(result.sequences, texts)
        _print_summary(result, model)
    return result


def _how_to_have_all(model: LLM) -> str:
    return "record with --keep all" if isinstance(model, (ReplayLLM, RecordingLLM)) else "ask with --rows all"


def _how_to_have_more(model: LLM, needed: int) -> str:
    if isinstance(model, ReplayLLM):
        return f"the recording keeps {model.recording.top_k}; to record more: --keep {needed}"
    return f"on the command line: {'--keep' if isinstance(model, RecordingLLM) else '--rows'} {needed}"


async def _show_what_there_is(result: GenerationResult, model: LLM, as_json: bool, *, may_go_on: bool) -> None:
    """Of a generation that was ended; nothing when there is nothing yet. What a recording misses it misses the next time too."""
    if as_json:
        if result.stats.tokens:
            _print_json(result, await _texts(model, result.sequences, PATIENCE), model)
        return
    finished = [sequence for sequence in result.sequences if sequence.finish_reason in ("stop", "length")]
    if finished:
        _print_lines(finished, await _texts(model, finished, PATIENCE))
        click.echo(f"{len(finished)} of {counted(len(result.sequences), 'sequence')} finished")
        if may_go_on:
            click.echo(f"next   all of them, these included: {command_again(seed=result.seed)}")


def _print_json(result: GenerationResult, texts: Sequence[str | None], model: LLM) -> None:
    data = result.to_dict()
    data["model"] = model.info.model if model.info else None
    for sequence, text in zip(data["sequences"], texts, strict=True):
        sequence["text"] = text
    echo_json(data)


async def _texts(model: LLM, sequences: Sequence[SampledSequence], patience: float = math.inf) -> list[str | None]:
    """Exactly the texts; None where there is no tokenizer (any more): what was sampled is worth printing without."""
    texts: list[str | None] = [None] * len(sequences)
    with trio.move_on_after(patience):
        for place, sequence in enumerate(sequences):
            with suppress(SeedbedError):
                texts[place] = await model.detokenize(sequence.token_ids)
    return texts


def _print_lines(sequences: Sequence[SampledSequence], texts: Sequence[str | None]) -> None:
    for sequence, text in zip(sequences, texts, strict=True):
        place = f"{sequence.prompt_index}.{sequence.index}"
        length = counted(len(sequence.token_ids), "token")
        click.echo(f"{place:<6} {sequence.finish_reason:<9} {length:>12}  {printable(text, sequence.token_ids)}".rstrip())


def _print_summary(result: GenerationResult, model: LLM) -> None:
    name = model.info.model if model.info else "the model"
    click.echo(f"{counted(len(result.sequences), 'sequence')}, {counted(result.stats.tokens, 'token')} from {name}")
    unseen = max((mass for sequence in result.sequences for mass in sequence.tail_masses), default=0.0)
    if unseen >= NOTEWORTHY:
        remedy = f"{_how_to_have_all(model)}, or cut with --top-k"
        click.echo(f"note   up to {unseen:.0%} of a step's probability was not listed, and never drawn: {remedy}")
    click.echo(f"seed   {result.seed}")
    click.echo(f"sha256 {result.sha256}")
