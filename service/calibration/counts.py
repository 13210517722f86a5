"""Impressions, clicks and predicted clicks in bins of the bundle's log-odds; it knows no time and no arm.

Counts are an array [BINS, 3]. All that is fitted and judged is made from them: a bin is so narrow that its
rows may share one pCTR, that of which their predicted clicks are the sum.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Log-odds from -12 to 4; those beyond count with the outer bins.
LOWEST, BIN_WIDTH, BINS = -12.0, 0.25, 64
IMPRESSIONS, CLICKS, PREDICTED = range(3)

Counts = NDArray[np.float64]


class Evidence(NamedTuple):
    """The bins that have rows: log-odds of their mean pCTR, rows and clicks, all [bins in use].

    A click whose impression was not reported is a row.
    """

    log_odds: NDArray[np.float64]
    rows: NDArray[np.float64]
    clicks: NDArray[np.float64]

    def worth(self, dispersion: float) -> Evidence:
        """As many rows and clicks as these are worth, if so many are worth one that is independent."""
        return Evidence(self.log_odds, self.rows / dispersion, self.clicks / dispersion)


def count(log_odds: NDArray[np.floating], is_click: NDArray[np.bool_]) -> Counts:
    """The counts of events [n]: clicks, or else impressions, of rows with the bundle's log-odds [n]."""
    values = np.clip(log_odds.astype(np.float64), -30.0, 30.0)
    bins = np.clip((values - LOWEST) / BIN_WIDTH, 0, BINS - 1).astype(np.intp)
    shown = ~is_click
    counts = np.empty((BINS, 3))
    counts[:, IMPRESSIONS] = np.bincount(bins[shown], minlength=BINS)
    counts[:, CLICKS] = np.bincount(bins[is_click], minlength=BINS)
    counts[:, PREDICTED] = np.bincount(bins[shown], 1.0 / (1.0 + np.exp(-values[shown])), BINS)
    return counts


def bytes_of(counts: Counts) -> bytes:
    """Counts as bytes that other machines read."""
    return counts.astype("<f8").tobytes()


def counts_of(data: bytes) -> Counts:
    """The inverse of `bytes_of`. Raises ValueError for other bytes."""
    counts: Counts = np.frombuffer(data, "<f8").reshape(BINS, 3).astype(np.float64)
    return counts


def evidence_of(counts: Counts) -> Evidence:
    """The bins of counts that have rows."""
    used = np.flatnonzero((counts[:, IMPRESSIONS] > 0.0) | (counts[:, CLICKS] > 0.0))
    shown, clicks, predicted = counts[used].T
    has_shown = shown > 0.0
    means = np.divide(predicted, shown, out=np.full(len(used), 0.5), where=has_shown)
    centres = LOWEST + BIN_WIDTH * (used + 0.5)
    log_odds = np.where(has_shown, np.log(means / (1.0 - means)), centres)
    return Evidence(log_odds, np.maximum(shown, clicks), clicks)
