"""Draws a judged table as SVG text: changes of AUC there and here, and times by rows a batch."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.papers.cells import Table
from benchmarks.papers.judge import Row
from export.report.plots import AFTER, BEFORE, FAINT, INK, STYLE, as_svg


def change_figure(rows: Sequence[Row]) -> str | None:
    """Each row's change of AUC with its interval, and the paper's as a diamond; None without any."""
    shown = [row for row in rows if row.delta is not None][::-1]
    if not shown:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 1.2 + 0.24 * len(shown)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=FAINT, linewidth=1, zorder=0)
        for place, row in enumerate(shown):
            change = row.delta
            assert change is not None
            color = {1: AFTER, 0: "#888888", -1: BEFORE}[change.sign]
            axes.plot((change.low, change.high), (place, place), color=color, linewidth=2)
            axes.plot(change.value, place, "o", color=color, markersize=5)
            if row.paper_delta is not None:
                axes.plot(row.paper_delta, place, "D", color=INK, markersize=4, markerfacecolor="none")
        axes.set_yticks(range(len(shown)), [f"{row.row} − {row.against}" for row in shown])
        axes.set(title="Change of AUC: here with 95 % interval (dot), in the paper (diamond)")
        axes.set_ylim(-0.7, len(shown) - 0.3)
        axes.tick_params(left=False)
        axes.grid(axis="y", color="#eeeeee", linewidth=0.6)
        axes.set_axisbelow(True)
        return as_svg(figure)


def times_figure(table: Table, rows: Sequence[Row]) -> str | None:
    """Milliseconds a batch against its rows, here (lines) and in the paper (dashed); None without any."""
    shown = [row for row in rows if row.milliseconds]
    if not shown:
        return None
    colors = mpl.colormaps["tab20"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 4.4), layout="constrained")
        axes = figure.subplots()
        for number, row in enumerate(shown):
            color = colors(number % 20)
            axes.plot(
                list(table.batches),
                [row.milliseconds[str(batch)] for batch in table.batches],
                "o-",
                color=color,
                markersize=3,
                label=row.row,
            )
            printed = {} if row.paper is None else row.paper.milliseconds
            if len(printed) > 1:
                axes.plot(list(printed), list(printed.values()), "--", color=color, linewidth=0.8)
        axes.set(xscale="log", yscale="log", xlabel="rows a batch", ylabel="milliseconds a batch")
        axes.set_title("Time of a batch: here (solid), in the paper on its machine (dashed)")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        figure.legend(loc="outside right upper", frameon=False, fontsize=7)
        return as_svg(figure)
