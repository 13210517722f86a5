"""Traces as OpenTelemetry's spans, sent by OTLP over HTTP: the one module that uses its SDK.

The SDK is an extra, loaded when traces are on. Its own variables say where the collector is and what the
resource is called. It knows neither requests nor a queue.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from service.errors import BadConfiguration
from service.tracing.context import Parent
from service.tracing.environment import check_protocol
from service.tracing.trace import RequestTrace

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan

SERVICE_NAME, ROUTE, METHOD = "bidlight", "/predict", "POST"
# What logs what clients send, and what logs each try of a batch: the sender tells of both, less often.
_NOISY_LOGGERS = ("opentelemetry.trace", "opentelemetry.exporter")
# After each trace other threads get a turn: this one would otherwise hold the interpreter for milliseconds.
PAUSE_SECONDS = 0.0002


class OtlpSink:
    """Makes spans of traces and sends them. Raises BadConfiguration without the extra, or for its variables.

    The spans are made by the SDK's own tracer, after the fact. It decides on nothing: all of them are kept.
    """

    def __init__(self, *, is_https: bool) -> None:
        check_protocol(os.environ)
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        except ImportError as error:
            raise BadConfiguration(
                f"'trace_share' must be unset without OpenTelemetry ({error}); "
                "install it with pip install 'bidlight[otel]'"
            ) from None
        self._words = _LastWords()
        for name in _NOISY_LOGGERS:
            logging.getLogger(name).handlers = [self._words]
            logging.getLogger(name).propagate = False
        try:
            self._exporter: Any = OTLPSpanExporter()
            provider = TracerProvider(sampler=ALWAYS_ON, resource=_resource(), shutdown_on_exit=False)
        except Exception as error:  # it raises whatever its readers of variables do
            raise BadConfiguration(
                "the variables OTEL_* must be as OpenTelemetry defines them "
                f"({type(error).__name__}: {error}); mend them"
            ) from None
        ended: list[ReadableSpan] = []

        class Collect(SpanProcessor):
            def on_end(self, span: ReadableSpan) -> None:
                ended.append(span)

        provider.add_span_processor(Collect())
        self._ended = ended
        self._tracer = provider.get_tracer(SERVICE_NAME)
        self._scheme = "https" if is_https else "http"
        self.name = str(getattr(self._exporter, "_endpoint", "the collector"))

    def send(self, traces: list[RequestTrace]) -> str:
        """Send them; why that failed, or nothing."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        self._ended.clear()
        # Both clocks at one moment: spans have Unix times, what is noted has those of perf_counter().
        offset = time.time() - time.perf_counter()
        for trace in traces:
            self._make_spans(trace, offset)
            time.sleep(PAUSE_SECONDS)
        spans, self._words.last = [*self._ended], ""
        self._ended.clear()
        if self._exporter.export(spans) is SpanExportResult.SUCCESS:
            return ""
        return self._words.last or "the exporter does not say why"

    def abort(self) -> None:
        """Wait no more for a `send`."""
        self._exporter.shutdown()

    def _make_spans(self, trace: RequestTrace, offset: float) -> None:
        """The span of a request, and one of each of its steps."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        def at(moment: float) -> int:
            return round(1e9 * (moment + offset))

        root = self._tracer.start_span(
            f"{METHOD} {ROUTE}",
            _context_of(trace.parent),
            SpanKind.SERVER,
            self._attributes(trace),
            start_time=at(trace.started),
        )
        if trace.status >= 500:  # what a client has caused is no error of a server
            root.set_status(Status(StatusCode.ERROR))
        within, since = set_span_in_context(root), trace.started
        for name, until, rows in trace.steps:
            attributes = {"bidlight.batch_rows": rows} if rows else None
            step = self._tracer.start_span(name, within, attributes=attributes, start_time=at(since))
            step.end(at(until))
            since = until
        root.end(at(trace.ended))

    def _attributes(self, trace: RequestTrace) -> dict[str, Any]:
        """Those of OpenTelemetry's conventions for HTTP servers, and the service's own; nothing of a user."""
        attributes: dict[str, Any] = {
            "http.request.method": METHOD,
            "http.route": ROUTE,
            "url.path": ROUTE,
            "url.scheme": self._scheme,
            "bidlight.outcome": trace.outcome,
        }
        if trace.status:
            attributes["http.response.status_code"] = trace.status
        if trace.status >= 500:
            attributes["error.type"] = trace.outcome
        if trace.candidates:
            attributes["bidlight.candidates"] = trace.candidates
        if trace.arm:
            attributes["bidlight.arm"] = trace.arm
            attributes["bidlight.bundle"] = trace.bundle
            attributes["bidlight.variant"] = trace.variant
            attributes["bidlight.quality"] = trace.quality
        return attributes


def _context_of(parent: Parent | None) -> Context:
    """The SDK's context of a span with that parent, an empty one for a trace that begins here."""
    from opentelemetry.context import Context
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        TraceState,
        set_span_in_context,
    )

    if parent is None:
        return Context()
    state = TraceState.from_header([parent.state.decode("latin-1")]) if parent.state else None
    remote = SpanContext(
        parent.trace_id,
        parent.span_id,
        is_remote=True,
        trace_flags=TraceFlags(parent.flags),
        trace_state=state,
    )
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _resource() -> Any:
    """What sends spans: this process of the service, and what OTEL_RESOURCE_ATTRIBUTES says beside it."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own = Resource.create(
        {"service.name": SERVICE_NAME, "service.instance.id": f"{socket.gethostname()}:{os.getpid()}"}
    )
    # `create` lets what it is given win, and here the operator does.
    return own.merge(OTELResourceDetector().detect())


class _LastWords(logging.Handler):
    """Keeps the last message of the exporter, which returns no reason."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.last = record.getMessage()
