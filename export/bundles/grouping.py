"""Which group each row of a log is in: by a field's value, or that of any other column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.bundles.reading import is_text_like
from export.data.encode import distinct_texts
from export.data.readers import LogChunk
from export.errors import ExportError
from export.report.value_names import value_names
from service.bundle.schema import Kind, Schema

MISSING = "missing"


@dataclass
class Grouping:
    """The values of one column as codes; a number of the model is grouped by its bins.

    Memory holds a code a row, and each distinct value once.
    """

    column: str
    schema: Schema
    _codes: dict[str | None, int] = field(default_factory=dict)
    _found: list[NDArray[np.int32]] = field(default_factory=list)

    @property
    def is_field(self) -> bool:
        return any(one.name == self.column for one in self.schema.fields)

    @property
    def _is_binned(self) -> bool:
        return self.is_field and self.schema.field(self.column).kind is Kind.NUMERIC

    def add(self, chunk: LogChunk, ids: NDArray[np.int32]) -> None:
        """Rows of a chunk, and their ids [n, columns]. Raises ExportError for values that have no text."""
        if self._is_binned:
            self._found.append(ids[:, self.schema.column_slices[self.column].start].copy())
            return
        values = chunk.fields[self.column] if self.is_field else chunk.others[self.column]
        if not is_text_like(values.dtype):
            raise ExportError(
                f"'by' must name a column of single values that text can hold (got {self.column!r} with "
                f"{values.dtype}); leave it out"
            )
        distinct, places = distinct_texts(values.cast(pl.String))
        known = [self._code(text) for text in distinct]
        if (places == len(distinct)).any():
            known.append(self._code(None))
        self._found.append(np.array(known, np.int32)[places])

    def _code(self, text: str | None) -> int:
        return self._codes.setdefault(text, len(self._codes))

    @property
    def codes(self) -> NDArray[np.int32]:
        """The group of each row."""
        return np.concatenate([np.empty(0, np.int32), *self._found])

    def names(self, codes: Sequence[int]) -> dict[int, str]:
        """What a reader calls these groups."""
        if self._is_binned:
            return value_names(self.schema.field(self.column), np.array(codes, np.int64))
        texts = {code: MISSING if text is None else text for text, code in self._codes.items()}
        return {code: texts[code] for code in codes}
