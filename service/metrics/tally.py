"""Counts between two publications: plain numbers, handed over many at a time; it knows no metric's name.

To add to shared memory costs more than to add to a number. So the request path adds to a tally, from one
thread, and `publish` hands the sum over.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.metrics.counting import count_values
from service.metrics.series import Counter, Histogram


class Tally:
    """The amount to add to a counter."""

    __slots__ = ("_amount", "_counter")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._amount: float = 0

    def inc(self, amount: float = 1) -> None:
        """Add `amount`."""
        self._amount += amount

    def publish(self) -> None:
        """Add the amount to the counter."""
        if self._amount:
            self._counter.inc(self._amount)
            self._amount = 0


class HistogramTally:
    """The values to add to a histogram."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._bounds = np.array(histogram.bounds)
        self._counts = np.zeros(len(self._bounds), np.int64)
        self._sum = 0.0

    def observe_many(self, values: NDArray[np.float64]) -> None:
        """Add `values` [n]."""
        if len(values):
            self._sum += count_values(values, self._bounds, self._counts)

    def publish(self) -> int:
        """Add the values to the histogram; returns how many they were."""
        count = int(self._counts.sum())
        if count:
            self._histogram.add(self._counts, self._sum)
            self._counts[:] = 0
            self._sum = 0.0
        return count
