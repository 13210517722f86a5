"""Bootstrap intervals of metrics and of their differences on the same rows. It knows no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from export.judge.metrics import Floats, checked, row_losses, tie_ends
from service.bundle.manifest import Metrics

Weights = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Delta:
    """A metric of `variant` minus that of `reference`, with the ends of its confidence interval."""

    delta: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high


def paired_bootstrap(
    labels: ArrayLike,
    reference: ArrayLike,
    variant: ArrayLike,
    metric: Literal["auc", "logloss"],
    *,
    resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> Delta:
    """The difference of a metric (variant minus reference) and its percentile interval over resampled rows.

    labels, reference and variant are [n]. A resample draws n rows with replacement, the same for both, so
    rows that are hard for both cancel. Rows are sorted once; a resample is a count of each row.
    """
    y, a = checked(labels, reference)
    _, b = checked(labels, variant)
    of_counts = _auc_delta(y, a, b) if metric == "auc" else _logloss_delta(y, a, b)
    draw = np.random.default_rng(seed)
    deltas = np.array([of_counts(_counts(draw, y)) for _ in range(resamples)])
    low, high = interval(deltas, confidence=confidence)
    return Delta(of_counts(np.ones(len(y), dtype=np.int64)), low, high)


def resampled_aucs(
    labels: ArrayLike, scores: Sequence[ArrayLike], *, resamples: int, seed: int = 0
) -> NDArray[np.float64]:
    """AUC of several scores of the same rows, [scores, 1 + resamples]: of all rows first, then of resamples.

    labels and each of scores are [n]. A resample draws the same rows for all scores, so rows that are hard
    for all cancel in a difference of two lines of the result; `interval` gives its confidence interval.
    """
    return _resampled(labels, scores, _weighted_auc, resamples, seed)


def resampled_loglosses(
    labels: ArrayLike, scores: Sequence[ArrayLike], *, resamples: int, seed: int = 0
) -> NDArray[np.float64]:
    """LogLoss of several pCTRs of the same rows, as `resampled_aucs`; the same seed draws the same rows."""
    return _resampled(labels, scores, _weighted_logloss, resamples, seed)


def _resampled(
    labels: ArrayLike,
    scores: Sequence[ArrayLike],
    metric: Callable[[Floats, Floats], Callable[[Weights], float]],
    resamples: int,
    seed: int,
) -> NDArray[np.float64]:
    checked_scores = [checked(labels, one) for one in scores]
    of_counts = [metric(y, score) for y, score in checked_scores]
    y = checked_scores[0][0]
    draw = np.random.default_rng(seed)
    result = np.empty((len(of_counts), 1 + resamples))
    for column in range(1 + resamples):
        counts = np.ones(len(y), dtype=np.int64) if column == 0 else _counts(draw, y)
        result[:, column] = [of(counts) for of in of_counts]
    return result


def with_intervals(labels: ArrayLike, pctr: ArrayLike, metrics: Metrics, *, resamples: int = 200) -> Metrics:
    """The metrics of pctr [n] against labels [n], with the 95 % intervals of AUC and LogLoss."""
    (aucs,) = resampled_aucs(labels, [pctr], resamples=resamples)
    (losses,) = resampled_loglosses(labels, [pctr], resamples=resamples)
    return msgspec.structs.replace(
        metrics, auc_interval=interval(aucs[1:]), logloss_interval=interval(losses[1:])
    )


def interval(resampled: NDArray[np.float64], *, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile interval of a value over its resamples [resamples]."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    return float(low), float(high)


def _counts(draw: np.random.Generator, y: Floats) -> Weights:
    """How often each row is in a resample, [n]; a resample without clicks or non-clicks is drawn again."""
    while True:
        counts = np.bincount(draw.integers(0, len(y), len(y), dtype=np.int32), minlength=len(y))
        if 0 < counts @ y < len(y):
            return counts


def _logloss_delta(y: Floats, a: Floats, b: Floats) -> Callable[[Weights], float]:
    logloss_a, logloss_b = _weighted_logloss(y, a), _weighted_logloss(y, b)
    return lambda counts: logloss_b(counts) - logloss_a(counts)


def _auc_delta(y: Floats, a: Floats, b: Floats) -> Callable[[Weights], float]:
    auc_a, auc_b = _weighted_auc(y, a), _weighted_auc(y, b)
    return lambda counts: auc_b(counts) - auc_a(counts)


def _weighted_logloss(y: Floats, p: Floats) -> Callable[[Weights], float]:
    """LogLoss as a function of the counts of the rows [n]."""
    losses = row_losses(y, p)
    return lambda counts: float(counts @ losses / counts.sum())


def _weighted_auc(y: Floats, scores: Floats) -> Callable[[Weights], float]:
    """AUC as a function of the counts of the rows [n]."""
    order = np.argsort(scores)
    ends = tie_ends(scores[order])
    is_click = y[order] > 0
    # Where each click's group of ties begins and ends among the non-clicks, for one cumulative sum.
    group = np.searchsorted(ends, np.flatnonzero(is_click))
    others_before = np.concatenate(([0], np.cumsum(~is_click)[ends]))
    clicks, others = order[is_click], order[~is_click]
    below, to = others_before[group], others_before[group + 1]

    def value(counts: Weights) -> float:
        others_to = np.concatenate(([0], np.cumsum(counts[others])))
        of_clicks = counts[clicks]
        wins = of_clicks @ (others_to[below] + others_to[to]) / 2
        return float(wins / (of_clicks.sum() * others_to[-1]))

    return value
