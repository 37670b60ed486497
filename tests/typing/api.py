"""Never run, only type-checked: the public interface as callers write it."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from seedbed import (
    LLM,
    BlockingLLM,
    CheckReport,
    GenerationResult,
    HTTPModel,
    ModelInfo,
    RecordingLLM,
    ReplayLLM,
    SampledSequence,
    Sampler,
    TinyLM,
    TopLogprobs,
    as_llm,
    check,
    conformance,
    connect,
    generate,
    generate_token_ids,
    generate_token_ids_multiple,
    open_generation,
    probe,
    serve,
)
from seedbed.generation.bulk import BulkReport, Pace, Prompt, Recipe, generate_file, open_stream
from seedbed.observing import Telemetry, observe
from seedbed.regression import Break, ConformanceReport, Finding, Flaw, ProbeReport, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence


class Mine(LLM):
    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> list[float]:
        return [0.0]

    def get_stop_token_id(self) -> int:
        return 0


class MineBlocking(BlockingLLM):
    def next_token_logits(self, prev_token_ids: Sequence[int]) -> TopLogprobs:
        return TopLogprobs([1], [-0.5], 10)

    def get_stop_token_id(self) -> int:
        return 0


async def program() -> None:
    async with serve(TinyLM()) as server, connect(server.url, top_k=20) as model:
        assert_type(model, HTTPModel)
        assert_type(model.info, ModelInfo)
        async with connect([server.url, "http://other"], headers={"x-team": "seedbed"}) as replicas:
            assert_type(replicas, HTTPModel)
        ids = await model.tokenize("text")
        assert_type(ids, list[int])
        async with RecordingLLM(model, "path") as recorded:
            result = await generate([ids, [1, 2]], recorded, n=16, sampler=Sampler(temperature=0.8, top_p=0.95), seed=7, timeout=60)
        assert_type(result, GenerationResult)
        assert_type(result.sequences, tuple[SampledSequence, ...])
    async with open_generation(ids, as_llm(MineBlocking()), n=2, stop_sequences=[[1, 2]], on_error="keep") as generation:
        async for sequence in generation:
            assert_type(sequence, SampledSequence)
    with observe(Telemetry()):
        report = await generate_file("prompts.jsonl", "rows.parquet", model, n=4, seed=7, pace=Pace(concurrency=128, lookahead="auto"))
    assert_type(report, BulkReport)
    async with open_stream([Prompt(0, (1, 2)), Prompt(7, "text")], model, Recipe(seed=7, n=2)) as stream:
        assert_type([finished.lines async for finished in stream], list[bytes])
    assert_type(await generate_token_ids((1, 2), Mine()), list[int])
    assert_type(await generate_token_ids_multiple([1], ReplayLLM("path"), 3), list[list[int]])


async def compared() -> None:
    report = await check("path", Mine(), margin=1e-3)
    assert_type(report, CheckReport)
    assert_type(report.verdict, Verdict)
    assert_type(report.interval, tuple[float, float])
    assert_type(report.causes, tuple[Finding, ...])
    probed = await probe(Mine(), max_length=66)
    assert_type(probed, ProbeReport)
    assert_type(probed.first, Break | None)
    conforming = await conformance(Mine(), temperature=0.8, draws=500)
    assert_type(conforming, ConformanceReport)
    assert_type(conforming.flaws, tuple[Flaw, ...])
