"""Every Prometheus metric, named once; it knows no request.

With several workers (PROMETHEUS_MULTIPROC_DIR is set before this module is imported) each process writes its
numbers to a file there and `/metrics` of any worker adds up all of them. Labels are made of the operator's
words (arms, fields, stages); of a client's words only the first few unknown names become labels.
"""

from __future__ import annotations

import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

from service.features.store import IS_MISSING_REASONS
from service.metrics.tally import BulkHistogram, Tally

# A series more for each, of which Prometheus makes nothing.
disable_created_metrics()  # type: ignore[no-untyped-call]

LATENCY_BUCKETS = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.0007, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.007),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0),
)
STORE_BUCKETS = (
    *(0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005),
    *(0.01, 0.05, 0.2, 1.0),
)
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
PCTR_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
STAGES = ("decode", "encode", "queue", "inference", "calibration")
MAX_UNKNOWN_NAMES = 20
OTHER_NAMES = "(other)"


class Metrics:
    """The metrics of one service, in a registry of their own: two services in a process do not mix."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "bidlight_requests",
            "Requests to /predict: ok, client_left or the error's code; no arm where none was chosen yet",
            ["arm", "outcome"],
            registry=registry,
        )
        self.latency = BulkHistogram(
            "bidlight_request_seconds",
            "Seconds from the end of a request's headers to its answer, of the requests that are ok",
            ["arm"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.stages = Counter(
            "bidlight_stage_seconds",
            "Seconds in a stage. For a mean, divide decode and encode by bidlight_requests_total, queue by "
            "bidlight_batch_requests_sum, inference and calibration by bidlight_batch_rows_count",
            ["arm", "stage"],
            registry=registry,
        )
        self.batch_rows = BulkHistogram(
            "bidlight_batch_rows",
            "Rows (a candidate of a request each) of a batch that ran",
            ["arm"],
            buckets=ROW_BUCKETS,
            registry=registry,
        )
        self.batch_requests = BulkHistogram(
            "bidlight_batch_requests",
            "Requests, or parts of large ones, of a batch that ran",
            ["arm"],
            buckets=ROW_BUCKETS,
            registry=registry,
        )
        self.queued_rows = Gauge(
            "bidlight_queued_rows",
            "Rows that wait for a batch now",
            ["arm"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.missing = Counter(
            "bidlight_missing_features",
            "Rows without a value of the field, out of bidlight_batch_rows_sum",
            ["arm", "field"],
            registry=registry,
        )
        self.out_of_vocabulary = Counter(
            "bidlight_oov_features",
            "Values of the field that its vocabulary does not hold; a sequence has several a row",
            ["arm", "field"],
            registry=registry,
        )
        self.unknown_names = Counter(
            "bidlight_unknown_names",
            f"Names sent that no field has; after the first {MAX_UNKNOWN_NAMES} of a process, {OTHER_NAMES}",
            ["arm", "name"],
            registry=registry,
        )
        self.pctr = BulkHistogram(
            "bidlight_pctr",
            "Calibrated click probabilities, one a row",
            ["arm"],
            buckets=PCTR_BUCKETS,
            registry=registry,
        )
        self.candidates = Counter(
            "bidlight_candidates",
            "Candidates answered, by outcome: bid, or no_bid (below a floor, or no value_per_click)",
            ["arm", "outcome"],
            registry=registry,
        )
        self.bundle = Gauge(
            "bidlight_bundle_info",
            "1 for the bundle that the arm serves, 0 for one that it served before; join it to others on arm",
            ["arm", "bundle", "model", "variant"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.reloads = Counter(
            "bidlight_reloads",
            "Times that SIGHUP had the arms loaded anew, by outcome: ok, or refused (nothing changed)",
            ["outcome"],
            registry=registry,
        )
        self.user_lookups = Counter(
            "bidlight_user_lookups",
            "Requests whose user was looked up in the feature store",
            ["arm"],
            registry=registry,
        )
        self.user_is_missing = Counter(
            "bidlight_user_is_missing",
            f"Requests scored without features of their user, by reason: {', '.join(IS_MISSING_REASONS)}",
            ["arm", "reason"],
            registry=registry,
        )
        self.store_read = Histogram(
            "bidlight_store_read_seconds",
            "Seconds of a read of the feature store, for all requests of a turn of the loop",
            buckets=STORE_BUCKETS,
            registry=registry,
        )
        self.unknown_ads = Counter(
            "bidlight_unknown_ads",
            "Candidates whose id the catalogue does not hold, and which bring not all features themselves",
            ["arm"],
            registry=registry,
        )
        self.catalogue_ads = Gauge(
            "bidlight_catalogue_ads",
            "Ads in the catalogue of an arm",
            ["arm"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.catalogue_refreshes = Counter(
            "bidlight_catalogue_refreshes",
            "Times that the ads were read anew, by outcome: ok, or failed (the old ones stay)",
            ["outcome"],
            registry=registry,
        )
        # Of each arm its unknown names that have a label: a reload shall not allow as many more.
        self.unknown_tallies: dict[str, dict[str, Tally]] = {}
        self._refused: dict[tuple[str, str], Counter] = {}
        self.is_shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        if not self.is_shared:
            ProcessCollector(registry=registry)

    def refuse(self, arm: str, code: str) -> None:
        """Count a request that got an error; `arm` is empty where none was chosen yet."""
        counter = self._refused.get((arm, code))
        if counter is None:
            counter = self._refused[arm, code] = self.requests.labels(arm, code)
        counter.inc()

    def exposition(self) -> tuple[bytes, str]:
        """What Prometheus scrapes, and its content type: the sum over all workers."""
        if not self.is_shared:
            return generate_latest(self._registry), CONTENT_TYPE_LATEST
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST
