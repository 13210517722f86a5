"""Bootstrap intervals of metrics and of their differences on the same rows. It knows no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from export.data.progress import Bar
from export.judge.metrics import Floats, checked, row_losses, tie_ends
from service.bundle.manifest import Metrics

MOST_ROWS = 250_000
"""Of more rows than these, as many at random are resampled, and what they scatter is scaled to all rows."""

Weights = NDArray[np.integer[Any]]
OfCounts = Callable[[Weights], float]
"""A figure as a function of how often each row counts, [n]."""
OfRows = Callable[..., OfCounts]
"""Labels and columns of rows, each [n] -> a figure of these rows."""


@dataclass(frozen=True)
class Delta:
    """A metric of `variant` minus that of `reference`, with the ends of its confidence interval."""

    delta: float
    low: float
    high: float

    @classmethod
    def of(cls, resampled: NDArray[np.float64], *, confidence: float = 0.95) -> Delta:
        """From the difference of all rows and of each resample, [1 + resamples]."""
        return cls(float(resampled[0]), *interval(resampled[1:], confidence=confidence))

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves out 0, else 0."""
        return (self.low > 0) - (self.high < 0)


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
    rows that are hard for both cancel. Rows are sorted once; a resample is a count of each row. Of more than
    MOST_ROWS rows that many are resampled.
    """
    y, a = checked(labels, reference)
    _, b = checked(labels, variant)
    (deltas,) = _resampled(y, [(_auc_delta if metric == "auc" else _logloss_delta, a, b)], resamples, seed)
    return Delta.of(deltas, confidence=confidence)


def paired_changes(
    labels: ArrayLike,
    scores: tuple[ArrayLike, ArrayLike],
    pctrs: tuple[ArrayLike, ArrayLike],
    *,
    resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Delta, Delta]:
    """The differences of AUC and of LogLoss, each as by `paired_bootstrap`, from one draw of the rows.

    labels and each of scores and pctrs are [n]; the pairs are (reference, variant).
    """
    y, a = checked(labels, scores[0])
    (_, b), (_, p), (_, q) = (checked(labels, one) for one in (scores[1], *pctrs))
    aucs, losses = _resampled(y, [(_auc_delta, a, b), (_logloss_delta, p, q)], resamples, seed)
    return Delta.of(aucs, confidence=confidence), Delta.of(losses, confidence=confidence)


def resampled_aucs(
    labels: ArrayLike, scores: Sequence[ArrayLike], *, resamples: int, seed: int = 0
) -> NDArray[np.float64]:
    """AUC of several scores of the same rows, [scores, 1 + resamples]: of all rows first, then of resamples.

    labels and each of scores are [n]. A resample draws the same rows for all scores, so rows that are hard
    for all cancel in a difference of two lines of the result; `interval` gives its confidence interval.
    """
    return _resampled_scores(labels, scores, _weighted_auc, resamples, seed)


def resampled_loglosses(
    labels: ArrayLike, scores: Sequence[ArrayLike], *, resamples: int, seed: int = 0
) -> NDArray[np.float64]:
    """LogLoss of several pCTRs of the same rows, as `resampled_aucs`; the same seed draws the same rows."""
    return _resampled_scores(labels, scores, _weighted_logloss, resamples, seed)


def with_intervals(
    labels: ArrayLike,
    pctr: ArrayLike,
    metrics: Metrics,
    *,
    resamples: int = 200,
    most_rows: int | None = None,
) -> Metrics:
    """The metrics of pctr [n] against labels [n], with the 95 % intervals of AUC and LogLoss.

    Of more than `most_rows`, else MOST_ROWS, that many are resampled.
    """
    y, p = checked(labels, pctr)
    figures = [(_weighted_auc, p), (_weighted_logloss, p)]
    aucs, losses = _resampled(y, figures, resamples, seed=0, most_rows=most_rows)
    return msgspec.structs.replace(
        metrics, auc_interval=interval(aucs[1:]), logloss_interval=interval(losses[1:])
    )


def metric_intervals(
    labels: ArrayLike, pctr: ArrayLike, *, resamples: int = 200
) -> dict[str, tuple[float, float]]:
    """The 95 % intervals of every metric but ECE, by its name in Metrics, as `with_intervals` draws them.

    ECE has none: resampled rows scatter about pCTR more than the rows do, so theirs lies above it.
    """
    y, p = checked(labels, pctr)
    resampled = _resampled_metrics(y, [p], resamples, None)
    return {name: interval(lines[0, 1:]) for name, lines in resampled.items()}


def metric_changes(
    labels: ArrayLike,
    reference: ArrayLike,
    variant: ArrayLike,
    *,
    resamples: int = 200,
    most_rows: int | None = None,
) -> dict[str, Delta]:
    """Every metric but ECE of one pCTR minus that of another, by its name, from one draw of the rows.

    labels, reference and variant are [n]. Of more than `most_rows`, else MOST_ROWS, that many are resampled.
    """
    y, a = checked(labels, reference)
    _, b = checked(labels, variant)
    resampled = _resampled_metrics(y, [a, b], resamples, most_rows)
    return {name: Delta.of(lines[1] - lines[0]) for name, lines in resampled.items()}


def resampled_means(
    labels: ArrayLike, columns: Sequence[ArrayLike], *, resamples: int = 200, seed: int = 0
) -> NDArray[np.float64]:
    """Means of columns of the same rows, [columns, 1 + resamples]: of all rows first, then of resamples.

    labels [n] are 0 and 1, and every resample holds both; each of columns is [n]. Figures that are mostly
    zero cost little.
    """
    y = np.asarray(labels, dtype=np.float64)
    figures = [(_weighted_mean, np.asarray(one, dtype=np.float64)) for one in columns]
    return _resampled(y, figures, resamples, seed)


def _resampled_metrics(
    y: Floats, pctrs: Sequence[Floats], resamples: int, most_rows: int | None
) -> dict[str, NDArray[np.float64]]:
    """By metric, [pctrs, 1 + resamples]: of all rows first."""
    figures: dict[str, OfRows] = {
        "auc": _weighted_auc,
        "logloss": _weighted_logloss,
        "prauc": _weighted_prauc,
        "ne": _weighted_ne,
        "pcoc": _weighted_pcoc,
    }
    columns = [(figure, p) for figure in figures.values() for p in pctrs]
    lines = _resampled(y, columns, resamples, seed=0, most_rows=most_rows)
    found = dict(zip(figures, lines.reshape(len(figures), len(pctrs), -1), strict=True))
    return found | {"rce": 100.0 * (1.0 - found["ne"])}


def interval(resampled: NDArray[np.float64], *, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile interval of a value over its resamples [resamples]."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    return float(low), float(high)


def _resampled_scores(
    labels: ArrayLike, scores: Sequence[ArrayLike], metric: OfRows, resamples: int, seed: int
) -> NDArray[np.float64]:
    checked_scores = [checked(labels, one) for one in scores]
    return _resampled(checked_scores[0][0], [(metric, one) for _, one in checked_scores], resamples, seed)


def _resampled(
    y: Floats,
    figures: Sequence[tuple[OfRows, *tuple[Floats, ...]]],
    resamples: int,
    seed: int,
    most_rows: int | None = None,
) -> NDArray[np.float64]:
    """Each figure of all rows, then of resamples, which are the same for all: [figures, 1 + resamples].

    A figure is a function and its columns [n]. Of MOST_ROWS of many rows a resample scatters as the root of
    their ratio more than one of all rows (Bickel, Goetze & van Zwet, "Resampling fewer than n observations",
    Statistica Sinica 1997), which is undone here.
    """
    draw = np.random.default_rng(seed)
    values = [figure(y, *columns) for figure, *columns in figures]
    everywhere = own = np.array([value(np.ones(len(y), dtype=np.int64)) for value in values])
    scale = 1.0
    most = most_rows or MOST_ROWS
    if len(y) > most:
        rows = _some_rows(draw, y, most)
        scale, y = float(np.sqrt(len(rows) / len(y))), y[rows]
        values = [figure(y, *(column[rows] for column in columns)) for figure, *columns in figures]
        own = np.array([value(np.ones(len(y), dtype=np.int64)) for value in values])
    resampled = np.empty((len(values), resamples))
    with Bar("resampling", resamples, unit="resamples") as bar:
        for column in range(resamples):
            counts = _counts(draw, y)
            resampled[:, column] = [value(counts) for value in values]
            bar.add(1)
    if scale < 1.0:
        resampled = everywhere[:, None] + scale * (resampled - own[:, None])
    return np.column_stack((everywhere, resampled))


def _some_rows(draw: np.random.Generator, y: Floats, most_rows: int) -> NDArray[np.intp]:
    """So many rows at random, with the share of clicks that all rows have, and at least one of each."""
    wanted = min(max(1, round(most_rows * np.count_nonzero(y) / len(y))), most_rows - 1)
    clicks = draw.choice(np.flatnonzero(y), wanted, replace=False)
    others = draw.choice(np.flatnonzero(y == 0), most_rows - wanted, replace=False)
    return np.sort(np.concatenate((clicks, others)))


def _counts(draw: np.random.Generator, y: Floats) -> Weights:
    """How often each row is in a resample, [n]; a resample without clicks or non-clicks is drawn again."""
    while True:
        counts = np.bincount(draw.integers(0, len(y), len(y), dtype=np.int32), minlength=len(y))
        if 0 < counts @ y < len(y):
            return counts


def _logloss_delta(y: Floats, a: Floats, b: Floats) -> OfCounts:
    logloss_a, logloss_b = _weighted_logloss(y, a), _weighted_logloss(y, b)
    return lambda counts: logloss_b(counts) - logloss_a(counts)


def _auc_delta(y: Floats, a: Floats, b: Floats) -> OfCounts:
    auc_a, auc_b = _weighted_auc(y, a), _weighted_auc(y, b)
    return lambda counts: auc_b(counts) - auc_a(counts)


def _weighted_mean(y: Floats, values: Floats) -> OfCounts:
    """The mean of a column."""
    rows = np.flatnonzero(values)
    present = values[rows]
    return lambda counts: float(counts[rows] @ present / len(y))


def _weighted_logloss(y: Floats, p: Floats) -> OfCounts:
    """LogLoss."""
    losses = row_losses(y, p)
    return lambda counts: float(counts @ losses / counts.sum())


def _weighted_ne(y: Floats, p: Floats) -> OfCounts:
    """Normalized entropy."""
    logloss = _weighted_logloss(y, p)

    def value(counts: Weights) -> float:
        ctr = counts @ y / counts.sum()
        return float(logloss(counts) / -(ctr * np.log(ctr) + (1 - ctr) * np.log1p(-ctr)))

    return value


def _weighted_pcoc(y: Floats, p: Floats) -> OfCounts:
    """Predicted over observed clicks."""
    return lambda counts: float(counts @ p / (counts @ y))


def _weighted_prauc(y: Floats, p: Floats) -> OfCounts:
    """Average precision."""
    order = np.argsort(-p)
    ends = tie_ends(p[order])
    is_click = y[order]

    def value(counts: Weights) -> float:
        of_rows = counts[order]
        rows_to, clicks_to = np.cumsum(of_rows)[ends], np.cumsum(of_rows * is_click)[ends]
        precision = clicks_to / np.maximum(rows_to, 1)
        return float(np.diff(clicks_to, prepend=0.0) @ precision / clicks_to[-1])

    return value


def _weighted_auc(y: Floats, scores: Floats) -> OfCounts:
    """AUC."""
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
