"""``seedbed serve`` and ``seedbed replay``: a model server from what is at hand."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click
import trio

from seedbed.cli.commands import to_try
from seedbed.cli.options import Integers, SomePath
from seedbed.cli.running import run_trio
from seedbed.cli.urls import require_recording
from seedbed.errors import MissingExtra, UsageError
from seedbed.protocols import PROTOCOLS
from seedbed.recording import ReplayLLM
from seedbed.server import HashLM, TinyLM
from seedbed.server import serve as serve_model
from seedbed.server.asgi import asgi_app
from seedbed.server.listener import cannot_listen

if TYPE_CHECKING:
    from seedbed.llm import LLM

__all__ = ["carrying", "replay", "serve"]

DEFAULT_PORT = 8017


@click.command(short_help="Serve a small model of the box.")
@click.argument("model", default="tiny")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; there is no authentication.")
@click.option("--port", type=Integers(0, 65535), default=DEFAULT_PORT, show_default=True, help="0 takes a free one.")
@click.option("--hypercorn", is_flag=True, help="Serve with hypercorn instead of the built-in listener.")
def serve(model: str, host: str, port: int, hypercorn: bool) -> None:
    """Serve MODEL: "tiny" (a small real language model, the default) or "hash:V" (vocabulary of V, for load).

    \b
    Examples:
      seedbed serve
      seedbed serve hash:151936 --port 0

    \b
    Exit codes: 2 wrong usage or address in use; 130 stopped by Ctrl-C.
    """
    _run_server(_model_named(model), host, port, hypercorn)


@click.command(short_help="Serve a recording as the model it was made from.")
@click.argument("path", type=SomePath())
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; there is no authentication.")
@click.option("--port", type=Integers(0, 65535), default=DEFAULT_PORT, show_default=True, help="0 takes a free one.")
def replay(path: str, host: str, port: int) -> None:
    """Serve the recording in PATH as if it were the model server it was made from.

    \b
    Example:
      seedbed replay fixtures/recordings/tiny-lm

    \b
    Exit codes: 2 wrong usage or address in use; 5 the recording; 130 stopped by Ctrl-C.
    """
    require_recording(path)
    _run_server(ReplayLLM(path), host, port, False)


def _model_named(name: str) -> LLM:
    kind, _, size = name.partition(":")
    if kind == "tiny" and not size:
        return TinyLM()
    if kind == "hash" and size.isdecimal() and int(size) >= 1:
        return HashLM(int(size))
    raise UsageError(f"MODEL must be 'tiny' or 'hash:V' with a vocabulary size, not {name!r}")


def _run_server(llm: LLM, host: str, port: int, hypercorn: bool) -> None:
    run_trio(partial(_with_hypercorn if hypercorn else _with_listener, llm, host, port))


async def _with_listener(llm: LLM, host: str, port: int) -> None:
    async with serve_model(llm, host=host, port=port) as server:
        _announce(llm, server.url)
        await trio.sleep_forever()


async def _with_hypercorn(llm: LLM, host: str, port: int) -> None:
    try:
        from hypercorn.config import Config
        from hypercorn.trio import serve as hypercorn_serve
    except ImportError as error:
        raise MissingExtra("serving with hypercorn needs it: pip install 'seedbed[server]'") from error
    config = Config()
    config.bind = [f"{host}:{port}"]
    config.backlog, config.accesslog, config.errorlog = 4096, None, None
    try:
        async with trio.open_nursery() as nursery:
            urls = await nursery.start(partial(hypercorn_serve, asgi_app(llm), config))
            _announce(llm, urls[0])
    except* OSError as group:
        raise cannot_listen(host, port, _first_in(group)) from group


def _first_in(group: BaseExceptionGroup[OSError]) -> BaseException:
    """What went wrong, in however many nurseries."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _announce(llm: LLM, url: str) -> None:
    name = llm.info.model if llm.info else repr(llm)
    click.echo(f"{name} at {url}, speaking {', '.join(carrying(llm))}; Ctrl-C stops it. Try:")
    click.echo(f"  seedbed doctor {url}")
    click.echo(f"  {to_try(url, llm, tokenizes=isinstance(llm, TinyLM))}")


def carrying(llm: LLM) -> list[str]:
    """Names of the protocols that can carry a model's rows: where those are cut to the best tokens, not those that know whole rows only."""
    has_whole_rows = llm.info is None or llm.info.max_top_k is None
    return [name for name, protocol in PROTOCOLS.items() if has_whole_rows or not protocol.whole_rows_only]
