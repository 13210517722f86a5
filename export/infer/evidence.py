"""What columns show of each other: which rows are one request, what is fixed by a user or an ad, what leaks.

It knows columns by name, and no schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.judge.fields import LEAK_AUC
from export.judge.metrics import auc, is_evidence

_ENOUGH_REQUESTS: Final = 50  # of several rows, to learn roles from
_ENOUGH_ROWS: Final = 200  # of keys with several rows, to learn what a key fixes
FIXED_SHARE: Final = 0.99  # of those rows have the value that is usual for their key
VARIES_SHARE: Final = 0.01  # of the requests of several rows hold several values
_BINS: Final = 64
_PRIOR_ROWS: Final = 1.0

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Varying:
    """In how many requests of several rows a column has several values."""

    varies: int
    requests: int

    @property
    def share(self) -> float:
        return self.varies / self.requests


def varying(frame: pl.DataFrame, request: list[str], column: str) -> Varying | None:
    """The column within the requests that these columns identify; None: there are too few of several rows."""
    if column in request:
        return None
    known = frame.filter(pl.all_horizontal(pl.col(name).is_not_null() for name in request))
    groups = known.group_by(request).agg(pl.len().alias("rows"), pl.col(column).n_unique().alias("values"))
    several = groups.filter(pl.col("rows") > 1)
    if len(several) < _ENOUGH_REQUESTS:
        return None
    return Varying(int((several["values"] > 1).sum()), len(several))


def fixed_share(frame: pl.DataFrame, key: str, column: str) -> float | None:
    """The share of rows that have their key's usual value, among keys with several rows; None: too few."""
    if key == column:
        return None
    pairs = frame.lazy().filter(pl.col(key).is_not_null()).group_by(key, column).len()
    usual = pairs.group_by(key).agg(pl.col("len").sum().alias("rows"), pl.col("len").max().alias("usual"))
    found = usual.filter(pl.col("rows") > 1).select(pl.col("rows", "usual").sum()).collect().row(0)
    return found[1] / found[0] if found[0] >= _ENOUGH_ROWS else None


def auc_alone(cells: pl.Series, labels: Labels) -> float | None:
    """How well one column ranks: the click rates of its values in odd rows, judged in even ones.

    A number is cut into bins. None where too few clicks or non-clicks are seen to say so.
    """
    odd = np.arange(len(labels)) % 2 == 1
    judged = labels[~odd]
    if not is_evidence(int(judged.sum()), len(judged)):
        return None
    codes = _codes(cells)
    width = int(codes.max()) + 1
    rows, clicks = np.bincount(codes[odd], minlength=width), np.bincount(codes[odd], labels[odd], width)
    mean = labels[odd].mean()
    rates = (clicks + _PRIOR_ROWS * mean) / (rows + _PRIOR_ROWS)
    return float(auc(judged, rates[codes[~odd]]))


def leaks(found: float | None) -> bool:
    """Whether a column that ranks so well alone tells the label, either way round."""
    return found is not None and max(found, 1 - found) > LEAK_AUC


def _codes(cells: pl.Series) -> NDArray[np.int64]:
    """Each row's value, or bin of a number with many, as a number from 0 [n]."""
    if cells.dtype.is_numeric() and cells.n_unique() > 4 * _BINS:
        ranks = cells.rank("dense")
        cells = (ranks * _BINS / ranks.max()).floor()
    if isinstance(cells.dtype, pl.List):
        cells = cells.cast(pl.List(pl.String)).list.join("|")
    return cells.rank("dense").fill_null(0).to_numpy().astype(np.int64)
