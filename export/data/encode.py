"""Typed rows -> ids in the arrays of their part, by the bundle's Encoder or the native core's.

It knows nothing of raw files or of how the schema was fitted.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import DTypeLike, NDArray

from export.data.fit import NO_TEXTS
from export.data.parts import Array, SampleRow, part_path
from export.data.samples import check_samples, raw_rows, sample_positions
from export.data.spill import SpilledChunk, numbered
from export.data.splits import PARTS
from service.bundle.encoder import Encoder
from service.bundle.schema import Kind

Ids = NDArray[np.int32]


def encode_chunk(encoder: Encoder, fields: pl.DataFrame, texts: Mapping[str, pl.Series] = NO_TEXTS) -> Ids:
    """Typed fields [n] -> ids [n, columns]; a field in `texts` has the places of its values in them."""
    ids = np.empty((fields.height, encoder.schema.columns), np.int32)
    write_ids(encoder, fields, texts, ids)
    return ids


def write_ids(encoder: Encoder, fields: pl.DataFrame, texts: Mapping[str, pl.Series], ids: Ids) -> None:
    """The same, written to `ids`: by the native core where it was built, which reads the columns' memory."""
    names = [field.name for field in encoder.schema.fields]
    if encoder.native is None or not encoder.native.encode_columns(fields, [*map(texts.get, names)], ids):
        write_ids_in_python(encoder, fields, texts, ids)


def write_ids_in_python(
    encoder: Encoder, fields: pl.DataFrame, texts: Mapping[str, pl.Series], ids: Ids
) -> None:
    """The same without the core; each distinct value of a column is encoded once. Raises InvalidValue."""
    for field in encoder.schema.fields:
        columns = encoder.schema.column_slices[field.name]
        column = fields[field.name]
        if field.kind is Kind.SEQUENCE:
            ids[:, columns] = encoder.encode_column(field.name, column.to_list())
            continue
        distinct, positions = (
            distinct_texts(column, texts.get(field.name))
            if field.kind is Kind.CATEGORICAL
            else _distinct_numbers(column)
        )
        # The last entry encodes a missing value.
        ids[:, columns] = encoder.encode_column(field.name, [*distinct, None])[positions]


def distinct_texts(column: pl.Series, texts: pl.Series | None = None) -> tuple[list[str], NDArray[np.int64]]:
    """-> distinct texts [u], and the position of each row's text among them, u if missing.

    With `texts`, `column` has the places of the rows' texts in them.
    """
    places, found = numbered(column, native=False) if texts is None else (column, texts)
    return found.to_list(), places.cast(pl.Int64).fill_null(len(found)).to_numpy()


def _distinct_numbers(column: pl.Series) -> tuple[list[float], NDArray[np.int64]]:
    """-> distinct numbers [u], and the position of each row's number among them, u if missing."""
    distinct = np.unique(column.drop_nulls().to_numpy())
    positions = np.searchsorted(distinct, column.fill_null(0.0).to_numpy())
    positions[column.is_null().to_numpy()] = len(distinct)
    return distinct.tolist(), positions


class PartWriter:
    """Encodes chunks into the arrays of the four parts, and keeps raw sample rows of the test part."""

    def __init__(
        self, encoder: Encoder, folder: Path, rows: NDArray[np.int64], samples: int, *, native: bool = True
    ) -> None:
        self._encoder = encoder
        self._write_ids: Callable[[Encoder, pl.DataFrame, Mapping[str, pl.Series], Ids], None] = (
            write_ids if native else write_ids_in_python
        )
        self._folder = folder
        self._rows = rows
        self._written = [0] * len(PARTS)
        self._arrays: dict[tuple[int, str], Array] = {}
        self._wanted = sample_positions(int(rows[-1]), samples)
        self._sample_rows: list[SampleRow] = []
        self._sample_ids: list[Ids] = []

    def write(self, chunk: SpilledChunk, part: NDArray[np.int64]) -> None:
        """Appends each row of a chunk to the arrays of its part; `part` [n] holds indices into PARTS."""
        outcomes: dict[str, Array] = {"labels": chunk.labels}
        if chunk.true_pctr is not None:
            outcomes["true_pctr"] = chunk.true_pctr
        if chunk.timestamps is not None:
            outcomes["timestamps"] = chunk.timestamps
        shape = (len(chunk), self._encoder.schema.columns)
        parts = np.flatnonzero(np.bincount(part)).tolist()
        mixed = None
        if len(parts) > 1:
            mixed = np.empty(shape, np.int32)
            self._write_ids(self._encoder, chunk.fields, chunk.texts, mixed)
        for number in parts:
            rows = np.flatnonzero(part == number)
            start, stop = self._written[number], self._written[number] + len(rows)
            ids = self._array(number, "ids", np.dtype(np.int32), shape[1:])[start:stop]
            if mixed is None:
                self._write_ids(self._encoder, chunk.fields, chunk.texts, ids)
            else:
                np.take(mixed, rows, axis=0, out=ids)
            for name, values in outcomes.items():
                self._array(number, name, values.dtype)[start:stop] = values[rows]
            self._written[number] = stop
            if number == len(PARTS) - 1:
                wanted = self._wanted[(self._wanted >= start) & (self._wanted < stop)] - start
                self._sample_rows.extend(raw_rows(self._encoder.schema, chunk.rows(rows[wanted])))
                self._sample_ids.extend(np.array(ids[wanted]))

    def _array(
        self, number: int, name: str, dtype: np.dtype[Any], shape_of_row: tuple[int, ...] = ()
    ) -> Array:
        if (number, name) not in self._arrays:
            shape = (int(self._rows[number]), *shape_of_row)
            path = part_path(self._folder, PARTS[number], name)
            self._arrays[number, name] = new_array(path, dtype, shape)
        return self._arrays[number, name]

    def finish(self) -> list[SampleRow]:
        """Returns the sample rows, after a check that each, encoded as a request, gives the same ids."""
        self._arrays.clear()
        check_samples(self._encoder, self._sample_rows, self._sample_ids)
        return self._sample_rows


def new_array(
    path: Path, dtype: DTypeLike, shape: tuple[int, ...]
) -> np.memmap[tuple[int, ...], np.dtype[Any]]:
    """A new file of numbers that memory is mapped to, with its room on the disk taken.

    Raises OSError where there is none: a write to the map would end the process.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate") and (size := path.stat().st_size):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    return array
