"""``make drift-table``: how far real changes move a real model, measured by ``seedbed check`` on llama.cpp with SmolLM2.

One recording of the server as it comes, two answers to each prefix; then the same weights with other threads, another batch size, in other
quantisations, and with its context stretched, each held against it. The table is in the documentation of ``seedbed.regression.verdict``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from llama_server import llama_server, model_path

from seedbed import RecordingLLM, Sampler, check, connect, generate
from seedbed.cli.options import run_trio
from seedbed.errors import MissingExtra

TOP_K = 50
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small garden behind the school, there",
    "A list of things to pack for a week by the sea, with reasons: first",
    "def fibonacci(n):",
)


def requantised(kind: str, directory: Path) -> Path:
    """The same weights in another quantisation: what a downloader of another file would get, made here.

    Raises:
        MissingExtra: the package that writes such files is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("pip install gguf") from error
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


async def record(path: Path) -> None:
    async with (
        llama_server(threads=1) as url,
        connect(url, top_k=TOP_K) as model,
        RecordingLLM(model, path, top_k=TOP_K, repeats=2) as kept,
    ):
        prompts = [await model.tokenize(text) for text in PROMPTS]
        kept.note(await generate(prompts, kept, n=2, seed=7, sampler=Sampler(0.8, top_k=40), max_new_tokens=8))


async def measure(path: Path, name: str, settings: dict[str, Any]) -> None:
    async with llama_server(**({"threads": 1} | settings)) as url, connect(url, top_k=TOP_K) as model:
        report = await check(path, model)
    s, (low, high) = report.statistics, report.interval
    causes = ", ".join(cause.name for cause in report.causes) or "-"
    same = f"{report.free_run.same}/{report.free_run.sequences}" if report.free_run else "-"
    d = f"{report.drift.value:.2g} [{low:.2g}, {high:.2g}]"
    print(
        f"{name:<28} {report.verdict:<13} {d:<30} {100 * s.same_top.value:6.2f} %  {100 * s.delta_p.value:5.2f} %  {same:>6}  {causes}",
        flush=True,
    )


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        await record(base / "recording")
        print(f"{'change':<28} {'verdict':<13} {'D, nats [95 %]':<30} {'same top':>8}  {'RMS dp':>7}  {'tokens':>6}  causes")
        for name, settings in (
            ("none", {}),
            ("8 slots", {"slots": 8}),
            ("batches of 16", {"n_ubatch": 16, "n_batch": 16}),
            ("weights Q4_1 to Q8_0", {"path": requantised("Q8_0", base)}),
            ("weights Q4_1 to Q5_0", {"path": requantised("Q5_0", base)}),
            ("weights Q4_1 to Q4_0", {"path": requantised("Q4_0", base)}),
            ("context stretched 1.1 times", {"rope_freq_scale": 1 / 1.1}),
            ("context stretched twice", {"rope_freq_scale": 0.5}),
            ("2 threads instead of 1", {"threads": 2}),
        ):
            await measure(base / "recording", name, settings)


if __name__ == "__main__":
    try:
        run_trio(main)
    except* KeyboardInterrupt:
        sys.exit(130)
