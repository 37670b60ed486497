"""OpenTelemetry: a span for each generation, sequence and request, nested as they are, and metrics of latency, retries and the cache.

| metric | kind | attributes |
|---|---|---|
| ``seedbed.request.duration`` | histogram, s | ``server.address``, ``http.response.status_code`` or ``error.type`` |
| ``seedbed.request.retries`` | counter | ``server.address`` |
| ``seedbed.request.active`` | up-down counter | ``server.address`` |
| ``seedbed.answer.wait`` | histogram, s: from a sequence's question to its answer, turns, retries and sharing included | |
| ``seedbed.cache.questions`` | counter | ``outcome``: known, shared or asked |
| ``seedbed.tokens`` | counter | |
| ``seedbed.lookahead.proposed``, ``.accepted`` | counters | |
| ``seedbed.sequences`` | counter | ``finish_reason`` |

A request that several sequences wait for is a child of the one that asked first. No prompt, token or secret is ever told.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from seedbed.errors import MissingExtra
from seedbed.observing.observer import (
    GenerationBegan,
    GenerationEnded,
    QuestionTaken,
    RequestBegan,
    RequestEnded,
    RequestRepeated,
    SequenceBegan,
    SequenceEnded,
    TokensDrawn,
)

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from seedbed.observing.observer import Event

__all__ = ["Telemetry"]

NAME = "seedbed"


class Telemetry:
    """An ``Observer`` that tells OpenTelemetry.

    Args:
        tracer_provider, meter_provider: where to; the default is the program's global ones.

    Raises:
        MissingExtra: ``opentelemetry-api`` is not installed.

    Concurrency:
        One for any number of generations, in one thread.

    Example:
        ::

            with observe(Telemetry()):
                await generate(prompt, model, n=16, seed=7)
    """

    def __init__(self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None) -> None:
        try:
            from opentelemetry import context, metrics, trace
        except ImportError as error:
            raise MissingExtra("telemetry needs OpenTelemetry: pip install 'seedbed[otel]'") from error
        self._context, self._trace = context, trace
        self._tracer = trace.get_tracer(NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(NAME, meter_provider=meter_provider)
        self._duration = meter.create_histogram("seedbed.request.duration", unit="s", description="From sending to the end of the answer.")
        self._retries = meter.create_counter("seedbed.request.retries", description="Requests that repeat one that failed.")
        self._active = meter.create_up_down_counter("seedbed.request.active", description="Requests sent and not answered.")
        self._wait = meter.create_histogram("seedbed.answer.wait", unit="s", description="From a sequence's question to its answer.")
        self._questions = meter.create_counter("seedbed.cache.questions", description="Questions the prefix cache took.")
        self._tokens = meter.create_counter("seedbed.tokens", description="Tokens drawn.")
        self._proposed = meter.create_counter("seedbed.lookahead.proposed", description="Tokens a server proposed.")
        self._accepted = meter.create_counter("seedbed.lookahead.accepted", description="Those that were drawn.")
        self._sequences = meter.create_counter("seedbed.sequences", description="Sequences that ended.")
        # What is open in this task, innermost last; a task's context is its own, so is its tuple.
        self._open: ContextVar[tuple[tuple[Any, Any], ...]] = ContextVar("seedbed spans", default=())

    def notice(self, event: Event) -> None:
        """See ``Observer``."""
        match event:
            case TokensDrawn():
                self._wait.record(event.waited)
                self._tokens.add(len(event.token_ids))
                if event.rows > 1:
                    self._proposed.add(event.rows - 1)
                    self._accepted.add(max(0, len(event.token_ids) - 1))
            case QuestionTaken():
                self._questions.add(1, {"outcome": event.outcome})
            case RequestBegan() | RequestEnded() | RequestRepeated():
                self._notice_request(event)
            case _:
                self._notice_generation(event)

    def _notice_request(self, event: RequestBegan | RequestEnded | RequestRepeated) -> None:
        where = {"server.address": event.where}
        match event:
            case RequestBegan():
                self._active.add(1, where)
                self._begin("request", where)
            case RequestEnded():
                self._active.add(-1, where)
                how: dict[str, Any] = {"error.type": event.error} if event.error else {"http.response.status_code": event.status}
                self._duration.record(event.seconds, where | how)
                self._end(how | {"http.response.body.size": event.octets}, event.error)
            case RequestRepeated():
                self._retries.add(1, where)

    def _notice_generation(self, event: Event) -> None:
        match event:
            case GenerationBegan():
                self._begin("generate", {"seedbed.sequences": event.sequences, "seedbed.seed": str(event.seed)})
            case GenerationEnded():
                self._end({"seedbed.finished": event.finished, "seedbed.tokens": event.tokens}, event.error)
            case SequenceBegan():
                self._begin("sequence", {"seedbed.prompt_index": event.prompt_index, "seedbed.index": event.index})
            case SequenceEnded():
                self._sequences.add(1, {"finish_reason": event.finish_reason})
                error = "error" if event.finish_reason == "error" else ""
                self._end({"seedbed.finish_reason": event.finish_reason, "seedbed.tokens": event.tokens}, error)

    def _begin(self, name: str, attributes: dict[str, Any]) -> None:
        span = self._tracer.start_span(name, attributes=attributes)
        token = self._context.attach(self._trace.set_span_in_context(span))
        self._open.set((*self._open.get(), (span, token)))

    def _end(self, attributes: dict[str, Any], error: str) -> None:
        *others, (span, token) = self._open.get()
        self._open.set(tuple(others))
        self._context.detach(token)
        span.set_attributes(attributes)
        if error:
            span.set_status(self._trace.StatusCode.ERROR, error)
        span.end()
