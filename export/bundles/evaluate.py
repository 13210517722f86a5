"""The command evaluate: every metric of a bundle on a labelled log, where it is good, and what changed."""

from __future__ import annotations

import time

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.bundles.collect import Collected, collect, shifts
from export.bundles.drawn import DrawnEvaluation
from export.bundles.files import Say, check_out_folder, hand_over
from export.bundles.grouping import Grouping
from export.bundles.plan import EvaluatePlan
from export.bundles.reading import tell
from export.bundles.records import Evaluation, GroupQuality, Groups, Quality, Subject
from export.bundles.scorer import Scorer
from export.judge.bootstrap import metric_intervals, with_intervals
from export.judge.metrics import evaluate, is_evidence, sigmoid
from export.report.findings import FieldSummary, pctr_histogram, reliability
from service.bundle.manifest import Metrics
from service.bundle.store import Bundle, load_bundle

REPORT = "report/report.json"
MOST_VALUES = 20
# There may be many groups, so each is resampled in fewer rows than the whole.
MOST_GROUP_ROWS = 20_000
# What is told of a field, and of PCOC: changes by this much.
MOVED_SHARE, PCOC_TOLERANCE = 0.1, 0.1
FIELDS_TOLD = 5


def evaluate_bundle(plan: EvaluatePlan, *, say: Say = print) -> Evaluation:
    """The bundle of the plan on its log: tables for people, then a line of JSON; a page where one is wanted.

    pCTRs are judged in the log's own distribution. Raises ExportError, BundleError, OSError.
    """
    from export.bundles.evaluation_page import evaluation_page
    from export.bundles.tables import evaluation_lines

    started = time.perf_counter()
    if plan.out is not None:
        check_out_folder(plan.out)
    bundle = load_bundle(plan.bundle)
    scorer = Scorer(bundle, plan.variant, log_rate=plan.sampling_rate)
    groupings = [Grouping(name, bundle.schema) for name in dict.fromkeys(plan.by)]
    found = collect(plan, scorer, groupings=groupings)
    tell(plan, f"judging {found.log.rows:,} rows")
    evaluation, drawn = _judged(scorer, found, groupings, started)
    lines = evaluation_lines(evaluation)
    hand_over(evaluation, lines, lambda: evaluation_page(evaluation, drawn), plan.out, "evaluate", say)
    return evaluation


def subject_of(scorer: Scorer) -> Subject:
    manifest = scorer.bundle.manifest
    return Subject(manifest.id, scorer.variant, manifest.model.name, manifest.created_at)


def _judged(
    scorer: Scorer, found: Collected, groupings: list[Grouping], started: float
) -> tuple[Evaluation, DrawnEvaluation]:
    manifest, raw = scorer.bundle.manifest, sigmoid(found.logits)
    calibrated = quality_of(found.labels, found.pctr, found.true_pctr)
    uncalibrated = quality_of(found.labels, raw, found.true_pctr)
    evaluation = Evaluation(
        subject=subject_of(scorer),
        log=found.log,
        calibrated=calibrated,
        uncalibrated=uncalibrated,
        at_export=manifest.evaluation.get(scorer.variant),
        at_export_uncalibrated=manifest.uncalibrated.get(scorer.variant),
        notes=(),
        warnings=(),
        days=_days(found, raw),
        by={one.column: _groups(one, found, raw) for one in groupings},
        fields=shifts(scorer, found, _shares_at_export(scorer.bundle)),
        seconds=0.0,
    )
    drawn = DrawnEvaluation(
        reliability(found.labels, raw),
        reliability(found.labels, found.pctr),
        pctr_histogram(found.labels, found.pctr),
    )
    seconds = round(time.perf_counter() - started, 3)
    notes, warnings = _told(evaluation, scorer.is_in_own_distribution)
    return msgspec.structs.replace(evaluation, notes=notes, warnings=warnings, seconds=seconds), drawn


def quality_of(
    labels: NDArray[np.uint8], pctr: NDArray[np.float64], true_pctr: NDArray[np.float32] | None = None
) -> Quality:
    """Every metric of pctr [n], with intervals; `true_pctr` [n] is that of a synthetic log."""
    intervals = metric_intervals(labels, pctr)
    metrics = msgspec.structs.replace(
        evaluate(labels, pctr, true_pctr),
        auc_interval=intervals["auc"],
        logloss_interval=intervals["logloss"],
    )
    return Quality(metrics, intervals)


def _days(found: Collected, raw: NDArray[np.float64]) -> tuple[GroupQuality, ...]:
    return tuple(_quality(name, chosen, found, raw) for name, chosen in found.days())


def _groups(grouping: Grouping, found: Collected, raw: NDArray[np.float64]) -> Groups:
    """The values with the most rows."""
    codes = grouping.codes
    seen, rows = np.unique(codes, return_counts=True)
    shown = seen[np.argsort(-rows, kind="stable")][:MOST_VALUES]
    names = grouping.names(shown.tolist())
    return Groups(
        values=len(seen),
        shown=tuple(_quality(names[int(code)], codes == code, found, raw) for code in shown),
    )


def _quality(
    name: str, chosen: NDArray[np.bool_], found: Collected, raw: NDArray[np.float64]
) -> GroupQuality:
    labels, pctr = found.labels[chosen], found.pctr[chosen]
    rows, clicks = len(labels), int(labels.sum())
    before, after = (float(one.sum() / clicks) if clicks else None for one in (raw[chosen], pctr))
    metrics: Metrics | None = None
    if 0 < clicks < rows:
        metrics = with_intervals(labels, pctr, evaluate(labels, pctr), most_rows=MOST_GROUP_ROWS)
    return GroupQuality(name, rows, clicks, before, after, metrics)


class _Fields(msgspec.Struct, frozen=True):
    fields: tuple[FieldSummary, ...] = ()


class _Report(msgspec.Struct, frozen=True):
    """What is read of a bundle's report."""

    data: _Fields = _Fields()


def _shares_at_export(bundle: Bundle) -> dict[str, tuple[float, float]]:
    """By field, missing rows of the training part and unseen values of the test part; empty if not told."""
    if REPORT not in bundle.manifest.files:
        return {}
    try:
        report = msgspec.json.decode((bundle.folder / REPORT).read_bytes(), type=_Report)
    except msgspec.MsgspecError:  # another program's report: it is for people
        return {}
    return {
        one.name: (one.missing["train"], one.unseen["test"])
        for one in report.data.fields
        if "train" in one.missing and "test" in one.unseen
    }


def _told(found: Evaluation, is_in_own_distribution: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is better than at the export beyond noise, and what is worse or moved: notes and warnings."""
    notes, lines = _changes(found, is_in_own_distribution)
    for one in [field for field in found.fields if field.moved >= MOVED_SHARE][:FIELDS_TOLD]:
        parts = [
            f"{share:.1%} {what} here, {before:.1%} {where}"
            for what, share, before, where in (
                ("missing", one.missing, one.missing_before, "in training"),
                ("unseen", one.unseen, one.unseen_before, "in the export's test part"),
            )
            if share is not None and before is not None and abs(share - before) >= MOVED_SHARE
        ]
        lines.append(f"{one.name} moved: {'; '.join(parts)}")
    return tuple(notes), tuple(lines)


def _changes(found: Evaluation, is_in_own_distribution: bool) -> tuple[list[str], list[str]]:
    """Notes and warnings of the metrics. LogLoss depends on the share of non-clicks that a log kept."""
    clicks, rows = found.log.clicks, found.log.rows
    if not is_evidence(clicks, rows):
        few = f"{clicks:,} clicks and {rows - clicks:,} non-clicks are too few to tell a change from luck"
        return [few], []
    notes: list[str] = []
    lines: list[str] = []
    metrics, then = found.calibrated.metrics, found.at_export
    compared = [("AUC", "auc", 1), *([("LogLoss", "logloss", -1)] if is_in_own_distribution else [])]
    for name, key, better in compared:
        old = None if then is None else getattr(then, f"{key}_interval")
        new = found.calibrated.intervals[key]
        if old is None or (new[0] <= old[1] and old[0] <= new[1]):
            continue
        is_better = (new[0] > old[1]) == (better == 1)
        word = "better" if is_better else "worse"
        (notes if is_better else lines).append(
            f"{name} is {word} than on the export's test part beyond noise: {getattr(metrics, key):.4f} "
            f"({new[0]:.4f} to {new[1]:.4f}) against {getattr(then, key):.4f} ({old[0]:.4f} to {old[1]:.4f})"
        )
    low, high = found.calibrated.intervals["pcoc"]
    if abs(metrics.pcoc - 1) > PCOC_TOLERANCE and not low <= 1 <= high:
        word = "high" if metrics.pcoc > 1 else "low"
        lines.append(
            f"bids are too {word} on average: {metrics.pcoc:.3f} times the clicks ({low:.3f} to {high:.3f}); "
            "export again with these rows, or calibrate on them"
        )
    return notes, lines
