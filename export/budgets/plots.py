"""Draws a search for a budget as SVG: AUC against microseconds and against bytes. It knows no HTML."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from export.budgets.records import Form, Searched
from export.report.plots import AFTER, BEFORE, FAINT, STYLE, as_svg, log_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Trials whose AUC is farther below the best than this many times the front's spread are drawn at the edge.
FAR = 2.0


def front_figure(found: Searched) -> str:
    """Every trial: filled where no other beats it; orange: the one whose bundle was written."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _panel(
            left, found, lambda form: form.microseconds, found.dense.microseconds, found.limits.microseconds
        )
        left.set(xlabel=f"microseconds a candidate of {found.candidates}", ylabel="AUC, validation part")
        megabytes = None if found.limits.bytes is None else found.limits.bytes / 1e6
        _panel(right, found, lambda form: form.bytes / 1e6, found.dense.bytes / 1e6, megabytes)
        right.set_xlabel("megabytes of the graph")
        _limit_heights(left, found)
        return as_svg(figure)


def _panel(
    axes: Axes, found: Searched, cost: Callable[[Form], float], dense: float, limit: float | None
) -> None:
    for one in found.trials:
        if one.form is not None:
            color = BEFORE if one.number == found.best else AFTER
            face = color if one.number in found.front else "none"
            axes.plot(cost(one.form), one.form.auc, "o", color=color, markerfacecolor=face, markersize=5)
    axes.plot(dense, found.dense.auc, "D", color=FAINT, markersize=6, zorder=0)
    axes.axhline(found.dense.auc, color=FAINT, linewidth=1, linestyle="--", zorder=0)
    if limit is not None:
        axes.axvline(limit, color=BEFORE, linewidth=1, linestyle=":", zorder=0)
    if found.limits.auc_loss is not None:
        lowest = found.dense.auc - found.limits.auc_loss
        axes.axhline(lowest, color=BEFORE, linewidth=1, linestyle=":", zorder=0)
    log_axis(axes)


def _limit_heights(axes: Axes, found: Searched) -> None:
    """Let trials that lose far more than those of the front leave room for the others."""
    front = [one.form.auc for one in found.trials if one.form is not None and one.number in found.front]
    kept = [one.form.auc for one in found.trials if one.form is not None and found.limits.hold(one.form)]
    top = max([found.dense.auc, *front])
    depth = top - min([found.dense.auc, *(kept or front)])
    if found.limits.auc_loss is not None:
        depth = max(depth, found.limits.auc_loss)
    if depth > 0:
        axes.set_ylim(top - FAR * depth, top + 0.1 * depth)
