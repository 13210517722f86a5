"""Which rows of the calibration part fit a map, and which others judge it.

With time in the log, later rows judge what earlier rows fitted; without it, chance makes the folds. Neither
follows the order in which the log was written.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
# Of a part with time: a map is fitted on all blocks before the one that judges it, on three at least.
TIME_BLOCKS, FIRST_BLOCKS = 6, 3

Split = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Row numbers: those that fit, and those that judge."""


def held_out_splits(labels: NDArray[np.integer], timestamps: NDArray[np.int64] | None) -> list[Split]:
    """The splits of rows with these labels [n]; by time (rolling origin) where there are timestamps [n].

    Chance decides also with time where the later rows lack clicks or non-clicks.
    """
    if timestamps is not None:
        blocks = np.array_split(rows_in_order(timestamps, len(labels)), TIME_BLOCKS)
        later = labels[np.concatenate(blocks[FIRST_BLOCKS:])]
        if len(blocks[0]) and 0 < later.sum() < len(later):
            return [(np.concatenate(blocks[:k]), blocks[k]) for k in range(FIRST_BLOCKS, TIME_BLOCKS)]
    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    folds = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(FOLDS)]
    return [split for split in folds if len(split[0]) and len(split[1])]


def rows_in_order(timestamps: NDArray[np.int64] | None, rows: int) -> NDArray[np.int64]:
    """Row numbers by time. Rows of one moment are shuffled, since their order may follow their labels."""
    if timestamps is None:
        return np.arange(rows)
    shuffled = np.random.default_rng(0).permutation(rows)
    return shuffled[np.argsort(timestamps[shuffled], kind="stable")]
