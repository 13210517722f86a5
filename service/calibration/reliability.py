"""How often was clicked what had about the same pCTR: the points of a reliability diagram, with intervals.

It knows neither time nor arms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from service.calibration.counts import CLICKS, IMPRESSIONS, PREDICTED, Counts
from service.calibration.fit import Z_95

POINTS = 10


@dataclass(frozen=True)
class ReliabilityPoint:
    """Some impressions of about the same pCTR: their mean pCTR, and their click rate with 95 % of it.

    A click whose impression was not reported is an impression.
    """

    impressions: float
    clicks: float
    pctr: float
    rate: float
    low: float
    high: float


def reliability_of(counts: Counts, points: int = POINTS) -> list[ReliabilityPoint]:
    """The points of counts [BINS, 3], by pCTR: neighbouring bins, together until they have their share.

    So each point but the last is about as well known as the others (equal-mass bins; Roelofs et al. 2022,
    Mitigating Bias in Calibration Error Estimation, find them less biased than bins of equal width).
    """
    rows = np.maximum(counts[:, IMPRESSIONS], counts[:, CLICKS])
    total = float(rows.sum())
    found: list[ReliabilityPoint] = []
    first, last = 0, len(rows) - 1
    for place in range(len(rows)):
        if rows[first : place + 1].sum() >= total / points or place == last:
            point = _point(counts[first : place + 1], rows[first : place + 1])
            if point is not None:
                found.append(point)
            first = place + 1
    return found


def wilson_interval(clicks: float, rows: float) -> tuple[float, float]:
    """95 % of a click rate.

    Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference: it holds for few
    clicks and for none.
    """
    rate, square = clicks / rows, Z_95 * Z_95
    centre = (rate + square / (2.0 * rows)) / (1.0 + square / rows)
    width = (
        Z_95 / (1.0 + square / rows) * math.sqrt(rate * (1.0 - rate) / rows + square / (4.0 * rows * rows))
    )
    return max(0.0, centre - width), min(1.0, centre + width)


def _point(
    counts: Counts, rows: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> ReliabilityPoint | None:
    """One point of some bins, None without an impression: nothing is predicted then."""
    shown, clicks, predicted = (float(counts[:, part].sum()) for part in (IMPRESSIONS, CLICKS, PREDICTED))
    if shown <= 0.0:
        return None
    total = float(rows.sum())
    low, high = wilson_interval(clicks, total)
    return ReliabilityPoint(total, clicks, predicted / shown, clicks / total, low, high)
