"""Draws a replay as SVG: clicks and eCPC by budget and policy. It knows no HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from export.replay.plan import PolicyName
from export.replay.records import Measured, Outcome, Replay
from export.replay.tables import budget_name
from export.report.plots import AFTER, BEFORE, FAINT, INK, STYLE, as_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS: dict[PolicyName, tuple[str, str]] = {
    "constant": (FAINT, "s"),
    "random": (FAINT, "x"),
    "truthful": (INK, "^"),
    "linear": (BEFORE, "o"),
    "ortb": (AFTER, "o"),
    "ortb2": (AFTER, "s"),
    "shading": (AFTER, "^"),
}
"""The colour and the marker of each policy."""


def outcomes_figure(found: Replay) -> str:
    """Clicks, and what one costs (eCPC), by budget: a dot a policy with its interval, over all campaigns."""
    policies = list(dict.fromkeys(one.policy for one in found.total))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.6), layout="constrained")
        clicks, cost = figure.subplots(1, 2)
        for number, policy in enumerate(policies):
            own = [one for one in found.total if one.policy == policy]
            shift = 0.7 * ((number + 0.5) / len(policies) - 0.5)
            _dots(clicks, own, [one.clicks for one in own], shift)
            _dots(cost, own, [one.ecpc for one in own], shift)
        for axes, title in ((clicks, "clicks"), (cost, "eCPC")):
            names = [budget_name(best.divisor) for best in found.best]
            axes.set_xticks(range(len(names)), labels=names)
            axes.set(title=title, xlabel="budget, of all market prices", ylim=(0, None))
        clicks.legend(frameon=False)
        return as_svg(figure)


def _dots(axes: Axes, outcomes: list[Outcome], figures: list[Measured], shift: float) -> None:
    """One policy, a dot a budget."""
    color, marker = LOOKS[outcomes[0].policy]
    places = np.arange(len(figures)) + shift
    for place, one in zip(places, figures, strict=True):
        if one.interval is not None:
            axes.plot([place, place], one.interval, color=color, linewidth=1)
    heights = [np.nan if one.value is None else one.value for one in figures]
    axes.plot(places, heights, marker, color=color, markersize=4, label=outcomes[0].policy)
