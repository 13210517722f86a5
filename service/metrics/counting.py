"""Sums over many values: by the native core where it was built, else by numpy. Both count the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.bundle.encodings import MISSING_ID, OOV_ID
from service.bundle.native import IS_BUILT, _native

# Rows of a mask that are summed in one numpy row.
ROWS_AT_ONCE = 32

Counts = NDArray[np.int64]


def count_ids(
    ids: NDArray[np.int32], weights: NDArray[np.int32] | None, missing: Counts, unknown: Counts
) -> None:
    """Add to `missing` and `unknown` [columns] how many of `ids` [rows, columns] are that.

    A row counts as many times as `weights` [rows] says, or once. Unknown ids are out of vocabulary. There are
    at most two million rows.
    """
    for counts, value in ((missing, MISSING_ID), (unknown, OOV_ID)):
        found = ids == value
        counts += _count_in_columns(found) if weights is None else weights.astype(np.int64) @ found


def count_values(values: NDArray[np.float64], bounds: NDArray[np.float64], counts: Counts) -> float:
    """Add to `counts` [bounds] how many of `values` are at most each bound, and above the one before it.

    The bounds ascend; those above all of them count with the last. Returns the sum of the values.
    """
    places = np.minimum(bounds.searchsorted(values), len(bounds) - 1)
    counts += np.bincount(places, minlength=len(bounds))
    return float(values.sum())


def _count_in_columns(mask: NDArray[np.bool_]) -> Counts:
    """The true values of mask [n, columns] by column [columns].

    Many short rows are summed as a few long ones: numpy's cost of starting a row exceeds that of adding it.
    """
    rows, columns = mask.shape
    whole = rows - rows % ROWS_AT_ONCE
    wide = mask[:whole].view(np.uint8).reshape(rows // ROWS_AT_ONCE, ROWS_AT_ONCE * columns)
    sums = np.add.reduce(wide, axis=0, dtype=np.uint16).reshape(ROWS_AT_ONCE, columns)
    found: Counts = np.add.reduce(sums, axis=0, dtype=np.int64)
    if whole < rows:
        found += np.add.reduce(mask[whole:], axis=0, dtype=np.int64)
    return found


python_count_ids, python_count_values = count_ids, count_values
if IS_BUILT:
    count_ids, count_values = _native.count_ids, _native.count_values
