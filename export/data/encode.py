"""Typed rows -> ids in the arrays of their part, by the bundle's Encoder.

It knows nothing of raw files or of how the schema was fitted.
"""

import os
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.parts import Array, SampleRow, part_path
from export.data.samples import check_samples, raw_rows, sample_positions
from export.data.spill import SpilledChunk, with_dictionary
from export.data.splits import PARTS
from service.bundle.encoder import Encoder
from service.bundle.schema import Kind


def encode_chunk(encoder: Encoder, fields: pl.DataFrame) -> NDArray[np.int32]:
    """Typed fields [n] -> ids [n, columns]; each distinct value of a column is encoded once."""
    ids = np.empty((fields.height, encoder.schema.columns), np.int32)
    for field in encoder.schema.fields:
        columns = encoder.schema.column_slices[field.name]
        column = fields[field.name]
        if field.kind is Kind.SEQUENCE:
            ids[:, columns] = encoder.encode_column(field.name, column.to_list())
            continue
        distinct, positions = (
            distinct_texts(column) if field.kind is Kind.CATEGORICAL else _distinct_numbers(column)
        )
        # The last entry encodes a missing value.
        ids[:, columns] = encoder.encode_column(field.name, [*distinct, None])[positions]
    return ids


def distinct_texts(column: pl.Series) -> tuple[list[str], NDArray[np.int64]]:
    """-> distinct texts [u], and the position of each row's text among them, u if missing."""
    column = with_dictionary(column)
    assert isinstance(column.dtype, pl.Enum)
    distinct = column.dtype.categories.to_list()
    return distinct, column.to_physical().cast(pl.Int64).fill_null(len(distinct)).to_numpy()


def _distinct_numbers(column: pl.Series) -> tuple[list[float], NDArray[np.int64]]:
    """-> distinct numbers [u], and the position of each row's number among them, u if missing."""
    distinct = np.unique(column.drop_nulls().to_numpy())
    positions = np.searchsorted(distinct, column.fill_null(0.0).to_numpy())
    positions[column.is_null().to_numpy()] = len(distinct)
    return distinct.tolist(), positions


class PartWriter:
    """Encodes chunks into the arrays of the four parts, and keeps raw sample rows of the test part."""

    def __init__(self, encoder: Encoder, folder: Path, rows: NDArray[np.int64], samples: int) -> None:
        self._encoder = encoder
        self._folder = folder
        self._rows = rows
        self._written = [0] * len(PARTS)
        self._arrays: dict[tuple[int, str], Array] = {}
        self._wanted = sample_positions(int(rows[-1]), samples)
        self._sample_rows: list[SampleRow] = []
        self._sample_ids: list[NDArray[np.int32]] = []

    def write(self, chunk: SpilledChunk, part: NDArray[np.int64]) -> None:
        """Appends each row of a chunk to the arrays of its part; `part` [n] holds indices into PARTS."""
        arrays: dict[str, Array] = {"ids": encode_chunk(self._encoder, chunk.fields), "labels": chunk.labels}
        if chunk.true_pctr is not None:
            arrays["true_pctr"] = chunk.true_pctr
        if chunk.timestamps is not None:
            arrays["timestamps"] = chunk.timestamps
        for number in np.unique(part).tolist():
            rows = np.flatnonzero(part == number)
            start, stop = self._written[number], self._written[number] + len(rows)
            for name, values in arrays.items():
                self._array(number, name, values)[start:stop] = (
                    values if len(rows) == len(part) else values[rows]
                )
            self._written[number] = stop
            if number == len(PARTS) - 1:
                here = rows[self._wanted[(self._wanted >= start) & (self._wanted < stop)] - start]
                self._sample_rows.extend(raw_rows(self._encoder.schema, chunk.fields[here]))
                self._sample_ids.extend(arrays["ids"][here])

    def _array(self, number: int, name: str, like: Array) -> Array:
        if (number, name) not in self._arrays:
            shape = (int(self._rows[number]), *like.shape[1:])
            path = part_path(self._folder, PARTS[number], name)
            self._arrays[number, name] = np.lib.format.open_memmap(path, "w+", like.dtype, shape)
            _reserve(path)
        return self._arrays[number, name]

    def finish(self) -> list[SampleRow]:
        """Returns the sample rows, after a check that each, encoded as a request, gives the same ids."""
        self._arrays.clear()
        check_samples(self._encoder, self._sample_rows, self._sample_ids)
        return self._sample_rows


def _reserve(path: Path) -> None:
    """Take the room of a new file on the disk. Raises OSError: a write to its map would end the process."""
    if hasattr(os, "posix_fallocate") and (size := path.stat().st_size):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
