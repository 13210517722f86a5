"""What is counted between two visits of Prometheus: plain numbers, brought there many at a time.

A metric of prometheus_client takes a lock at every increment, and with several workers writes to a file. So
the request path adds to what is here, from one thread, and `publish` hands it on. It knows no metric's name.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Histogram

# Columns of short rows are added so many rows at once.
ROWS_AT_ONCE = 32


class BulkHistogram(Histogram):
    """A histogram that is told of many values at once."""

    def add(self, counts: NDArray[np.int64], total: float) -> None:
        """Count values [buckets] by the bucket they fall in; `total` is their sum."""
        self._sum.inc(total)
        for index in np.flatnonzero(counts).tolist():
            self._buckets[index].inc(int(counts[index]))

    @property
    def bounds(self) -> NDArray[np.float64]:
        """The largest values of its buckets, the last one infinite."""
        return np.array(self._upper_bounds, np.float64)


class Tally:
    """What a counter will be raised by."""

    __slots__ = ("_amount", "_counter")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._amount: float = 0

    def inc(self, amount: float = 1) -> None:
        """Count so much more."""
        self._amount += amount

    def publish(self) -> None:
        """Hand it on."""
        if self._amount:
            self._counter.inc(self._amount)
            self._amount = 0


class HistogramTally:
    """What a histogram will be told of."""

    def __init__(self, histogram: BulkHistogram) -> None:
        self._histogram = histogram
        self._bounds = histogram.bounds
        self._counts = np.zeros(len(self._bounds), np.int64)
        self._sum = 0.0

    def observe_many(self, values: NDArray[np.float64]) -> None:
        """Count every one of `values` [n]."""
        if len(values):
            self._sum += float(values.sum())
            self._counts += np.bincount(self._bounds.searchsorted(values), minlength=len(self._bounds))

    def publish(self) -> int:
        """Hand all on, and say how many they were."""
        count = int(self._counts.sum())
        if count:
            self._histogram.add(self._counts, self._sum)
            self._counts[:] = 0
            self._sum = 0.0
        return count


def count_in_columns(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many of mask [n, columns] are true, by column [columns]; n is at most two millions.

    Row upon row numpy begins each addition anew, which for short rows takes longer than adding.
    """
    rows, columns = mask.shape
    whole = rows - rows % ROWS_AT_ONCE
    wide = mask[:whole].view(np.uint8).reshape(rows // ROWS_AT_ONCE, ROWS_AT_ONCE * columns)
    sums = np.add.reduce(wide, axis=0, dtype=np.uint16).reshape(ROWS_AT_ONCE, columns)
    found: NDArray[np.int64] = np.add.reduce(sums, axis=0, dtype=np.int64)
    if whole < rows:
        found += np.add.reduce(mask[whole:], axis=0, dtype=np.int64)
    return found
