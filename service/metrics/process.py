"""Metrics of a process itself, and of what it writes and sends beside answers; it knows no request."""

from __future__ import annotations

from service.metrics.series import Counters, Gauges, Registry


class ProcessFamilies:
    """Of processes, connections, logs of examples and traces."""

    def _declare_process(self, registry: Registry) -> None:
        self.serving_processes = Gauges(
            "bidlight_serving_processes",
            "Processes that serve: the workers, or one; more while workers are replaced",
            of_processes="sum",
            registry=registry,
        )
        self.accept_pauses = Counters(
            "bidlight_accept_pauses",
            "Moments in which new connections had to wait, by reason: connections (as many are open as the "
            "limit of open files allows), or system (it accepts none)",
            ["reason"],
            registry=registry,
        )
        self.logged_examples = Counters(
            "bidlight_example_log_requests",
            "Requests of the log of examples: written, or lost (the disk is full, or too slow)",
            ["outcome"],
            registry=registry,
        )
        self.trace_spans = Counters(
            "bidlight_trace_spans",
            "Spans of traced requests by what became of them: sent, failed (the collector did not take "
            "them), or dropped (there was no room for them)",
            ["outcome"],
            registry=registry,
        )
