"""``seedbed generate`` and ``seedbed record``: sample sequences and show them; keep what the server said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import orjson

from seedbed.cli.options import as_json_option, connection_options, open_model, prompts_of, run_trio, sampler_of, sampling_options, seed_of
from seedbed.cli.progress import shown_text, watch
from seedbed.generation import open_generation
from seedbed.recording import RecordingLLM

if TYPE_CHECKING:
    from seedbed.generation import GenerationResult
    from seedbed.llm import LLM

__all__ = ["generate", "record"]


@click.command()
@click.argument("source")
@sampling_options
@connection_options
@as_json_option
def generate(source: str, as_json: bool, **options: Any) -> None:
    """Sample sequences from SOURCE, a model server's URL or a recording's directory.

    \b
    Examples:
      seedbed generate http://127.0.0.1:8017 --prompt "The seed" -n 16 --seed 7
      seedbed generate http://127.0.0.1:8080 --token-ids 504,3575,282 --temperature 0.8 --top-k 40
      seedbed generate fixtures/recordings/tiny-lm --prompt "The seed" -n 16 --seed 7 --json

    \b
    Exit codes: 0 done, also when a deadline cut it short; 2 wrong usage; 3 the server failed;
    5 the recording does not have what was asked; 130 interrupted.
    """

    async def main() -> None:
        async with open_model(source, options) as model:
            await _sample_and_show(model, options, as_json)

    run_trio(main)


@click.command()
@click.argument("url")
@click.argument("path", type=click.Path())
@click.option("--keep", "kept", type=click.IntRange(1), default=20, show_default=True, metavar="K", help="Tokens of each row to keep.")
@click.option("--extend", is_flag=True, help="Add to a finished recording.")
@sampling_options
@connection_options
@as_json_option
def record(url: str, path: str, kept: int, extend: bool, as_json: bool, **options: Any) -> None:
    """Sample sequences from the server at URL, and keep its answers in the directory PATH.

    What is sampled from is what is kept, so replaying PATH with the same options gives the same tokens. A run that was
    interrupted goes on where it was when the same command is given again.

    \b
    Example:
      seedbed record http://127.0.0.1:8017 recordings/seed --prompt "The seed" -n 16 --seed 7
      seedbed generate recordings/seed --token-ids 84,104,101,32,115,101,101,100 -n 16 --seed 7

    \b
    Exit codes: 0 done; 2 wrong usage; 3 the server failed; 5 the recording; 130 interrupted.
    """
    if options["rows"] is None:
        options["rows"] = str(kept)

    async def main() -> None:
        async with open_model(url, options) as model, RecordingLLM(model, path, top_k=kept, extend=extend) as recorded:
            result = await _sample_and_show(recorded, options, as_json)
            steps = recorded.steps
        if not as_json:
            ids = ",".join(map(str, result.sequences[0].prompt_token_ids)) if result.sequences else "..."
            click.echo(f"{steps} steps are recorded in {path}. Replay them without the server:")
            click.echo(f"  seedbed generate {path} --token-ids {ids} -n {options['n']} --seed {result.seed}{_sampling_words(options)}")

    run_trio(main)


def _sampling_words(options: dict[str, Any]) -> str:
    given = {"max-new-tokens": 64, "temperature": 1.0, "top-k": 0, "top-p": 1.0, "min-p": 0.0}
    return "".join(f" --{name} {value}" for name, default in given.items() if (value := options[name.replace("-", "_")]) != default)


async def _sample_and_show(model: LLM, options: dict[str, Any], as_json: bool) -> GenerationResult:
    sampler, seed = sampler_of(options), seed_of(options)
    prompts = await prompts_of(model, options)
    async with (
        open_generation(
            prompts,
            model,
            options["n"],
            sampler=sampler,
            seed=seed,
            max_new_tokens=options["max_new_tokens"],
            timeout=options["timeout"],
        ) as generation,
        watch(generation, model, quiet=as_json),
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
        sequence["text"] = await shown_text(model, sequence["token_ids"])
    click.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2))


async def _print_lines(result: GenerationResult, model: LLM) -> None:
    for sequence in result.sequences:
        text = await shown_text(model, sequence.token_ids)
        place = f"{sequence.prompt_index}.{sequence.index}"
        click.echo(f"{place:<6} {sequence.finish_reason:<9} {len(sequence.token_ids):>5} tokens  {text}".rstrip())
    name = model.info.model if model.info else "the model"
    click.echo(f"{len(result.sequences)} sequences, {result.stats.tokens} tokens from {name}")
    click.echo(f"seed   {result.seed}")
    click.echo(f"sha256 {result.sha256}")
