"""How often each value of a column occurs, counted chunk by chunk.

Memory holds one entry for each distinct value, up to `limit`. Above it the rarest texts are dropped (lossy
counting) and neighbouring numbers share an entry. This module knows nothing of fields or encodings.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

MAX_TEXTS: Final = 20_000_000
MAX_NUMBERS: Final = 500_000


class TextCounts:
    """Counts of texts. Above `limit` distinct texts the rarest are dropped and start again from zero.

    Reference: Manku and Motwani, Approximate Frequency Counts over Data Streams (2002).
    """

    def __init__(self, limit: int = MAX_TEXTS) -> None:
        self._limit = limit
        self._table = pl.DataFrame(schema={"value": pl.String, "count": pl.UInt64})
        self._pending: list[pl.DataFrame] = []
        self._pending_rows = 0
        self.forgotten = 0  # entries dropped so far; 0 means that the counts are exact

    def add(self, values: pl.Series) -> None:
        """Counts a chunk's values (String; nulls are ignored)."""
        counts = values.drop_nulls().alias("value").value_counts(name="count")
        self._add(counts.with_columns(pl.col("count").cast(pl.UInt64)))

    def add_places(self, places: pl.Series, texts: pl.Series) -> None:
        """Counts a chunk's values by their places in its distinct `texts` (nulls are ignored)."""
        counts = np.bincount(places.drop_nulls().to_numpy(), minlength=len(texts)).astype(np.uint64)
        self._add(pl.DataFrame({"value": texts, "count": counts}).filter(pl.col("count") > 0))

    def _add(self, counts: pl.DataFrame) -> None:
        self._pending.append(counts)
        self._pending_rows += len(counts)
        if self._pending_rows > max(100_000, len(self._table)):
            self._merge()

    def _merge(self) -> None:
        merged = pl.concat([self._table, *self._pending]).group_by("value").agg(pl.col("count").sum())
        floor = 1
        while len(merged) > self._limit:
            kept = merged.filter(pl.col("count") > floor)
            self.forgotten += len(merged) - len(kept)
            merged, floor = kept, floor + 1
        self._table, self._pending, self._pending_rows = merged, [], 0

    def at_least(self, min_count: int) -> tuple[str, ...]:
        """The values seen at least `min_count` times, most frequent first, ties by value."""
        self._merge()
        frequent = self._table.filter(pl.col("count") >= min_count)
        return tuple(frequent.sort(["count", "value"], descending=[True, False])["value"].to_list())

    def seen(self, values: Sequence[str]) -> NDArray[np.bool_]:
        """Which of these values were counted at all, [values]."""
        self._merge()
        return pl.Series(values, dtype=pl.String).is_in(self._table["value"].implode()).to_numpy()

    def rows(self, *, below: int | None = None) -> int:
        """Counted rows but for dropped entries; those of values seen fewer than `below` times, if given."""
        self._merge()
        table = self._table if below is None else self._table.filter(pl.col("count") < below)
        return int(table["count"].sum())


class NumberCounts:
    """Counts of numbers, in ascending order. Above `limit` distinct numbers neighbours share an entry."""

    def __init__(self, limit: int = MAX_NUMBERS) -> None:
        self._limit = limit
        self._values: NDArray[np.float64] = np.empty(0)
        self._counts: NDArray[np.int64] = np.empty(0, np.int64)

    def add(self, values: pl.Series) -> None:
        """Counts a chunk's numbers (Float64; nulls are ignored)."""
        fresh, counts = _counted(values.drop_nulls())
        if not len(fresh):
            return
        # Times mostly lie above those before them, so only what overlaps is merged.
        below = int(np.searchsorted(self._values, fresh[0]))
        merged, inverse = np.unique(np.concatenate([self._values[below:], fresh]), return_inverse=True)
        weights = np.concatenate([self._counts[below:], counts])
        self._values = np.concatenate([self._values[:below], merged])
        merged_counts = np.bincount(inverse, weights, len(merged)).astype(np.int64)
        self._counts = np.concatenate([self._counts[:below], merged_counts])
        while len(self._values) > self._limit:
            self._counts = np.add.reduceat(self._counts, np.arange(0, len(self._counts), 2))
            self._values = self._values[::2]

    def table(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """-> distinct values ascending [m], their counts [m]."""
        return self._values, self._counts


def _counted(values: pl.Series) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Finite numbers [n] -> distinct ones ascending [m], their counts [m]; -0.0 is 0.0."""
    numbers = values.to_numpy() + 0.0
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 0.0)
    if high - low <= len(numbers):  # the range of very large ones is inf
        # Whole numbers of a small range, such as times and counts, are places in an array of counts.
        places = (numbers - low).astype(np.int64)
        if np.array_equal(places + low, numbers):
            counts = np.bincount(places)
            shown = np.flatnonzero(counts)
            return shown.astype(np.float64) + low, counts[shown].astype(np.int64)
    # Others repeat as well: hashing comes before sorting.
    table = pl.Series("value", numbers).value_counts(name="count").sort("value")
    return table["value"].to_numpy(), table["count"].to_numpy().astype(np.int64)
