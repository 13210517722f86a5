"""Four maps from logits to probabilities: identity, Platt's line, beta's bent line, isotonic knots.

Each is fitted on logits and labels; which one is used is decided elsewhere. A map has a shape and a level
(its mean prediction): `at_level` moves the level and leaves the shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
FAR = 30.0

Logits = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Shape:
    """A fitted map, not yet of a graph: one of the four methods and its parameters."""

    method: str
    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    low_slope: float = 1.0  # of beta

    def logits(self, logits: Logits) -> NDArray[np.float64]:
        """Calibrated logits [n] of `logits` [n]."""
        given: NDArray[np.float64] = np.asarray(logits, np.float64)
        if self.method == "beta":
            bent: NDArray[np.float64] = _log_chances(given) @ (self.low_slope, self.slope)
            return bent + self.intercept
        if not self.knots:
            return self.slope * given + self.intercept
        x, y = np.array(self.knots).T
        outside = np.minimum(given - x[0], 0.0) + np.maximum(given - x[-1], 0.0)
        calibrated: NDArray[np.float64] = np.interp(given, x, y) + outside
        return calibrated

    def raised(self, offset: float) -> Shape:
        """The same map with `offset` added to each calibrated logit."""
        if self.knots:
            return replace(self, knots=tuple((x, y + offset) for x, y in self.knots))
        method = "platt" if self.method == "identity" else self.method
        return replace(self, method=method, intercept=self.intercept + offset)

    def after(self, line: Shape) -> Shape:
        """This map of the logits that `line`, the identity or a Platt line, gives."""
        if line.method == "identity" or self.method == "identity":
            return self if line.method == "identity" else line
        if self.knots:
            # A map has slope 1 beyond its knots, the line another one: two far knots carry it on.
            (x, y), *_, (right, top) = self.knots
            knots = ((x - FAR, y - FAR), *self.knots, (right + FAR, top + FAR))
            return replace(self, knots=tuple(((x - line.intercept) / line.slope, y) for x, y in knots))
        intercept = self.slope * line.intercept + self.intercept
        return replace(self, slope=self.slope * line.slope, intercept=intercept)


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
    targets = _smoothed(labels)
    slope, intercept = _newton(logits[:, None], targets, free=(True,))
    if slope < MIN_SLOPE:
        slope, intercept = _newton(logits[:, None], targets, free=(False,))
    return Shape("platt", slope=slope, intercept=intercept)


def fit_line(logits: Logits, labels: Labels, *, slope_share: float) -> Shape:
    """Platt's line with this share, from 0 to 1, of what its slope deviates from 1."""
    if not slope_share:
        return Shape("platt")
    line = fit_platt(logits, labels)
    return replace(line, slope=1 + slope_share * (line.slope - 1))


def fit_beta(logits: Logits, labels: Labels, *, bend_share: float = 1.0, slope_share: float = 1.0) -> Shape:
    """Beta calibration: a ln q - b ln(1 - q) + c of the model's q: of slope a far below q = 1/2, b above.

    a and b stay at MIN_SLOPE or more. With `bend_share` below 1, that share of what they deviate from the
    slope of `fit_line`. Reference: Kull, Silva Filho and Flach, "Beta calibration", AISTATS 2017.
    """
    chances, targets = _log_chances(logits), _smoothed(labels)
    low, high, _ = _newton(chances, targets, free=(True, True))
    if min(low, high) < MIN_SLOPE:
        low, high, _ = _newton(chances, targets, free=(low >= MIN_SLOPE, high >= MIN_SLOPE))
        low, high = max(low, MIN_SLOPE), max(high, MIN_SLOPE)
    line = fit_line(logits, labels, slope_share=slope_share).slope
    low, high = (line + bend_share * (each - line) for each in (low, high))
    rate = float(targets.mean())
    return at_level(Shape("beta", slope=high, low_slope=low), logits, rate)


def _log_chances(logits: Logits) -> NDArray[np.float64]:
    """ln q and -ln(1 - q), [n, 2], of q = sigmoid(logit)."""
    return np.stack([-np.logaddexp(0.0, -logits), np.logaddexp(0.0, logits)], axis=1)


def slope_evidence(logits: Logits, labels: Labels) -> float:
    """Twice the log likelihood that Platt's slope gains over an offset alone, on the smoothed targets."""
    offset = Shape("platt", intercept=offset_to(logits, float(_smoothed(labels).mean())))
    return _evidence(fit_platt(logits, labels), offset, logits, labels)


def bend_evidence(logits: Logits, labels: Labels) -> float:
    """Twice the log likelihood that beta's second slope gains over Platt's line, on the smoothed targets."""
    return _evidence(fit_beta(logits, labels), fit_platt(logits, labels), logits, labels)


def _evidence(rival: Shape, simpler: Shape, logits: Logits, labels: Labels) -> float:
    targets = _smoothed(labels)

    def loss(scores: NDArray[np.float64]) -> float:
        return float(np.sum(np.logaddexp(0.0, scores) - targets * scores))

    return max(0.0, 2 * (loss(simpler.logits(logits)) - loss(rival.logits(logits))))


def _smoothed(labels: Labels) -> NDArray[np.float64]:
    """Platt's targets [n]."""
    clicks = float(labels.sum())
    return np.where(labels == 1, (clicks + 1) / (clicks + 2), 1 / (len(labels) - clicks + 2))


def fit_offset(logits: Logits, labels: Labels) -> tuple[float, float]:
    """The number to add to the logits so that they predict as many clicks as there are; and its variance."""
    clicks = np.clip(
        float(labels.sum()), 0.5, len(labels) - 0.5
    )  # finite without clicks, or with clicks alone
    offset = offset_to(logits, clicks / len(labels))
    pctr = sigmoid(logits + offset)
    return offset, float(1 / (pctr * (1 - pctr)).sum())


def at_level(shape: Shape, logits: Logits, rate: float) -> Shape:
    """The map with an offset that makes its mean prediction of `logits` the click rate `rate`."""
    return shape.raised(offset_to(shape.logits(logits), rate))


def offset_to(logits: Logits, rate: float) -> float:
    """The number to add to the logits so that their mean probability is `rate`, by bracketed Newton steps."""
    logits = np.asarray(logits, np.float64)
    centre = float(np.log(rate / (1 - rate)))
    low, high = centre - float(logits.max()), centre - float(logits.min())
    offset = min(max(0.0, low), high)
    for _ in range(100):
        pctr = sigmoid(logits + offset)
        excess, steepness = float(pctr.mean()) - rate, float((pctr * (1 - pctr)).mean())
        low, high = (low, offset) if excess > 0 else (offset, high)
        step = excess / steepness if steepness > 0 else np.inf
        proposed = offset - step if low < offset - step < high else (low + high) / 2
        if abs(proposed - offset) < 1e-12:
            break
        offset = proposed
    return float(offset)


def _newton(columns: Logits, targets: NDArray[np.float64], *, free: tuple[bool, ...]) -> list[float]:
    """The slope of each column [n, k] and the intercept, of least log loss; what is not free is MIN_SLOPE."""
    features = np.column_stack([columns, np.ones(len(columns))])
    moving = np.array([*free, True])
    weights = np.where(moving, 1.0, MIN_SLOPE)
    weights[-1] = 0.0

    def loss(candidate: NDArray[np.float64]) -> float:
        scores = features @ candidate
        return float(np.mean(np.logaddexp(0.0, scores) - targets * scores))

    current = loss(weights)
    for _ in range(100):
        probabilities = sigmoid(features @ weights)
        moved = features[:, moving]
        gradient = moved.T @ (probabilities - targets) / len(targets)
        variances = probabilities * (1 - probabilities)
        hessian = (moved * variances[:, None]).T @ moved / len(targets) + 1e-12 * np.eye(moved.shape[1])
        step = np.zeros(len(weights))
        step[moving] = np.linalg.solve(hessian, gradient)
        while (proposed := loss(weights - step)) > current and np.abs(step).max() > 1e-12:
            step /= 2
        weights, improved = weights - step, current - proposed
        current = proposed
        if np.abs(step).max() < 1e-10 or improved < 1e-15:
            break
    return [float(weight) for weight in weights]


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
METHODS = ("identity", "platt", "beta", "isotonic")
