"""Draws the report's figures as SVG text. It knows the findings, and no HTML."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from export.report.findings import (
    EvaluationPoint,
    FieldMatrix,
    Findings,
    PctrHistogram,
    RateWindow,
    Reliability,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEFORE, AFTER, INK, FAINT = "#c2703d", "#2a6f97", "#333333", "#bbbbbb"
SMALL_RATES = tuple(digit * 10.0**power for power in range(-6, 0) for digit in (1, 2, 5))
ROUND_RATES = (*SMALL_RATES, 0.8, 0.9, *(1 - 10.0**power for power in range(-2, -7, -1)))
MOST_TICKS = 14
STYLE: Any = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.titlesize": 10,
    "svg.fonttype": "none",
    # Without a salt, ids in the drawing differ at every run, and so does the bundle's version.
    "svg.hashsalt": "bidlight",
}


def reliability_figure(
    befores: Mapping[str, Reliability], afters: Mapping[str, Reliability], *, of: str = "the test part"
) -> str:
    """Click rate against pCTR, before and after calibration, one panel a variant; `of` are the rows."""
    names = list(afters)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * len(names), 3.2), layout="constrained")
        for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
            before, after = befores[name], afters[name]
            top = 1.05 * max(*before.pctr, *before.click_rate, *after.pctr, *after.click_rate)
            axes.plot([0, top], [0, top], color=FAINT, linewidth=1)
            axes.plot(before.pctr, before.click_rate, "o--", color=BEFORE, markersize=3, label="before")
            axes.plot(after.pctr, after.click_rate, "o-", color=AFTER, markersize=3, label="after")
            axes.set(title=name, xlabel="mean pCTR", xlim=(0, top), ylim=(0, top))
        first = figure.axes[0]
        first.set_ylabel(f"click rate on {of}")
        first.legend(frameon=False)
        return as_svg(figure)


def histogram_figure(histogram: PctrHistogram) -> str:
    """The shares of clicks and of non-clicks by pCTR, on an axis of log-odds."""
    edges = np.array(histogram.edges)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.9), layout="constrained")
        axes = figure.subplots()
        for counts, color, label in (
            (histogram.others, BEFORE, "non-clicks"),
            (histogram.clicks, AFTER, "clicks"),
        ):
            shares = 100 * np.array(counts) / max(1, sum(counts))
            named = f"{sum(counts):,} {label}"
            axes.stairs(shares, edges, fill=True, color=color, alpha=0.25)
            axes.stairs(shares, edges, color=color, linewidth=1.2, label=named)
        axes.set_xticks(*_odds_ticks(edges[0], edges[-1]))
        axes.set(xlim=(edges[0], edges[-1]), xlabel="pCTR (log-odds)", ylabel="% of each", ylim=(0, None))
        axes.legend(frameon=False)
        return as_svg(figure)


def _odds_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Places in log-odds, and names, of round pCTRs in a range; every other one where they are crowded."""
    found = [
        (float(np.log(rate / (1 - rate))), f"{rate:g}")
        for rate in ROUND_RATES
        if low <= np.log(rate / (1 - rate)) <= high
    ]
    shown = found[:: -(-len(found) // MOST_TICKS)] if found else []
    return [place for place, _ in shown], [name for _, name in shown]


SHADES = {"validation": 0.06, "calibration": 0.12, "test": 0.2}
"""How dark the windows of held-out parts are."""


def rate_figure(windows: Sequence[RateWindow]) -> str:
    """Click rate, and PCOC before and after calibration, by window; windows of held-out parts are shaded."""
    places = np.arange(len(windows))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        rate, pcoc = figure.subplots(1, 2)
        rate.plot(places, [100 * window.clicks / window.rows for window in windows], "o-", color=INK)
        pcoc.axhline(1.0, color=FAINT, linewidth=1)
        for style, color, label in (("o--", BEFORE, "before"), ("o-", AFTER, "after")):
            values = [getattr(window, f"pcoc_{label}") for window in windows]
            heights = [np.nan if value is None else value for value in values]
            pcoc.plot(places, heights, style, color=color, label=label)
        shown = places[:: -(-len(windows) // 12)]
        for axes in (rate, pcoc):
            for place, window in zip(places, windows, strict=True):
                if shade := SHADES.get(window.part):
                    axes.axvspan(place - 0.5, place + 0.5, color=AFTER, alpha=shade, linewidth=0)
            names = [windows[place].name for place in shown]
            axes.set_xticks(shown, labels=names, rotation=40, ha="right", fontsize=6)
            for line in axes.lines:
                line.set_markersize(3)
        shaded = " (shaded: validation, calibration, test)"
        is_shaded = any(window.part in SHADES for window in windows)
        rate.set(title=f"click rate, %{shaded if is_shaded else ''}")
        pcoc.set(title="PCOC")
        pcoc.legend(frameon=False)
        return as_svg(figure)


def curves_figure(findings: Findings) -> str:
    """Validation LogLoss and AUC, and what share was to be pruned, over the epochs of both."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.9), layout="constrained")
        is_pruned = any(point.sparsity for point in (*findings.training, *findings.pruning))
        loss, auc, *others = figure.subplots(1, 2 + is_pruned)
        start = 0.0
        for points, color, label in (
            (findings.training, BEFORE, "training"),
            (findings.pruning, AFTER, "pruning"),
        ):
            if not points:
                continue
            epochs = [start + point.epoch for point in points]
            loss.plot(epochs, [point.validation_logloss for point in points], "o-", color=color, label=label)
            auc.plot(epochs, [point.validation_auc for point in points], "o-", color=color, label=label)
            for sparsity in others:
                _sparsities(sparsity, epochs, points)
            start = epochs[-1]
        loss.set(title="validation LogLoss", xlabel="epoch")
        auc.set(title="validation AUC", xlabel="epoch")
        loss.legend(frameon=False)
        for sparsity in others:
            sparsity.set(title="share to prune, by the schedule", xlabel="epoch", ylim=(0, 1.02))
            sparsity.legend(frameon=False)
        for line in (*loss.lines, *auc.lines):
            line.set_markersize(3)
        return as_svg(figure)


def _sparsities(axes: Axes, epochs: list[float], points: tuple[EvaluationPoint, ...]) -> None:
    names = sorted({name for point in points for name in point.sparsity})
    for name, style in zip(names, ("-", "--", ":", "-."), strict=False):
        axes.plot(epochs, [point.sparsity.get(name, 0.0) for point in points], style, color=INK, label=name)


def field_matrix_figure(matrix: FieldMatrix, *, title: str) -> str:
    """R as a heat map; a pruned pair is blank."""
    values = np.array(matrix.values, dtype=np.float64)
    strongest = float(np.abs(values).max()) or 1.0
    side = 1.8 + 0.11 * len(matrix.names)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(side + 0.7, side), layout="constrained")
        axes = figure.subplots()
        shown = np.ma.masked_where(values == 0, values)
        image = axes.imshow(shown, cmap="RdBu_r", vmin=-strongest, vmax=strongest, interpolation="none")
        ticks = range(len(matrix.names))
        axes.set_xticks(ticks, labels=matrix.names, rotation=90, fontsize=6)
        axes.set_yticks(ticks, labels=matrix.names, fontsize=6)
        axes.set_title(title)
        figure.colorbar(image, ax=axes, shrink=0.7)
        return as_svg(figure)


def latency_figure(findings: Findings) -> str:
    """Microseconds a row by batch size and variant, on a log scale."""
    sizes = list(findings.latency[0].microseconds_a_row)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        axes = figure.subplots()
        width = 0.8 / len(findings.latency)
        for place, measured in enumerate(findings.latency):
            shade = 0.85 - 0.7 * place / max(1, len(findings.latency) - 1)
            heights = [measured.microseconds_a_row[size] for size in sizes]
            lefts = np.arange(len(sizes)) + place * width
            color = (shade * 0.6, shade * 0.8, shade)
            bars = axes.bar(lefts, heights, width, color=color, label=measured.variant)
            axes.bar_label(bars, fmt="%.3g", fontsize=6)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.set_xticks(np.arange(len(sizes)) + 0.4 - width / 2, labels=sizes)
        axes.set(title="microseconds a row", xlabel="rows a batch")
        axes.legend(frameon=False)
        return as_svg(figure)


def sizes_figure(findings: Findings) -> str:
    """Megabytes of each graph."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        axes = figure.subplots()
        names = list(findings.graph_bytes)
        bars = axes.bar(names, [findings.graph_bytes[name] / 1e6 for name in names], 0.6, color=AFTER)
        axes.bar_label(bars, fmt="%.2f")
        axes.set_title("megabytes a graph")
        return as_svg(figure)


def log_axis(axes: Axes) -> None:
    """Let the horizontal axis be logarithmic, with a few round numbers on it."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def as_svg(figure: Figure) -> str:
    """The figure as an <svg> element for a page, without the XML head that only a file needs."""
    target = io.StringIO()
    figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return re.sub(r"^.*?(?=<svg)", "", target.getvalue(), flags=re.DOTALL)
