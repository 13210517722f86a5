"""The meter through which one arm counts what it does; it knows no metric's buckets, and no request.

Of a client's words only the first few unknown names become labels.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

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

# What is kept one by one at most, but for what comes in two turns of the loop. Counting so many takes 250 us;
# half as many would cost a tenth of that a batch more.
PENDING_ANSWERS = 512
PENDING_BATCHES = 128
PENDING_ROWS = 4096


class ArmMeter:
    """What one arm counts: plain numbers and lists on the request path, which `publish` brings to Prometheus.

    That is at every scrape, now and then, and at the end. The seconds and bids are for the request path to
    raise. `under_way` is how many requests the arm has taken and not ended: while there are any, more may be
    counted. Labelled children are resolved here once: looking one up costs a lock.
    """

    def __init__(self, metrics: Metrics, arm: str, schema: Schema) -> None:
        self.under_way = 0
        self.decode_seconds = self.encode_seconds = 0.0
        self.bids = self.no_bids = 0
        self._inference_seconds = self._calibration_seconds = 0.0
        self._latencies: list[float] = []
        # Of one request that is answered, its seconds: a mere append, the cheapest there is.
        self.count_answered: Callable[[float], None] = self._latencies.append
        self._begun: BatchReport | None = None
        self._batches: list[BatchReport] = []
        self._pending_rows = 0
        self._runs: list[tuple[BatchRows, NDArray[np.float64]]] = []
        self._will_settle = False
        self._arm = arm
        self._unknown_names = metrics.unknown_names
        self._unknown = metrics.unknown_tallies.setdefault(arm, {})
        self._others: Tally | None = None
        self._answered = metrics.requests.labels(arm, "ok")
        self._stages = [metrics.stages.labels(arm, stage) for stage in STAGES]
        self._queued_rows = metrics.queued_rows.labels(arm)
        self._bid = metrics.candidates.labels(arm, "bid")
        self._no_bid = metrics.candidates.labels(arm, "no_bid")
        self._latency = HistogramTally(metrics.latency.labels(arm))
        self._batch_rows = HistogramTally(metrics.batch_rows.labels(arm))
        self._batch_requests = HistogramTally(metrics.batch_requests.labels(arm))
        self._pctr = HistogramTally(metrics.pctr.labels(arm))
        self._queue_seconds = 0.0
        self.unknown_ads = Tally(metrics.unknown_ads.labels(arm))
        self._user_lookups = Tally(metrics.user_lookups.labels(arm))
        self._user_is_missing = {
            reason: Tally(metrics.user_is_missing.labels(arm, reason)) for reason in IS_MISSING_REASONS
        }
        self._features = FeatureTally(metrics, arm, schema)

    def count_batch(self, report: BatchReport) -> None:
        """Take note of a batch that is about to run; it counts once it has."""
        self._begun = report

    def count_run(
        self, batch: BatchRows, pctrs: NDArray[np.float64], inference: float, calibration: float
    ) -> None:
        """Count a batch that ran, its probabilities [n] and seconds; the arrays are kept: let them be."""
        if self._begun is not None:
            self._batches.append(self._begun)
            self._begun = None
        self._runs.append((batch, pctrs))
        self._pending_rows += len(pctrs)
        self._inference_seconds += inference
        self._calibration_seconds += calibration
        if not self._will_settle and (
            self._pending_rows > PENDING_ROWS
            or len(self._runs) > PENDING_BATCHES
            or len(self._latencies) > PENDING_ANSWERS
        ):
            # Its answers shall be out before: what the loop does at once is to write them, or to wake the
            # tasks that do.
            self._will_settle = True
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._settle)

    def count_user(self, is_missing: str | None) -> None:
        """Count a user who was looked up, and why features stayed at their defaults, if they did."""
        self._user_lookups.inc()
        if is_missing is not None:
            self._user_is_missing[is_missing].inc()

    def count_unknown(self, names: Iterable[str]) -> None:
        """Count names that no field has, at most MAX_UNKNOWN_NAMES of them under their own label."""
        for name in names:
            tally = self._unknown.get(name) or self._tally_of_unknown(name)
            tally.inc()

    def _tally_of_unknown(self, name: str) -> Tally:
        """Of a name that has no label of its own yet, or gets none."""
        if len(self._unknown) >= MAX_UNKNOWN_NAMES:
            if self._others is None:
                self._others = Tally(self._unknown_names.labels(self._arm, OTHER_NAMES))
            return self._others
        logger.warning("arm %s: no field is named %s; it is ignored", self._arm, shorten(repr(name), 64))
        tally = Tally(self._unknown_names.labels(self._arm, shorten(name, 64)))
        self._unknown[name] = tally
        return tally

    def _settle(self) -> None:
        """Count what is kept one by one, so that it does not grow with the traffic."""
        self._will_settle = False
        self._latency.observe_many(np.array(self._latencies))
        self._latencies.clear()
        self._batch_rows.observe_many(np.array([report.rows for report in self._batches], np.float64))
        self._batch_requests.observe_many(np.array([report.callers for report in self._batches], np.float64))
        self._queue_seconds += sum(report.queue_seconds for report in self._batches)
        self._batches.clear()
        self._pending_rows = 0
        if self._runs:
            self._pctr.observe_many(np.concatenate([pctrs for _, pctrs in self._runs]))
            self._features.count([batch for batch, _ in self._runs])
            self._runs.clear()

    def publish(self, queued_rows: int) -> None:
        """Bring all that was counted to Prometheus."""
        self._settle()
        self._queued_rows.set(queued_rows)
        # An answer is in both, so a scrape never finds one without the other.
        self._answered.inc(self._latency.publish())
        for histogram in (self._batch_rows, self._batch_requests, self._pctr):
            histogram.publish()
        seconds = self.decode_seconds, self.encode_seconds, self._queue_seconds
        for counter, amount in zip(
            self._stages, (*seconds, self._inference_seconds, self._calibration_seconds), strict=True
        ):
            counter.inc(amount)
        self.decode_seconds = self.encode_seconds = self._queue_seconds = 0.0
        self._inference_seconds = self._calibration_seconds = 0.0
        self._bid.inc(self.bids)
        self._no_bid.inc(self.no_bids)
        self.bids = self.no_bids = 0
        for tally in (self.unknown_ads, self._user_lookups, *self._user_is_missing.values()):
            tally.publish()
        for tally in (*self._unknown.values(), *filter(None, [self._others])):
            tally.publish()
        self._features.publish()


class FeatureTally:
    """Missing and unseen ids, by field."""

    def __init__(self, metrics: Metrics, arm: str, schema: Schema) -> None:
        names = [field.name for field in schema.fields]
        self._missing = [metrics.missing.labels(arm, name) for name in names]
        self._out_of_vocabulary = [metrics.out_of_vocabulary.labels(arm, name) for name in names]
        is_context = [field.role is Role.CONTEXT for field in schema.fields for _ in range(field.max_length)]
        self._context_columns = np.flatnonzero(is_context)
        self._candidate_columns = np.flatnonzero(np.logical_not(is_context))
        # A sequence has several columns: missing if the first is, and each of its elements may be unseen.
        self._first_columns = np.array([schema.column_slices[name].start for name in names], np.intp)
        self._missing_ids = np.zeros(schema.columns, np.int64)
        self._unseen_ids = np.zeros(schema.columns, np.int64)

    def count(self, batches: Sequence[BatchRows]) -> None:
        """Count the ids of some batches; those of a context in each of its rows."""
        contexts = np.concatenate([batch.contexts for batch in batches])
        sizes = np.concatenate([batch.sizes for batch in batches]).astype(np.int64)
        candidates = np.concatenate([batch.candidates for batch in batches])
        for found, value in ((self._missing_ids, MISSING_ID), (self._unseen_ids, OOV_ID)):
            found[self._context_columns] += sizes @ (contexts == value)
            found[self._candidate_columns] += count_in_columns(candidates == value)

    def publish(self) -> None:
        """Bring what was counted to Prometheus."""
        missing = self._missing_ids[self._first_columns]
        unseen = np.add.reduceat(self._unseen_ids, self._first_columns)
        self._missing_ids[:] = 0
        self._unseen_ids[:] = 0
        for counters, counts in ((self._missing, missing), (self._out_of_vocabulary, unseen)):
            for index in np.flatnonzero(counts):
                counters[index].inc(int(counts[index]))
