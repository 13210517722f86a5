"""Three maps from logits to probabilities, from simple to flexible: identity, Platt's line, isotonic knots.

Each is fitted on logits and labels; which one is used is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.judge.metrics import sigmoid
from export.train.config import TrainConfig
from export.train.prior import correction_line

# Platt's slope may not reach zero: ranks would be lost.
MIN_SLOPE = 1e-3
MAX_KNOTS = 32
# A knot stands for at least this many rows, clicks and non-clicks: its log-odds is then off by about 0.2.
MIN_KNOT_ROWS = 100
MIN_KNOT_CLICKS = 20
MIN_KNOT_GAP = 1e-3

Logits = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Shape:
    """A fitted map, not yet of a graph: one of the three methods and its parameters."""

    method: str
    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()


Fit = Callable[[Logits, Labels], Shape | None]


def fit_identity(logits: Logits, labels: Labels, training: TrainConfig | None = None) -> Shape:
    """No correction, or the known line that undoes what the loss and the sampling of `training` did.

    The line needs no labels. calibration.json has it as a Platt line.
    """
    slope, intercept = correction_line(logits, training) if training else (1.0, 0.0)
    return Shape("identity") if (slope, intercept) == (1.0, 0.0) else Shape("platt", slope, intercept)


def fit_platt(logits: Logits, labels: Labels) -> Shape:
    """Logistic regression of the label on the logit by Newton's method, with Platt's smoothed targets.

    The targets (clicks + 1) / (clicks + 2) and 1 / (non-clicks + 2) keep the line finite on separable rows.
    Where the best slope is not positive, it stays at MIN_SLOPE and the intercept alone is fitted. Reference:
    Platt 1999; Lin, Lin and Weng 2007.
    """
    clicks = float(labels.sum())
    targets = np.where(labels == 1, (clicks + 1) / (clicks + 2), 1 / (len(labels) - clicks + 2))
    line = _newton(logits, targets, free_slope=True)
    if line[0] < MIN_SLOPE:
        line = _newton(logits, targets, free_slope=False)
    return Shape("platt", slope=line[0], intercept=line[1])


def _newton(logits: Logits, targets: NDArray[np.float64], *, free_slope: bool) -> tuple[float, float]:
    """(slope, intercept) of least log loss; the slope stays at MIN_SLOPE unless it is free."""
    features = np.stack([logits, np.ones_like(logits)], axis=1)
    held = 0 if free_slope else 1
    weights = np.array([1.0 if free_slope else MIN_SLOPE, 0.0])

    def loss(candidate: NDArray[np.float64]) -> float:
        scores = features @ candidate
        return float(np.mean(np.logaddexp(0.0, scores) - targets * scores))

    current = loss(weights)
    for _ in range(100):
        probabilities = sigmoid(features @ weights)
        free = features[:, held:]
        gradient = free.T @ (probabilities - targets) / len(targets)
        variances = probabilities * (1 - probabilities)
        hessian = (free * variances[:, None]).T @ free / len(targets) + 1e-12 * np.eye(free.shape[1])
        step = np.zeros(2)
        step[held:] = np.linalg.solve(hessian, gradient)
        while (proposed := loss(weights - step)) > current and np.abs(step).max() > 1e-12:
            step /= 2
        weights, improved = weights - step, current - proposed
        current = proposed
        if np.abs(step).max() < 1e-10 or improved < 1e-15:
            break
    return float(weights[0]), float(weights[1])


def fit_isotonic(logits: Logits, labels: Labels) -> Shape | None:
    """Knots at (mean logit, log-odds of the click rate) of isotonic regression's blocks; None: too few rows.

    Neighbouring blocks are joined until each holds enough rows, clicks and non-clicks. That keeps every rate
    inside (0, 1) and both coordinates strictly increasing, since a mean over later blocks is higher. Between
    knots the map is linear, so scores that one block would tie keep their order.
    """
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(logits, kind="stable")
    sorted_logits, sorted_labels = logits[order], labels[order].astype(np.float64)
    levels = IsotonicRegression().fit_transform(sorted_logits, sorted_labels)
    starts = np.flatnonzero(np.r_[True, np.diff(levels) > 0])
    rows = np.diff(np.r_[starts, len(levels)]).astype(np.float64)
    clicks = np.add.reduceat(sorted_labels, starts)
    sums = np.add.reduceat(sorted_logits, starts)
    knots = _knots(_join(rows, clicks, sums, least_rows=max(MIN_KNOT_ROWS, len(levels) / MAX_KNOTS)))
    return Shape("isotonic", knots=knots) if len(knots) > 1 else None


def _join(
    rows: NDArray[np.float64], clicks: NDArray[np.float64], sums: NDArray[np.float64], *, least_rows: float
) -> list[NDArray[np.float64]]:
    """Groups of neighbouring blocks as (rows, clicks, sum of logits), each large enough for a rate."""
    groups: list[NDArray[np.float64]] = []
    group = np.zeros(3)
    for block in np.stack([rows, clicks, sums], axis=1):
        group = group + block
        if group[0] >= least_rows and group[1] >= MIN_KNOT_CLICKS and group[0] - group[1] >= MIN_KNOT_CLICKS:
            groups.append(group)
            group = np.zeros(3)
    if group[0] and groups:
        groups[-1] = groups[-1] + group
    return groups


def _knots(groups: Sequence[NDArray[np.float64]]) -> tuple[tuple[float, float], ...]:
    """The groups' (mean logit, log-odds), without knots that are too close to the one before."""
    knots: list[tuple[float, float]] = []
    for rows, clicks, total in groups:
        knot = (float(total / rows), float(np.log(clicks / (rows - clicks))))
        if not knots or (knot[0] - knots[-1][0] >= MIN_KNOT_GAP and knot[1] - knots[-1][1] >= MIN_KNOT_GAP):
            knots.append(knot)
    return tuple(knots)


# From simple to flexible: a tie goes to the earlier one.
METHODS: dict[str, Fit] = {
    "identity": fit_identity,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}
