"""Figures -> PNG files, where matplotlib is installed; it measures nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from loadtest.rivals.figures import OURS, Best
from loadtest.rivals.open_loop import Share


def write(folder: Path, best: Sequence[Best], shares: Sequence[Share] = ()) -> list[Path]:
    """The files written: none without matplotlib, or without figures."""
    if importlib.util.find_spec("matplotlib") is None or not best:
        return []
    files = [_closed_loop(folder / "rivals.png", best)]
    if shares:
        files.append(_open_loop(folder / "open_loop.png", shares))
    return files


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


def _open_loop(file: Path, shares: Sequence[Share]) -> Path:
    """p50 (dashed) and p99 over the requests a second that were asked: a column a size of request."""
    from matplotlib.figure import Figure

    sizes = sorted({share.peak.candidates for share in shares})
    figure = Figure(figsize=(5.0 * len(sizes), 4.5), layout="constrained")
    for axis, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        there = [share for share in shares if share.peak.candidates == size]
        for color, name in enumerate(dict.fromkeys(share.peak.entry.contender for share in there)):
            curve = sorted(
                (share for share in there if share.peak.entry.contender == name),
                key=lambda share: share.percent,
            )
            rates = [share.figures["asked_a_second"] for share in curve]
            style = {"color": f"C{color}", "marker": "o", "linewidth": 2.5 if name == OURS else 1.0}
            axis.plot(rates, [share.figures["p99_ms"] for share in curve], label=f"{name} p99", **style)
            axis.plot(rates, [share.figures["p50_ms"] for share in curve], linestyle="--", **style)
        axis.set_title(f"{size} candidate{'s' if size > 1 else ''} a request")
        axis.set_xlabel("requests/s asked")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.grid(visible=True, alpha=0.3)
        axis.legend(fontsize="small")
        axis.set_ylabel("latency from when it was due, ms (p50 dashed)")
    figure.savefig(file, dpi=120)
    return file
