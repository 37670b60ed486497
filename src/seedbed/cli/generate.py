"""``seedbed generate``: sample sequences and show them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click
import orjson

from seedbed.cli.bulk import bulk_options, generate_in_bulk, is_bulk
from seedbed.cli.options import as_json_option, connection_options, open_model, prompts_of, run_trio, sampler_of, sampling_options, seed_of
from seedbed.cli.progress import shown_text, watch
from seedbed.errors import SeedbedError
from seedbed.generation import open_generation
from seedbed.observing import Telemetry, observe

if TYPE_CHECKING:
    from seedbed.generation import GenerationResult
    from seedbed.llm import LLM

# Below a thousandth of a step's mass even a thousand draws would hardly show what was not listed.
NOTEWORTHY = 1e-3

__all__ = ["generate", "sample_and_show"]


@click.command()
@click.argument("source")
@sampling_options
@bulk_options
@connection_options
@as_json_option
def generate(source: str, as_json: bool, **options: Any) -> None:
    """Sample sequences from SOURCE, a model server's URL or a recording's directory.

    \b
    Examples:
      seedbed generate http://127.0.0.1:8017 --prompt "The seed" -n 16 --seed 7
      seedbed generate http://127.0.0.1:8080 --token-ids 504,3575,282 --temperature 0.8 --top-k 40
      seedbed generate fixtures/recordings/tiny-lm --token-ids 84,104,101,32,115,101,101,100 -n 8 --seed 7
        --temperature 0.9 --top-k 10 --max-new-tokens 40 --json

    \b
    Many prompts, from a file with one a line: {"prompt": "text"} or {"token_ids": [1, 2]}, with an "id" if
    you like. The same command goes on with what was interrupted, and ends with the same rows:
      seedbed generate http://127.0.0.1:8017 --prompts prompts.jsonl --out rows.jsonl -n 4 --seed 7
      seedbed generate http://127.0.0.1:8017 --prompts prompts.jsonl --out rows.parquet --ray auto

    \b
    Exit codes: 0 done, also when a deadline cut it short; 2 wrong usage; 3 the server failed;
    5 the recording does not have what was asked; 130 interrupted.
    """

    with observe(Telemetry()) if options["telemetry"] else nullcontext():
        if is_bulk(options):
            generate_in_bulk(source, options, as_json)
        else:
            _generate(source, options, as_json)


def _generate(source: str, options: dict[str, Any], as_json: bool) -> None:
    async def main() -> None:
        async with open_model(source, options) as model:
            await sample_and_show(model, options, as_json)

    run_trio(main)


async def sample_and_show(model: LLM, options: dict[str, Any], as_json: bool) -> GenerationResult:
    """Sample what the options say from a model and print it."""
    sampler, seed = sampler_of(options), seed_of(options)
    prompts = await prompts_of(model, options)
    async with (
        watch(model, quiet=as_json),
        open_generation(
            prompts,
            model,
            options["n"],
            sampler=sampler,
            seed=seed,
            max_new_tokens=options["max_new_tokens"],
            lookahead=options.get("lookahead", 1),
            timeout=options["timeout"],
        ) as generation,
    ):
        await generation.wait()
    result = generation.result()
    if as_json:
        await _print_json(result, model)
    else:
        await _print_lines(result, model)
    return result


async def _print_json(result: GenerationResult, model: LLM) -> None:
    data = result.to_dict()
    data["model"] = model.info.model if model.info else None
    for sequence in data["sequences"]:
        sequence["text"] = await _text_of(model, sequence["token_ids"])
    click.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2))


async def _text_of(model: LLM, token_ids: list[int]) -> str | None:
    """Exactly the text, or None where there is no tokenizer (any more): what was sampled is worth printing without."""
    try:
        return await model.detokenize(token_ids)
    except SeedbedError:
        return None


async def _print_lines(result: GenerationResult, model: LLM) -> None:
    for sequence in result.sequences:
        text = await shown_text(model, sequence.token_ids)
        place = f"{sequence.prompt_index}.{sequence.index}"
        click.echo(f"{place:<6} {sequence.finish_reason:<9} {len(sequence.token_ids):>5} tokens  {text}".rstrip())
    name = model.info.model if model.info else "the model"
    click.echo(f"{len(result.sequences)} sequences, {result.stats.tokens} tokens from {name}")
    unseen = max((mass for sequence in result.sequences for mass in sequence.tail_masses), default=0.0)
    if unseen >= NOTEWORTHY:
        click.echo(
            f"note   up to {unseen:.0%} of a step's probability was not listed, and never drawn: ask with --rows all, or cut with --top-k"
        )
    click.echo(f"seed   {result.seed}")
    click.echo(f"sha256 {result.sha256}")
