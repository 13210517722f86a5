"""What a reader calls the values behind a field's ids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.bundle.schema import FIRST_ID, MISSING_ID, OOV_ID, Bins, Field, Hashing

VALUES_NAMED = 3


def value_names(field: Field, ids: NDArray[np.integer]) -> dict[int, str]:
    """What a reader calls the values with these ids [k]; values that share an id share a name."""
    base = np.arange(field.base_cardinality) if field.renumbering is None else field.renumbering
    return {int(one): _joined(field, np.flatnonzero(base == one)) for one in ids}


def _joined(field: Field, base_ids: NDArray[np.integer]) -> str:
    named = [_value_name(field, int(each)) for each in base_ids[:VALUES_NAMED]]
    more = len(base_ids) - len(named)
    return ", ".join([*named, *([f"{more:,} more"] if more else [])])


def _value_name(field: Field, base_id: int) -> str:
    if base_id == MISSING_ID:
        return "missing"
    if base_id == OOV_ID:
        return "out of vocabulary"
    position, encoding = base_id - FIRST_ID, field.encoding
    if isinstance(encoding, Hashing):
        return f"bucket {position}"
    if isinstance(encoding, Bins):
        edges = ["-∞", *(f"{edge:g}" for edge in encoding.edges), "∞"]
        return f"{edges[position]} to {edges[position + 1]}"
    return encoding.values[position]
