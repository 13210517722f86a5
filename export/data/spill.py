"""The log's typed chunks on disk during one preparation, so that its text is parsed once.

Arrow files with LZ4, about as large as the uncompressed log. Texts are codes into a dictionary for each
chunk, the form that counting and encoding need. This module knows nothing of splits or ids.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.readers import LogChunk


@dataclass(frozen=True, eq=False)
class SpilledChunk:
    """A chunk read back, with categorical fields as Enum."""

    first_row: int
    fields: pl.DataFrame
    labels: NDArray[np.uint8]  # [n]
    timestamps: NDArray[np.int64] | None  # [n]
    true_pctr: NDArray[np.float32] | None  # [n]

    def __len__(self) -> int:
        return len(self.labels)


class Spill:
    """Writes chunks into `folder`, then reads them back in order, as often as needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: list[str] = []
        self._first_rows: list[int] = []
        self.rows = 0

    def write(self, chunk: LogChunk) -> None:
        self._names = chunk.fields.columns
        frame = chunk.fields.select(with_dictionary(column) for column in chunk.fields)
        # Fields are named by position, because a field may be called `label`.
        frame.columns = [str(position) for position in range(len(self._names))]
        outcomes = {"label": chunk.labels, "timestamp": chunk.timestamps, "true_pctr": chunk.true_pctr}
        frame = frame.with_columns(
            pl.Series(name, values) for name, values in outcomes.items() if values is not None
        )
        frame.write_ipc(self._path(len(self._first_rows)), compression="lz4")
        self._first_rows.append(self.rows)
        self.rows += len(chunk)

    def read(self) -> Iterator[SpilledChunk]:
        for number, first_row in enumerate(self._first_rows):
            frame = pl.read_ipc(self._path(number))
            fields = frame[:, : len(self._names)]
            fields.columns = self._names
            yield SpilledChunk(
                first_row=first_row,
                fields=fields,
                labels=frame["label"].to_numpy(),
                timestamps=frame["timestamp"].to_numpy() if "timestamp" in frame.columns else None,
                true_pctr=frame["true_pctr"].to_numpy() if "true_pctr" in frame.columns else None,
            )

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06}.arrow"


def with_dictionary(column: pl.Series) -> pl.Series:
    """Text as codes into its distinct values in order of appearance; other columns are unchanged."""
    if column.dtype != pl.String:
        return column
    return column.cast(pl.Enum(column.drop_nulls().unique(maintain_order=True)))
