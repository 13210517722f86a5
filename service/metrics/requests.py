"""Metrics of requests: outcomes, time, batches, rows, answers, and what waits; it knows no request."""

from __future__ import annotations

from service.metrics.buckets import LATENCY_BUCKETS, PCTR_BUCKETS, ROW_BUCKETS
from service.metrics.names import MAX_UNKNOWN_NAMES, OTHER_NAMES
from service.metrics.series import Counters, Gauges, Histograms, Registry

STAGES = ("decode", "encode", "queue", "inference", "calibration")


class RequestFamilies:
    """Of requests to /predict, from their arrival to their answers."""

    def _declare_requests(self, registry: Registry) -> None:
        self.requests = Counters(
            "bidlight_requests",
            "Requests to /predict by outcome: ok, client_left, too_late (tmax_ms has passed), or an error's "
            "code; no arm if none was chosen",
            ["arm", "outcome"],
            registry=registry,
        )
        self.plain_requests = Counters(
            "bidlight_plain_requests",
            "Requests with outcome ok that the native core read and answered; Python did the others",
            ["arm"],
            registry=registry,
        )
        self.latency = Histograms(
            "bidlight_request_seconds",
            "Seconds from the first byte of a request to its answer, for requests with outcome ok",
            ["arm"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.stages = Counters(
            "bidlight_stage_seconds",
            "Seconds in a stage. For a mean, divide decode and encode by bidlight_requests_total, queue by "
            "bidlight_batch_requests_sum, inference and calibration by bidlight_batch_rows_count",
            ["arm", "stage"],
            registry=registry,
        )
        self.batch_rows = Histograms(
            "bidlight_batch_rows",
            "Rows in a batch that ran; a row is one candidate of a request",
            ["arm"],
            buckets=ROW_BUCKETS,
            registry=registry,
        )
        self.batch_requests = Histograms(
            "bidlight_batch_requests",
            "Requests, or parts of large ones, in a batch that ran",
            ["arm"],
            buckets=ROW_BUCKETS,
            registry=registry,
        )
        self.queued_rows = Gauges(
            "bidlight_queued_rows",
            "Rows waiting for a batch now",
            ["arm"],
            of_processes="sum",
            registry=registry,
        )
        self.missing = Counters(
            "bidlight_missing_features",
            "Rows without a value of the field, out of bidlight_batch_rows_sum",
            ["arm", "field"],
            registry=registry,
            is_lasting=False,
        )
        self.out_of_vocabulary = Counters(
            "bidlight_oov_features",
            "Values of the field outside its vocabulary; a sequence has several values a row",
            ["arm", "field"],
            registry=registry,
            is_lasting=False,
        )
        self.unknown_names = Counters(
            "bidlight_unknown_names",
            f"Names sent that are no field; after the first {MAX_UNKNOWN_NAMES} of an arm, {OTHER_NAMES}",
            ["arm", "name"],
            registry=registry,
        )
        self.pctr = Histograms(
            "bidlight_pctr",
            "Calibrated click probabilities, one a row",
            ["arm"],
            buckets=PCTR_BUCKETS,
            registry=registry,
        )
        self.failed_rows = Counters(
            "bidlight_failed_rows",
            "Rows for which the graph gave no finite logit; their requests were answered with row_failed",
            ["arm"],
            registry=registry,
        )
        self.candidates = Counters(
            "bidlight_candidates",
            "Candidates answered, by outcome: bid, or no_bid (zero, below a floor, or no value_per_click)",
            ["arm", "outcome"],
            registry=registry,
        )
        self.answers = Counters(
            "bidlight_answers",
            "Requests with outcome ok by what their answers rest on: full (the model), prior (click rates by "
            "a few fields, without the model), or no-bid",
            ["arm", "quality"],
            registry=registry,
        )
        self.unscored = Counters(
            "bidlight_unscored_answers",
            "Requests with outcome ok that the model did not score, by reason: killed (the arm is), time (not"
            " read within --max-queue-ms), queue (too many rows wait), or deadline (tmax_ms leaves no time)",
            ["arm", "reason"],
            registry=registry,
        )
        self.refusals = Counters(
            "bidlight_refusals",
            "Requests to /predict that got a 429, by reason: time (not read within --max-queue-ms), deadline "
            "(tmax_ms has passed), queue (too many rows wait), or bytes (of requests under way are too many)",
            ["reason"],
            registry=registry,
        )
        self.refusal_time = Gauges(
            "bidlight_refusal_timestamp_seconds",
            "Unix time of the last of these, by reason",
            ["reason"],
            of_processes="max",
            registry=registry,
        )
        self.wait = Histograms(
            "bidlight_wait_seconds",
            "Seconds from the arrival of a request until it was read, of those that had to wait",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.waiting = Gauges(
            "bidlight_waiting_requests",
            "Requests that have arrived and are not read or refused yet",
            of_processes="sum",
            registry=registry,
        )
        self.oldest_wait = Gauges(
            "bidlight_oldest_wait_seconds",
            "Age of the oldest request that has arrived and is not read or refused yet",
            of_processes="max",
            registry=registry,
        )
