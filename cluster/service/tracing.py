"""Spans of requests for a collector of OpenTelemetry. Off unless the setting `trace_endpoint` names one.

    request                  POST /v1/galleries/{tenant}/{gallery}/search, from the caller's `traceparent` on
      admit                  key and body
      wait                   for its turn
      search | write | ...   the call in a worker's thread; of a search that took others along, all of them have it

Attributes are operations, statuses, gallery and tenant names, counts and times; never keys, labels, ids or embeddings.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shard import gauges
from shard.errors import MissingExtra

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingExtra(f"tracing needs {error.name}; pip install 'facegrid[tracing]'") from error

if TYPE_CHECKING:
    from cluster.service.shell import Exchange

EXPORT_S = 5
"""How long the collector may take."""
_CURRENT: ContextVar[Span | None] = ContextVar("facegrid.span", default=None)
_CONTEXT = TraceContextTextMapPropagator()
_HEADERS = ("traceparent", "tracestate")


@dataclass(frozen=True, slots=True)
class Times:
    """When a call began, in unix nanoseconds and by time.perf_counter(), and what its thread had spent on searches."""

    began_ns: int
    began: float
    before: gauges.Spent


class Tracing:
    """Spans of one gateway."""

    def __init__(self, exporter: SpanExporter) -> None:
        """Sampling, resource and batches are as the SDK's own OTEL_ variables have it."""
        resource = Resource({SERVICE_NAME: "facegrid"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("facegrid")

    @classmethod
    def to(cls, endpoint: str) -> Tracing:
        """Export to an OTLP/HTTP collector, such as http://collector:4318/v1/traces."""
        return cls(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_S))

    def begin(self, headers: Iterable[tuple[bytes, bytes]]) -> Span:
        """The span of a request, parent of the other spans of this task. A traceparent that is none is ignored."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers
            if name.decode("latin-1") in _HEADERS
        }
        span = self._tracer.start_span("request", _CONTEXT.extract(carrier), kind=SpanKind.SERVER)
        _CURRENT.set(span)
        return span

    def end(self, span: Span, exchange: Exchange, route: str | None, method: str) -> None:
        """The request was answered."""
        now_ns, now = time.time_ns(), time.perf_counter()
        if exchange.admitted:
            began_ns = now_ns - int((now - exchange.began) * 1e9)
            self._child(span, "admit", began_ns, now_ns - int((now - exchange.admitted) * 1e9))
        span.update_name(exchange.operation)
        span.set_attribute("http.request.method", method)
        if route is not None:
            span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", exchange.status)
        span.set_attribute("facegrid.code", exchange.code)
        if exchange.gallery is not None:
            span.set_attribute("facegrid.gallery", exchange.gallery)
        if exchange.count is not None:
            span.set_attribute("facegrid.count", exchange.count)
        if exchange.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(now_ns)

    def waited(self, span: Span | None, name: str, times: Times, queued: float, probes: int | None = None) -> None:
        """Spans of a wait for a turn, since a time.perf_counter() value, and of the call after it, which has ended now.

        probes: of a search, with those that it took along.
        """
        if span is None or not span.is_recording():
            return
        self._child(span, "wait", times.began_ns - int((times.began - queued) * 1e9), times.began_ns)
        attributes: dict[str, float] = {} if probes is None else {"facegrid.probes": probes}
        spent = gauges.SEARCH_TIMES.mine().since(times.before)
        if spent.calls:
            for phase, seconds in zip(gauges.PHASES, spent.seconds, strict=True):
                attributes[f"facegrid.{phase}_ms"] = round(seconds * 1000, 3)
        self._child(span, name, times.began_ns, time.time_ns(), attributes)

    @staticmethod
    def times() -> Times:
        """A call begins in this thread."""
        return Times(time.time_ns(), time.perf_counter(), gauges.SEARCH_TIMES.mine())

    @staticmethod
    def current() -> Span | None:
        """The span of the request that this task answers."""
        return _CURRENT.get()

    @staticmethod
    def trace_id() -> str | None:
        """Its trace, 32 hex digits."""
        span = _CURRENT.get()
        return None if span is None else f"{span.get_span_context().trace_id:032x}"

    def _child(
        self, parent: Span, name: str, began_ns: int, ended_ns: int, attributes: dict[str, float] | None = None
    ) -> None:
        context = set_span_in_context(parent)
        self._tracer.start_span(name, context, start_time=began_ns, attributes=attributes).end(ended_ns)

    def close(self) -> None:
        """Export what is left. Idempotent."""
        self._provider.shutdown()
