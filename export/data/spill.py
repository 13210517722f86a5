"""The log's typed chunks on disk during one preparation, so that its text is parsed once.

Arrow files with LZ4, about as large as the uncompressed log. Texts are numbers of the chunk's distinct texts,
the form that counting and encoding need. This module knows nothing of splits or ids.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.readers import LogChunk
from service.bundle.native import IS_BUILT, _native

_TEXT: Final = "text"
_SEED: Final = secrets.randbits(64)  # whoever writes texts into a log cannot choose some that collide


@dataclass(frozen=True, eq=False)
class SpilledChunk:
    """A chunk read back. A categorical field's column has the places of its values in the field's `texts`."""

    first_row: int
    fields: pl.DataFrame
    texts: dict[str, pl.Series]  # distinct ones of each categorical field, in order of appearance
    labels: NDArray[np.uint8]  # [n]
    timestamps: NDArray[np.int64] | None  # [n]
    true_pctr: NDArray[np.float32] | None  # [n]

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: NDArray[np.int64]) -> pl.DataFrame:
        """Some rows of the fields, as they were written."""
        fields = self.fields[chosen]
        return fields.with_columns(
            texts.gather(fields[name]).alias(name) for name, texts in self.texts.items()
        )


class Spill:
    """Writes chunks into `folder`, then reads them back in order, as often as needed.

    A chunk is two files, of its rows and of the distinct texts, field after field.
    """

    def __init__(self, folder: Path, *, native: bool = True) -> None:
        self._folder = folder
        self._native = native
        self._names: list[str] = []
        self._first_rows: list[int] = []
        self._distinct: list[dict[str, int]] = []  # texts of each chunk's categorical fields
        self.rows = 0

    def write(self, chunk: LogChunk) -> None:
        self._names = chunk.fields.columns
        # Fields are named by position, because a field may be called `label`.
        columns: dict[str, pl.Series] = {}
        texts: dict[str, pl.Series] = {}
        for position, column in enumerate(chunk.fields):
            columns[str(position)] = column
            if column.dtype == pl.String:
                columns[str(position)], texts[column.name] = numbered(column, native=self._native)
        outcomes = {"label": chunk.labels, "timestamp": chunk.timestamps, "true_pctr": chunk.true_pctr}
        columns |= {name: pl.Series(values) for name, values in outcomes.items() if values is not None}
        number = len(self._first_rows)
        pl.DataFrame(columns).write_ipc(self._path(number, "rows"), compression="lz4")
        joined = pl.concat([pl.Series(dtype=pl.String), *(each.alias("") for each in texts.values())])
        joined.to_frame(_TEXT).write_ipc(self._path(number, "texts"), compression="lz4")
        self._first_rows.append(self.rows)
        self._distinct.append({name: len(each) for name, each in texts.items()})
        self.rows += len(chunk)

    def read(self) -> Iterator[SpilledChunk]:
        for number, first_row in enumerate(self._first_rows):
            frame = pl.read_ipc(self._path(number, "rows"))
            fields = frame[:, : len(self._names)]
            fields.columns = self._names
            joined = pl.read_ipc(self._path(number, "texts"))[_TEXT]
            texts: dict[str, pl.Series] = {}
            start = 0
            for name, size in self._distinct[number].items():
                texts[name] = joined[start : start + size]
                start += size
            yield SpilledChunk(
                first_row=first_row,
                fields=fields,
                texts=texts,
                labels=frame["label"].to_numpy(),
                timestamps=frame["timestamp"].to_numpy() if "timestamp" in frame.columns else None,
                true_pctr=frame["true_pctr"].to_numpy() if "true_pctr" in frame.columns else None,
            )

    def _path(self, number: int, what: str) -> Path:
        return self._folder / f"{number:06}.{what}.arrow"


def numbered(column: pl.Series, *, native: bool = True) -> tuple[pl.Series, pl.Series]:
    """Texts [n] -> the place of each among the distinct ones, null if it is null; and these, as they appear.

    By the native core where it was built.
    """
    numbers, firsts = np.empty((2, len(column)), np.uint32)
    count = _native.number_texts(column, numbers, firsts, _SEED) if native and IS_BUILT else None
    if count is None:
        texts = column.drop_nulls().unique(maintain_order=True)
        return column.cast(pl.Enum(texts)).to_physical(), texts
    width = next(dtype for dtype in (np.uint8, np.uint16, np.uint32) if count <= np.iinfo(dtype).max)
    places = pl.Series(column.name, numbers.astype(width))
    if column.has_nulls():
        places = pl.select(pl.when(column.is_not_null()).then(places)).to_series()
    return places, column[firsts[:count]]
