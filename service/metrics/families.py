"""Every Prometheus metric of the service, defined once; it knows no request.

With several workers each process writes its numbers to files, and `/metrics` of any worker adds them all up.
Label values come from the operator (arms, fields, stages); of what clients send, only the first unknown names
become labels.
"""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from service.features.store import IS_MISSING_REASONS
from service.metrics.prometheus_internals import (
    BulkHistogram,
    counts_in_files,
    omit_created_series,
    registry_of_all_processes,
)
from service.metrics.tally import Tally

omit_created_series()

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
    """The metrics of one service in its own registry, so that two services in a process do not mix."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "bidlight_requests",
            "Requests to /predict by outcome: ok, client_left or an error code; no arm if none was chosen",
            ["arm", "outcome"],
            registry=registry,
        )
        self.plain_requests = Counter(
            "bidlight_plain_requests",
            "Requests with outcome ok that the native core read and answered; Python did the others",
            ["arm"],
            registry=registry,
        )
        self.latency = BulkHistogram(
            "bidlight_request_seconds",
            "Seconds from the end of a request's headers to its answer, for requests with outcome ok",
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
            "Rows in a batch that ran; a row is one candidate of a request",
            ["arm"],
            buckets=ROW_BUCKETS,
            registry=registry,
        )
        self.batch_requests = BulkHistogram(
            "bidlight_batch_requests",
            "Requests, or parts of large ones, in a batch that ran",
            ["arm"],
            buckets=ROW_BUCKETS,
            registry=registry,
        )
        self.queued_rows = Gauge(
            "bidlight_queued_rows",
            "Rows waiting for a batch now",
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
            "Values of the field outside its vocabulary; a sequence has several values a row",
            ["arm", "field"],
            registry=registry,
        )
        self.unknown_names = Counter(
            "bidlight_unknown_names",
            f"Names sent that are no field; after the first {MAX_UNKNOWN_NAMES} in a process, {OTHER_NAMES}",
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
            "Candidates answered, by outcome: bid, or no_bid (zero, below a floor, or no value_per_click)",
            ["arm", "outcome"],
            registry=registry,
        )
        self.bundle = Gauge(
            "bidlight_bundle_info",
            "1 for the bundle that the arm serves, 0 for an earlier one; join it to other metrics on arm",
            ["arm", "bundle", "model", "variant"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.reloads = Counter(
            "bidlight_reloads",
            "Reloads of the arms at SIGHUP by outcome: ok, or refused (nothing changed)",
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
            f"Requests scored without their user's features, by reason: {', '.join(IS_MISSING_REASONS)}",
            ["arm", "reason"],
            registry=registry,
        )
        self.store_read = Histogram(
            "bidlight_store_read_seconds",
            "Seconds of a read of the feature store, for all requests of an event-loop iteration",
            buckets=STORE_BUCKETS,
            registry=registry,
        )
        self.unknown_ads = Counter(
            "bidlight_unknown_ads",
            "Candidates whose id is not in the catalogue and whose request lacks some of their features",
            ["arm"],
            registry=registry,
        )
        self.catalogue_ads = Gauge(
            "bidlight_catalogue_ads",
            "Ads in the catalogue of the arm",
            ["arm"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.catalogue_refreshes = Counter(
            "bidlight_catalogue_refreshes",
            "Refreshes of the catalogue by outcome: ok, or failed (the old ads stay)",
            ["outcome"],
            registry=registry,
        )
        self.accept_pauses = Counter(
            "bidlight_accept_pauses",
            "Moments in which new connections had to wait, by reason: connections (as many are open as the "
            "limit of open files allows), or system (it accepts none)",
            ["reason"],
            registry=registry,
        )
        # The labelled unknown names of each arm; they outlive a reload, or it would allow as many more.
        self.unknown_tallies: dict[str, dict[str, Tally]] = {}
        self._refused: dict[tuple[str, str], Counter] = {}
        self.is_shared = counts_in_files()
        if not self.is_shared:
            ProcessCollector(registry=registry)

    def refuse(self, arm: str, code: str) -> None:
        """Count a request that got an error; `arm` is empty if none was chosen."""
        counter = self._refused.get((arm, code))
        if counter is None:
            counter = self._refused[arm, code] = self.requests.labels(arm, code)
        counter.inc()

    def exposition(self) -> tuple[bytes, str]:
        """The body of a scrape, summed over all workers, and its content type."""
        registry = registry_of_all_processes() if self.is_shared else self._registry
        return generate_latest(registry), CONTENT_TYPE_LATEST
