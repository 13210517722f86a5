"""A raw click log in chunks of typed columns: TSV, CSV (plain or gzip) and Parquet, in bounded memory.

It knows the log's description, not vocabularies, ids or splits.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.cells import CellTypes
from export.data.disagreement import similar, users_of
from export.data.errors import DisagreementError, LogError, OnMalformed, Rejections, shortened
from export.data.log_schema import LogSchema
from export.data.text_rows import Dialect, head_rows, lines_about, read_header, text_rows
from service.bundle.example_columns import WEIGHT

_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d+)?")
_PARQUET_MAGIC: Final = "PAR1"
_SEPARATORS: Final = ("\t", ",", ";", "|", "\x01")
_HEAD_ROWS, _ENOUGH_ROWS = 20, 2  # that are looked at, and of which more tell the width of all


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
    disagreement: str | None = None  # what the schema should say, where it is why rows are skipped

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
            disagreement=rejections.disagreement,
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
        return tuple(scanned(path)[1])
    dialect = Dialect(log_schema.separator, log_schema.quote)
    first = read_header(path, dialect)
    if log_schema.has_header:
        return first
    columns, label = log_schema.columns, log_schema.label
    if label is not None and len(first) == len(columns) - 1:
        return tuple(name for name in columns if name != label.column)
    return columns


def check_weights(path: Path, log_schema: LogSchema) -> None:
    """Raises LogError for a service's examples of which some stand for more rows than others.

    Nothing that is fitted or judged weighs rows: those of the larger share would count too much.
    """
    if not log_schema.is_of_examples or log_schema.format != "parquet":
        return
    log, schema = scanned(path)
    if WEIGHT not in schema:
        return
    weights = pl.col(WEIGHT).cast(pl.Float64).fill_null(1.0)
    with of_whole_files(path):
        least, most = log.select(weights.min().alias("least"), weights.max().alias("most")).collect().row(0)
    if least is not None and least != most:
        raise LogError(
            f"{path.name}: '{WEIGHT}' must be the same in all rows (got {least:g} to {most:g}), or those of "
            "the larger --example-share would count too much; name files of one share, or thin the rows of "
            "the larger (docs/feedback-loop.md)"
        )


def rows_about(path: Path, log_schema: LogSchema) -> int:
    """About how many rows a log has, from the head of its file; exactly, in Parquet. Raises LogError."""
    if log_schema.format == "parquet":
        with of_whole_files(path):
            return int(scanned(path)[0].select(pl.len()).collect().item())
    return lines_about(path)


def _text_rows(
    path: Path, log_schema: LogSchema, used: tuple[str, ...], rejections: Rejections, chunk_rows: int
) -> Iterator[tuple[pl.DataFrame, NDArray[np.int64]]]:
    dialect = Dialect(log_schema.separator, log_schema.quote)
    _check_form(path, log_schema, rejections)
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


def scanned(path: Path) -> tuple[pl.LazyFrame, pl.Schema]:
    """A Parquet file before its rows are read, and the types of its columns. Raises LogError.

    A folder is all of its files, in the order of their names, with the columns of the last one: what older
    files lack is missing there.
    """
    files = _parquet_files(path) if path.is_dir() else [path]
    try:
        schema = pl.scan_parquet(files[-1], glob=False).collect_schema()
        log = pl.scan_parquet(
            files, glob=False, schema=schema, missing_columns="insert", extra_columns="ignore"
        )
        return log, schema
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        text = '; if it is text, write format = "csv" or "tsv" into the schema' if path.is_file() else ""
        raise LogError(
            f"'data' must be a readable Parquet file (got {str(path)!r}); {reason}{text}"
        ) from None


def stamp_of(data: Path) -> tuple[str | int, ...]:
    """Where a log lies, and sizes and times of its files: another log, or a changed one, has another stamp.

    Empty where there is no file, as with a pipe. Raises LogError for a folder without a log.
    """
    files = _parquet_files(data) if data.is_dir() else [data] if data.is_file() else []
    if not files:
        return ()
    stats = [(file.name, file.stat()) for file in files]
    sizes = [part for name, one in stats for part in (name, one.st_size, one.st_mtime_ns)]
    return str(data.resolve()), *sizes


def _parquet_files(folder: Path) -> list[Path]:
    """The Parquet files in a folder, without those whose name begins with a dot. Raises LogError."""
    found = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    if not found:
        raise LogError(
            f"'data' must be a file, or a folder with files .parquet (got {str(folder)!r}, which has none); "
            "name another folder"
        )
    return found


def _parquet_rows(
    path: Path, log_schema: LogSchema, used: tuple[str, ...], rejections: Rejections, chunk_rows: int
) -> Iterator[tuple[pl.DataFrame, NDArray[np.int64]]]:
    """The file slice by slice: memory holds a slice and its row groups.

    Polars' own batches (`collect_batches`) may run ahead of the consumer until memory holds the whole log.
    """
    log, schema = scanned(path)
    _check_names(path.name, log_schema, used, tuple(schema))
    CellTypes(log_schema).check_columns(dict(schema), path.name)
    row = 1
    selected = log.select(used)
    with of_whole_files(path):
        while len(cells := selected.slice(row - 1, chunk_rows).collect()):
            yield cells, np.arange(row, row + len(cells), dtype=np.int64)
            row += len(cells)


@contextmanager
def of_whole_files(path: Path) -> Iterator[None]:
    """Raises LogError where Parquet that is read within is damaged, or of other types than the last file."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        expected, remedy = "a whole Parquet file", "copy it again"
        if path.is_dir():
            expected, remedy = "whole Parquet files with the last one's types of columns", "write them anew"
        raise LogError(f"{path.name}: must be {expected} ({reason}); {remedy}") from None


def _check_names(file: str, log_schema: LogSchema, used: tuple[str, ...], columns: tuple[str, ...]) -> None:
    twice = sorted(name for name, times in Counter(columns).items() if times > 1)
    is_row = log_schema.format != "parquet" and any(_NUMBER.fullmatch(name) for name in columns)
    row = (
        "write header = false and the columns into the schema if the first line is a row, " if is_row else ""
    )
    if twice:
        raise LogError(
            f"{file}: column names must differ (got {shortened(twice[0])} twice); {row}rename one in the "
            "header"
        )
    known = set(columns)
    absent = [name for name in used if name not in known]
    if absent:
        names = ", ".join(f"'{name}'" for name in absent)
        other = "name the schema's 'separator', " if len(columns) == 1 and len(used) > 1 else ""
        users = ", ".join(users_of(log_schema, name) for name in absent)
        guess = similar(absent[0], columns)
        raise LogError(
            f"{file}: column {names} must be in the log (it has {', '.join(columns)}); "
            f"{row or other}correct the header, or the schema '{log_schema.name}': {users}"
            f"{f' (is it {guess!r}?)' if guess else ''}"
        )


def _check_form(path: Path, log_schema: LogSchema, rejections: Rejections) -> None:
    """Raises DisagreementError if what the schema says of a text file as a whole does not fit its first rows.

    Rows of another width may be skipped, the first ones too.
    """
    name, dialect = f"schema '{log_schema.name}'", Dialect(log_schema.separator, log_schema.quote)
    rows = head_rows(path, dialect, _HEAD_ROWS)
    if not rows:
        return
    first = rows[0]
    if first[0].startswith(_PARQUET_MAGIC):
        raise DisagreementError(
            f"{name}: 'format' must be parquet for the Parquet file {path.name} (got {log_schema.format!r}); "
            'write format = "parquet", without header, columns, separator and quote'
        )
    if not log_schema.has_header and len(set(first) & set(log_schema.columns)) * 2 > len(first):
        raise DisagreementError(
            f"{name}: 'header' must be true where the first line of {path.name} names the columns (got "
            f"{shortened(', '.join(first))}); write header = true and leave out 'columns'"
        )
    expected = len(first) if log_schema.has_header else len(log_schema.columns)
    found = _width(rows, log_schema)
    if found is None or found == expected:
        return
    others = {one: head_rows(path, Dialect(one, log_schema.quote), _HEAD_ROWS) for one in _SEPARATORS}
    fitting = [one for one, cut in others.items() if _width(cut, log_schema) == expected]
    remedy = (
        f"write separator = {fitting[0]!r}"
        if fitting and not log_schema.has_header
        else "name each column once, or another 'separator'"
    )
    said = "the header" if log_schema.has_header else "'columns'"
    rejections.disagree(
        f"{name}: {said} must have a name for each cell of a row of {path.name} (got {expected} names, and "
        f"{found} cells between {log_schema.separator!r} in each of its first rows); {remedy}"
    )


def _width(rows: list[list[str]], log_schema: LogSchema) -> int | None:
    """How many cells rows have, but for the header; None where they differ, or are too few to say so."""
    widths = {len(row) for row in rows[log_schema.has_header :]}
    return widths.pop() if len(widths) == 1 and len(rows) > _ENOUGH_ROWS else None
