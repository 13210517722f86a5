"""Cells of a column of times -> unix seconds, by a format of [timestamp]; it knows no other column."""

from __future__ import annotations

from typing import Final

import polars as pl

from export.data.time_pattern import chrono_patterns, has_short_year

_YEAR_10000: Final = 253_402_300_800
# The year 69 is 1969 in Python and 2069 in chrono: it is no time of a log in either.
_YEAR_2069: Final = 3_124_224_000
_YEAR_1990, _YEAR_2100 = 631_152_000, 4_102_444_800


def seconds_of(column: pl.Series, format_: str) -> pl.Series:
    """Times [n] of a format of [timestamp] -> unix seconds; null where a cell is none."""
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("us")).dt.epoch("s")
    if format_ not in {"unix", "unix_ms"}:
        return parsed_times(column if column.dtype == pl.String else column.cast(pl.String), format_)
    scale = 1 if format_ == "unix" else 1000
    numbers = column.cast(pl.Float64, strict=False)
    in_range = pl.select(pl.when(numbers.is_between(0, 1e11 * scale)).then(numbers)).to_series()
    return (in_range / scale).floor().cast(pl.Int64, strict=False)


def are_odd_times(seconds: pl.Series) -> pl.Series:
    """Whether times [n] are of years that a log hardly is of: before 1990, or after 2099; null is not."""
    return ~seconds.is_between(_YEAR_1990, _YEAR_2100 - 1).fill_null(True)


def years_of(seconds: pl.Series) -> str:
    """`1970`, or `1970 to 1999`: the years of times [n], one at least that is not null."""
    years = pl.from_epoch(seconds.drop_nulls().sort()).dt.year()
    first, last = int(years[0]), int(years[-1])
    return f"{first}" if first == last else f"{first} to {last}"


def parsed_times(texts: pl.Series, pattern: str) -> pl.Series:
    """Texts [n] -> unix seconds; null where the pattern does not match, and before 1970."""
    patterns, appended = chrono_patterns(pattern)
    if appended:
        texts = texts + appended
    times = [
        texts.str.to_datetime(each, strict=False, time_unit="us").dt.epoch("s").alias(str(number))
        for number, each in enumerate(patterns)
    ]
    seconds = pl.select(pl.coalesce(times)).to_series()
    last = _YEAR_2069 if has_short_year(pattern) else _YEAR_10000
    return pl.select(pl.when(seconds.is_between(0, last - 1)).then(seconds)).to_series()
