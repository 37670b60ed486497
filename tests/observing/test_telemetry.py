"""OpenTelemetry gets spans nested as the work is, and metrics that agree with the result."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest

from seedbed import TinyLM, connect, generate
from seedbed.errors import NothingToDraw
from seedbed.observing import Telemetry, observe
from seedbed.server.asgi import asgi_app
from seedbed.testing import ScriptedLLM

sdk = pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")

from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402


class Collected:
    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.telemetry = Telemetry(tracers, MeterProvider([self.reader]))

    def spans(self, name: str):
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def totals(self) -> dict[tuple, float]:
        """{(metric, its attributes' values): sum, or count for a histogram}"""
        metrics = self.reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        return {
            (metric.name, *map(str, point.attributes.values())): point.count if hasattr(point, "count") else point.value
            for metric in metrics
            for point in metric.data.data_points
        }


async def test_spans_nest_and_metrics_add_up() -> None:
    collected = Collected()
    async with connect("http://model.invalid", transport=httpx.ASGITransport(asgi_app(TinyLM()))) as model:
        with observe(collected.telemetry):
            result = await generate(list(b"The seed"), model, 3, seed=7, max_new_tokens=5)
    (generation,), sequences, requests = map(collected.spans, ["generate", "sequence", "request"])
    totals = collected.totals()

    assert generation.parent is None
    assert {span.parent.span_id for span in sequences} == {generation.context.span_id}
    assert {span.parent.span_id for span in requests} <= {span.context.span_id for span in sequences}
    assert len(requests) == result.stats.requests == totals["seedbed.request.duration", "http://model.invalid", "200"]
    assert sorted(span.attributes["seedbed.index"] for span in sequences) == [0, 1, 2]
    assert sum(span.attributes["seedbed.tokens"] for span in sequences) == result.stats.tokens == totals["seedbed.tokens",]
    assert totals["seedbed.answer.wait",] == result.stats.rows
    assert totals["seedbed.cache.questions", "asked"] == result.stats.round_trips
    assert totals["seedbed.request.active", "http://model.invalid"] == 0
    assert totals["seedbed.sequences", "length"] == 3


async def test_a_failure_is_marked_where_it_struck() -> None:
    collected = Collected()
    with observe(collected.telemetry), pytest.raises(NothingToDraw):
        await generate([5], ScriptedLLM({}, default=[-float("inf")] * 2), seed=7)
    (generation,), (sequence,) = collected.spans("generate"), collected.spans("sequence")

    assert (generation.status.description, sequence.status.description) == ("NothingToDraw", "error")
    assert collected.totals()["seedbed.sequences", "error"] == 1


def test_without_opentelemetry_it_says_how_to_install_it() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None; from seedbed.observing import Telemetry; Telemetry()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.stderr.splitlines()[-1].endswith("telemetry needs OpenTelemetry: pip install 'seedbed[otel]'")
