"""Lays an evaluation out as one HTML page that needs no other file, in the look of the export report."""

from __future__ import annotations

from html import escape

from export.bundles.drawn import DrawnEvaluation
from export.bundles.records import Evaluation, GroupQuality
from export.bundles.tables import (
    FIELDS_SHOWN,
    best_line,
    field_table,
    group_table,
    log_line,
    metric_table,
    title_of,
)
from export.report import plots
from export.report.findings import RateWindow
from export.report.layout import document, figure, section, table
from export.report.quality import meanings

ABOUT_FIELDS = (
    "The share of rows without a value, beside the training part, and of values without an id of their own, "
    "beside the export's test part; the most moved first. Numbers and hashed fields have no unseen values "
    "that a bundle knows of."
)


def evaluation_page(found: Evaluation, drawn: DrawnEvaluation) -> str:
    """The whole page: the metrics, calibration, days, groups, fields."""
    variant = found.subject.variant
    reliability = plots.reliability_figure({variant: drawn.before}, {variant: drawn.after}, of="this log")
    quality = rows_table(metric_table(found)) + (f"<p>{best_line(found)}.</p>" if best_line(found) else "")
    sections = [
        _head(found),
        section("Quality", quality, meanings(), figure(plots.histogram_figure(drawn.histogram))),
        section("Calibration", figure(reliability)),
        _days(found.days),
        *(
            section(title_of(name, groups), rows_table(group_table(name, groups.shown)))
            for name, groups in found.by.items()
        ),
        _fields(found),
    ]
    return document(f"{found.subject.bundle} on {found.log.data}", [one for one in sections if one])


def rows_table(rows: list[list[str]]) -> str:
    """Rows of text as a table of the page, a head first; a cell without text has a dash."""
    head, *rest = rows
    return table(head, [[cell or None for cell in row] for row in rest])


def told_list(notes: tuple[str, ...], warnings: tuple[str, ...]) -> str:
    noted = "".join(f"<p>{escape(line)}</p>" for line in notes)
    return noted + "".join(f'<p class="warning">{escape(line)}</p>' for line in warnings)


def _head(found: Evaluation) -> str:
    subject = found.subject
    return (
        f"<h1>{escape(subject.bundle)} on {escape(found.log.data)}</h1>"
        f"<p class='lead'>{escape(subject.model)}, <b>{escape(subject.variant)}</b>, built "
        f"{escape(subject.created_at)}; {escape(log_line(found.log))}; 95 % intervals over these rows.</p>"
        f"{told_list(found.notes, found.warnings)}"
    )


def _days(days: tuple[GroupQuality, ...]) -> str:
    if not days:
        return ""
    windows = [
        RateWindow(one.name, "", one.rows, one.clicks, one.pcoc_before, one.pcoc_after) for one in days
    ]
    drawn = figure(plots.rate_figure(windows)) if len(days) > 1 else ""
    return section("By day", drawn, rows_table(group_table("day", days)))


def _fields(found: Evaluation) -> str:
    head, *rows = field_table(found.fields)
    more = rows[FIELDS_SHOWN:]
    folded = f"<details><summary>{len(more)} more fields</summary>{rows_table([head, *more])}</details>"
    shown = rows_table([head, *rows[:FIELDS_SHOWN]])
    return section("Fields: what moved", f"<p>{ABOUT_FIELDS}</p>", shown, folded if more else "")
