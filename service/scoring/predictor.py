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
# Ways to name the context's fields, in this order and without those, that are remembered as known.
MAX_KNOWN_CONTEXTS = 1024


class Predictor:
    """The encoder, the graph, the calibrator and the queue of one bundle's variant.

    `meter` is None until traffic may come, so that golden rows are in no metric.
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
        self.batcher = Batcher(
            self._run,
            max_batch_rows=settings.max_batch_rows,
            max_queued_rows=settings.max_queued_rows,
            observe=self._observe,
        )
        self._names = self.encoder.context_names, self.encoder.candidate_names
        self._known_contexts: set[tuple[str, ...]] = set()
        self.known_ads = KnownAds(self.encoder)
        # Equal for two bundles exactly if every value has the same ids in both.
        self.schema_digest = tuple(
            entry.sha256 for name, entry in sorted(bundle.manifest.files.items()) if is_of_schema(name)
        )
        self.graphs.warm_up(settings.max_batch_rows)

    @classmethod
    def load(cls, folder: str, settings: Settings) -> Predictor:
        """The predictor of the bundle in `folder`; raises BundleError. Only the variant served is kept."""
        return cls(load_bundle(Path(folder)), settings)

    def lacks_context(self, request: PredictRequest) -> bool:
        """Whether the request leaves out a context field, which a feature store may know of its user."""
        return not self._names[0] <= request.context.keys()

    def encode(self, request: PredictRequest, rows: int) -> RequestRows:
        """The ids of the candidates; raises InvalidField with the path of a bad value."""
        try:
            context = self.encoder.encode_context(request.context)
            return self._with_candidates(context, request, rows)
        except InvalidValue as error:
            raise self._refusal(error, request) from None

    def encode_with(
        self, request: PredictRequest, rows: int, user: dict[str, Any]
    ) -> tuple[RequestRows, bool]:
        """The same with a user's features, and whether all of them are what the schema says.

        What the request gives itself wins, a null too; one of the user's that is refused is missing.
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
        return RequestRows(context, self._encode_candidates(request, rows), self.graphs.is_large(rows))

    def _encode_candidates(self, request: PredictRequest, rows: int) -> Ids:
        candidates, catalogue = request.candidates, self.known_ads.catalogue
        if catalogue is None:
            if isinstance(candidates, list):
                return self.encoder.encode_candidates([candidate.features for candidate in candidates])
            return self.encoder.encode_candidate_columns(candidates.features, rows)
        if isinstance(candidates, list):
            ids, unknown = self.known_ads.encode_rows(catalogue, candidates)
        else:
            ids, unknown = self.known_ads.encode_columns(catalogue, candidates, rows)
        if unknown and self.meter is not None:
            self.meter.unknown_ads.inc(unknown)
        return ids

    def submit(self, rows: RequestRows, deadline: float | None = None, outcome: Outcome | None = None) -> Any:
        """Queue rows; `outcome`, or else the future returned, gets their pCTRs [n].

        Raises Overloaded for a full queue.
        """
        return self.batcher.submit(rows, deadline=deadline, outcome=outcome)

    def unknown_names(self, request: PredictRequest) -> Collection[str]:
        """The names in a request that no field of this bundle has; they are ignored."""
        context, candidate = self._names
        candidates = request.candidates
        sent: Iterable[str]
        if not isinstance(candidates, list):
            sent = candidates.features
        elif len(candidates) == 1:
            sent = candidates[0].features
        else:
            sent = set().union(*[one.features for one in candidates])
        # A client names the same fields in the same order, and a tuple of them is found as a whole.
        given = tuple(request.context)
        if given not in self._known_contexts:
            if not context.issuperset(given):
                return {*given} - context | {*sent} - candidate
            if len(self._known_contexts) < MAX_KNOWN_CONTEXTS:
                self._known_contexts.add(given)
        return () if candidate.issuperset(sent) else {*sent} - candidate

    async def replay_golden(self) -> None:
        """Send the golden rows the way of every request; raises BundleError naming the first that differs."""
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
            self._check_pctrs(np.concatenate(await self._score_in_turns(rows)), outputs)

    async def _score_in_turns(self, rows: list[RequestRows]) -> list[Probabilities]:
        """pCTRs of single rows, as many in one turn of the loop as the queue holds: they share batches."""
        found: list[Probabilities] = []
        at_once = self.batcher.max_queued_rows
        for start in range(0, len(rows), at_once):
            found += await asyncio.gather(*[self.submit(row) for row in rows[start : start + at_once]])
        return found

    def _check_logits(self, logits: NDArray[np.float32], outputs: GoldenOutputs) -> None:
        differences = np.abs(logits.astype(np.float64) - np.array(outputs.logits))
        for index in np.flatnonzero(~(differences <= outputs.logit_tolerance)):
            expected, tolerance = outputs.logits[index], outputs.logit_tolerance
            raise self._differs(
                f"row {index} to give logit {expected} within {tolerance}", str(float(logits[index]))
            )

    def _check_pctrs(self, pctrs: Probabilities, outputs: GoldenOutputs) -> None:
        # Calibration is monotone: what a logit's tolerance allows a pCTR is between those of both its ends.
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

    def _observe(self, report: BatchReport) -> None:
        if self.meter is not None:
            self.meter.count_batch(report)

    def _run(self, requests: list[RequestRows]) -> Probabilities:
        """One batch: the rows of some requests -> pCTR [n]."""
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
            meter.count_run(batch, pctrs, inferred - started, calibrated - inferred)
        return pctrs


def choose_variant(bundle: Bundle, wanted: str) -> str:
    """The variant to serve: the one asked for, else the bundle's own choice; raises BundleError if absent."""
    variant = wanted or bundle.manifest.serving_variant
    if variant not in bundle.graphs:
        raise BundleError(
            f"{bundle.folder}/manifest.json",
            f"of a bundle with variant {variant}",
            ", ".join(sorted(bundle.graphs)) or "no graph",
            "serve one of these with --variant, or leave it out",
        )
    return variant
