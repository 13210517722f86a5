"""One arm's bundle at work: request -> ids -> batch -> logits -> pCTR; it knows no HTTP, split or bid."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.calibration import Calibrator
from service.bundle.encoder import Encoder, InvalidValue
from service.bundle.errors import BundleError
from service.bundle.manifest import Golden, Manifest
from service.bundle.native import is_native
from service.bundle.schema_files import is_of_schema
from service.bundle.store import Bundle, load_bundle
from service.calibration.revisions import Revision
from service.features.ads import Catalogue, KnownAds
from service.quality import PRIOR
from service.scoring.batcher import Batcher, BatchReport, Outcome, RowsFailed
from service.scoring.graphs import Graphs
from service.scoring.meter import ArmMeter
from service.scoring.pace import Pace
from service.scoring.prior import prior_scorer
from service.scoring.request_encoder import RequestEncoder
from service.scoring.rows import BatchRows, Column, Ids, RequestRows
from service.settings import Settings
from service.tracing.trace import CALIBRATION, INFERENCE, QUEUE
from service.wire import PredictRequest

if TYPE_CHECKING:
    from service.bundle._native import PlainRequest

logger = logging.getLogger("bidlight")

Probabilities = NDArray[np.float64]


class Predictor:
    """The encoder, the graph, the calibrator and the queue of one bundle's variant.

    A request is admitted, encoded, submitted and, however it ends, released; `under_way` counts those
    between the two. `meter` is None until traffic may come, so that no metric counts golden rows.
    """

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self.manifest: Manifest = bundle.manifest
        self.folder: Path = bundle.folder
        self.variant = choose_variant(bundle, settings.variant)
        self.depends_on_batch = bundle.manifest.graphs[self.variant].is_batch_dependent
        self.encoder: Encoder = bundle.encoder
        self.graphs = Graphs(
            bundle, self.variant, settings.device, shares_context=settings.shared_context == "on"
        )
        self.calibrator: Calibrator = bundle.calibrators[self.variant]
        self._clamps = np.array(self.calibrator.clamp_low), np.array(self.calibrator.clamp_high)
        segment_field = self.calibrator.segment_field
        self._segment_column = None if segment_field is None else Column.of(bundle.schema, segment_field)
        self.golden: Golden = bundle.golden
        # What corrects the pCTRs of requests that are queued from now on.
        self.revision: Revision | None = None
        self._may_revise = settings.live_calibration == "on"
        # Whether results have both pCTRs, and whether a request that waits is traced: most often neither.
        self._gives_both = self._has_traced = False
        self.meter: ArmMeter | None = None
        self.under_way = 0
        self._has_logged_failure = False
        self.max_queued_rows = settings.max_queued_rows
        self._batcher = Batcher(
            self._run,
            max_batch_rows=settings.max_batch_rows,
            max_queued_rows=settings.max_queued_rows,
        )
        # Whether `admit` would let in a request of so many rows.
        self.has_room = self._batcher.has_room
        self.known_ads = KnownAds(self.encoder)
        self._requests = requests = RequestEncoder(
            self.encoder, self.known_ads, self.graphs.is_large, native=is_native(settings.native)
        )
        # On the way of every request: a method here that calls another would cost as much again.
        self.lacks_context, self.unknown_names = requests.lacks_context, requests.unknown_names
        self.encode, self.encode_plain = requests.encode, requests.encode_plain
        self.encode_with_user, self.complete_plain = requests.encode_with_user, requests.complete_plain
        self._prior = prior_scorer(bundle, self.variant, settings, requests.user_id_field)
        # Without a ladder nobody asks how long a batch takes.
        self._pace = Pace() if settings.when_overloaded == PRIOR else None
        # Equal for two bundles if and only if every value has the same ids in both.
        self.schema_digest = tuple(
            entry.sha256 for name, entry in sorted(bundle.manifest.files.items()) if is_of_schema(name)
        )
        self.graphs.warm_up(settings.max_batch_rows)

    @classmethod
    def load(cls, folder: str, settings: Settings) -> Predictor:
        """The predictor of the bundle in `folder`; raises BundleError. Keeps only the variant served."""
        return cls(load_bundle(Path(folder), native=is_native(settings.native)), settings)

    def admit(self, rows: int) -> None:
        """Reserve room for a request of so many rows, before it is encoded. Raises Overloaded."""
        self._batcher.reserve(rows)
        self.under_way += 1

    def release(self, unqueued_rows: int) -> None:
        """End an admitted request; `unqueued_rows` of it were never submitted."""
        self.under_way -= 1
        if unqueued_rows:
            self._batcher.release(unqueued_rows)

    @property
    def stuck_seconds(self) -> float:
        """For how long rows have waited while no batch began; 0 if none waits."""
        return self._batcher.stuck_seconds

    @property
    def is_native(self) -> bool:
        """Whether plain requests are encoded by the native core."""
        return self._requests.is_native

    @property
    def is_behind(self) -> bool:
        """Whether more rows wait than the next batch takes."""
        return self._batcher.is_behind

    def takes_longer(self, rows: int, seconds: float) -> bool:
        """Whether a request of so many rows, queued now, would probably have no result within `seconds`.

        Rows that wait come first.
        """
        pace = self._pace
        return pace is not None and pace.expected(self._batcher.queued_rows + rows) > seconds

    def doubt_pace(self) -> None:
        """A request is not queued because it `takes_longer`: believe that a little less."""
        if self._pace is not None:
            self._pace.doubt()

    def prepare(self, catalogue: Catalogue) -> None:
        """Do what takes long before requests come for a catalogue of this schema; any thread may."""
        if self._prior is not None:
            self._prior.catalogue_of(catalogue)

    def prior(self, request: PredictRequest | PlainRequest, rows: int) -> Probabilities | None:
        """pCTRs [rows] without the model; None for a plain request that must be decoded by Python.

        Raises InvalidField with the path of a bad value, of those that it reads.
        """
        assert self._prior is not None
        try:
            return self._prior.pctrs(request, rows, self.known_ads.catalogue)
        except InvalidValue as error:
            assert isinstance(request, PredictRequest)
            raise self._requests.refusal(error, request) from None

    def submit_admitted(
        self, rows: RequestRows, deadline: float | None = None, outcome: Outcome | None = None
    ) -> Any:
        """Queue the rows of an admitted request; `outcome`, or else the future returned, gets the pCTRs [n].

        With live calibration on it may get [n, 2]: what is to be answered, and the bundle's own.
        `deadline` is a `perf_counter()`.
        """
        if self._may_revise:
            rows.revision = self.revision
            # A request that runs in parts has both of all its rows, whatever comes between its parts.
            self._gives_both |= self.revision is not None or len(rows) > self._batcher.max_batch_rows
        if rows.trace is not None:
            self._has_traced = True
        return self._batcher.submit_reserved(rows, deadline, outcome)

    async def score(self, rows: RequestRows) -> Probabilities:
        """The bundle's own pCTRs [n] of rows that no request was admitted for.

        Raises Overloaded, InferenceFailed.
        """
        pctrs: Probabilities = await self._batcher.submit(rows)
        return pctrs if pctrs.ndim == 1 else pctrs[:, 1]

    def score_at_once(self, requests: Sequence[RequestRows]) -> Probabilities:
        """The bundle's own pCTRs [n] of rows that nobody waits for, past the queue; nan without a number.

        They count as a batch of this arm, unless one of them is nan.
        """
        started = time.perf_counter()
        batch = BatchRows.of(requests)
        logits = self.graphs.run(batch)
        inferred = time.perf_counter()
        pctrs: Probabilities = self.calibrator.pctr(logits, self.segments_of(batch))
        is_number = np.isfinite(logits)
        if not is_number.all():
            pctrs[~is_number] = np.nan
        elif self.meter is not None:
            calibrated = time.perf_counter()
            report = BatchReport(len(pctrs), len(requests), 0.0)
            self.meter.count_batch(report, batch, pctrs, inferred - started, calibrated - inferred)
        return pctrs

    async def drain(self) -> None:
        """Return when the queue is empty."""
        await self._batcher.drain()

    def publish(self) -> None:
        """Add what was counted to the Prometheus metrics."""
        if self.meter is not None:
            self.meter.publish(self._batcher.queued_rows)

    def _run(self, requests: list[RequestRows], report: BatchReport) -> Probabilities:
        """Run one batch: the rows of some requests -> pCTRs [n], or [n, 2] as `submit_admitted` says."""
        meter = self.meter
        started = time.perf_counter()
        batch = BatchRows.of(requests)
        logits = self.graphs.run(batch)
        inferred = time.perf_counter()
        own: Probabilities = self.calibrator.pctr(logits, self.segments_of(batch))
        pctrs = results = own
        if self._gives_both:
            results = self._revised(requests, own)
            pctrs = results[:, 0]
            self._gives_both = self._batcher.queued_rows > 0
        if self._has_traced:
            _note_run(requests, len(batch.candidates), started, inferred)
            self._has_traced = self._batcher.queued_rows > 0
        if self._pace is not None:
            self._pace.count(len(own), time.perf_counter() - started)
        is_number = np.isfinite(logits)  # finite weights can still overflow
        if not is_number.all():
            raise self._failure(results, ~is_number)
        if meter is not None:
            calibrated = time.perf_counter()
            meter.count_batch(report, batch, pctrs, inferred - started, calibrated - inferred)
        return results

    def segments_of(self, batch: BatchRows) -> Ids | None:
        """The ids by which the calibrator has offsets, as it takes them; None if it has none."""
        column = self._segment_column
        return None if column is None else batch.ids_of(column)

    def _revised(self, requests: Sequence[RequestRows], own: Probabilities) -> Probabilities:
        """pCTRs [n, 2] of a batch: each request's by its own revision, and the bundle's `own` [n]."""
        both = np.empty((len(own), 2), order="F")  # each column in one piece
        both[:, 1] = own
        answered = both[:, 0]
        if len(requests) == 1:  # the usual batch
            self._correct(requests[0].revision, own, answered)
            return both
        start = 0
        for revision, alike in groupby(requests, lambda request: request.revision):
            rows = slice(start, start + sum(map(len, alike)))
            self._correct(revision, own[rows], answered[rows])
            start = rows.stop
        return both

    def _correct(self, revision: Revision | None, own: Probabilities, answered: Probabilities) -> None:
        """Write pCTRs [n] by a revision to `answered` [n]."""
        if revision is None:
            answered[:] = own
        else:
            revision.correction.pctrs(own, *self._clamps, out=answered)

    def _failure(self, pctrs: Probabilities, failed: NDArray[np.bool_]) -> RowsFailed:
        """Count rows without a finite logit, and log the first of them."""
        if not self._has_logged_failure:
            self._has_logged_failure = True
            logger.error(
                "%s gives no finite logit for some rows, whose requests fail with row_failed: the weights of "
                "%s overflow there, train it again; this is not logged again",
                self.manifest.id,
                self.folder / self.manifest.graphs[self.variant].file,
            )
        if self.meter is not None:
            self.meter.count_failed_rows(int(np.count_nonzero(failed)))
        return RowsFailed(pctrs, failed)


def _note_run(requests: Sequence[RequestRows], rows: int, started: float, inferred: float) -> None:
    """Tell traced requests when their batch of so many rows began, when it had its logits, and its pCTRs."""
    calibrated = time.perf_counter()
    for request in requests:
        trace = request.trace
        if trace is not None:
            trace.mark(QUEUE, started)
            trace.mark(INFERENCE, inferred, rows)
            trace.mark(CALIBRATION, calibrated)


def choose_variant(bundle: Bundle, wanted: str) -> str:
    """The variant to serve: `wanted`, or if empty the bundle's choice. Raises BundleError if it is absent."""
    variant = wanted or bundle.manifest.serving_variant
    if variant not in bundle.graphs:
        raise BundleError(
            f"{bundle.folder}/manifest.json",
            f"of a bundle with variant {variant}",
            ", ".join(sorted(bundle.graphs)) or "no graph",
            "serve one of these with --variant, or leave it out",
        )
    return variant
