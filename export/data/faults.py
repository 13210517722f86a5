"""The malformed rows of one chunk: the first is told, unless a column is read wrongly as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.errors import Rejections

MOSTLY: Final = 0.9  # of a column's cells; where so many are wrong, it is no fault of a row
ENOUGH: Final = 2  # cells to say so

About = Callable[[pl.Series, str], str]
"""Cells that a column's use cannot read, none where all are missing, and where they stand -> the error."""


@dataclass(frozen=True)
class _Fault:
    """The first bad row of a column."""

    row: int
    column: str
    expected: str
    remedy: str | None


class Faults:
    """The bad rows of one chunk of raw `cells`, whose `lines` [n] are those of the file.

    `read` has the columns of which an earlier chunk had a good cell, and gets those of this one.
    """

    def __init__(self, cells: pl.DataFrame, lines: NDArray[np.int64], read: set[str]) -> None:
        self._cells = cells
        self._lines = lines
        self._read = read
        self._bad: pl.Series | None = None
        self._first: _Fault | None = None
        self._disagreement: Callable[[str], str] | None = None

    @property
    def any(self) -> bool:
        return self._bad is not None

    def check(
        self,
        column: str,
        values: pl.Series,
        bad: pl.Series,
        expected: str,
        remedy: str | None = None,
        about: About | None = None,
    ) -> pl.Series:
        """Records the bad rows of one column; returns `values` unchanged.

        `about` says what the schema should say where the column as a whole is not what it says.
        """
        row = bad.arg_max() if bad.any() else None
        if row is not None:
            self._bad = bad if self._bad is None else self._bad | bad
            if self._first is None or row < self._first.row:
                self._first = _Fault(row, column, expected, remedy)
            if about is not None and column not in self._read:
                self._judge(column, bad, about)
        if not bad.all():
            self._read.add(column)
        return values

    def _judge(self, column: str, bad: pl.Series, about: About) -> None:
        """Keeps a disagreement, if most cells of the column are bad, or all missing; the first is told."""
        present = self._cells[column].is_not_null()
        cells = int(present.sum()) or len(bad)
        wrong = self._cells[column].filter(bad & present)
        is_wrong = len(wrong) >= MOSTLY * cells or (bad.all() and not present.any())
        if cells >= ENOUGH and is_wrong and self._disagreement is None:
            self._disagreement = lambda file: about(wrong, file)

    def good(self, rejections: Rejections, *, has_header: bool) -> pl.Series:
        """Which rows are good, [n]. The others go to `rejections`, which may raise LogError."""
        assert self._bad is not None
        assert self._first is not None
        first, rows = self._first, int(self._bad.sum())
        line = int(self._lines[first.row])
        if self._disagreement is not None:
            rejections.disagree(self._disagreement(rejections.within(len(self._lines))))
        remedy = first.remedy
        if line == 1 and not has_header and len(self._lines) > rows:
            remedy = "write header = true into the schema if this line names the columns"
        found = self._cells[first.column][first.row]
        rejections.add(line, first.column, first.expected, found, rows, remedy=remedy)
        return ~self._bad
