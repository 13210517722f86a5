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
from export.data.text_rows import Dialect, read_header, text_rows


@dataclass(frozen=True, eq=False)
class LogChunk:
    """Rows of a log in their order. A field's column is String, Float64 or List(String); null is missing."""

    fields: pl.DataFrame
    labels: NDArray[np.uint8]  # [n]
    timestamps: NDArray[np.int64] | None  # [n] unix seconds
    true_pctr: NDArray[np.float32] | None  # [n]
    lines: NDArray[np.int64]  # [n] line of the file (row, in Parquet), from 1
    skipped: int  # malformed rows skipped since the previous chunk

    def __len__(self) -> int:
        return len(self.labels)


def read_log(
    path: Path, log_schema: LogSchema, *, on_malformed: OnMalformed = "error", chunk_rows: int = 200_000
) -> Iterator[LogChunk]:
    """The log in chunks of about `chunk_rows` rows. Raises LogError: no such file, column, malformed row."""
    unit = "row" if log_schema.format == "parquet" else "line"
    rejections = Rejections(path.name, on_malformed, unit)
    types = CellTypes(log_schema)
    read_rows = _parquet_rows if log_schema.format == "parquet" else _text_rows
    seen = 0
    for cells, lines in read_rows(path, log_schema, rejections, chunk_rows):
        if not len(lines) and rejections.count == seen:
            continue
        fields, outcomes, lines = types.typed(cells, lines, rejections)
        timestamps = outcomes.get("timestamp")
        true_pctr = outcomes.get("true_pctr")
        yield LogChunk(
            fields=fields,
            labels=outcomes["label"].to_numpy().astype(np.uint8, copy=False),
            timestamps=None if timestamps is None else timestamps.to_numpy().astype(np.int64, copy=False),
            true_pctr=None if true_pctr is None else true_pctr.to_numpy().astype(np.float32),
            lines=lines,
            skipped=rejections.count - seen,
        )
        seen = rejections.count


def _text_rows(
    path: Path, log_schema: LogSchema, rejections: Rejections, chunk_rows: int
) -> Iterator[tuple[pl.DataFrame, NDArray[np.int64]]]:
    dialect = Dialect(log_schema.separator, log_schema.quote)
    columns = read_header(path, dialect) if log_schema.has_header else log_schema.columns
    _check_names(path.name, log_schema, columns)
    yield from text_rows(
        path,
        columns,
        log_schema.used_columns,
        dialect,
        rejections,
        skip_header=log_schema.has_header,
        chunk_rows=chunk_rows,
    )


def _parquet_rows(
    path: Path, log_schema: LogSchema, rejections: Rejections, chunk_rows: int
) -> Iterator[tuple[pl.DataFrame, NDArray[np.int64]]]:
    """The file slice by slice: memory holds a slice and its row groups.

    Polars' own batches (`collect_batches`) may run ahead of the consumer until memory holds the whole log.
    """
    try:
        log = pl.scan_parquet(path, glob=False)
        schema = log.collect_schema()
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise LogError(f"'data' must be a readable Parquet file (got {str(path)!r}); {reason}") from None
    _check_names(path.name, log_schema, tuple(schema))
    CellTypes(log_schema).check_columns(dict(schema), path.name)
    row = 1
    selected = log.select(log_schema.used_columns)
    try:
        while len(cells := selected.slice(row - 1, chunk_rows).collect()):
            yield cells, np.arange(row, row + len(cells), dtype=np.int64)
            row += len(cells)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise LogError(f"{path.name}: must be a whole Parquet file ({reason}); copy it again") from None


def _check_names(file: str, log_schema: LogSchema, columns: tuple[str, ...]) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise LogError(
            f"{file}: column names must differ (got {shortened(twice[0])} twice); rename one in the header"
        )
    absent = [name for name in log_schema.used_columns if name not in columns]
    if absent:
        names = ", ".join(f"'{name}'" for name in absent)
        other = (
            "name the schema's 'separator', "
            if len(columns) == 1 and len(log_schema.used_columns) > 1
            else ""
        )
        raise LogError(
            f"{file}: column {names} must be in the log (it has {', '.join(columns)}); "
            f"{other}correct the header, or the schema '{log_schema.name}'"
        )
