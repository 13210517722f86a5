"""The rows of an encoded log as they stand in its file, typed as another model reads them, with their places.

Both read the file by their own description, in step. It knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.encoded import EncodedLog
from export.data.log_schema import LogSchema
from export.data.parts import split_of
from export.data.readers import LogChunk, read_log
from export.data.splits import PARTS
from export.errors import ExportError

CHUNK_ROWS = 65_536

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows: fields [n] as the other model reads them, and where each is in the log's parts.

    places [n] count the rows of all parts, part after part; lines [n] those of the file.
    """

    fields: pl.DataFrame
    places: Numbers
    lines: Numbers


def raw_rows_in_place(
    data: Path, log: EncodedLog, folder: Path, own: LogSchema, other: LogSchema
) -> Iterator[Rows]:
    """All rows of the log in `folder`, made of the file `data` by `own`, typed by the description `other`.

    Raises ExportError where the file is not the one that the log was made of, by its labels, or where `other`
    finds a row malformed.
    """
    # Rows that are malformed are skipped here as they were skipped, or else there was none.
    rows_of_log = read_log(data, own, on_malformed="skip", chunk_rows=CHUNK_ROWS)
    others = read_log(data, other, on_malformed="skip", chunk_rows=CHUNK_ROWS)
    split, first_row = split_of(folder), 0
    sizes = [len(log.parts[name]) for name in PARTS]
    starts, seen = np.cumsum([0, *sizes[:-1]]), np.zeros(len(PARTS), np.int64)
    for chunk, fields in _in_step(rows_of_log, others, data.name):
        part = split.part_of(first_row, chunk.timestamps, len(chunk))
        first_row += len(chunk)
        places = np.empty(len(chunk), np.int64)
        for number, name in enumerate(PARTS):
            rows = np.flatnonzero(part == number)
            stop = seen[number] + len(rows)
            labels = log.parts[name].labels[seen[number] : stop]
            if chunk.labels is None or not np.array_equal(labels, chunk.labels[rows]):
                raise _changed(data)
            places[rows] = starts[number] + np.arange(seen[number], stop)
            seen[number] = stop
        yield Rows(fields, places, chunk.lines)
    if seen.tolist() != sizes:
        raise _changed(data)


def _in_step(
    own: Iterator[LogChunk], others: Iterator[LogChunk], name: str
) -> Iterator[tuple[LogChunk, pl.DataFrame]]:
    """Each chunk of `own` with the same lines of `others`; both are in the order of the file."""
    fields, lines = pl.DataFrame(), np.empty(0, np.int64)
    for chunk in own:
        if not len(chunk):
            continue
        while (not len(lines) or lines[-1] < chunk.lines[-1]) and (more := next(others, None)) is not None:
            fields = pl.concat([fields, more.fields]) if len(lines) else more.fields
            lines = np.concatenate([lines, more.lines])
        at = np.searchsorted(lines, chunk.lines)
        known = at < len(lines)
        known[known] = lines[at[known]] == chunk.lines[known]
        if not known.all():
            line = int(chunk.lines[int(np.argmin(known))])
            raise ExportError(
                f"'teacher' must read every row that the student reads (line {line} of {name} is malformed "
                "by the teacher's schema); correct that line, or teach by a model of another schema"
            )
        yield chunk, fields[at]
        rest = int(at[-1]) + 1
        fields, lines = fields[rest:], lines[rest:]


def _changed(data: Path) -> ExportError:
    return ExportError(
        f"'{data}' must be as it was when the log was made of it (its rows are others now); run fit-schema "
        "again"
    )
