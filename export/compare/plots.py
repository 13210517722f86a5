"""Draws a comparison of models as SVG text: AUC with its intervals, and against what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from export.compare.records import Comparison, Row
from export.report.plots import AFTER, BEFORE, FAINT, INK, STYLE, as_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Positions of a label around its dot, in points, best first: (x, y, horizontal alignment).
PLACES = (
    (5, -3, "left"), (-5, -3, "right"), (0, 6, "center"), (0, -12, "center"), (5, 6, "left"),
    (-5, 6, "right"), (5, -12, "left"), (-5, -12, "right"), (0, 15, "center"), (0, -21, "center"),
    (14, 12, "left"), (-14, 12, "right"), (14, -18, "left"), (-14, -18, "right"), (0, 24, "center"),
    (0, -30, "center"), (24, 20, "left"), (-24, 20, "right"), (24, -26, "left"), (-24, -26, "right"),
)  # fmt: skip
BESIDE = 8  # of them are so near that the label needs no line to its dot
LABEL_POINTS = 7.5

Box = tuple[float, float, float, float]  # left, bottom, right, top in points


def auc_figure(comparison: Comparison) -> str:
    """Left the AUC of each model, right its difference from the best on the same rows, with intervals."""
    rows = comparison.rows[::-1]
    places = range(len(rows))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.1 + 0.23 * len(rows)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
        for place, row in zip(places, rows, strict=True):
            color = _color(row)
            left.plot(row.auc_interval, (place, place), color=color, alpha=0.35, linewidth=3)
            if len(row.seeds) > 1:
                left.plot(row.auc_by_seed, [place] * len(row.seeds), "|", color=color, markersize=6)
            left.plot(row.auc, place, "o", color=color, markersize=5)
            if row.model != comparison.best:
                delta = row.against_best
                right.plot((delta.low, delta.high), (place, place), color=color, linewidth=2)
            right.plot(row.against_best.delta, place, "o", color=color, markersize=5)
        for row in rows:
            if row.model == comparison.reference:
                left.axvline(row.auc, color=FAINT, linewidth=1, linestyle=":", zorder=0)
        if comparison.auc_of_true_pctr is not None:
            left.axvline(comparison.auc_of_true_pctr, color=INK, linewidth=1, linestyle="--")
            left.text(comparison.auc_of_true_pctr, len(rows) - 0.4, "true pCTR ", ha="right", fontsize=7)
        right.axvline(0, color=FAINT, linewidth=1, zorder=0)
        left.set_yticks(places, labels=[row.model for row in rows])
        left.set(title="AUC on the test part, 95 % interval", ylim=(-0.6, len(rows) - 0.1))
        right.set_title(f"AUC − that of {comparison.best}, 95 % paired interval")
        right.tick_params(left=False)
        for axes in (left, right):
            axes.grid(axis="y", color="#eeeeee", linewidth=0.6)
            axes.set_axisbelow(True)
        return as_svg(figure)


def speed_figure(comparison: Comparison, batch: str) -> str:
    """AUC against microseconds a row in batches of this many rows."""
    costs = {row.model: row.microseconds_a_row[batch] for row in comparison.rows}
    rows = "single rows" if batch == "1" else f"batches of {batch} rows"
    return _tradeoff(comparison.rows, costs, "microseconds a row", f"AUC against speed, {rows}")


def size_figure(comparison: Comparison) -> str:
    """AUC against the megabytes of the graph that serves."""
    costs = {row.model: row.graph_bytes / 1e6 for row in comparison.rows}
    return _tradeoff(comparison.rows, costs, "megabytes of the served graph", "AUC against size")


def _tradeoff(rows: Sequence[Row], costs: Mapping[str, float], cost: str, title: str) -> str:
    """A dot for each model on a log scale of costs, and the line of those that none beats in both."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.6 + min(2.4, 0.06 * len(rows))), layout="constrained")
        axes = figure.subplots()
        frontier = unbeaten({row.model: (costs[row.model], row.auc) for row in rows})
        axes.step(*zip(*frontier, strict=True), where="post", color=FAINT, linewidth=1, zorder=0)
        for row in rows:
            axes.plot(costs[row.model], row.auc, "o", color=_color(row), markersize=4.5)
        axes.set_xscale("log")
        axes.margins(x=0.16, y=0.1)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(title=title, xlabel=cost, ylabel="AUC")
        _few_minor_labels(axes, list(costs.values()))
        _label(figure, axes, {row.model: (costs[row.model], row.auc) for row in rows})
        return as_svg(figure)


def unbeaten(points: Mapping[str, tuple[float, float]]) -> list[tuple[float, float]]:
    """The pairs (cost, AUC) that no other beats in both, cheapest first."""
    found: list[tuple[float, float]] = []
    for cost, auc in sorted(points.values(), key=lambda point: (point[0], -point[1])):
        if not found or auc > found[-1][1]:
            found.append((cost, auc))
    return found


def _few_minor_labels(axes: Axes, costs: Sequence[float]) -> None:
    """Labels between the powers of ten only where the costs span less than two of them."""
    narrow = max(costs) < 100 * min(costs)
    axes.xaxis.set_minor_formatter(
        lambda value, _: f"{value:g}" if narrow and f"{value:.0e}"[0] in "125" else ""
    )


def _label(figure: Figure, axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Names beside the dots, each at the position where it covers least."""
    figure.draw_without_rendering()  # only this fixes where on the paper a dot is
    scale = 72 / figure.dpi
    dots = {name: axes.transData.transform(point) * scale for name, point in points.items()}
    taken: list[Box] = [(x - 3, y - 3, x + 3, y + 3) for x, y in dots.values()]
    paper = axes.get_window_extent()
    inside = tuple(edge * scale for edge in (paper.x0, paper.y0, paper.x1, paper.y1))
    for name, (x, y) in dots.items():
        boxes = [_box(name, x + dx, y + dy, side) for dx, dy, side in PLACES]
        costs = [sum(_overlap(box, other) for other in taken) + _outside(box, inside) for box in boxes]
        best = min(range(len(PLACES)), key=costs.__getitem__)
        dx, dy, side = PLACES[best]
        leader = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 2}
        text = axes.annotate(
            name,
            points[name],
            (dx, dy),
            textcoords="offset points",
            ha=side,
            arrowprops=leader if best >= BESIDE else None,
        )
        text.set(fontsize=LABEL_POINTS, color=INK, in_layout=False)
        taken.append(boxes[best])


def _box(text: str, x: float, y: float, side: str) -> Box:
    width = 0.58 * LABEL_POINTS * len(text)
    left = x - {"left": 0.0, "center": 0.5, "right": 1.0}[side] * width
    return left, y - 1, left + width, y + LABEL_POINTS


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box, paper: Sequence[float]) -> float:
    """How far a label reaches out of the axes, weighted so that such a position is the last resort."""
    left, bottom, right, top = paper
    return 100.0 * (
        max(0.0, left - box[0])
        + max(0.0, box[2] - right)
        + max(0.0, bottom - box[1])
        + max(0.0, box[3] - top)
    )


def _color(row: Row) -> str:
    """By the comparison with the reference: above, below, or neither."""
    sign = 0 if row.against_reference is None else row.against_reference.sign
    return {1: AFTER, 0: "#888888", -1: BEFORE}[sign]
