"""The table of one log as an HTML page that needs no other file."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.budgets.records import Table
from benchmarks.budgets.tables import HEAD, headline, legend, rows
from export.report.layout import document, figure, section, table
from export.report.plots import AFTER, BEFORE, FAINT, STYLE, as_svg, log_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = ("model", "trial", "recipe", "graph", "AUC, validation", "us", "bytes", "parameters")
# Trials that are farther below the best than this many times what budgets cost are drawn at the edge.
FAR = 3.0


def budgets_page(found: Table) -> str:
    """The best for each budget, AUC against both costs, and every trial that is on the front of its model."""
    return document(
        f"{found.log}: the best bundle for each budget",
        [
            f"<h1>{escape(found.log)}: budgets</h1><p class='lead'>{escape(headline(found))}</p>",
            section("For each budget", table(HEAD, rows(found)), f"<p>{escape(legend(found))}</p>"),
            section("AUC against what it costs", figure(_figure(found)), _how_to_read()),
            section("Trials", _trials(found)),
            section("Failures", _failures(found)) if found.failures else "",
        ],
    )


def _figure(found: Table) -> str:
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(9.6, 3.8), layout="constrained")
        left, right = drawn.subplots(1, 2, sharey=True)
        chosen = {(one.entry.model, one.entry.trial) for one in found.best}
        for entry in found.entries:
            is_chosen = (entry.model, entry.trial) in chosen
            color, size = (BEFORE, 6) if is_chosen else (AFTER, 3)
            for axes, cost in ((left, entry.microseconds), (right, entry.bytes / 1e6)):
                axes.plot(cost, entry.auc, "o", color=color, markersize=size, zorder=2 if is_chosen else 1)
                if is_chosen:
                    axes.annotate(
                        entry.model, (cost, entry.auc), (4, 4), textcoords="offset points", fontsize=7
                    )
        for budget in found.budgets:
            if budget.microseconds is not None:
                left.axvline(budget.microseconds, color=FAINT, linewidth=1, linestyle=":", zorder=0)
            if budget.bytes is not None:
                right.axvline(budget.bytes / 1e6, color=FAINT, linewidth=1, linestyle=":", zorder=0)
        left.set(xlabel=f"microseconds a candidate of {found.candidates}", ylabel="AUC, validation part")
        right.set_xlabel("megabytes of the graph")
        for axes in (left, right):
            log_axis(axes)
        _limit_heights(left, found)
        return as_svg(drawn)


def _limit_heights(axes: Axes, found: Table) -> None:
    best = [one.entry.auc for one in found.best]
    depth = max(best) - min(best)
    if depth > 0:
        axes.set_ylim(max(best) - FAR * depth, max(best) + 0.2 * depth)


def _how_to_read() -> str:
    return (
        "<p>A dot is a trial that no other of its model beats; orange: the best for a budget; dotted: the "
        "budgets. Dots far below are not shown.</p>"
    )


def _trials(found: Table) -> str:
    ordered = sorted(found.entries, key=lambda one: -one.auc)
    cells = [
        [
            one.model, one.trial, one.recipe, one.graph, f"{one.auc:.5f}", f"{one.microseconds:.2f}",
            f"{one.bytes:,}", f"{one.parameters:,}",
        ]
        for one in ordered
    ]  # fmt: skip
    return f"<details><summary>{len(cells)} trials</summary>{table(SHOWN, cells)}</details>"


def _failures(found: Table) -> str:
    return "".join(f"<p>{escape(one.model)}: {escape(one.reason)}</p>" for one in found.failures)
