"""What a model says of rows in which one field is not known: out of vocabulary, or missing.

It knows ids and predictions, not how the model was trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from export.data.encoded import Part
from export.judge.metrics import sigmoid
from export.train.config import TrainConfig
from export.train.loop import predict_logits
from export.train.prior import corrected_logits
from models.fields import PADDING_ID, Field, column_slices, fields_of
from service.bundle.schema import MISSING_ID, OOV_ID

ROWS = 1000
LARGEST_FACTOR = 1.5

SPECIAL_IDS = {"out of vocabulary": OOV_ID, "missing": MISSING_ID}

Ids = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class UnknownField:
    """The mean pCTR of the same rows as they are, and with one field's values all replaced."""

    field: str
    replaced_by: str
    known: float
    unknown: float

    @property
    def factor(self) -> float:
        """How far the mean moves, up or down; at least 1."""
        ratio = self.unknown / self.known
        return max(ratio, 1 / ratio)


def unknown_fields(model: nn.Module, part: Part, config: TrainConfig) -> tuple[UnknownField, ...]:
    """Each field with the replacement that moves the mean pCTR most, on at most ROWS rows of the part."""
    ids = np.ascontiguousarray(part.ids[:: max(1, len(part.labels) // ROWS)][:ROWS])
    known = _mean_pctr(model, ids, config)
    fields = fields_of(model)
    columns = column_slices(fields)
    return tuple(
        max(
            (
                UnknownField(field.name, name, known, _mean_pctr(model, replaced, config))
                for name, replaced in _replacements(ids, field, columns[field.name])
            ),
            key=lambda one: one.factor,
        )
        for field in fields
    )


def warning_of(found: Sequence[UnknownField]) -> str | None:
    """What to say of fields whose unknown values move the mean by more than LARGEST_FACTOR; None for none."""
    moved = sorted((one for one in found if one.factor > LARGEST_FACTOR), key=lambda one: -one.factor)
    if not moved:
        return None
    named = ", ".join(
        f"{one.field} {one.replaced_by}: {one.known:.4g} -> {one.unknown:.4g}" for one in moved[:5]
    )
    rest = f", and {len(moved) - 5} fields more" if len(moved) > 5 else ""
    return (
        f"a field without a known value moves the mean pCTR of validation rows by more than a factor of "
        f"{LARGEST_FACTOR:g}: {named}{rest}; check that this is what such rows do"
    )


def _mean_pctr(model: nn.Module, ids: Ids, config: TrainConfig) -> float:
    return float(sigmoid(corrected_logits(predict_logits(model, ids), config)).mean())


def _replacements(ids: Ids, field: Field, columns: slice) -> Iterator[tuple[str, Ids]]:
    """The rows with this field out of vocabulary (each element of a sequence), and missing."""
    for name, special in SPECIAL_IDS.items():
        replaced = ids.copy()
        if field.width > 1 and special != PADDING_ID:
            replaced[:, columns] = np.where(ids[:, columns] == PADDING_ID, PADDING_ID, special)
        else:
            replaced[:, columns] = special
        yield name, replaced
