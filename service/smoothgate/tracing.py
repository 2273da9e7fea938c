"""OpenTelemetry traces: a span per request, one per stage below it, and vLLM's own spans below the engine's.

Nothing is recorded or sent before `configure` is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind

TRACES_PATH = "/v1/traces"

_tracer = trace.get_tracer("smoothgate")


def configure(url: str) -> None:
    """Send traces to an OTLP/HTTP collector at `http://host:4318`. Call it once per process."""
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "smoothgate"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url.rstrip("/") + TRACES_PATH)))
    trace.set_tracer_provider(provider)


@contextmanager
def request(name: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """The span of a request. Its parent is the caller's span if the request names one (`traceparent`)."""
    parent: Context = propagate.extract(headers)
    with _tracer.start_as_current_span(name, parent, SpanKind.SERVER) as span:
        yield span


@contextmanager
def stage(name: str) -> Iterator[None]:
    """The span of a stage, below the current span."""
    with _tracer.start_as_current_span(name):
        yield


class EngineCall:
    """The span of a request to vLLM. A stream ends it in another context than it began in."""

    def __init__(self) -> None:
        self._span = _tracer.start_span("engine", kind=SpanKind.CLIENT)

    def headers(self) -> dict[str, str]:
        """The headers that make vLLM's span a child of this one."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(self._span))
        return carrier

    def end(self) -> None:
        """End the span, when the answer is complete or has failed."""
        self._span.end()
