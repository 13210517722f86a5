"""Lays the difference of two bundles out as one HTML page that needs no other file."""

from __future__ import annotations

from html import escape

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from export.bundles.diff_tables import (
    agreement_lines,
    change_table,
    cost_table,
    day_table,
    paired_log_line,
    sides_lines,
    value_table,
)
from export.bundles.drawn import DrawnDiff
from export.bundles.evaluation_page import rows_table
from export.bundles.records import Diff
from export.report import plots
from export.report.layout import document, figure, section
from export.report.quality import meanings

BINS = 60
ABOUT_VALUES = (
    "Values of the second bundle's fields whose rows differ otherwise than all rows do, by at least five "
    "standard errors, the surest first: mean pCTRs of both beside the click rate, the mean difference of "
    "their log-odds, and by how many standard errors it is off that of all rows. Sequences are left out."
)


def diff_page(found: Diff, drawn: DrawnDiff) -> str:
    """The whole page: metrics side by side, days, where they disagree, calibration, what they cost."""
    told = "".join(
        f"<p>{escape(line[:1].upper() + line[1:])}.</p>" for line in agreement_lines(found.agreement)
    )
    measured = f"Measured on {escape(found.machine)}, both graphs interleaved in one run, on one thread."
    values = rows_table(value_table(found.values)) if found.values else "<p>No value stands out.</p>"
    sections = [
        _head(found),
        section("Quality", rows_table(change_table(found.changes)), meanings()),
        section("By day", rows_table(day_table(found.days))) if found.days else "",
        section("How alike they score", told, figure(difference_figure(drawn.differences))),
        section("Where they disagree", f"<p>{ABOUT_VALUES}</p>", values),
        section("Calibration", figure(plots.reliability_figure(drawn.before, drawn.after, of="this log"))),
        section("Size and speed", rows_table(cost_table(found)), f"<p>{measured}</p>"),
    ]
    title = f"{found.first.subject.bundle} and {found.second.subject.bundle} on {found.log.data}"
    return document(title, [one for one in sections if one])


def _head(found: Diff) -> str:
    lines = "".join(f"<p class='lead'>{escape(line)}</p>" for line in sides_lines(found))
    return (
        f"<h1>Two bundles on {escape(found.log.data)}</h1>{lines}"
        f"<p class='lead'>{escape(paired_log_line(found))}; 95 % paired intervals over these rows.</p>"
    )


def difference_figure(differences: NDArray[np.float64]) -> str:
    """The shares of rows by the difference of their log-odds [n]; the outermost bins hold what is beyond."""
    low, high = np.quantile(differences, (0.001, 0.999))
    margin = 0.05 * (high - low) or 0.1
    edges = np.linspace(low - margin, high + margin, BINS + 1)
    shares = 100 * np.histogram(np.clip(differences, edges[0], edges[-1]), edges)[0] / len(differences)
    with mpl.rc_context(plots.STYLE):
        drawn = Figure(figsize=(9.6, 2.6), layout="constrained")
        axes = drawn.subplots()
        axes.stairs(shares, edges, fill=True, color=plots.AFTER, alpha=0.25)
        axes.stairs(shares, edges, color=plots.AFTER, linewidth=1.2)
        axes.axvline(0, color=plots.FAINT, linewidth=1, zorder=0)
        axes.set(xlabel="log-odds of the second minus the first", ylabel="% of rows", ylim=(0, None))
        return plots.as_svg(drawn)
