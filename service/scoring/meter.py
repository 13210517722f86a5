"""Counts what one arm does; it knows neither the buckets of a metric nor how requests arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from itertools import chain
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.bundle.schema import Role, Schema
from service.errors import InferenceFailed, RowFailed, ServiceError
from service.features.store import IS_MISSING_REASONS
from service.metrics.counting import count_ids
from service.metrics.families import Metrics
from service.metrics.requests import STAGES
from service.metrics.tally import HistogramTally, Tally
from service.quality import FULL, QUALITIES, REASONS
from service.scoring.batcher import BatchReport
from service.scoring.missing_shares import MissingShares
from service.scoring.rows import BatchRows

OK = "ok"
# What `MeteredRequest.user_lookup` is when the store had everything; else it is one of IS_MISSING_REASONS.
FOUND = "found"
# Single values that are kept before they are summed up. Fewer would cost every batch more: summing up has a
# fixed cost.
PENDING_ANSWERS = 512
PENDING_BATCHES = 128


class MeteredRequest(Protocol):
    """What a meter reads of a request that has ended."""

    started: float
    """When its first byte came, a perf_counter()."""
    decode_seconds: float
    encode_seconds: float
    unknown_names: Collection[str]
    """Names that it sent and no field has."""
    unknown_ads: int
    """Candidates that are not in the catalogue."""
    user_lookup: str | None
    """FOUND, a reason why features are missing, or None if no user was looked up."""
    bids: int
    no_bids: int
    is_plain: bool
    """Whether the native core read and answers it."""
    quality: str
    """What its answer rests on: one of QUALITIES."""
    reason: str
    """Why that is not FULL: one of REASONS."""


class ArmMeter:
    """Collects plain numbers on the request path; `publish` adds them to the metrics."""

    def __init__(
        self, metrics: Metrics, arm: str, schema: Schema, trained_missing: Mapping[str, float] | None = None
    ) -> None:
        self._metrics = metrics
        self._arm = arm
        self._decode_seconds = self._encode_seconds = 0.0
        self._inference_seconds = self._calibration_seconds = self._queue_seconds = 0.0
        self._bids = self._no_bids = self._plain = 0
        self._latencies: list[float] = []
        self._reports: list[BatchReport] = []
        self._is_settle_scheduled = False
        self._unknown_names = metrics.unknown_names_of(arm)
        self._answered = metrics.requests.labels(arm, OK)
        for fault in (ServiceError, InferenceFailed, RowFailed):
            metrics.requests.labels(arm, fault.code)  # shown before it happens
        self._stages = [metrics.stages.labels(arm, stage) for stage in STAGES]
        self._queued_rows = metrics.queued_rows.labels(arm)
        self._bid = metrics.candidates.labels(arm, "bid")
        self._no_bid = metrics.candidates.labels(arm, "no_bid")
        self._by_quality = {quality: Tally(metrics.answers.labels(arm, quality)) for quality in QUALITIES}
        self._by_reason = {reason: Tally(metrics.unscored.labels(arm, reason)) for reason in REASONS}
        self._plain_answered = metrics.plain_requests.labels(arm)
        self._latency = HistogramTally(metrics.latency.labels(arm))
        self._batch_rows = HistogramTally(metrics.batch_rows.labels(arm))
        self._batch_requests = HistogramTally(metrics.batch_requests.labels(arm))
        self._pctr = HistogramTally(metrics.pctr.labels(arm))
        self._failed_rows = metrics.failed_rows.labels(arm)
        self._unknown_ads = Tally(metrics.unknown_ads.labels(arm))
        self._user_lookups = Tally(metrics.user_lookups.labels(arm))
        self._user_is_missing = {
            reason: Tally(metrics.user_is_missing.labels(arm, reason)) for reason in IS_MISSING_REASONS
        }
        self._features = FeatureTally(metrics, arm, schema, trained_missing or {})

    @property
    def missing_shares(self) -> dict[str, float]:
        """The share of the rows of late without a value, by field; empty before the first row."""
        return self._features.shares.served

    def count_request(self, request: MeteredRequest, outcome: str) -> None:
        """Count a request that ended with an answer (OK), or otherwise."""
        if outcome == OK:
            self._latencies.append(perf_counter() - request.started)
            self._bids += request.bids
            self._no_bids += request.no_bids
            self._plain += request.is_plain
            if request.quality != FULL:
                self._by_quality[request.quality].inc()
                self._by_reason[request.reason].inc()
                self._by_quality[FULL].inc(-1)  # which has all answers added when it is published
        else:
            self._metrics.refuse(self._arm, outcome)
        self._decode_seconds += request.decode_seconds
        self._encode_seconds += request.encode_seconds
        if request.unknown_names:
            self._unknown_names.count(request.unknown_names)
        if request.unknown_ads:
            self._unknown_ads.inc(request.unknown_ads)
        if request.user_lookup is not None:
            self._user_lookups.inc()
            if request.user_lookup != FOUND:
                self._user_is_missing[request.user_lookup].inc()

    def count_batch(
        self,
        report: BatchReport,
        batch: BatchRows,
        pctrs: NDArray[np.float64],
        inference_seconds: float,
        calibration_seconds: float,
    ) -> None:
        """Count a batch that has run, and its probabilities [n]."""
        self._reports.append(report)
        # At once: kept arrays would cost more, since each batch would write to memory that is not cached.
        self._pctr.observe_many(pctrs)
        self._features.count(batch)
        self._inference_seconds += inference_seconds
        self._calibration_seconds += calibration_seconds
        if not self._is_settle_scheduled and (
            len(self._reports) > PENDING_BATCHES or len(self._latencies) > PENDING_ANSWERS
        ):
            # Two iterations later: the loop writes this batch's answers, or wakes the tasks that do, first.
            self._is_settle_scheduled = True
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._settle)

    def count_failed_rows(self, rows: int) -> None:
        """Count rows for which the graph has no finite logit; their batch is in no other count."""
        self._failed_rows.inc(rows)

    def publish(self, queued_rows: int) -> None:
        """Add all that was counted to the metrics."""
        self._settle()
        self._queued_rows.set(queued_rows)
        # Both count every answer, so a scrape never sees one without the other.
        answered = self._latency.publish()
        self._answered.inc(answered)
        self._by_quality[FULL].inc(answered)
        for histogram in (self._batch_rows, self._batch_requests, self._pctr):
            histogram.publish()
        seconds = self._decode_seconds, self._encode_seconds, self._queue_seconds
        for counter, amount in zip(
            self._stages, (*seconds, self._inference_seconds, self._calibration_seconds), strict=True
        ):
            counter.inc(amount)
        self._decode_seconds = self._encode_seconds = self._queue_seconds = 0.0
        self._inference_seconds = self._calibration_seconds = 0.0
        self._bid.inc(self._bids)
        self._no_bid.inc(self._no_bids)
        self._plain_answered.inc(self._plain)
        self._bids = self._no_bids = self._plain = 0
        seldom = self._by_quality.values(), self._by_reason.values(), self._user_is_missing.values()
        for tally in (self._unknown_ads, self._user_lookups, *chain(*seldom)):
            tally.publish()
        self._unknown_names.publish()
        self._features.publish()

    def _settle(self) -> None:
        """Sum up single values, so that memory does not grow with the traffic."""
        self._is_settle_scheduled = False
        self._latency.observe_many(np.array(self._latencies))
        self._latencies.clear()
        self._batch_rows.observe_many(np.array([report.rows for report in self._reports], np.float64))
        self._batch_requests.observe_many(np.array([report.callers for report in self._reports], np.float64))
        self._queue_seconds += sum(report.queue_seconds for report in self._reports)
        self._reports.clear()


class FeatureTally:
    """Missing and out-of-vocabulary ids, by field, and whether as many are missing as in training."""

    def __init__(
        self, metrics: Metrics, arm: str, schema: Schema, trained_missing: Mapping[str, float]
    ) -> None:
        names = [field.name for field in schema.fields]
        self.shares = MissingShares(arm, names, trained_missing)
        for name, share in trained_missing.items():
            metrics.trained_missing.labels(arm, name).set(share)
        self._missing = [metrics.missing.labels(arm, name) for name in names]
        self._out_of_vocabulary = [metrics.out_of_vocabulary.labels(arm, name) for name in names]
        roles = [field.role for field in schema.fields for _ in range(field.max_length)]
        self._context, self._candidate = (
            _ColumnTally(np.flatnonzero([each is role for each in roles]))
            for role in (Role.CONTEXT, Role.CANDIDATE)
        )
        # A sequence has several columns: it is missing if the first one is, and any may be out of vocabulary.
        self._first_columns = np.array([schema.column_slices[name].start for name in names], np.intp)
        self._rows = self._requests = 0

    def count(self, batch: BatchRows) -> None:
        """Count the ids of a batch; those of a context once for each of its rows."""
        self._requests += len(batch.contexts)
        self._rows += len(batch.candidates)
        self._context.count(batch.contexts, batch.sizes)
        self._candidate.count(batch.candidates)

    def publish(self) -> None:
        """Add what was counted to the metrics."""
        missing_ids = np.zeros(len(self._context) + len(self._candidate), np.int64)
        unknown_ids = np.zeros_like(missing_ids)
        for tally in (self._context, self._candidate):
            tally.move_to(missing_ids, unknown_ids)
        missing = missing_ids[self._first_columns]
        oov = np.add.reduceat(unknown_ids, self._first_columns)
        self.shares.count(missing, self._rows, self._requests)
        self._rows = self._requests = 0
        for counters, counts in ((self._missing, missing), (self._out_of_vocabulary, oov)):
            for index in np.flatnonzero(counts):
                counters[index].inc(int(counts[index]))


class _ColumnTally:
    """Missing and out-of-vocabulary ids of some columns of a schema."""

    def __init__(self, columns: NDArray[np.intp]) -> None:
        self._columns = columns
        self._missing, self._unknown = np.zeros((2, len(columns)), np.int64)

    def __len__(self) -> int:
        return len(self._columns)

    def count(self, ids: NDArray[np.int32], weights: NDArray[np.int32] | None = None) -> None:
        """Count ids [rows, columns], those of a row as many times as `weights` [rows] says, or once."""
        count_ids(ids, weights, self._missing, self._unknown)

    def move_to(self, missing: NDArray[np.int64], unknown: NDArray[np.int64]) -> None:
        """Move the counts to those of all columns of the schema."""
        missing[self._columns], unknown[self._columns] = self._missing, self._unknown
        self._missing[:] = self._unknown[:] = 0
