"""``make drift-table``: how far real changes move a real model, measured by ``seedbed check`` on llama.cpp and, where installed, vLLM.

One recording of the server as it comes, two answers to each prefix; then the same weights with other threads, another batch size, in other
quantisations, and with its context stretched, each held against it. Then one of a tiny model on llama.cpp, and vLLM with its weights. The
table is in the documentation of ``seedbed.regression.verdict``.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeAlias

from llama_server import llama_server, model_path
from tiny_gguf import require_gguf, write_gguf

from seedbed import RecordingLLM, Sampler, check, connect, generate, open_recording
from seedbed.cli.running import run_trio
from seedbed.regression.figures import percent, significant

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.vllm_server import interpreter, make_model, vllm_server

Server: TypeAlias = AbstractAsyncContextManager[str]
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small garden behind the school, there",
    "A list of things to pack for a week by the sea, with reasons: first",
    "def fibonacci(n):",
)
TINY_PROMPTS = tuple(text[:24] for text in PROMPTS)


def requantised(kind: str, directory: Path) -> Path:
    """The same weights in another quantisation: what a downloader of another file would get, made here.

    Raises:
        MissingExtra: the package that writes such files is not installed.
    """
    gguf = require_gguf()
    reader, wanted = gguf.GGUFReader(str(model_path())), getattr(gguf.GGMLQuantizationType, kind)
    path = directory / f"{kind}.gguf"
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub_type)
    for tensor in reader.tensors:
        data, dtype = tensor.data, tensor.tensor_type
        if dtype.name == "Q4_1":
            data, dtype = gguf.quants.quantize(gguf.quants.dequantize(data, dtype), wanted), wanted
        writer.add_tensor(tensor.name, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


async def record(path: Path, server: Server, prompts: tuple[str, ...], top_k: int) -> None:
    async with server as url, connect(url, top_k=top_k) as model, RecordingLLM(model, path, top_k=top_k, repeats=2) as kept:
        tokenized = [await model.tokenize(text) for text in prompts]
        kept.note(await generate(tokenized, kept, n=2, seed=7, sampler=Sampler(0.8, top_k=min(40, top_k)), max_new_tokens=8))


async def measure(path: Path, name: str, server: Server, **options: Any) -> None:
    async with server as url, connect(url, top_k=open_recording(path).top_k, **options) as model:
        report = await check(path, model)
    s, (low, high) = report.statistics, report.interval
    causes = ", ".join(cause.name for cause in report.causes) or "-"
    same = f"{report.free_run.same}/{report.free_run.sequences}" if report.free_run else "-"
    d = f"{significant(report.drift.value, 2)} [{significant(low, 2)}, {significant(high, 2)}]"
    top, delta_p = percent(s.same_top.value), percent(s.delta_p.value, 2)
    print(f"{name:<44} {report.verdict:<13} {d:<30} {top:>8}  {delta_p:>10}  {same:>6}  {causes}", flush=True)


async def measure_quantised(base: Path) -> None:
    """SmolLM2-135M as its package has it, in 4 bits, on llama.cpp with one thread; then with one thing changed at a time."""
    await record(base / "smollm2", llama_server(threads=1), PROMPTS, 50)
    for name, settings in (
        ("none", {}),
        ("2 threads", {"threads": 2}),
        ("8 slots", {"slots": 8}),
        ("batches of 16", {"n_ubatch": 16, "n_batch": 16}),
        ("batches of 4", {"n_ubatch": 4, "n_batch": 4}),
        ("weights Q4_1 to Q8_0", {"path": requantised("Q8_0", base)}),
        ("weights Q4_1 to Q5_0", {"path": requantised("Q5_0", base)}),
        ("weights Q4_1 to Q4_0", {"path": requantised("Q4_0", base)}),
        ("context stretched 1.1 times", {"rope_freq_scale": 1 / 1.1}),
        ("context stretched twice", {"rope_freq_scale": 0.5}),
    ):
        server: dict[str, Any] = {"threads": 1} | settings
        await measure(base / "smollm2", name, llama_server(**server))


async def measure_engines(base: Path) -> None:
    """A tiny Llama of random float32 weights: the same weights on another engine, and on that in 16 bits."""
    (base / "tiny").mkdir()
    await make_model(base / "tiny")
    await record(base / "on-llama", llama_server(threads=1, path=write_gguf(base / "tiny", base / "tiny.gguf")), TINY_PROMPTS, 20)
    await measure(base / "on-llama", "tiny: llama.cpp to vLLM, both float32", vllm_server(), eos_token_ids=[2])
    await measure(base / "on-llama", "tiny: llama.cpp float32 to vLLM bfloat16", vllm_server("--dtype", "bfloat16"), eos_token_ids=[2])


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        print(f"{'change':<44} {'verdict':<13} {'D, nats [95 %]':<30} {'same top':>8}  {'RMS dp':>10}  {'tokens':>6}  causes")
        await measure_quantised(Path(directory))
        if interpreter() is None:
            print("vLLM is not installed (see tests/vllm_server.py): the last two rows are left out")
        else:
            await measure_engines(Path(directory))


if __name__ == "__main__":
    try:
        run_trio(main)
    except* KeyboardInterrupt:
        sys.exit(130)
