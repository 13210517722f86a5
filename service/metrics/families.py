"""Every Prometheus metric of the service, in one object; it knows no request.

Each is declared once, in the module of its theme beside this one.

Label values come from the operator (arms, fields, stages); of what clients send, only the first unknown names
become labels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest

from service.metrics.arms import ArmFamilies
from service.metrics.feedback import FeedbackFamilies
from service.metrics.memory import CountMemory
from service.metrics.names import UnknownNames
from service.metrics.process import ProcessFamilies
from service.metrics.requests import RequestFamilies
from service.metrics.series import FULL, UNREADABLE, Counters, Labels, Registry
from service.metrics.stores import StoreFamilies


class Metrics(RequestFamilies, ArmFamilies, FeedbackFamilies, StoreFamilies, ProcessFamilies):
    """What one process counts, in part `number` of the memory of all processes of its service.

    Without a memory it is the only process. Two services in a process do not mix.
    """

    def __init__(self, memory: CountMemory | None = None, number: int = 0) -> None:
        self.is_shared = memory is not None
        self.number = number
        registry = Registry(memory or CountMemory(), number)
        self.faults = Counters(
            "bidlight_metric_faults",
            "What these metrics lack, by reason: full (a series that has no room and is not counted), or "
            "unreadable (a process whose counts a scrape could not read to their end)",
            ["reason"],
            registry=registry,
        )
        registry.faults = {reason: self.faults.labels(reason) for reason in (FULL, UNREADABLE)}
        self._declare_requests(registry)
        self._declare_arms(registry)
        self._declare_feedback(registry)
        self._declare_stores(registry)
        self._declare_process(registry)
        self.families = registry.families
        self._show_zeros()
        self._unknown_names: dict[str, UnknownNames] = {}
        self._registry = registry
        self._exposed = CollectorRegistry()
        self._exposed.register(registry)
        if not self.is_shared:
            ProcessCollector(registry=self._exposed)

    def refuse(self, arm: str, outcome: str) -> None:
        """Count a request that was not answered; `arm` is empty if none was chosen."""
        self.requests.labels(arm, outcome).inc()

    def unknown_names_of(self, arm: str) -> UnknownNames:
        """What counts the unknown names of an arm, also after a reload."""
        return self._unknown_names.setdefault(arm, UnknownNames(self.unknown_names, arm))

    def _show_zeros(self) -> None:
        """Show what is rare, and alerted on, before it happens: a series that begins at 1 has no increase."""
        for family, values in (
            (self.reloads, ("ok", "refused", "undone")),
            (self.catalogue_refreshes, ("ok", "failed", "refused")),
            (self.user_refreshes, ("ok", "failed", "refused")),
            (self.accept_pauses, ("connections", "system")),
            (self.refusals, ("time", "deadline", "queue", "bytes")),
            (self.log_events, ("written", "lost")),
            (self.logged_examples, ("written", "lost")),
            (self.trace_spans, ("sent", "failed", "dropped")),
        ):
            for value in values:
                family.labels(value)

    def retain(
        self, bundles: Collection[Labels], fields: Collection[Labels], trained: Collection[Labels]
    ) -> None:
        """Show these bundles and fields alone; a label for each that was served before would have no end.

        They are values of labels: of `bundle`, of `missing` and `out_of_vocabulary`, of `trained_missing`.
        """
        self.bundle.retain(bundles)
        self.missing.retain(fields)
        self.out_of_vocabulary.retain(fields)
        self.trained_missing.retain(trained)

    def totals(self) -> dict[tuple[str, Labels], Sequence[float]]:
        """The numbers of each series, by name of the metric without suffix and labels, over all workers."""
        return self._registry.totals()

    def sums(self, wanted: Iterable[tuple[str, Labels]]) -> dict[tuple[str, Labels], Sequence[float]]:
        """The numbers of some series of counters and histograms, by name without suffix and labels."""
        return self._registry.sums(wanted)

    def exposition(self) -> tuple[bytes, str]:
        """The body of a scrape, summed over all workers, and its content type."""
        return generate_latest(self._exposed), CONTENT_TYPE_LATEST
