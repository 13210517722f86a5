"""Metrics of predicted click probabilities: ranking, likelihood, calibration. It knows no model.

labels [n] are 0 or 1, pctr [n] are probabilities. Each metric returns one float and raises MetricError where
it is undefined. No metric depends on the order of rows with equal pctr.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from export.errors import ExportError
from service.bundle.manifest import Metrics

ECE_BINS = 20
"""Bins of the expected calibration error, each with the same number of rows (as far as ties allow)."""

LEAST_EVIDENCE = 10
"""Clicks, and non-clicks, that a metric is judged on: fewer rank well by luck, and scatter too little."""

_SMALLEST = 1e-15
"""pCTRs are clipped to [1e-15, 1 - 1e-15] before a logarithm: a certain mistake costs 34.5, not infinity."""

Floats = NDArray[np.float64]


class MetricError(ExportError):
    """A metric is undefined for these labels and predictions."""


def is_evidence(clicks: int, rows: int) -> bool:
    """Whether that many clicks among that many rows are enough to tell good from bad."""
    return bool(min(clicks, rows - clicks) >= LEAST_EVIDENCE)


def lack_of_evidence(clicks: int, rows: int) -> str:
    """How many clicks and non-clicks there are; empty where they are evidence."""
    if is_evidence(clicks, rows):
        return ""
    return f"{clicks:,} clicks and {rows - clicks:,} non-clicks, fewer than {LEAST_EVIDENCE} of one of them"


def checked(labels: ArrayLike, pctr: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 [n], after checks: equal lengths, labels of both kinds, finite pctr."""
    y, p = np.asarray(labels), np.asarray(pctr)
    if y.ndim != 1 or y.shape != p.shape:
        raise MetricError(f"'labels' and 'pctr' must be flat and equally long (got {y.shape} and {p.shape})")
    y = y.astype(np.float64)
    p = p.astype(np.float64)
    if not np.isin(y, (0.0, 1.0)).all():
        raise MetricError(f"'labels' must be 0 or 1 (got {y[~np.isin(y, (0.0, 1.0))][0]:g})")
    clicks = int(y.sum())
    if clicks in (0, len(y)):
        raise MetricError(
            f"'labels' must hold clicks and non-clicks (got {clicks} clicks in {len(y)} rows); "
            "evaluate on more rows"
        )
    if not np.isfinite(p).all():
        raise MetricError(
            f"'pctr' must be finite (got {p[~np.isfinite(p)][0]} at row {np.argmin(np.isfinite(p))})"
        )
    return y, p


def sigmoid(logits: ArrayLike) -> Floats:
    """Logits [n] -> probabilities [n] in float64, without overflow."""
    return 1.0 / (1.0 + np.exp(-np.clip(np.asarray(logits, np.float64), -700, 700)))


def tie_ends(ascending: NDArray[Any]) -> NDArray[np.intp]:
    """The position of the last value of each run of equal values, which are in ascending order."""
    return np.append(np.flatnonzero(ascending[1:] != ascending[:-1]), len(ascending) - 1)


def auc(labels: ArrayLike, pctr: ArrayLike) -> float:
    """Area under the ROC curve: how often a click scores above a non-click; a tie counts as half."""
    y, p = checked(labels, pctr)
    return grouped_auc(p, y, np.ones(len(y)))


def grouped_auc(scores: ArrayLike, clicks: ArrayLike, rows: ArrayLike) -> float:
    """AUC of groups of rows with one score each: scores, clicks and rows are [groups]."""
    p = np.asarray(scores, np.float64)
    order = np.argsort(p)
    ends = tie_ends(p[order])
    clicks_to = np.cumsum(np.asarray(clicks, np.float64)[order])[ends]  # up to the end of each group of ties
    others_to = np.cumsum(np.asarray(rows, np.float64)[order])[ends] - clicks_to
    of_ties = np.diff(clicks_to, prepend=0.0)
    others = np.diff(others_to, prepend=0.0)
    return float(of_ties @ (others_to - others / 2) / (clicks_to[-1] * others_to[-1]))


def prauc(labels: ArrayLike, pctr: ArrayLike) -> float:
    """Area under the precision-recall curve as average precision: steps, no interpolation."""
    y, p = checked(labels, pctr)
    order = np.argsort(-p)
    ends = tie_ends(p[order])
    clicks_to = np.cumsum(y[order])[ends]
    return float(np.diff(clicks_to, prepend=0.0) @ (clicks_to / (ends + 1)) / clicks_to[-1])


def row_losses(y: Floats, p: Floats) -> Floats:
    """Each row's negative log likelihood, [n], in nats."""
    p = np.clip(p, _SMALLEST, 1 - _SMALLEST)
    return -np.where(y > 0, np.log(p), np.log1p(-p))


def logloss(labels: ArrayLike, pctr: ArrayLike) -> float:
    """Mean negative log likelihood, in nats."""
    y, p = checked(labels, pctr)
    return float(row_losses(y, p).mean())


def normalized_entropy(labels: ArrayLike, pctr: ArrayLike) -> float:
    """LogLoss over that of predicting the rows' CTR for each row (He et al., ADKDD 2014); useful below 1."""
    y, p = checked(labels, pctr)
    ctr = y.mean()
    return float(row_losses(y, p).mean() / -(ctr * np.log(ctr) + (1 - ctr) * np.log1p(-ctr)))


def rce(labels: ArrayLike, pctr: ArrayLike) -> float:
    """Relative cross entropy in percent: how far LogLoss is below that of the constant CTR, 100 (1 - NE)."""
    return 100.0 * (1.0 - normalized_entropy(labels, pctr))


def ece(labels: ArrayLike, pctr: ArrayLike, bins: int = ECE_BINS) -> float:
    """Expected calibration error: |mean pctr - CTR| of each of 20 equal-mass bins, weighted by their rows.

    A bin ends where a run of equal pctr ends, so that the order of ties does not matter.
    """
    y, p = checked(labels, pctr)
    order = np.argsort(p)
    ends = tie_ends(p[order])
    wanted = np.arange(1, bins + 1) * len(y) // bins - 1
    last = np.unique(ends[np.searchsorted(ends, wanted[wanted >= 0])])
    gaps = np.diff(np.cumsum((p - y)[order])[last], prepend=0.0)
    return float(np.abs(gaps).sum() / len(y))


def pcoc(labels: ArrayLike, pctr: ArrayLike) -> float:
    """Predicted clicks over observed clicks: 1 is right on average; above 1 the service overbids."""
    y, p = checked(labels, pctr)
    return float(p.sum() / y.sum())


def rank_correlation(one: ArrayLike, other: ArrayLike) -> float | None:
    """Spearman's rho of two scores of the same rows [n]: 1 where both rank alike; ties share their rank.

    None where one of them scores all rows alike: it ranks nothing.
    """
    ranks: list[Floats] = []
    for scores in (np.asarray(one), np.asarray(other)):
        _, places, rows = np.unique(scores, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(rows) - (rows - 1) / 2)[places])
    if any(each.min() == each.max() for each in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def evaluate(labels: ArrayLike, pctr: ArrayLike, true_pctr: ArrayLike | None = None) -> Metrics:
    """Every metric; true_pctr [n] of a synthetic log gives the AUC that no model can beat."""
    y, p = checked(labels, pctr)
    return Metrics(
        rows=len(y),
        clicks=int(y.sum()),
        auc=auc(y, p),
        logloss=logloss(y, p),
        prauc=prauc(y, p),
        rce=rce(y, p),
        ece=ece(y, p),
        ne=normalized_entropy(y, p),
        pcoc=pcoc(y, p),
        auc_of_true_pctr=None if true_pctr is None else auc(y, true_pctr),
    )
