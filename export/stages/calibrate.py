"""Fits the map from a graph's logits to probabilities on held-out rows; knows nothing of graphs or files.

Three candidates, from simple to flexible: identity (what training is known to have done to the odds is
undone, no more), Platt's line on the logit, isotonic knots. Each is judged on rows it was not fitted on
(interleaved folds), and a simpler one gives way only to a clearly better one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.judge.metrics import ece, logloss, pcoc, sigmoid
from export.train.config import TrainConfig
from export.train.prior import correction_line
from service.bundle.calibration import Calibrator, Quality

FOLDS = 5
# Differences below this are ties, which go to the simpler method.
TIE = 1e-5
# A LogLoss gain within a standard error counts when this share of the ECE goes with it.
ECE_SHARE = 0.2
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
    """A fitted map, before it is tied to a graph: one of the three methods and its parameters."""

    method: str
    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Judged:
    """A method's shape, fitted on all rows, and its quality on rows that its fits had not seen."""

    shape: Shape
    quality: Quality
    row_losses: NDArray[np.float64]


Fit = Callable[[Logits, Labels], Shape | None]


def fit_identity(logits: Logits, labels: Labels, training: TrainConfig | None = None) -> Shape:
    """The logits are believed as they are, or as the line says that undoes how the model was trained.

    That line needs no labels: it is known. The sidecar has it as a Platt line.
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
    """(slope, intercept) of least log-loss; the slope is held at MIN_SLOPE unless it is free."""
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
        spread = probabilities * (1 - probabilities)
        hessian = (free * spread[:, None]).T @ free / len(targets) + 1e-12 * np.eye(free.shape[1])
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

    Neighbouring blocks are joined until each holds enough rows, clicks and non-clicks, which keeps every rate
    inside (0, 1) and both coordinates strictly increasing: a mean over later blocks is higher. Between knots
    the map is linear, so that scores which one block would have tied keep their order.
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
    """The groups' (mean logit, log-odds), leaving out a knot too near to the one before it."""
    knots: list[tuple[float, float]] = []
    for rows, clicks, total in groups:
        knot = (float(total / rows), float(np.log(clicks / (rows - clicks))))
        if not knots or (knot[0] - knots[-1][0] >= MIN_KNOT_GAP and knot[1] - knots[-1][1] >= MIN_KNOT_GAP):
            knots.append(knot)
    return tuple(knots)


# From simple to flexible: the order in which ties are settled.
METHODS: dict[str, Fit] = {
    "identity": fit_identity,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


def fit_calibrator(
    logits: Logits,
    labels: Labels,
    *,
    variant: str,
    graph_sha256: str,
    training: TrainConfig | None = None,
    sampling_rate: float = 1.0,
    window: tuple[int, int] | None = None,
    methods: Sequence[str] = tuple(METHODS),
) -> Calibrator:
    """The calibrator of one graph from its logits [n] and labels [n] on rows it was not trained on.

    The method is chosen out of sample and fitted again on all rows. Where `training` weighed clicks or drew
    from the non-clicks, `identity` undoes just that; the labels are as the log has them. `sampling_rate` is
    the share of negatives the log itself kept, in (0, 1]: the shape is fitted and judged in the log's own
    distribution, and serving takes the excess of clicks away by adding ln(sampling_rate). `before` is the
    quality of the raw logits, `after` the chosen method's out-of-sample quality. Raises ExportError for
    logits that are not finite, for rows without both clicks and non-clicks, for a bad rate.
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.uint8)
    _refuse(logits, labels, sampling_rate, methods)
    fits = METHODS | {"identity": partial(fit_identity, training=training)}
    judged = [
        found for name, fit in fits.items() if name in methods and (found := _judge(fit, logits, labels))
    ]
    if not judged:
        raise ExportError(
            f"'calibration part' must be larger for {' or '.join(methods)} (got {len(labels)} rows, "
            f"{int(labels.sum())} clicks); allow identity or platt"
        )
    chosen = choose(judged)
    calibrator = _tie(chosen.shape, variant=variant, graph_sha256=graph_sha256)
    return msgspec.structs.replace(
        calibrator,
        sampling_rate=sampling_rate,
        fit_rows=len(labels),
        fit_clicks=int(labels.sum()),
        fit_window=window,
        before=quality(labels, _tie(Shape("identity")).pctr(logits)),
        after=chosen.quality,
    )


def in_log_distribution(calibrator: Calibrator) -> Calibrator:
    """The calibrator without its sampling correction: what the labels of a down-sampled log compare with."""
    return msgspec.structs.replace(calibrator, sampling_rate=1.0)


def quality(labels: Labels, pctr: NDArray[np.float64]) -> Quality:
    """LogLoss, ECE and PCOC of probabilities [n] against labels [n]."""
    return Quality(logloss=logloss(labels, pctr), ece=ece(labels, pctr), pcoc=pcoc(labels, pctr))


def choose(judged: Sequence[Judged]) -> Judged:
    """The last method, in order from simple to flexible, that is clearly better than the one it replaces.

    Clearly better: a LogLoss lower by more than a standard error of the paired difference, or lower at all
    with a fifth less ECE.
    """
    best = judged[0]
    for rival in judged[1:]:
        gains = best.row_losses - rival.row_losses
        gain, error = float(gains.mean()), float(gains.std() / np.sqrt(len(gains)))
        closer = rival.quality.ece < (1 - ECE_SHARE) * best.quality.ece
        if gain > TIE and (gain > error or closer):
            best = rival
    return best


def _judge(fit: Fit, logits: Logits, labels: Labels) -> Judged | None:
    """Out-of-sample quality by interleaved folds; None where a fold has too few rows for the method."""
    fitted = fit(logits, labels)
    if fitted is None:
        return None
    pctr = np.empty(len(labels))
    fold = np.arange(len(labels)) % FOLDS
    for held_out in range(FOLDS):
        rows = fold != held_out
        shape = fit(logits[rows], labels[rows])
        if shape is None:
            return None
        pctr[~rows] = _tie(shape).pctr(logits[~rows])
    losses = -np.where(labels == 1, np.log(pctr), np.log1p(-pctr))
    return Judged(fitted, quality(labels, pctr), losses)


def _tie(shape: Shape, *, variant: str = "", graph_sha256: str = "") -> Calibrator:
    """The shape as the contract's calibrator, with nothing said yet about its fit."""
    unknown = Quality(logloss=0.0, ece=0.0, pcoc=0.0)
    return Calibrator(
        variant=variant,
        graph_sha256=graph_sha256,
        method=shape.method,  # type: ignore[arg-type]
        slope=shape.slope,
        intercept=shape.intercept,
        knots=shape.knots,
        fit_rows=0,
        fit_clicks=0,
        fit_window=None,
        before=unknown,
        after=unknown,
    )


def _refuse(logits: Logits, labels: Labels, sampling_rate: float, methods: Sequence[str]) -> None:
    if unknown := [name for name in methods if name not in METHODS]:
        raise ExportError(f"'methods' must be among {', '.join(METHODS)} (got {unknown[0]!r}); drop it")
    if not 0 < sampling_rate <= 1:
        raise ExportError(
            f"'sampling_rate' must be above 0 and at most 1 (got {sampling_rate!r}); "
            "give the share of non-clicks that the log kept"
        )
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).sum())
        raise ExportError(
            f"'logits' must be finite (got {bad} NaN or infinite of {len(logits)}); train with a lower rate"
        )
    clicks = int(labels.sum())
    if not 0 < clicks < len(labels):
        raise ExportError(
            "'calibration part' must hold clicks and non-clicks "
            f"(got {clicks} clicks in {len(labels)} rows); give it a larger share of the log"
        )
