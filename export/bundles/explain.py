"""The command explain: which fields a bundle's quality rests on, and what moved the logit of one row."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundles.collect import collect
from export.bundles.evaluate import subject_of
from export.bundles.files import Say, check_out_folder, hand_over
from export.bundles.importance import Sample, importances, moves_of
from export.bundles.plan import ExplainPlan
from export.bundles.reading import tell
from export.bundles.records import ExplainedRow, Explanation
from export.bundles.scorer import Scorer, Scores
from export.data.readers import LogChunk
from export.errors import ExportError
from export.judge.metrics import auc, logloss
from service.bundle.store import load_bundle


def explain_bundle(plan: ExplainPlan, *, say: Say = print) -> Explanation:
    """The bundle of the plan by its log: tables for people, a line of JSON, a page where one is wanted.

    Raises ExportError, BundleError, OSError.
    """
    from export.bundles.explain_page import explain_page
    from export.bundles.explain_tables import explanation_lines

    started = time.perf_counter()
    if plan.out is not None:
        check_out_folder(plan.out)
    scorer = Scorer(load_bundle(plan.bundle), plan.variant, log_rate=None)
    sample, wanted = Sample(plan.rows, plan.seed), _Wanted(plan.row)

    def watch(chunk: LogChunk, scores: Scores) -> None:
        if chunk.labels is not None:
            sample.add(scores.ids, chunk.labels)
        wanted.look(chunk, scores)

    log = collect(plan, scorer, watch=watch).log
    if plan.row is not None and wanted.ids is None:
        raise ExportError(
            f"'row' must be a row of {plan.data.name} that is not malformed (got {plan.row}); "
            "`python -m export score` writes the numbers of its rows"
        )
    ids, labels = sample.rows
    if labels.min() == labels.max():
        raise ExportError(
            f"'rows' must draw clicks and non-clicks (got {int(labels.sum()):,} clicks among {len(labels):,} "
            "rows); draw more"
        )
    pctr = scorer.pctr(scorer.logits(ids), ids)
    tell(plan, f"shuffling {len(scorer.bundle.schema.fields)} fields among {len(ids):,} rows")
    found = Explanation(
        subject=subject_of(scorer),
        log=log,
        rows=len(ids),
        auc=auc(labels, pctr),
        logloss=logloss(labels, pctr),
        fields=importances(scorer, ids, labels, plan.seed),
        row=wanted.explained(scorer, ids, plan.seed),
        seconds=round(time.perf_counter() - started, 3),
    )
    hand_over(found, explanation_lines(found), lambda: explain_page(found), plan.out, "explain", say)
    return found


class _Wanted:
    """Looks for one row of the log while it is read."""

    def __init__(self, row: int | None) -> None:
        self.row = row
        self.ids: NDArray[np.int32] | None = None
        self._logit = 0.0
        self._clicked = False
        self._values: dict[str, str] = {}

    def look(self, chunk: LogChunk, scores: Scores) -> None:
        if self.row is None or chunk.labels is None or not chunk.lines[0] <= self.row <= chunk.lines[-1]:
            return
        (places,) = np.nonzero(chunk.lines == self.row)
        for place in places.tolist():
            self.ids = scores.ids[place].copy()
            self._logit = float(scores.logits[place])
            self._clicked = bool(chunk.labels[place])
            self._values = {name: _text(value) for name, value in chunk.fields.row(place, named=True).items()}

    def explained(self, scorer: Scorer, background: NDArray[np.int32], seed: int) -> ExplainedRow | None:
        if self.row is None or self.ids is None:
            return None
        moves, behind = moves_of(scorer, self.ids, background, self._values, seed)
        (pctr,) = scorer.served_pctr(np.array([self._logit], np.float32), self.ids[None])
        return ExplainedRow(self.row, self._clicked, self._logit, float(pctr), behind, moves)


def _text(value: Any) -> str:
    """A typed value for a reader."""
    if value is None:
        return "missing"
    if isinstance(value, list):
        return ", ".join("" if one is None else str(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
