"""What is counted between two visits of Prometheus: plain numbers, brought there many at a time.

A metric of prometheus_client takes a lock at every increment, and with several workers writes to a file. So
the request path adds to what is here, from one thread, and `publish` hands it on. It knows no metric's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Histogram

# Columns of short rows are added so many rows at once.
ROWS_AT_ONCE = 32
# Rows that are counted together; uint8 holds the sums of up to 255 * ROWS_AT_ONCE of them.
BLOCK_ROWS = 1024


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
    """What a histogram will be told of.

    `observe` counts one value and is a mere `append` to a list, which `settle` empties: call it now and then.
    """

    __slots__ = ("_bounds", "_counts", "_histogram", "_sum", "_values", "observe")

    def __init__(self, histogram: BulkHistogram) -> None:
        self._histogram = histogram
        self._bounds = histogram.bounds
        self._counts = np.zeros(len(self._bounds), np.int64)
        self._sum = 0.0
        self._values: list[float] = []
        self.observe: Callable[[float], None] = self._values.append

    def observe_many(self, values: NDArray[np.float64]) -> None:
        """Count every one of `values` [n]; the same as `observe` of each."""
        self._sum += float(values.sum())
        self._counts += np.bincount(self._bounds.searchsorted(values), minlength=len(self._bounds))

    def settle(self, most: int = 0) -> None:
        """Count the single values, if there are more than `most`."""
        if len(self._values) > most:
            self.observe_many(np.array(self._values, np.float64))
            self._values.clear()

    def publish(self) -> int:
        """Hand all on, and say how many they were."""
        self.settle()
        count = int(self._counts.sum())
        if count:
            self._histogram.add(self._counts, self._sum)
            self._counts[:] = 0
            self._sum = 0.0
        return count


class Block:
    """Rows that `count` is given together, BLOCK_ROWS at a time: a call of numpy costs more than a row.

    A row has a part in each of some arrays, `parts` by shape and type. They are copied, so what they came in
    may be used again. `count` takes an array [n, *shape] a part.
    """

    def __init__(self, count: Callable[..., None], *parts: tuple[tuple[int, ...], type]) -> None:
        self._parts: list[NDArray[Any]] = [np.empty((BLOCK_ROWS, *shape), dtype) for shape, dtype in parts]
        self._filled = 0
        self._count = count

    def observe_many(self, *rows: NDArray[Any]) -> None:
        """Some more rows, an array [n, *shape] a part."""
        start = self._filled
        stop = start + len(rows[0])
        if stop <= BLOCK_ROWS:
            for part, more in zip(self._parts, rows, strict=True):
                part[start:stop] = more
            self._filled = stop
            return
        room = BLOCK_ROWS - start
        if room:
            self.observe_many(*(more[:room] for more in rows))
        self.publish()
        self.observe_many(*(more[room:] for more in rows))

    def publish(self) -> None:
        """Count what is there."""
        if self._filled:
            self._count(*(part[: self._filled] for part in self._parts))
            self._filled = 0


def count_in_columns(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many of mask [n, columns] are true, by column [columns]; n is at most BLOCK_ROWS.

    Row upon row numpy begins each addition anew, which for short rows takes longer than adding.
    """
    rows, columns = mask.shape
    whole = rows - rows % ROWS_AT_ONCE
    wide = mask[:whole].view(np.uint8).reshape(rows // ROWS_AT_ONCE, ROWS_AT_ONCE * columns)
    sums = np.add.reduce(wide, axis=0, dtype=np.uint8).reshape(ROWS_AT_ONCE, columns)
    found: NDArray[np.int64] = np.add.reduce(sums, axis=0, dtype=np.int64)
    if whole < rows:
        found += np.add.reduce(mask[whole:], axis=0, dtype=np.int64)
    return found
