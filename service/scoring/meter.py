"""Counts what one arm does; it knows neither the buckets of a metric nor how requests arrive.

Only the first few unknown names that clients send become labels.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.bundle.schema import MISSING_ID, OOV_ID, Role, Schema
from service.errors import shorten
from service.features.store import IS_MISSING_REASONS
from service.metrics.families import MAX_UNKNOWN_NAMES, OTHER_NAMES, STAGES, Metrics
from service.metrics.tally import HistogramTally, Tally, count_in_columns
from service.scoring.batcher import BatchReport
from service.scoring.rows import BatchRows

logger = logging.getLogger("bidlight")

OK = "ok"
# What `MeteredRequest.user_lookup` is when the store had everything; else it is one of IS_MISSING_REASONS.
FOUND = "found"
# Single values that are kept before they are summed up. Fewer would cost every batch more: summing up has a
# fixed cost.
PENDING_ANSWERS = 512
PENDING_BATCHES = 128
PENDING_ROWS = 4096
# A longer name gets no label of its own: names of clients are kept for as long as the process lives.
MAX_LABEL_CHARACTERS = 64


class MeteredRequest(Protocol):
    """What a meter reads of a request that has ended."""

    started: float
    """When its headers were complete, a perf_counter()."""
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


class ArmMeter:
    """Collects plain numbers on the request path; `publish` adds them to the Prometheus metrics.

    Labelled children are resolved once, here: a lookup takes a lock.
    """

    def __init__(self, metrics: Metrics, arm: str, schema: Schema) -> None:
        self._metrics = metrics
        self._arm = arm
        self._decode_seconds = self._encode_seconds = 0.0
        self._inference_seconds = self._calibration_seconds = self._queue_seconds = 0.0
        self._bids = self._no_bids = self._plain = 0
        self._latencies: list[float] = []
        self._reports: list[BatchReport] = []
        self._pending_rows = 0
        self._runs: list[tuple[BatchRows, NDArray[np.float64]]] = []
        self._is_settle_scheduled = False
        self._unknown = metrics.unknown_tallies.setdefault(arm, {})
        self._other_names: Tally | None = None
        self._answered = metrics.requests.labels(arm, OK)
        self._stages = [metrics.stages.labels(arm, stage) for stage in STAGES]
        self._queued_rows = metrics.queued_rows.labels(arm)
        self._bid = metrics.candidates.labels(arm, "bid")
        self._no_bid = metrics.candidates.labels(arm, "no_bid")
        self._plain_answered = metrics.plain_requests.labels(arm)
        self._latency = HistogramTally(metrics.latency.labels(arm))
        self._batch_rows = HistogramTally(metrics.batch_rows.labels(arm))
        self._batch_requests = HistogramTally(metrics.batch_requests.labels(arm))
        self._pctr = HistogramTally(metrics.pctr.labels(arm))
        self._unknown_ads = Tally(metrics.unknown_ads.labels(arm))
        self._user_lookups = Tally(metrics.user_lookups.labels(arm))
        self._user_is_missing = {
            reason: Tally(metrics.user_is_missing.labels(arm, reason)) for reason in IS_MISSING_REASONS
        }
        self._features = FeatureTally(metrics, arm, schema)

    def count_request(self, request: MeteredRequest, outcome: str) -> None:
        """Count a request that ended with an answer (OK), or with the code of an error."""
        if outcome == OK:
            self._latencies.append(perf_counter() - request.started)
            self._bids += request.bids
            self._no_bids += request.no_bids
            self._plain += request.is_plain
        else:
            self._metrics.refuse(self._arm, outcome)
        self._decode_seconds += request.decode_seconds
        self._encode_seconds += request.encode_seconds
        if request.unknown_names:
            self._count_unknown_names(request.unknown_names)
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
        """Count a batch that has run, and its probabilities [n]. Keeps the arrays: do not change them."""
        self._reports.append(report)
        self._runs.append((batch, pctrs))
        self._pending_rows += len(pctrs)
        self._inference_seconds += inference_seconds
        self._calibration_seconds += calibration_seconds
        if not self._is_settle_scheduled and (
            self._pending_rows > PENDING_ROWS
            or len(self._runs) > PENDING_BATCHES
            or len(self._latencies) > PENDING_ANSWERS
        ):
            # Two iterations later: the loop writes this batch's answers, or wakes the tasks that do, first.
            self._is_settle_scheduled = True
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._settle)

    def publish(self, queued_rows: int) -> None:
        """Add all that was counted to the Prometheus metrics."""
        self._settle()
        self._queued_rows.set(queued_rows)
        # Both count every answer, so a scrape never sees one without the other.
        self._answered.inc(self._latency.publish())
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
        for tally in (self._unknown_ads, self._user_lookups, *self._user_is_missing.values()):
            tally.publish()
        for tally in (*self._unknown.values(), *filter(None, [self._other_names])):
            tally.publish()
        self._features.publish()

    def _count_unknown_names(self, names: Collection[str]) -> None:
        """Count names that no field has, at most MAX_UNKNOWN_NAMES of them under their own label."""
        labelled = self._unknown
        if len(labelled) < MAX_UNKNOWN_NAMES:
            for name in names:
                if name not in labelled and len(name) <= MAX_LABEL_CHARACTERS:
                    self._label(name)
                    if len(labelled) == MAX_UNKNOWN_NAMES:
                        break
        # Not a loop over the names: a client may send a hundred thousand.
        found = [tally for name, tally in labelled.items() if name in names]
        for tally in found:
            tally.inc()
        others = len(names) - len(found)
        if others:
            if self._other_names is None:
                self._other_names = Tally(self._metrics.unknown_names.labels(self._arm, OTHER_NAMES))
            self._other_names.inc(others)

    def _label(self, name: str) -> None:
        """Count a name that is seen for the first time under its own label from now on."""
        logger.warning("arm %s: no field is named %s; it is ignored", self._arm, shorten(repr(name), 64))
        label = shorten(name, MAX_LABEL_CHARACTERS)
        self._unknown[name] = Tally(self._metrics.unknown_names.labels(self._arm, label))

    def _settle(self) -> None:
        """Sum up single values, so that memory does not grow with the traffic."""
        self._is_settle_scheduled = False
        self._latency.observe_many(np.array(self._latencies))
        self._latencies.clear()
        self._batch_rows.observe_many(np.array([report.rows for report in self._reports], np.float64))
        self._batch_requests.observe_many(np.array([report.callers for report in self._reports], np.float64))
        self._queue_seconds += sum(report.queue_seconds for report in self._reports)
        self._reports.clear()
        self._pending_rows = 0
        if self._runs:
            self._pctr.observe_many(np.concatenate([pctrs for _, pctrs in self._runs]))
            self._features.count([batch for batch, _ in self._runs])
            self._runs.clear()


class FeatureTally:
    """Missing and out-of-vocabulary ids, by field."""

    def __init__(self, metrics: Metrics, arm: str, schema: Schema) -> None:
        names = [field.name for field in schema.fields]
        self._missing = [metrics.missing.labels(arm, name) for name in names]
        self._out_of_vocabulary = [metrics.out_of_vocabulary.labels(arm, name) for name in names]
        is_context = [field.role is Role.CONTEXT for field in schema.fields for _ in range(field.max_length)]
        self._context_columns = np.flatnonzero(is_context)
        self._candidate_columns = np.flatnonzero(np.logical_not(is_context))
        # A sequence has several columns: it is missing if the first one is, and any may be out of vocabulary.
        self._first_columns = np.array([schema.column_slices[name].start for name in names], np.intp)
        self._missing_ids = np.zeros(schema.columns, np.int64)
        self._oov_ids = np.zeros(schema.columns, np.int64)

    def count(self, batches: Sequence[BatchRows]) -> None:
        """Count the ids of some batches; those of a context once for each of its rows."""
        contexts = np.concatenate([batch.contexts for batch in batches])
        sizes = np.concatenate([batch.sizes for batch in batches]).astype(np.int64)
        candidates = np.concatenate([batch.candidates for batch in batches])
        for found, value in ((self._missing_ids, MISSING_ID), (self._oov_ids, OOV_ID)):
            found[self._context_columns] += sizes @ (contexts == value)
            found[self._candidate_columns] += count_in_columns(candidates == value)

    def publish(self) -> None:
        """Add what was counted to the Prometheus metrics."""
        missing = self._missing_ids[self._first_columns]
        oov = np.add.reduceat(self._oov_ids, self._first_columns)
        self._missing_ids[:] = 0
        self._oov_ids[:] = 0
        for counters, counts in ((self._missing, missing), (self._out_of_vocabulary, oov)):
            for index in np.flatnonzero(counts):
                counters[index].inc(int(counts[index]))
