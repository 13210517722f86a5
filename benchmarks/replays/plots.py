"""Draws what replays have shown, as SVG text; it knows their figures, and no page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.replays.judge import BOUND
from export.report.plots import AFTER, BEFORE, FAINT, INK, STYLE, as_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = (("bundle", BEFORE, "bundle alone"), ("live", AFTER, "with live calibration"))
_OTHERS = (BEFORE, INK, "#8a5fb0", "#4f9d69", AFTER)
# A slice of few clicks has an interval as wide as it likes; the axis shows what matters.
_LEAST, _MOST = 0.45, 2.2
_DAY_HOURS, _LONG_HOURS = 24.0, 72.0


def replay_figure(figures: Mapping[str, Any]) -> str:
    """PCOC by slice without and with live calibration, with intervals, over what the correction adds."""
    lines = [line for line in figures["slices"] if line["bundle"] is not None]
    unit, size = _unit(figures["hours"])
    hours = np.array([line["hour"] for line in lines]) / size
    middles = 0.5 * (hours + np.append(hours[1:], figures["hours"] / size))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.4), layout="constrained")
        pcoc, added = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        pcoc.axhspan(1.0 - BOUND, 1.0 + BOUND, color=FAINT, alpha=0.3, linewidth=0)
        pcoc.axhline(1.0, color=FAINT, linewidth=1)
        seen = []
        for name, color, label in _NAMES:
            values, low, high = np.array([line[name] for line in lines]).T
            pcoc.fill_between(middles, low, high, color=color, alpha=0.18, linewidth=0)
            pcoc.plot(middles, values, "-", color=color, linewidth=1.2, label=label)
            seen += [low, high]
        bottom, top = np.percentile(np.concatenate(seen), [1.0, 99.0])
        pcoc.set(ylabel="PCOC, 95 %", ylim=(max(_LEAST, bottom - 0.03), min(_MOST, top + 0.03)))
        _mark_shift(figures, (pcoc, added), size)
        pcoc.legend(frameon=False, loc="best", ncols=2)
        at = [served["hour"] / size for served in figures["served"]] + [figures["hours"] / size]
        heights = [served["added"] for served in figures["served"]]
        added.step(at, [*heights, heights[-1]], where="post", color=AFTER, linewidth=1.2)
        added.axhline(0.0, color=FAINT, linewidth=1)
        added.set(xlabel=f"{unit} of the replay", ylabel="log-odds added", xlim=(0, figures["hours"] / size))
        return as_svg(figure)


def auctions_figure(runs: Sequence[Mapping[str, Any]], hours: float) -> str:
    """PCOC of all auctions by time, of one strength of rivals, by what is learned from."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.axhspan(1.0 - BOUND, 1.0 + BOUND, color=FAINT, alpha=0.3, linewidth=0)
        axes.axhline(1.0, color=FAINT, linewidth=1)
        for run, color in zip(runs, _OTHERS, strict=False):
            values = run["by_part"]
            places = (np.arange(len(values)) + 0.5) * hours / len(values)
            axes.plot(places, values, "o-", color=color, markersize=3, linewidth=1.2, label=run["learns"])
        axes.set(xlabel="hours of the replay", ylabel="PCOC of all auctions", xlim=(0, hours))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
        return as_svg(figure)


def bias_figure(runs: Sequence[Mapping[str, Any]]) -> str:
    """PCOC of won and of lost auctions by the share that is won, learned from won ones and from explored
    ones."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        titles = ("bundle alone", "learns from won ones", "learns from explored ones")
        for axes, learns, title in zip(panels, ("none", "all", "explored"), titles, strict=True):
            some = sorted((run for run in runs if run["kind"] == learns), key=lambda run: float(run["won"]))
            axes.axhline(1.0, color=FAINT, linewidth=1)
            for key, color, label in (
                ("pcoc_won", BEFORE, "won"),
                ("pcoc_lost", AFTER, "lost"),
                ("pcoc_all", INK, "all"),
            ):
                won = [100 * run["won"] for run in some]
                axes.plot(won, [run[key] for run in some], "o-", color=color, markersize=4, label=label)
            axes.set(title=title, xlabel="auctions won, %", xlim=(0, 100))
        panels[0].set_ylabel("PCOC")
        panels[0].legend(frameon=False)
        return as_svg(figure)


def _unit(hours: float) -> tuple[str, float]:
    return ("days", _DAY_HOURS) if hours > _LONG_HOURS else ("hours", 1.0)


def _mark_shift(figures: Mapping[str, Any], panels: Sequence[Axes], size: float) -> None:
    if (at := figures.get("shift_hour")) is not None:
        for axes in panels:
            axes.axvline(at / size, color=INK, linewidth=1, linestyle=":")
        panels[0].annotate(
            "shift",
            (at / size, 0.0),
            (3, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=INK,
        )
