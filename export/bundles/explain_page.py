"""Lays an explanation out as one HTML page that needs no other file."""

from __future__ import annotations

from html import escape

import matplotlib as mpl
from matplotlib.figure import Figure

from export.bundles.evaluation_page import rows_table
from export.bundles.explain_tables import importance_table, move_table, row_line
from export.bundles.records import Explanation, Importance
from export.bundles.tables import log_line
from export.report import plots
from export.report.layout import document, figure, section

MOST_DRAWN = 30
ABOUT = (
    "What LogLoss and AUC lose when a field's values are shuffled among the rows, so that they say nothing "
    "any more: the mean of some shuffles, with 95 % paired intervals over the rows. A field whose part "
    "another one can play loses little by itself."
)


def explain_page(found: Explanation) -> str:
    """The whole page: the fields, and the row that was asked for."""
    subject = found.subject
    head = (
        f"<h1>What {escape(subject.bundle)} rests on</h1><p class='lead'>{escape(subject.model)}, "
        f"<b>{escape(subject.variant)}</b>; {escape(log_line(found.log))}; AUC {found.auc:.4f}, LogLoss "
        f"{found.logloss:.4f} of {found.rows:,} rows drawn by chance.</p>"
    )
    table = rows_table(importance_table(found.fields))
    sections = [
        head,
        section("Fields", f"<p>{ABOUT}</p>", figure(importance_figure(found.fields)), table),
    ]
    if found.row is not None:
        about = row_line(found.row)
        moved = rows_table(move_table(found.row))
        sections.append(section("One row", f"<p>{escape(about[:1].upper() + about[1:])}</p>", moved))
    return document(f"{subject.bundle} explained on {found.log.data}", sections)


def importance_figure(fields: tuple[Importance, ...]) -> str:
    """The rise of LogLoss of the most important fields, with its interval."""
    shown = fields[:MOST_DRAWN][::-1]
    with mpl.rc_context(plots.STYLE):
        drawn = Figure(figsize=(9.6, 0.8 + 0.22 * len(shown)), layout="constrained")
        axes = drawn.subplots()
        for place, one in enumerate(shown):
            color = plots.FAINT if one.verdict == "noise" else plots.AFTER
            axes.plot(one.logloss_interval, (place, place), color=color, linewidth=2)
            axes.plot(one.logloss, place, "o", color=color, markersize=5)
        axes.axvline(0, color=plots.FAINT, linewidth=1, zorder=0)
        axes.set_yticks(range(len(shown)), labels=[one.field for one in shown])
        axes.set(xlabel="LogLoss with the field shuffled minus LogLoss", ylim=(-0.6, len(shown) - 0.4))
        return plots.as_svg(drawn)
