"""Draws a search as SVG: the scores of its trials, and how each axis goes with them. It knows no HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from export.report.plots import AFTER, BEFORE, FAINT, STYLE, as_svg, log_axis
from export.tune.records import Found, TrialRecord
from export.tune.tables import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 4
# Scores farther below the best than this many times the median distance are drawn at the edge.
FAR = 6.0


def history_figure(found: Found) -> str:
    """The validation score of each trial, and the best so far."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        axes = figure.subplots()
        _dots(axes, found, [one.number for one in _scored(found)])
        best = np.maximum if found.metric == "auc" else np.minimum
        finished = [one for one in _scored(found) if one.state == "finished"]
        so_far = best.accumulate([one.height for one in finished])
        axes.step([one.number for one in finished], so_far, where="post", color=AFTER, linewidth=1)
        axes.axhline(found.trials[0].height, color=FAINT, linewidth=1, linestyle="--", zorder=0)
        axes.set(title="validation score by trial, best so far (dashed: the defaults)", xlabel="trial")
        axes.set_ylabel(NAMES[found.metric])
        return as_svg(figure)


def slices_figure(found: Found) -> str:
    """The validation score against each value that the search varied, a panel each."""
    names = list(dict.fromkeys(name for one in _scored(found) for name in one.values))
    rows = -(-len(names) // COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 0.3 + 2.1 * rows), layout="constrained")
        panels = np.atleast_1d(figure.subplots(rows, COLUMNS, sharey=True, squeeze=False)).ravel()
        for axes, name in zip(panels, names, strict=False):
            _slice(axes, found, name)
        for axes in panels[len(names) :]:
            axes.remove()
        for axes in panels[::COLUMNS]:
            axes.set_ylabel(NAMES[found.metric])
        return as_svg(figure)


def _slice(axes: Axes, found: Found, name: str) -> None:
    values = [one.values.get(name) for one in _scored(found)]
    given = [value for value in values if value is not None]
    if isinstance(given[0], str):
        words = sorted(set(given))
        values = [None if value is None else words.index(value) for value in values]
        axes.set_xticks(range(len(words)), labels=words)
        axes.set_xlim(-0.5, len(words) - 0.5)
    elif name.endswith("_times") or name.startswith("ftrl"):
        log_axis(axes)
        axes.tick_params(axis="x", labelsize=7)
    elif isinstance(given[0], int):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _dots(axes, found, values)
    axes.set_title(name.replace("_", " "))


def _dots(axes: Axes, found: Found, places: list[Any]) -> None:
    """A dot a trial with a score: filled where it finished, and in another colour for the best."""
    scored = _scored(found)
    for one, place in zip(scored, places, strict=True):
        if place is not None:
            color = BEFORE if one.number == found.best else AFTER
            face = color if one.state == "finished" else "none"
            axes.plot(place, one.height, "o", color=color, markerfacecolor=face, markersize=4.5)
    scores = np.array([one.height for one in scored])
    best = scores.max() if found.metric == "auc" else scores.min()
    reach = FAR * float(np.median(np.abs(scores - best)))
    if reach > 0 and np.abs(scores - best).max() > reach:
        low, high = (best - reach, best) if found.metric == "auc" else (best, best + reach)
        axes.set_ylim(low - 0.05 * reach, high + 0.05 * reach)


def _scored(found: Found) -> list[TrialRecord]:
    return [one for one in found.trials if one.score is not None]
