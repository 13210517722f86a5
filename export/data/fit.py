"""Counts of the training part -> the schema: vocabularies by frequency, hashing, numeric bins.

It sees the training part only. A value that is rare there is out of vocabulary everywhere.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.counting import MAX_TEXTS, NumberCounts, TextCounts
from export.data.growth import Growth
from export.data.log_schema import LogField, LogSchema
from service.bundle.schema import Bins, Encoding, Field, Hashing, Kind, Schema, Vocabulary

MAX_BINS: Final = 512
# The rows that a value needs where neither the field nor the export says it.
MIN_COUNT: Final = 8
LEAST_MIN_COUNT: Final = 2  # values of one row stand for those that training never meets
RARE_SHARE: Final = 0.05  # of a field's rows may be out of vocabulary before fewer rows are enough
LARGE_LOG_ROWS: Final = 1_000_000  # from which on MIN_COUNT always holds
# A number is a count if its smallest value is no larger, and its 99 % quantile this many times its median.
MAX_FIRST_COUNT: Final = 2
LONG_TAIL: Final = 10
ENOUGH_ROWS: Final = 1000  # to know the click rate of a bin; where fewer do, a count has about `bins` bins

NO_TEXTS: Final[Mapping[str, pl.Series]] = MappingProxyType({})


class FieldCounts:
    """The counts that each field's encoding needs.

    Hashed fields need none. Nor do fields with the same values as another field, whose counts decide: a
    history repeats each event in many rows, so its counts would give ids to values that are rare as ads.
    """

    def __init__(self, log_schema: LogSchema, max_texts: int = MAX_TEXTS) -> None:
        self._texts: dict[str, TextCounts] = {}
        self._numbers: dict[str, NumberCounts] = {}
        for field in log_schema.fields:
            if field.kind is Kind.NUMERIC:
                self._numbers[field.name] = NumberCounts()
            elif field.encoding == "vocabulary" and field.same_values_as is None:
                self._texts[field.name] = TextCounts(max_texts)

    def add(self, fields: pl.DataFrame, distinct: Mapping[str, pl.Series] = NO_TEXTS) -> None:
        """Counts rows of the training part, typed as read_log yields them or as they are spilled.

        These have the places of a field's values in its `distinct` texts.
        """
        for name, texts in self._texts.items():
            column = fields[name]
            if name in distinct:
                texts.add_places(column, distinct[name])
                continue
            if isinstance(column.dtype, pl.List):
                column = column.explode()
                column = column.filter(column != "")
            texts.add(column)
        for name, numbers in self._numbers.items():
            numbers.add(fields[name])

    @property
    def approximate(self) -> tuple[str, ...]:
        """Fields with more distinct texts than the limit: counts of rare texts may be too low."""
        return tuple(name for name, texts in self._texts.items() if texts.forgotten)

    def min_count(self, field: LogField) -> int:
        """What a field that names none gets: MIN_COUNT, or less where that would leave too many rows out.

        The more rows a log has, the more there are of each value that will be seen again. A number that is
        found to be a count gets more: the Criteo transform cuts large counts into hundreds of bins, whose few
        rows in a small log teach noise.
        """
        if field.kind is Kind.NUMERIC:
            return self._rows_a_bin(field)
        texts = self._texts.get(field.name)
        if texts is None or texts.forgotten:
            return MIN_COUNT
        rows = texts.rows()
        least = min(MIN_COUNT, max(LEAST_MIN_COUNT, math.ceil(MIN_COUNT * rows / LARGE_LOG_ROWS)))
        for chosen in range(MIN_COUNT, least, -1):
            if texts.rows(below=chosen) <= RARE_SHARE * rows:
                return chosen
        return least

    def _rows_a_bin(self, field: LogField) -> int:
        values, counts = self._numbers[field.name].table()
        if field.encoding is not None or not are_counts(values, counts):
            return MIN_COUNT
        return max(MIN_COUNT, min(ENOUGH_ROWS, int(counts.sum()) // field.bins))

    def encoding(self, field: LogField, min_count: int, growth: Growth | None = None) -> Encoding:
        """The encoding of one field; with `growth` what becomes of the one that it had."""
        if growth is not None:
            return self._grown(field, min_count, growth)
        if field.encoding == "hashing":
            return Hashing(field.buckets, field.seed)
        if field.encoding == "vocabulary":
            return Vocabulary(self._texts[field.name].at_least(min_count))
        values, counts = self._numbers[field.name].table()
        encoding = field.encoding or ("criteo" if are_counts(values, counts) else "quantile")
        edges = criteo_edges(values) if encoding == "criteo" else quantile_edges(values, counts, field.bins)
        return Bins(merge_rare(edges, values, counts, min_count))

    def _grown(self, field: LogField, min_count: int, growth: Growth) -> Encoding:
        old = growth.past.schema.field(field.name).encoding
        if isinstance(old, Vocabulary) and field.name not in growth.fixed:
            texts = self._texts[field.name]
            return growth.vocabulary(field.name, texts.seen(old.values), texts.at_least(min_count))
        refits = isinstance(old, Bins) and growth.bins == "refit"
        return self.encoding(field, min_count) if refits else old


def min_counts(log_schema: LogSchema, counts: FieldCounts, min_count: int | None = None) -> dict[str, int]:
    """The rows that a value of each field needs: `min_count` if given, else the field's own, else chosen."""
    return {
        field.name: min_count or field.min_count or counts.min_count(field)
        for field in log_schema.fields
        if field.same_values_as is None
    }


def fit_schema(
    log_schema: LogSchema, counts: FieldCounts, min_count: int | None = None, growth: Growth | None = None
) -> Schema:
    """The schema of the counted rows; `min_count` overrides every field's own if given.

    With `growth` it goes on from an earlier one, whose fields it must have.
    """
    needed = min_counts(log_schema, counts, min_count)
    encodings = {
        field.name: counts.encoding(field, needed[field.name], growth)
        for field in log_schema.fields
        if field.same_values_as is None
    }
    return Schema(
        tuple(
            Field(
                name=field.name,
                kind=field.kind,
                role=field.role,
                encoding=encodings[field.same_values_as or field.name],
                max_length=field.max_length,
                same_values_as=field.same_values_as,
            )
            for field in log_schema.fields
        ),
        log_schema.spelling,
    )


def criteo_edges(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Edges of the bins of the Criteo challenge's transform that hold `values` (ascending).

    Up to 2 each integer is a bin; above 2 the bin is floor(ln(x)^2). An empty bin joins the bin below it. The
    winning FFM of the challenge (Juan et al., 2014) introduced the transform.
    """
    if not len(values):
        return ()
    low = np.unique(np.floor(values[values <= 2])).tolist()
    edges = [float(edge) for edge in low]
    occupied = {math.floor(math.log(value) ** 2) for value in values[values > 2].tolist()}
    edges.extend(squared_log_edge(n) for n in sorted(occupied))
    return tuple(edges[1:])


def squared_log_edge(n: int) -> float:
    """The smallest double x > 2 with ln(x)^2 >= n."""
    if n == 0:
        return math.nextafter(2.0, math.inf)
    edge = math.exp(math.sqrt(n))
    while math.log(edge) ** 2 >= n:
        edge = math.nextafter(edge, 0.0)
    while math.log(edge) ** 2 < n:
        edge = math.nextafter(edge, math.inf)
    return edge


def merge_rare(
    edges: tuple[float, ...], values: NDArray[np.float64], counts: NDArray[np.int64], min_count: int
) -> tuple[float, ...]:
    """Removes edges until every bin holds `min_count` rows and there are at most MAX_BINS bins.

    A bin that is too small joins the bin above it; the last bin joins the bin below it.
    """
    total = int(counts.sum())
    needed = max(min_count, -(-total // MAX_BINS))
    before = np.concatenate([[0], np.cumsum(counts)])
    rows_below = before[np.searchsorted(values, np.asarray(edges), side="left")].tolist() if edges else []
    kept: list[float] = []
    start = 0
    for edge, below in zip(edges, rows_below, strict=True):
        if below - start >= needed:
            kept.append(edge)
            start = below
    if kept and total - start < needed:
        kept.pop()
    return tuple(kept)


def quantile_edges(values: NDArray[np.float64], counts: NDArray[np.int64], bins: int) -> tuple[float, ...]:
    """At most `bins` bins, the largest as small as it can be; equal values share a bin.

    A value with more rows than that has a bin of its own, and the others share the rest: where 19 of 20 rows
    are zero, the twentieth still gets all bins but one.
    """
    if not len(values):
        return ()
    below = np.concatenate([[0], np.cumsum(counts)])  # rows below each value, then all rows
    most, least = int(below[-1]), 0
    while most - least > 1:  # with `most` rows a bin there are few enough bins, with `least` too many
        middle = (least + most) // 2
        least, most = (least, middle) if len(_filled(below, middle, bins)) < bins else (middle, most)
    return tuple(values[_filled(below, most, bins)].tolist())


def _filled(below: NDArray[np.int64], rows: int, most: int) -> list[int]:
    """Where bins start that hold `rows` rows at most or one value, without the first one; `most` of them."""
    starts: list[int] = []
    start, values = 0, len(below) - 1
    while len(starts) < most:
        start = max(start + 1, int(np.searchsorted(below, below[start] + rows, side="right")) - 1)
        if start >= values:
            break
        starts.append(start)
    return starts


def are_counts(values: NDArray[np.float64], counts: NDArray[np.int64]) -> bool:
    """Whether numbers (ascending) look counted: whole, from about zero on, with a long tail.

    Their logarithm says more than their rank, which the Criteo transform follows.
    """
    if not len(values) or not 0 <= values[0] <= MAX_FIRST_COUNT or (values != np.floor(values)).any():
        return False
    median, high = values[np.searchsorted(np.cumsum(counts), counts.sum() * np.array([0.5, 0.99]))]
    return bool(high / LONG_TAIL >= max(1.0, median))  # a product may be past all floats
