"""Figures -> PNG files, where matplotlib is installed; it measures nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from loadtest.rivals.figures import OURS, Best


def write(folder: Path, best: Sequence[Best]) -> list[Path]:
    """The files written: none without matplotlib, or without figures."""
    if importlib.util.find_spec("matplotlib") is None or not best:
        return []
    return [_closed_loop(folder / "rivals.png", best)]


def _closed_loop(file: Path, best: Sequence[Best]) -> Path:
    """Requests a second and p99 over the connections: a column a size of request, a line a contender."""
    from matplotlib.figure import Figure

    sizes = sorted({each.case.candidates for each in best})
    figure = Figure(figsize=(4.2 * len(sizes), 7.0), layout="constrained")
    axes = figure.subplots(2, len(sizes), squeeze=False, sharex=True)
    for column, size in enumerate(sizes):
        for name in dict.fromkeys(each.entry.contender for each in best):
            there = [each for each in best if each.case.candidates == size and each.entry.contender == name]
            there.sort(key=lambda each: each.case.connections)
            connections = [each.case.connections for each in there]
            style = {"label": name, "marker": "o", "linewidth": 2.5 if name == OURS else 1.0}
            axes[0][column].plot(connections, [each.point.requests_a_second for each in there], **style)
            axes[1][column].plot(connections, [each.point.p99_ms for each in there], **style)
        axes[0][column].set_title(f"{size} candidate{'s' if size > 1 else ''} a request")
        axes[1][column].set_xlabel("connections")
    axes[0][0].set_ylabel("requests/s")
    axes[1][0].set_ylabel("p99, ms")
    for axis in axes.flat:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.grid(visible=True, alpha=0.3)
    axes[0][0].legend(fontsize="small")
    figure.savefig(file, dpi=120)
    return file
