"""What explains a bundle as rows of tables, for terminal and page alike."""

from __future__ import annotations

from export.bundles.records import ExplainedRow, Explanation, Importance
from export.bundles.tables import log_line
from export.report.text_table import aligned


def importance_table(fields: tuple[Importance, ...]) -> list[list[str]]:
    """A row for each field, the most important first."""
    rows = [["field", "kind", "role", "LogLoss", "95 %", "AUC", "95 %", ""]]
    for one in fields:
        cells = [one.field, one.kind, one.role]
        for change, ends in ((one.logloss, one.logloss_interval), (one.auc, one.auc_interval)):
            cells += [f"{change:+.5f}", f"{ends[0]:+.5f} to {ends[1]:+.5f}"]
        rows.append([*cells, "" if one.verdict == "matters" else one.verdict])
    return rows


def row_line(row: ExplainedRow) -> str:
    """What is explained of one row."""
    outcome = "a click" if row.clicked else "no click"
    return (
        f"row {row.row}: pCTR {row.pctr:.3%}, {outcome}; its logit {row.logit:+.4f} is "
        f"{row.logit - row.background_logit:+.4f} off the mean {row.background_logit:+.4f} of the rows it is "
        "held against, by field:"
    )


def move_table(row: ExplainedRow) -> list[list[str]]:
    """A row for each field, the largest moves first."""
    head = ["field", "value", "logit", "standard error"]
    return [head] + [[one.field, one.value, f"{one.logit:+.4f}", f"{one.error:.4f}"] for one in row.moves]


def explanation_lines(found: Explanation) -> list[str]:
    """Everything that a terminal shows."""
    subject = found.subject
    lines = [
        f"{subject.variant} of {subject.bundle} on {log_line(found.log)}",
        f"AUC {found.auc:.4f}, LogLoss {found.logloss:.4f} of {found.rows:,} rows; with a field shuffled:",
        "",
        *aligned(importance_table(found.fields)),
        "",
    ]
    if found.row is not None:
        lines += [row_line(found.row), "", *aligned(move_table(found.row)), ""]
    return lines
