"""``seedbed record``: keep what a model server says, while sampling from it or while standing between it and another client."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click
import trio

from seedbed.cli.generate import sample_and_show
from seedbed.cli.options import as_json_option, connection_options, open_model, run_trio, sampling_options, shown_source
from seedbed.errors import UsageError
from seedbed.protocols import PROTOCOLS
from seedbed.recording import RecordingLLM
from seedbed.server import serve

if TYPE_CHECKING:
    from seedbed.llm import LLM

__all__ = ["record"]


@click.command()
@click.argument("url")
@click.argument("path", type=click.Path())
@click.option("--keep", default="20", show_default=True, metavar="K|all", help="Tokens of each row to keep; all is the full tier.")
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Answers to each prefix, under varied load.")
@click.option("--scored", is_flag=True, help="Also ask for each sequence's rows in one request, as vLLM can.")
@click.option("--extend", is_flag=True, help="Add to a finished recording.")
@click.option("--listen", metavar="[HOST:]PORT", help="Do not sample: pass on other clients' questions, and record them. 0 is a free port.")
@sampling_options
@connection_options
@as_json_option
def record(url: str, path: str, keep: str, repeats: int, extend: bool, listen: str | None, as_json: bool, **options: Any) -> None:
    """Sample sequences from the server at URL, and keep its answers in the directory PATH.

    What is sampled from is what is kept, so replaying PATH with the same options gives the same tokens. A run that was
    interrupted goes on where it was when the same command is given again.

    With --listen it is a proxy: clients of any protocol ask it instead of the server, until Ctrl-C finishes the recording.

    \b
    Examples:
      seedbed record http://127.0.0.1:8017 recordings/seed --prompt "The seed" -n 16 --seed 7
      seedbed generate recordings/seed --token-ids 84,104,101,32,115,101,101,100 -n 16 --seed 7
      seedbed record http://127.0.0.1:8080 recordings/app --keep all --listen 8017

    \b
    Exit codes: 0 done; 2 wrong usage; 3 the server failed; 5 the recording; 130 interrupted.
    """
    if keep != "all" and not (keep.isdecimal() and int(keep) >= 1):
        raise UsageError(f"--keep must be a number of 1 or more, or 'all', not {keep!r}")
    if listen is not None and (options["texts"] or options["id_lists"]):
        raise UsageError("give either prompts to sample from, or --listen to record what other clients ask")
    host, port = _address_of(listen) if listen is not None else ("", 0)
    if options["rows"] is None:
        options["rows"] = keep

    async def main() -> None:
        kept: dict[str, Any] = {"repeats": repeats, "scored": options["scored"]}
        kept |= {"tier": "full"} if keep == "all" else {"top_k": int(keep)}
        async with (
            open_model(url, options) as model,
            RecordingLLM(model, path, extend=extend, **kept) as recorded,
        ):
            if listen is not None:
                await _serve_until_interrupted(recorded, host, port, path)
            else:
                result = await sample_and_show(recorded, options, as_json)
                recorded.note(result)
        if listen is None and not result.sequences:
            return
        if not as_json or listen is not None:
            click.echo(f"{recorded.steps} steps are recorded in {path}. Replay them without the server:")
        if listen is not None:
            click.echo(f"  seedbed replay {shown_source(path)} --port {port}")
        elif not as_json:
            prompts = dict.fromkeys((s.prompt_index, s.prompt_token_ids) for s in result.sequences)
            ids = " ".join(f"--token-ids {','.join(map(str, prompt))}" for _, prompt in prompts)
            click.echo(f"  seedbed generate {shown_source(path)} {ids} -n {options['n']} --seed {result.seed}{_sampling_words(options)}")

    run_trio(main)


async def _serve_until_interrupted(recorded: LLM, host: str, port: int, path: str) -> None:
    """Ctrl-C is how this ends well, so it must not leave the recording unfinished."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with serve(recorded, host=host, port=port) as server:
            name = recorded.info.model if recorded.info else repr(recorded)
            click.echo(f"{name} at {server.url}, recorded in {path}, speaking {', '.join(PROTOCOLS)}; Ctrl-C finishes the recording.")
            async for _ in signals:
                break


def _address_of(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--listen must be PORT or HOST:PORT, not {listen!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


def _sampling_words(options: dict[str, Any]) -> str:
    given = {"max-new-tokens": 64, "temperature": 1.0, "top-k": 0, "top-p": 1.0, "min-p": 0.0}
    return "".join(f" --{name} {value}" for name, default in given.items() if (value := options[name.replace("-", "_")]) != default)
