"""The command diff: two bundles on the same rows: what is better, where they disagree, what they cost."""

from __future__ import annotations

import time
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.bundles.collect import Collected, collect
from export.bundles.disagreement import Disagreements, agreement
from export.bundles.drawn import DrawnDiff
from export.bundles.evaluate import MOST_GROUP_ROWS, quality_of, subject_of
from export.bundles.files import Say, check_out_folder, hand_over
from export.bundles.plan import DiffPlan
from export.bundles.reading import tell
from export.bundles.records import Change, DayChange, Diff, Side
from export.bundles.scorer import Scorer, Scores
from export.data.readers import LogChunk
from export.errors import ExportError
from export.graph.runtime import BATCHES, microseconds_a_row, own_rows_scorer
from export.judge.bootstrap import metric_changes
from export.judge.metrics import ece, evaluate, is_evidence, sigmoid
from export.report.findings import reliability
from export.report.machine import machine
from service.bundle.log_odds import log_odds_of
from service.bundle.store import load_bundle

SIDES = ("first", "second")
BETTER = {"auc": 1, "prauc": 1, "rce": 1, "logloss": -1, "ne": -1}
"""The sign of a change for the better; PCOC is best at 1, and ECE's change has no interval."""


def diff_bundles(plan: DiffPlan, *, say: Say = print) -> Diff:
    """The two bundles of the plan on its log: tables for people, a line of JSON, a page where one is wanted.

    The log is read once by each. Raises ExportError, BundleError, OSError.
    """
    from export.bundles.diff_page import diff_page
    from export.bundles.diff_tables import diff_lines

    started = time.perf_counter()
    if plan.out is not None:
        check_out_folder(plan.out)
    scorers = _scorers(plan)
    heads = [_Head(), _Head()]
    first = collect(plan, scorers[0], watch=heads[0].add)
    disagreements = Disagreements(first, scorers[1].bundle.schema)

    def watch(chunk: LogChunk, scores: Scores) -> None:
        heads[1].add(chunk, scores)
        disagreements.add(chunk, scores)

    second = collect(plan, scorers[1], watch=watch)
    one, other, left_out = _paired(first, second)
    tell(plan, f"judging {len(one.lines):,} rows")
    times = _times(scorers, heads)
    found = Diff(
        first=_side(scorers[0], one, times[SIDES[0]]),
        second=_side(scorers[1], other, times[SIDES[1]]),
        log=one.log,
        rows_left_out=left_out,
        changes=changes_of(one.labels, one.pctr, other.pctr),
        days=_days(one, other),
        agreement=agreement(one.pctr, other.pctr),
        values=disagreements.values(),
        machine=machine(),
        seconds=round(time.perf_counter() - started, 3),
    )
    lines = diff_lines(found)
    hand_over(found, lines, lambda: diff_page(found, _drawn(one, other)), plan.out, "diff", say)
    return found


def _scorers(plan: DiffPlan) -> tuple[Scorer, Scorer]:
    """Both judged in the distribution of the one log. Raises ExportError where that is not known."""
    variants = (None, None) if not plan.variants else (plan.variants[0], plan.variants[-1])
    scorers = [
        Scorer(load_bundle(folder), variant, log_rate=plan.sampling_rate)
        for folder, variant in zip(plan.bundles, variants, strict=True)
    ]
    rates = [one.bundle.calibrators[one.variant].sampling_rate for one in scorers]
    if plan.sampling_rate is None and rates[0] != rates[1]:
        raise ExportError(
            "'sampling_rate' must be given where the bundles' logs kept different shares of the non-clicks "
            f"(got {rates[0]:g} and {rates[1]:g}); say what this log kept with --sampling-rate"
        )
    return scorers[0], scorers[1]


class _Head:
    """The ids of the first rows, to time a graph on."""

    def __init__(self) -> None:
        self.ids: NDArray[np.int32] | None = None

    def add(self, chunk: LogChunk, scores: Scores) -> None:
        if self.ids is None or len(self.ids) < max(BATCHES):
            known = [] if self.ids is None else [self.ids]
            self.ids = np.concatenate([*known, scores.ids])[: max(BATCHES)]


def _paired(first: Collected, second: Collected) -> tuple[Collected, Collected, int]:
    """The rows that both have, and how many only one of them has. Raises ExportError for other labels."""
    _, here, there = np.intersect1d(first.lines, second.lines, assume_unique=True, return_indices=True)
    left_out = len(first.lines) + len(second.lines) - 2 * len(here)
    one, other = _rows(first, here), _rows(second, there)
    if not np.array_equal(one.labels, other.labels):
        row = int(one.lines[int(np.argmax(one.labels != other.labels))])
        raise ExportError(
            f"'label' must mean the same to both bundles (got another one for row {row}); name one schema "
            "for both with --schema"
        )
    return one, other, left_out


def _rows(found: Collected, rows: NDArray[np.intp]) -> Collected:
    if len(rows) == len(found.lines):
        return found
    labels = found.labels[rows]
    log = msgspec.structs.replace(found.log, rows=len(rows), clicks=int(labels.sum()))
    return replace(
        found,
        lines=found.lines[rows],
        labels=labels,
        logits=found.logits[rows],
        pctr=found.pctr[rows],
        timestamps=None if found.timestamps is None else found.timestamps[rows],
        true_pctr=None if found.true_pctr is None else found.true_pctr[rows],
        log=log,
    )


def _times(scorers: tuple[Scorer, Scorer], heads: list[_Head]) -> dict[str, dict[str, float]]:
    """Microseconds a row of both graphs by batch size, each on its own ids, interleaved in one run."""
    timed, rows = {}, np.zeros((1, 1), np.int32)
    for side, scorer, head in zip(SIDES, scorers, heads, strict=True):
        assert head.ids is not None  # a log without rows is an error
        timed[side] = own_rows_scorer(scorer.graph, head.ids)
    return microseconds_a_row(timed, rows)


def _side(scorer: Scorer, found: Collected, times: dict[str, float]) -> Side:
    manifest = scorer.bundle.manifest
    return Side(
        subject=subject_of(scorer),
        quality=quality_of(found.labels, found.pctr),
        parameters=manifest.model.parameters,
        columns=scorer.bundle.schema.columns,
        graph_bytes=len(scorer.graph),
        bundle_bytes=sum(entry.size for entry in manifest.files.values()),
        microseconds_a_row=times,
    )


def changes_of(
    labels: NDArray[np.uint8],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    most_rows: int | None = None,
) -> dict[str, Change]:
    """Every metric of two pCTRs [n] of the same rows, by its name, and what changes."""
    metrics = evaluate(labels, first), evaluate(labels, second)
    can_tell = is_evidence(int(labels.sum()), len(labels))
    found = {}
    for name, change in metric_changes(labels, first, second, most_rows=most_rows).items():
        better = BETTER.get(name, 0) * change.sign if can_tell else 0
        one, other = (getattr(each, name) for each in metrics)
        verdict = {1: "better", -1: "worse", 0: ""}[better]
        found[name] = Change(one, other, change.delta, change.interval, verdict)
    one, other = ece(labels, first), ece(labels, second)
    found["ece"] = Change(one, other, other - one, None, "")
    return found


def _days(first: Collected, second: Collected) -> tuple[DayChange, ...]:
    found = []
    for name, chosen in first.days():
        labels = first.labels[chosen]
        rows, clicks = len(labels), int(labels.sum())
        changes = {}
        if 0 < clicks < rows:
            pctrs = first.pctr[chosen], second.pctr[chosen]
            changes = changes_of(labels, *pctrs, most_rows=MOST_GROUP_ROWS)
        found.append(DayChange(name, rows, clicks, changes))
    return tuple(found)


def _drawn(first: Collected, second: Collected) -> DrawnDiff:
    sides = dict(zip(SIDES, (first, second), strict=True))
    return DrawnDiff(
        before={side: reliability(one.labels, sigmoid(one.logits)) for side, one in sides.items()},
        after={side: reliability(one.labels, one.pctr) for side, one in sides.items()},
        differences=log_odds_of(second.pctr) - log_odds_of(first.pctr),
    )
