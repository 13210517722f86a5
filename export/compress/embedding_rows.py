"""Merges the all-zero embedding rows of a field into one row and renumbers the ids.

It knows how many ids a field has and which of them have zero rows, not what they mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.bundle.schema import FIRST_ID


def renumber(dead: NDArray[np.bool_]) -> NDArray[np.int32] | None:
    """dead [cardinality], whether an id's embedding is all zero -> new ids [cardinality].

    Returns None if no rows can be merged. Missing (0) and out-of-vocabulary (1) keep their rows and numbers.
    Live ids keep their order, and dead ids share the last id. That id is never 0, so in a sequence dead ids
    still count as elements of the mean, unlike padding.
    """
    shared = dead.copy()
    shared[:FIRST_ID] = False
    if shared.sum() < 2:
        return None
    numbers = np.cumsum(~shared) - 1
    numbers[shared] = len(dead) - shared.sum()
    return numbers.astype(np.int32)


def first_of_each(renumbering: NDArray[np.int32]) -> NDArray[np.intp]:
    """For each new id the first old id with that number, [new cardinality]: the rows of the smaller table."""
    return np.unique(renumbering, return_index=True)[1]
