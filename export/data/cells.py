"""Cells of a log -> typed values of the fields, the label, the time and the true pCTR.

An invalid cell makes its row malformed. This module knows nothing of files or ids.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.disagreement import Disagreement
from export.data.errors import LogError, Rejections
from export.data.faults import ENOUGH, MOSTLY, Faults
from export.data.log_schema import Label, LogField, LogSchema, Timestamp
from export.data.time_guess import guess_format
from export.data.times import are_odd_times, seconds_of
from service.bundle.cell_types import CellType, expected_cells
from service.bundle.schema import Kind

# What the schema can say of a value that the log means.
_NAME_LABELS: Final = "name the value under 'click' or 'no_click' of [label]"
_NAME_FORMAT: Final = "name the format of the times in [timestamp]"
_NAME_MISSING: Final = "name the text in the schema's 'missing' if it means that"


class CellTypes:
    """Converts frames of raw cells to typed columns and finds malformed rows.

    A field's typed column is String (categorical), Float64 (numeric, finite) or List(String) (sequence, never
    an empty list). Null means missing.
    """

    def __init__(self, log_schema: LogSchema) -> None:
        self._schema = log_schema
        self._disagreement = Disagreement(log_schema)
        self._read: set[str] = set()  # columns of which a cell was read well

    def typed(
        self, cells: pl.DataFrame, lines: NDArray[np.int64], rejections: Rejections
    ) -> tuple[pl.DataFrame, dict[str, pl.Series], NDArray[np.int64]]:
        """cells [n] -> fields, outcomes (`label`, `timestamp`, `true_pctr`) and lines of the valid rows.

        There is an outcome for each of these that the schema names.
        """
        cells = _with_nulls(cells, ("",))
        features = _with_nulls(cells, self._schema.missing) if self._schema.missing else cells
        nan_is_missing = self._schema.spelling.nan_is_missing
        fields: dict[str, pl.Series] = {}
        outcomes: dict[str, pl.Series] = {}
        faults = Faults(cells, lines, self._read)
        label = self._schema.label
        disagree = self._disagreement
        if label is not None:
            outcomes["label"] = faults.check(
                label.column, *_label(cells, label), _NAME_LABELS, disagree.label
            )
        timestamp = self._schema.timestamp
        if timestamp is not None:
            times = _timestamp(cells, timestamp)
            if timestamp.column not in self._read:
                self._doubt(cells[timestamp.column], times[0], rejections)
            outcomes["timestamp"] = faults.check(timestamp.column, *times, _NAME_FORMAT, disagree.time)
        if self._schema.true_pctr is not None:
            outcomes["true_pctr"] = faults.check(
                self._schema.true_pctr, *_probability(cells[self._schema.true_pctr])
            )
        for field in self._schema.fields:
            if field.column is None:
                fields[field.name] = _derived(field, outcomes["timestamp"])
            elif field.kind is Kind.NUMERIC:
                numbers = _number(features[field.column], nan_is_missing=nan_is_missing)
                about = partial(disagree.number, field)
                fields[field.name] = faults.check(field.column, *numbers, _NAME_MISSING, about)
            elif field.kind is Kind.SEQUENCE:
                fields[field.name] = _sequence(field, features[field.column])
            else:
                fields[field.name] = _text(features[field.column])
        frame = pl.DataFrame(fields)
        if faults.any:
            good = faults.good(rejections, has_header=self._schema.has_header)
            frame = frame.filter(good)
            outcomes = {name: series.filter(good) for name, series in outcomes.items()}
            lines = lines[good.to_numpy()]
        return frame, outcomes, lines

    def _doubt(self, cells: pl.Series, seconds: pl.Series, rejections: Rejections) -> None:
        """Tells times [n] that are read, but nearly all into years that a log hardly is of.

        It is an error where another format reads them well. Else they may count from a zero of their own,
        so that they are in order all the same, and it is a warning.
        """
        odd = are_odd_times(seconds)
        known = len(seconds) - seconds.null_count()
        if known < ENOUGH or int(odd.sum()) < MOSTLY * known:
            return
        where = rejections.within(len(cells))
        better = guess_format(cells.filter(odd))
        if better is not None:
            rejections.disagree(self._disagreement.odd_format(cells.filter(odd), seconds, better, where))
        else:
            rejections.warn(self._disagreement.odd_times(cells.filter(odd), seconds, where))

    def check_columns(self, types: dict[str, pl.DataType], file: str) -> None:
        """Raises LogError if a column of a typed file (Parquet) has a type that its field cannot use."""
        label, timestamp, true_pctr = self._schema.label, self._schema.timestamp, self._schema.true_pctr
        columns = []
        if label is not None:
            unfit = "" if label.present else _unfit_label(types[label.column])
            columns.append((label.column, "the label", unfit))
        if timestamp is not None:
            columns.append((timestamp.column, "the timestamp", _unfit_time(types[timestamp.column])))
        if true_pctr is not None:
            columns.append((true_pctr, "the true pCTR", _unfit(Kind.NUMERIC, types[true_pctr])))
        columns += [
            (field.column, f"a {field.kind} field", _unfit(field.kind, types[field.column]))
            for field in self._schema.fields
            if field.column is not None
        ]
        for column, use, expected in columns:
            if expected:
                raise LogError(
                    f"{file}, column '{column}': must be {expected} for {use} (got {types[column]}); "
                    "cast it, or correct the schema"
                )


def _with_nulls(cells: pl.DataFrame, words: tuple[str, ...]) -> pl.DataFrame:
    """Text that is one of `words` becomes null; text columns become String."""
    texts = [pl.col(name).cast(pl.String) for name, dtype in cells.schema.items() if _is_text(dtype)]
    return cells.with_columns(pl.when(~text.is_in(words)).then(text).name.keep() for text in texts)


def _is_text(dtype: object) -> bool:
    return dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum)


def _unfit_label(found: pl.DataType) -> str:
    """The expected type of the label's column; empty if `found` is valid."""
    fits = _is_text(found) or found == pl.Boolean or found.is_integer() or found.is_float()
    return "" if fits else "text, numbers or true and false"


def _unfit_time(found: pl.DataType) -> str:
    """The expected type of the timestamp's column; empty if `found` is valid."""
    fits = _is_text(found) or found.is_numeric() or isinstance(found, pl.Date | pl.Datetime)
    return "" if fits else "times, numbers or text"


def _unfit(kind: Kind, found: pl.DataType) -> str:
    """The expected type of a field's column; empty if `found` is valid."""
    if isinstance(found, pl.List):
        return expected_cells(kind, _cell_type(found.inner), in_lists=True)
    return expected_cells(kind, _cell_type(found), in_lists=False)


def _cell_type(found: object) -> CellType:
    if found == pl.Null:
        return CellType.EMPTY
    if _is_text(found):
        return CellType.TEXT
    if not isinstance(found, pl.DataType) or not found.is_numeric():
        return CellType.OTHER
    return CellType.INTEGER if found.is_integer() else CellType.NUMBER


def _text(cells: pl.Series) -> pl.Series:
    return cells if cells.dtype == pl.String else cells.cast(pl.String)


def _number(cells: pl.Series, *, nan_is_missing: bool) -> tuple[pl.Series, pl.Series, str]:
    values = cells.cast(pl.Float64, strict=False)
    is_unread = cells.is_not_null() & values.is_null()
    if nan_is_missing:
        values = values.fill_nan(None)
    return values, is_unread | ~values.is_finite().fill_null(True), "a finite number or empty"


def _probability(cells: pl.Series) -> tuple[pl.Series, pl.Series, str]:
    values = cells.cast(pl.Float64, strict=False)
    return values, ~values.is_between(0, 1).fill_null(False), "a probability"


def _sequence(field: LogField, cells: pl.Series) -> pl.Series:
    """A list keeps its empty elements, as in a request: the encoder decides what they mean."""
    if not isinstance(cells.dtype, pl.List):
        cells = _text(cells).str.split(field.separator).list.eval(pl.element().filter(pl.element() != ""))
    cells = cells.cast(pl.List(pl.String))
    frame = cells.alias("cells").to_frame()
    return frame.select(pl.when(pl.col("cells").list.len() > 0).then(pl.col("cells"))).to_series()


def _label(cells: pl.DataFrame, label: Label) -> tuple[pl.Series, pl.Series, str]:
    column = cells[label.column]
    if label.present:
        return column.is_not_null().cast(pl.UInt8), column.is_null() & column.is_not_null(), "anything"
    texts = label_texts(column)
    click = texts.is_in(label.click).fill_null(False)
    known = click | texts.is_in(label.no_click).fill_null(False)
    return click.cast(pl.UInt8), ~known, f"one of {', '.join((*label.no_click, *label.click))}"


def label_texts(column: pl.Series) -> pl.Series:
    """The cells of a label [n] as the text that a schema names: true is `1`, and so is 1.0 of Parquet."""
    if column.dtype == pl.Boolean:
        column = column.cast(pl.Int8)
    elif column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        column = pl.select(
            pl.when(whole == column).then(whole.cast(pl.String)).otherwise(column.cast(pl.String))
        ).to_series()
    return _text(column)


def _timestamp(cells: pl.DataFrame, timestamp: Timestamp) -> tuple[pl.Series, pl.Series, str]:
    column = cells[timestamp.column]
    seconds = seconds_of(column, timestamp.format)
    words = {"unix": "seconds since 1970", "unix_ms": "milliseconds since 1970"}
    expected = words.get(timestamp.format, f"a time like {timestamp.format}")
    return seconds, seconds.is_null(), "a time" if column.dtype.is_temporal() else expected


def _derived(field: LogField, seconds: pl.Series) -> pl.Series:
    return DERIVATIONS[str(field.derive)](seconds.to_physical()).cast(pl.String)


def hour_of_day(seconds: pl.Series) -> pl.Series:
    """Unix seconds [n] -> 0..23."""
    return seconds // 3600 % 24


def day_of_week(seconds: pl.Series) -> pl.Series:
    """Unix seconds [n] -> 1 (Monday) .. 7, as ISO 8601 counts; 1970-01-01 was a Thursday."""
    return (seconds // 86_400 + 3) % 7 + 1


DERIVATIONS: Final[dict[str, Callable[[pl.Series], pl.Series]]] = {
    "hour_of_day": hour_of_day,
    "day_of_week": day_of_week,
}
