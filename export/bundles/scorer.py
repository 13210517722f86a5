"""A bundle's variant at work on rows of a log, as a service answers: typed fields -> ids -> logits -> pCTRs.

The encoder and the calibrator are those of the service, the graph runs with the service's options. It reads
no log, and needs no PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.encode import encode_chunk
from export.errors import ExportError
from export.graph.runtime import open_session, run_session
from service.bundle.calibration import Calibrator, segments_of
from service.bundle.errors import EXPORT_AGAIN, BundleError
from service.bundle.graph_check import check_graph
from service.bundle.store import Bundle


@dataclass(frozen=True, eq=False)
class Scores:
    """Of rows in their order: ids [n, columns], logits [n], pCTRs [n]."""

    ids: NDArray[np.int32]
    logits: NDArray[np.float32]
    pctr: NDArray[np.float64]


class Scorer:
    """Scores rows by one variant, the bundle's own choice if none is named.

    pCTRs are those that a service answers. With `log_rate`, the share of non-clicks that a log kept, they are
    what that log should show; None is the share that the bundle's own log kept. Raises ExportError for a
    variant that the bundle does not have, BundleError for a graph that does not give the logits of the golden
    rows here.
    """

    def __init__(self, bundle: Bundle, variant: str | None = None, *, log_rate: float | None = 1.0) -> None:
        self.bundle = bundle
        self.variant = variant or bundle.manifest.serving_variant
        if self.variant not in bundle.graphs:
            raise ExportError(
                f"'variant' must be one of {', '.join(sorted(bundle.graphs))} in {bundle.manifest.id} "
                f"(got {self.variant!r}); name one of these, or leave it out"
            )
        self.graph = bundle.graphs[self.variant]
        self._served = bundle.calibrators[self.variant]
        rate = self._served.sampling_rate
        self.is_in_own_distribution = log_rate in (None, rate)
        self._calibrator = msgspec.structs.replace(self._served, sampling_rate=rate / (log_rate or rate))
        self._depends_on_batch = bundle.manifest.graphs[self.variant].is_batch_dependent
        check_graph(self.graph, self._file, depends_on_batch=self._depends_on_batch)
        self._session = open_session(self.graph)
        self._check_golden()

    def score(self, fields: pl.DataFrame, lines: NDArray[np.int64]) -> Scores:
        """Typed fields [n], at `lines` [n] of the log. Raises ExportError for a logit that overflows."""
        ids = encode_chunk(self.bundle.encoder, fields)
        logits = self.logits(ids)
        is_number = np.isfinite(logits)
        if not is_number.all():
            row = int(lines[int(np.argmin(is_number))])
            raise ExportError(
                f"'logits' of {self.bundle.manifest.id} must be finite (got none for row {row}, which a "
                "service refuses too); the model's weights overflow there: train it again"
            )
        return Scores(ids, logits, self.pctr(logits, ids))

    def logits(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Logits [n] of ids [n, columns], whether a row of a log has them or not."""
        return run_session(self._session, ids)

    def pctr(self, logits: NDArray[np.float32], ids: NDArray[np.int32]) -> NDArray[np.float64]:
        """The calibrated probabilities [n] of logits [n] and the ids [n, columns] that gave them."""
        return self._pctr(self._calibrator, logits, ids)

    def served_pctr(self, logits: NDArray[np.float32], ids: NDArray[np.int32]) -> NDArray[np.float64]:
        """The same as a service answers, whatever a log kept."""
        return self._pctr(self._served, logits, ids)

    def _pctr(
        self, calibrator: Calibrator, logits: NDArray[np.float32], ids: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        return calibrator.pctr(logits, segments_of(calibrator, self.bundle.schema, ids))

    @property
    def _file(self) -> str:
        return f"{self.bundle.folder}/{self.bundle.manifest.graphs[self.variant].file}"

    def _check_golden(self) -> None:
        """A service whose graph gives other logits to the golden rows does not get ready."""
        golden = self.bundle.golden.variants[self.variant]
        # A golden row is scored alone, where its logit depends on that.
        ids = np.array(self.bundle.golden.ids, np.int32)
        logits = run_session(self._session, ids, 1) if self._depends_on_batch else self.logits(ids)
        differs = ~(np.abs(logits - np.array(golden.logits)) <= golden.logit_tolerance)
        if differs.any():
            row = int(differs.argmax())
            expected = f"a graph that gives golden row {row} the logit {golden.logits[row]}"
            raise BundleError(self._file, expected, str(float(logits[row])), EXPORT_AGAIN)
