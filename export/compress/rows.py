"""Embedding rows that are all zero -> one row a field, and the new numbers of the ids.

It knows of a field how many ids it has and which of them are dead; not what they mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.bundle.schema import FIRST_ID


def renumber(dead: NDArray[np.bool_]) -> NDArray[np.int32] | None:
    """dead [cardinality], whether an id's embedding is all zero -> new id [cardinality]; None: nothing won.

    Missing (0) and out-of-vocabulary (1) keep their rows and numbers. Live ids keep their order; the dead
    ones share the last id. It is never 0, so in a sequence they still count as elements of the mean, which
    padding does not.
    """
    shared = dead.copy()
    shared[:FIRST_ID] = False
    if shared.sum() < 2:
        return None
    numbers = np.cumsum(~shared) - 1
    numbers[shared] = len(dead) - shared.sum()
    return numbers.astype(np.int32)


def first_of_each(renumbering: NDArray[np.int32]) -> NDArray[np.intp]:
    """new id -> an old id that became it, [new cardinality]: which rows the smaller table takes."""
    return np.unique(renumbering, return_index=True)[1]
