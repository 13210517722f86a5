"""Which requests are traced, and what becomes of their traces; it knows no HTTP.

A caller that keeps its trace has the request traced, one that does not has not. Of the requests without a
caller's trace a share is traced.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from random import random

from service.metrics.families import Metrics
from service.settings import Settings
from service.tracing.context import PARENT, parent_of
from service.tracing.environment import is_turned_off, limits_of
from service.tracing.otlp import OtlpSink
from service.tracing.sender import Sender, SentSpans
from service.tracing.trace import RequestTrace


class Tracer:
    """Begins traces of requests, and hands those that have ended to a sender. A loop's thread calls it."""

    def __init__(self, share: float, sender: Sender, metrics: Metrics) -> None:
        self._share = share
        self._sender = sender
        self._counters = metrics.trace_spans
        self._told = SentSpans(0, 0, 0)
        # The sender's thread belongs to the process that serves, and so does this start.
        self.start = sender.start

    def begin(self, headers: Mapping[bytes, bytes], started: float) -> RequestTrace | None:
        """The trace of a request whose head came at `started`, a perf_counter(); None: it is not traced."""
        # Most have no parent, and are not sampled.
        parent = parent_of(headers) if PARENT in headers else None
        if random() >= self._share if parent is None else not parent.is_sampled:
            return None
        return RequestTrace(parent, started)

    def end(self, trace: RequestTrace, at: float) -> None:
        """The request has ended; send its trace."""
        trace.ended = at
        self._sender.put(trace)

    def publish(self) -> None:
        """Add what became of spans to the metrics."""
        found, told = self._sender.count(), self._told
        if found != told:
            for outcome, now, before in zip(SentSpans._fields, found, told, strict=True):
                self._counters.labels(outcome).inc(now - before)
            self._told = found

    def close(self) -> None:
        """Send what is left, for a moment at most; blocks until then. `publish` tells what became of it."""
        self._sender.close()


def open_tracer(settings: Settings, metrics: Metrics) -> Tracer | None:
    """The tracer of these settings and of OpenTelemetry's variables; None if nothing is to be traced.

    Raises BadConfiguration.
    """
    if not _is_on(settings):
        return None
    assert settings.trace_share is not None
    sink = OtlpSink(is_https=bool(settings.tls_certificate))
    return Tracer(settings.trace_share, Sender(sink, limits_of(os.environ)), metrics)


def check_tracing(settings: Settings) -> None:
    """Load what tracing needs, so that processes that are forked share it. Raises BadConfiguration."""
    if _is_on(settings):
        limits_of(os.environ)
        OtlpSink(is_https=bool(settings.tls_certificate)).abort()


def _is_on(settings: Settings) -> bool:
    return settings.trace_share is not None and not is_turned_off(os.environ)
