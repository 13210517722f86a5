"""Traces that wait for a collector, and the thread that sends them; it knows neither spans nor a protocol.

A collector that is slow or down costs traces, and no request waits for it: what comes while the queue is full
is dropped, and counted.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from time import monotonic
from typing import NamedTuple, Protocol

from service.tracing.environment import Limits
from service.tracing.trace import RequestTrace

logger = logging.getLogger("bidlight")

# How long a stop waits until the spans that wait are sent, and then for a request to the collector to end.
FLUSH_SECONDS, ABORT_SECONDS = 2.0, 0.5
# A line for a collector that takes nothing comes no more often.
COMPLAINT_SECONDS = 60.0


class Sink(Protocol):
    """Sends traces somewhere, from one thread."""

    name: str
    """Where to, for people."""

    def send(self, traces: list[RequestTrace]) -> str:
        """Send them; why that failed, or nothing."""

    def abort(self) -> None:
        """Wait no more for a `send`; called from another thread."""


class SentSpans(NamedTuple):
    """Spans so far: sent; failed, which the collector did not take; and dropped, for which was no room."""

    sent: int
    failed: int
    dropped: int


class Sender:
    """A bounded queue of traces, and the thread that empties it. One thread calls its methods."""

    def __init__(self, sink: Sink, limits: Limits) -> None:
        self._sink = sink
        self._limits = limits
        self._queue: deque[RequestTrace] = deque()
        # Of each number one thread is the only writer; the spans that wait are the difference.
        self._put = self._dropped = 0
        self._taken = self._sent = self._failed = 0
        self._complained_at = -COMPLAINT_SECONDS
        self._untold = 0
        self._wake = threading.Event()
        self._is_closing = self._is_over = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        """Send what is put from now on."""
        self._thread.start()

    def put(self, trace: RequestTrace) -> None:
        """Queue a trace that has ended, if there is room for its spans."""
        spans, waiting = trace.spans, self._put - self._taken
        if waiting + spans > self._limits.queued_spans:
            self._dropped += spans
            return
        self._queue.append(trace)
        self._put += spans
        if waiting + spans >= self._limits.batch_spans and not self._wake.is_set():
            self._wake.set()

    def count(self) -> SentSpans:
        """What became of all spans so far."""
        return SentSpans(self._sent, self._failed, self._dropped)

    def close(self) -> None:
        """Send what waits, as long as that takes a moment; then drop what is left."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(FLUSH_SECONDS)
        self._is_over = True
        self._sink.abort()
        self._thread.join(ABORT_SECONDS)
        left = self._put - self._taken
        if left:
            self._dropped += left
            logger.warning("traces: %d spans were left when the service stopped, and are dropped", left)

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.wait(self._limits.delay_seconds)
            self._wake.clear()
            self._send_batch()
            while self._put - self._taken >= self._limits.batch_spans and not self._is_over:
                self._send_batch()
        while self._queue and not self._is_over:
            self._send_batch()

    def _send_batch(self) -> None:
        traces, spans = self._take()
        if not traces:
            return
        try:
            fault = self._sink.send(traces)
        except Exception as error:  # whatever it is, requests go on and so do later traces
            fault = f"{type(error).__name__}: {error}"
        if fault:
            self._failed += spans
            self._complain(spans, fault)
        else:
            self._sent += spans
            self._end_complaint()

    def _take(self) -> tuple[list[RequestTrace], int]:
        """The oldest traces, as many as make a batch, and the number of their spans."""
        traces: list[RequestTrace] = []
        spans = 0
        while self._queue and (not traces or spans + self._queue[0].spans <= self._limits.batch_spans):
            trace = self._queue.popleft()
            traces.append(trace)
            spans += trace.spans
        self._taken += spans
        return traces, spans

    def _complain(self, spans: int, fault: str) -> None:
        self._untold += spans
        if monotonic() - self._complained_at < COMPLAINT_SECONDS:
            return
        self._complained_at = monotonic()
        logger.warning(
            "traces: %s did not take %d spans: %s; requests go on", self._sink.name, self._untold, fault
        )
        self._untold = 0

    def _end_complaint(self) -> None:
        if self._complained_at > 0.0:
            logger.info("traces: %s takes spans again", self._sink.name)
        self._complained_at, self._untold = -COMPLAINT_SECONDS, 0
