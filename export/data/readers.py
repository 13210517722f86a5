"""A raw click log in chunks of typed columns: TSV, CSV (plain or gzip) and Parquet, in bounded memory.

It knows the log's description, not vocabularies, ids or splits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.cells import CellTypes
from export.data.errors import LogError, OnMalformed, Rejections, shortened
from export.data.log_schema import LogSchema
from export.data.text_rows import Dialect, lines_about, read_header, text_rows


@dataclass(frozen=True, eq=False)
class LogChunk:
    """Rows of a log in their order. A field's column is String, Float64 or List(String); null is missing."""

    fields: pl.DataFrame
    labels: NDArray[np.uint8] | None  # [n]; None where the schema names no label
    timestamps: NDArray[np.int64] | None  # [n] unix seconds
    true_pctr: NDArray[np.float32] | None  # [n]
    lines: NDArray[np.int64]  # [n] line of the file (row, in Parquet), from 1
    skipped: int  # malformed rows skipped since the previous chunk
    others: pl.DataFrame  # cells of columns that were asked for, as they stand in the file

    def __len__(self) -> int:
        return len(self.lines)


def read_log(
    path: Path,
    log_schema: LogSchema,
    *,
    on_malformed: OnMalformed = "error",
    chunk_rows: int = 200_000,
    others: tuple[str, ...] = (),
) -> Iterator[LogChunk]:
    """The log in chunks of about `chunk_rows` rows, with `others` of its columns as they stand.

    Raises LogError: no such file, column, malformed row.
    """
    unit = "row" if log_schema.format == "parquet" else "line"
    rejections = Rejections(path.name, on_malformed, unit)
    types = CellTypes(log_schema)
    read_rows = _parquet_rows if log_schema.format == "parquet" else _text_rows
    seen = 0
    columns = tuple(dict.fromkeys((*log_schema.used_columns, *others)))
    for cells, read in read_rows(path, log_schema, columns, rejections, chunk_rows):
        if not len(read) and rejections.count == seen:
            continue
        fields, outcomes, lines = types.typed(cells.select(log_schema.used_columns), read, rejections)
        labels = outcomes.get("label")
        timestamps = outcomes.get("timestamp")
        true_pctr = outcomes.get("true_pctr")
        yield LogChunk(
            fields=fields,
            labels=None if labels is None else labels.to_numpy().astype(np.uint8, copy=False),
            timestamps=None if timestamps is None else timestamps.to_numpy().astype(np.int64, copy=False),
            true_pctr=None if true_pctr is None else true_pctr.to_numpy().astype(np.float32),
            lines=lines,
            skipped=rejections.count - seen,
            others=_valid(cells.select(others), read, lines),
        )
        seen = rejections.count


def _valid(cells: pl.DataFrame, read: NDArray[np.int64], lines: NDArray[np.int64]) -> pl.DataFrame:
    """The cells of those rows among the `read` ones that are not malformed."""
    if not cells.width or len(read) == len(lines):
        return cells
    return cells.filter(pl.Series(np.isin(read, lines, assume_unique=True)))


def columns_of(path: Path, log_schema: LogSchema) -> tuple[str, ...]:
    """The columns of a file that is read by this schema. Raises LogError if they cannot be read.

    A text file without a header has those of the schema; one that is narrower by a column, as logs are
    before it is known who clicks, has no label.
    """
    if log_schema.format == "parquet":
        return tuple(_scanned(path)[1])
    dialect = Dialect(log_schema.separator, log_schema.quote)
    first = read_header(path, dialect)
    if log_schema.has_header:
        return first
    columns, label = log_schema.columns, log_schema.label
    if label is not None and len(first) == len(columns) - 1:
        return tuple(name for name in columns if name != label.column)
    return columns


def rows_about(path: Path, log_schema: LogSchema) -> int:
    """About how many rows a log has, from the head of its file; exactly, in Parquet. Raises LogError."""
    if log_schema.format == "parquet":
        return int(_scanned(path)[0].select(pl.len()).collect().item())
    return lines_about(path)


def _text_rows(
    path: Path, log_schema: LogSchema, used: tuple[str, ...], rejections: Rejections, chunk_rows: int
) -> Iterator[tuple[pl.DataFrame, NDArray[np.int64]]]:
    dialect = Dialect(log_schema.separator, log_schema.quote)
    columns = read_header(path, dialect) if log_schema.has_header else log_schema.columns
    _check_names(path.name, log_schema, used, columns)
    yield from text_rows(
        path,
        columns,
        used,
        dialect,
        rejections,
        skip_header=log_schema.has_header,
        chunk_rows=chunk_rows,
    )


def _scanned(path: Path) -> tuple[pl.LazyFrame, pl.Schema]:
    """A Parquet file before its rows are read, and the types of its columns. Raises LogError."""
    try:
        log = pl.scan_parquet(path, glob=False)
        return log, log.collect_schema()
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise LogError(f"'data' must be a readable Parquet file (got {str(path)!r}); {reason}") from None


def _parquet_rows(
    path: Path, log_schema: LogSchema, used: tuple[str, ...], rejections: Rejections, chunk_rows: int
) -> Iterator[tuple[pl.DataFrame, NDArray[np.int64]]]:
    """The file slice by slice: memory holds a slice and its row groups.

    Polars' own batches (`collect_batches`) may run ahead of the consumer until memory holds the whole log.
    """
    log, schema = _scanned(path)
    _check_names(path.name, log_schema, used, tuple(schema))
    CellTypes(log_schema).check_columns(dict(schema), path.name)
    row = 1
    selected = log.select(used)
    try:
        while len(cells := selected.slice(row - 1, chunk_rows).collect()):
            yield cells, np.arange(row, row + len(cells), dtype=np.int64)
            row += len(cells)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise LogError(f"{path.name}: must be a whole Parquet file ({reason}); copy it again") from None


def _check_names(file: str, log_schema: LogSchema, used: tuple[str, ...], columns: tuple[str, ...]) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise LogError(
            f"{file}: column names must differ (got {shortened(twice[0])} twice); rename one in the header"
        )
    absent = [name for name in used if name not in columns]
    if absent:
        names = ", ".join(f"'{name}'" for name in absent)
        other = "name the schema's 'separator', " if len(columns) == 1 and len(used) > 1 else ""
        raise LogError(
            f"{file}: column {names} must be in the log (it has {', '.join(columns)}); "
            f"{other}correct the header, or the schema '{log_schema.name}'"
        )
