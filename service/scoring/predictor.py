"""One arm's bundle at work: request -> ids -> batch -> logits -> pCTR; it knows no HTTP, split or bid."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.bundle.calibration import Calibrator
from service.bundle.encoder import Encoder, InvalidValue
from service.bundle.errors import BundleError
from service.bundle.manifest import Golden, GoldenOutputs, Manifest
from service.bundle.schema_files import is_of_schema
from service.bundle.store import Bundle, load_bundle
from service.errors import InvalidField, ServiceError
from service.features.ads import KnownAds
from service.scoring.batcher import Batcher, BatchReport, Outcome
from service.scoring.graphs import Graphs
from service.scoring.meter import ArmMeter
from service.scoring.rows import BatchRows, Ids, RequestRows
from service.settings import Settings
from service.wire import JSON, PredictRequest, count_rows, decode_request

Probabilities = NDArray[np.float64]
# How many tuples of context names are remembered as known to the schema.
MAX_KNOWN_CONTEXTS = 1024


class Predictor:
    """The encoder, the graph, the calibrator and the queue of one bundle's variant.

    A request is admitted, encoded, submitted and, however it ends, released; `under_way` counts those
    between the two. `meter` is None until traffic may come, so that no metric counts golden rows.
    """

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self.manifest: Manifest = bundle.manifest
        self.folder: Path = bundle.folder
        self.variant = choose_variant(bundle, settings.variant)
        self.encoder: Encoder = bundle.encoder
        self.graphs = Graphs(
            bundle, self.variant, settings.device, shares_context=settings.shared_context == "on"
        )
        self.calibrator: Calibrator = bundle.calibrators[self.variant]
        self.golden: Golden = bundle.golden
        self.meter: ArmMeter | None = None
        self.under_way = 0
        self._batcher = Batcher(
            self._run,
            max_batch_rows=settings.max_batch_rows,
            max_queued_rows=settings.max_queued_rows,
        )
        self._names = self.encoder.context_names, self.encoder.candidate_names
        self._known_contexts: set[tuple[str, ...]] = set()
        self.known_ads = KnownAds(self.encoder)
        # Equal for two bundles if and only if every value has the same ids in both.
        self.schema_digest = tuple(
            entry.sha256 for name, entry in sorted(bundle.manifest.files.items()) if is_of_schema(name)
        )
        self.graphs.warm_up(settings.max_batch_rows)

    @classmethod
    def load(cls, folder: str, settings: Settings) -> Predictor:
        """The predictor of the bundle in `folder`; raises BundleError. Keeps only the variant served."""
        return cls(load_bundle(Path(folder)), settings)

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
    def is_behind(self) -> bool:
        """Whether more rows wait than the next batch takes."""
        return self._batcher.is_behind

    def lacks_context(self, request: PredictRequest) -> bool:
        """Whether the request leaves out a context field, which a feature store may have for its user."""
        return not self._names[0] <= request.context.keys()

    def encode(self, request: PredictRequest, rows: int) -> RequestRows:
        """The ids of the candidates; raises InvalidField with the path of a bad value."""
        try:
            context = self.encoder.encode_context(request.context)
            return self._with_candidates(context, request, rows)
        except InvalidValue as error:
            raise self._refusal(error, request) from None

    def encode_with_user(
        self, request: PredictRequest, rows: int, user: dict[str, Any]
    ) -> tuple[RequestRows, bool]:
        """The same with a user's features, and whether the schema accepts all of these.

        A value in the request wins over the user's, also a null. A user's value that the schema refuses is
        missing.
        """
        given = {**user, **request.context}
        is_valid = True
        while True:
            try:
                context = self.encoder.encode_context(given)
                return self._with_candidates(context, request, rows), is_valid
            except InvalidValue as error:
                if error.field not in given or error.field in request.context:
                    raise self._refusal(error, request) from None
                is_valid = False
                del given[error.field]

    def _with_candidates(self, context: Ids, request: PredictRequest, rows: int) -> RequestRows:
        candidates, catalogue = request.candidates, self.known_ads.catalogue
        unknown_ads = 0
        if catalogue is None:
            if isinstance(candidates, list):
                ids = self.encoder.encode_candidates([candidate.features for candidate in candidates])
            else:
                ids = self.encoder.encode_candidate_columns(candidates.features, rows)
        elif isinstance(candidates, list):
            ids, unknown_ads = self.known_ads.encode_rows(catalogue, candidates)
        else:
            ids, unknown_ads = self.known_ads.encode_columns(catalogue, candidates, rows)
        return RequestRows(context, ids, self.graphs.is_large(rows), unknown_ads)

    def submit_admitted(
        self, rows: RequestRows, deadline: float | None = None, outcome: Outcome | None = None
    ) -> Any:
        """Queue the rows of an admitted request; `outcome`, or else the future returned, gets the pCTRs [n].

        `deadline` is a `perf_counter()`.
        """
        return self._batcher.submit_reserved(rows, deadline, outcome)

    async def score(self, rows: RequestRows) -> Probabilities:
        """The pCTRs [n] of rows that no request was admitted for. Raises Overloaded, InferenceFailed."""
        pctrs: Probabilities = await self._batcher.submit(rows)
        return pctrs

    async def drain(self) -> None:
        """Return when the queue is empty."""
        await self._batcher.drain()

    def publish(self) -> None:
        """Add what was counted to the Prometheus metrics."""
        if self.meter is not None:
            self.meter.publish(self._batcher.queued_rows)

    def unknown_names(self, request: PredictRequest) -> Collection[str]:
        """The names in a request that no field of this bundle has; they have no effect."""
        context, candidate = self._names
        candidates = request.candidates
        sent: Iterable[str]
        if not isinstance(candidates, list):
            sent = candidates.features
        elif len(candidates) == 1:
            sent = candidates[0].features
        else:
            sent = set().union(*[one.features for one in candidates])
        # A client usually sends the same fields in the same order: one look-up finds the tuple of all names.
        given = tuple(request.context)
        if given not in self._known_contexts:
            if not context.issuperset(given):
                return {*given} - context | {*sent} - candidate
            if len(self._known_contexts) < MAX_KNOWN_CONTEXTS:
                self._known_contexts.add(given)
        return () if candidate.issuperset(sent) else {*sent} - candidate

    async def replay_golden(self) -> None:
        """Score the golden rows as requests; raises BundleError naming the first that differs."""
        try:
            await self._replay_golden()
        except ServiceError as error:
            raise self._differs("rows that this service can score", error.message) from error

    async def _replay_golden(self) -> None:
        outputs = self.golden.variants.get(self.variant)
        if outputs is None or not self.golden.rows:
            raise self._differs(f"a golden row or more with outputs of variant {self.variant}", "none")
        requests = [
            decode_request(
                msgspec.json.encode({"context": row.context, "candidates": [{"features": row.candidate}]}),
                JSON,
            )
            for row in self.golden.rows
        ]
        rows = [self.encode(request, count_rows(request.candidates, 1)) for request in requests]
        ids = self.encoder.join(
            np.stack([each.context for each in rows]), np.concatenate([each.candidates for each in rows])
        )
        for index, (found, expected) in enumerate(zip(ids.tolist(), self.golden.ids, strict=True)):
            if tuple(found) != tuple(expected):
                raise self._differs(f"row {index} to give ids {list(expected)}", str(found))
        for is_large in {False, self.graphs.has_shared_context}:
            for each in rows:
                each.is_large = is_large
            alone = np.concatenate([self.graphs.run(BatchRows.of([row])) for row in rows])
            for logits in (alone, self.graphs.run(BatchRows.of(rows))):
                self._check_logits(logits, outputs)
            self._check_pctrs(np.concatenate(await self._score_all(rows)), outputs)

    async def _score_all(self, rows: list[RequestRows]) -> list[Probabilities]:
        """pCTRs of single rows, submitted together as far as the queue has room: they share batches."""
        found: list[Probabilities] = []
        at_once = self._batcher.max_queued_rows
        for start in range(0, len(rows), at_once):
            found += await asyncio.gather(*[self.score(row) for row in rows[start : start + at_once]])
        return found

    def _check_logits(self, logits: NDArray[np.float32], outputs: GoldenOutputs) -> None:
        differences = np.abs(logits.astype(np.float64) - np.array(outputs.logits))
        for index in np.flatnonzero(~(differences <= outputs.logit_tolerance)):
            expected, tolerance = outputs.logits[index], outputs.logit_tolerance
            raise self._differs(
                f"row {index} to give logit {expected} within {tolerance}", str(float(logits[index]))
            )

    def _check_pctrs(self, pctrs: Probabilities, outputs: GoldenOutputs) -> None:
        # Calibration is monotone: a logit within its tolerance has a pCTR between those of both ends.
        logits = np.array(outputs.logits)
        lowest = self.calibrator.pctr(logits - outputs.logit_tolerance) - 1e-9
        highest = self.calibrator.pctr(logits + outputs.logit_tolerance) + 1e-9
        for source, values in (("give", pctrs), ("state", np.array(outputs.pctrs))):
            for index in np.flatnonzero(~((values >= lowest) & (values <= highest))):
                raise self._differs(
                    f"row {index} to {source} a pCTR from {lowest[index]} to {highest[index]}",
                    str(float(values[index])),
                )

    def _differs(self, expected: str, found: str) -> BundleError:
        return BundleError(
            f"{self.folder}/golden.json", expected, found, "build the bundle again on this machine's versions"
        )

    def _refusal(self, error: InvalidValue, request: PredictRequest) -> InvalidField:
        return InvalidField(error.message, path=self._path(error, isinstance(request.candidates, list)))

    def _path(self, error: InvalidValue, as_rows: bool) -> str:
        if error.field in self._names[0]:
            return f"$.context.{error.field}"
        if as_rows:
            return f"$.candidates[{error.row or 0}].features.{error.field}"
        row = "" if error.row is None else f"[{error.row}]"
        return f"$.candidates.features.{error.field}{row}"

    def _run(self, requests: list[RequestRows], report: BatchReport) -> Probabilities:
        """Run one batch: the rows of some requests -> pCTR [n]."""
        meter = self.meter
        started = time.perf_counter()
        batch = BatchRows.of(requests)
        logits = self.graphs.run(batch)
        inferred = time.perf_counter()
        pctrs: Probabilities = self.calibrator.pctr(logits)
        if not math.isfinite(pctrs.sum()):  # finite weights can still overflow
            raise ValueError("the graph must give a number for every row (got nan)")
        if meter is not None:
            calibrated = time.perf_counter()
            meter.count_batch(report, batch, pctrs, inferred - started, calibrated - inferred)
        return pctrs


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
