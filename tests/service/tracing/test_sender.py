"""Traces wait in a bounded queue for a thread that sends them; a collector that is down costs no more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from service.tracing import sender as module
from service.tracing.environment import Limits
from service.tracing.sender import Sender
from service.tracing.trace import ANSWER, MAX_STEPS, RequestTrace
from tests.e2e.raw_http import wait_until

Wait = Callable[[Callable[[], bool]], None]


class Sink:
    """Keeps what is sent; `fault` is what it says, and it waits while it is `held`."""

    name = "the test"

    def __init__(self) -> None:
        self.batches: list[list[RequestTrace]] = []
        self.fault = ""
        self.held = threading.Event()
        self.held.set()

    def send(self, traces: list[RequestTrace]) -> str:
        self.held.wait()
        if self.fault == "raise":
            raise OSError("no route")
        self.batches.append(traces)
        return self.fault

    def abort(self) -> None:
        self.held.set()


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def sender(sink: Sink) -> Iterator[Sender]:
    started = Sender(sink, Limits(queued_spans=10, batch_spans=4, delay_seconds=0.01))
    started.start()
    yield started
    started.close()


def a_trace(steps: int = 1) -> RequestTrace:
    trace = RequestTrace(None, 1.0)
    for number in range(steps):
        trace.mark(ANSWER, 2.0 + number)
    trace.ended = 3.0
    return trace


def test_traces_are_sent_in_order_in_batches(sender: Sender, sink: Sink) -> None:
    sink.held.clear()
    traces = [a_trace() for _ in range(5)]
    for trace in traces:
        sender.put(trace)
    sink.held.set()
    wait_until(lambda: sender.count().sent == 10)
    assert [trace for batch in sink.batches for trace in batch] == traces
    assert all(sum(trace.spans for trace in batch) <= 4 for batch in sink.batches)
    # One that is more than a batch is sent alone.
    sender.put(a_trace(steps=6))
    wait_until(lambda: sender.count().sent == 17)


def test_what_has_no_room_is_dropped_and_counted(sender: Sender, sink: Sink) -> None:
    sink.held.clear()
    for _ in range(50):
        sender.put(a_trace())
    dropped = sender.count().dropped
    assert 100 - 10 - 4 <= dropped <= 100 - 10  # one batch at most was taken meanwhile
    sink.held.set()
    wait_until(lambda: sender.count().sent == 100 - dropped)
    sender.put(a_trace())
    wait_until(lambda: sender.count().sent == 102 - dropped)


@pytest.mark.parametrize("fault", ["no answer", "raise"])
def test_a_collector_that_is_down_is_told_of_once(
    sender: Sender, sink: Sink, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bidlight")
    sink.fault = fault
    for number in range(1, 6):
        sender.put(a_trace())
        wait_until(lambda number=number: sender.count().failed == 2 * number)
    assert len(caplog.messages) == 1
    assert "did not take 2 spans" in caplog.text
    assert ("no route" if fault == "raise" else fault) in caplog.text
    sink.fault = ""
    sender.put(a_trace())
    wait_until(lambda: sender.count().sent == 2)
    wait_until(lambda: "takes spans again" in caplog.text)
    assert len(caplog.messages) == 2


def test_a_stop_sends_what_waits_but_not_for_long(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    patient = Sender(sink, Limits(queued_spans=100, batch_spans=4, delay_seconds=600.0))
    patient.start()
    patient.put(a_trace())
    patient.close()
    assert patient.count() == (2, 0, 0)
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.05)
    sink.held.clear()
    stuck = Sender(sink, Limits(queued_spans=100, batch_spans=4, delay_seconds=0.01))
    stuck.start()
    for _ in range(20):
        stuck.put(a_trace())
    stuck.close()
    found = stuck.count()
    assert sum(found) == 40
    assert found.dropped >= 36
    assert "are dropped" in caplog.text


def test_a_trace_is_bounded_and_ends() -> None:
    trace = a_trace(steps=2 * MAX_STEPS)
    assert trace.spans == 1 + MAX_STEPS
    ended = a_trace()
    ended.mark(ANSWER, 4.0)
    assert ended.spans == 2
