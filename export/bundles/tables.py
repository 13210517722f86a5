"""What is found out about bundles as rows of tables, for terminal and page alike."""

from __future__ import annotations

import time

from export.bundles.records import Evaluation, FieldShift, GroupQuality, Groups, NewLog, Quality
from export.report.quality import METRICS
from export.report.text_table import aligned
from service.bundle.manifest import Metrics

FIELDS_SHOWN = 10


def log_line(log: NewLog) -> str:
    """`today.csv: 1,000 rows, 100 clicks (10.00 %), 2026-01-01 00:00 to 2026-01-02 00:00 UTC`."""
    window = " to ".join(time.strftime("%Y-%m-%d %H:%M", time.gmtime(second)) for second in log.window or ())
    skipped = f", {log.skipped_rows:,} malformed rows skipped" if log.skipped_rows else ""
    return (
        f"{log.data}: {log.rows:,} rows, {log.clicks:,} clicks ({log.clicks / log.rows:.2%})"
        f"{', ' + window + ' UTC' if window else ''}{skipped}"
    )


def metric_table(found: Evaluation) -> list[list[str]]:
    """A row for each metric: before and after calibration with intervals, and on the export's test part."""
    head = ["metric", "uncalibrated", "95 %", "calibrated", "95 %"]
    then = (found.at_export_uncalibrated, found.at_export)
    if found.at_export is not None:
        head += ["at export, uncalibrated", "at export, calibrated"]
    rows = [head]
    for key, (name, _) in METRICS.items():
        cells = [name]
        for one in (found.uncalibrated, found.calibrated):
            cells += [f"{getattr(one.metrics, key):.5f}", ends(one, key)]
        if found.at_export is not None:
            cells += [_of(one, key) for one in then]
        rows.append(cells)
    return rows


def best_line(found: Evaluation) -> str:
    """What no model can beat, on a synthetic log; empty on any other."""
    best = found.calibrated.metrics.auc_of_true_pctr
    return "" if best is None else f"AUC of the true click probability, which no model can beat: {best:.4f}"


def ends(quality: Quality, key: str) -> str:
    """The ends of a metric's interval; nothing for ECE."""
    interval = quality.intervals.get(key)
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _of(metrics: Metrics | None, key: str) -> str:
    return "" if metrics is None else f"{getattr(metrics, key):.5f}"


def group_table(name: str, groups: tuple[GroupQuality, ...]) -> list[list[str]]:
    """A row for each group."""
    rows = [[name, "rows", "clicks", "click rate", "AUC", "95 %", "LogLoss", "ECE", "PCOC before", "after"]]
    for one in groups:
        metrics = one.metrics
        cells = ["", "", "", ""]
        if metrics is not None:
            low, high = metrics.auc_interval or (0.0, 1.0)
            cells = [f"{metrics.auc:.4f}", f"{low:.4f} to {high:.4f}", f"{metrics.logloss:.4f}",
                     f"{metrics.ece:.4f}"]  # fmt: skip
        rows.append(
            [one.name, f"{one.rows:,}", f"{one.clicks:,}", f"{one.clicks / one.rows:.2%}", *cells,
             ratio(one.pcoc_before), ratio(one.pcoc_after)]
        )  # fmt: skip
    return rows


def ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def field_table(fields: tuple[FieldShift, ...]) -> list[list[str]]:
    """A row for each field, most moved first."""
    head = ["field", "kind", "role", "missing", "in training", "unseen", "at export"]
    return [head] + [
        [one.name, one.kind, one.role, *(
            share(each) for each in (one.missing, one.missing_before, one.unseen, one.unseen_before)
        )]
        for one in fields
    ]  # fmt: skip


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def title_of(name: str, groups: Groups) -> str:
    """Which of a column's values a table shows."""
    shown = len(groups.shown)
    most = f"the {shown} of {groups.values:,} values with the most rows"
    return f"By {name}" if shown == groups.values else f"By {name}: {most}"


def evaluation_lines(found: Evaluation) -> list[str]:
    """Everything that a terminal shows."""
    subject = found.subject
    lines = [f"{subject.variant} of {subject.bundle} on {log_line(found.log)}", ""]
    lines += aligned(metric_table(found))
    if found.days:
        lines += ["", *aligned(group_table("day", found.days))]
    for name, groups in found.by.items():
        lines += ["", title_of(name, groups), *aligned(group_table(name, groups.shown))]
    fields = field_table(found.fields[:FIELDS_SHOWN])
    more = len(found.fields) - FIELDS_SHOWN
    lines += ["", *aligned(fields), *([f"{more} more fields moved less"] if more > 0 else []), ""]
    best = best_line(found)
    lines += [best] if best else []
    return [*lines, *found.notes, *(f"warning: {text}" for text in found.warnings)]
