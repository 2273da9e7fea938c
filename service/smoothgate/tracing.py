"""OpenTelemetry traces: a span per request, one per stage below it, and vLLM's own spans below the engine's.

Nothing is recorded or sent before `configure` is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id

from smoothgate import __version__

TRACES_PATH = "/v1/traces"

_tracer = trace.get_tracer("smoothgate")


def configure(url: str) -> None:
    """Send traces to an OTLP/HTTP collector at `http://host:4318`. Call it once per process."""
    resource = {SERVICE_NAME: "smoothgate", SERVICE_VERSION: __version__}
    provider = TracerProvider(resource=Resource.create(resource))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url.rstrip("/") + TRACES_PATH)))
    trace.set_tracer_provider(provider)


@contextmanager
def request(method: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """The span of a request, named by its method until `answered` knows more. Its parent is the caller's span
    if the request names one (`traceparent`).
    """
    parent: Context = propagate.extract(headers)
    with _tracer.start_as_current_span(method, parent, SpanKind.SERVER) as span:
        span.set_attribute("http.request.method", method)
        yield span


def answered(span: Span, method: str, route: str | None, status: int | None) -> None:
    """What is known of a request at its end, by OpenTelemetry's names.

    Args:
        span: of the request.
        method: of HTTP.
        route: as the application knows it; None: there is none. A path that a client made up names nothing.
        status: of the response, if one was begun.
    """
    if route is not None:
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
    if status is not None:
        span.set_attribute("http.response.status_code", status)
    if status is None or status >= 500:
        span.set_status(StatusCode.ERROR)


def trace_id(span: Span) -> str | None:
    """The id of the trace, hexadecimal, for the log; None: there is no trace."""
    context = span.get_span_context()
    return format_trace_id(context.trace_id) if context.is_valid else None


def current() -> Span:
    """The span that is under way here; without one, a span that records nothing."""
    return trace.get_current_span()


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
