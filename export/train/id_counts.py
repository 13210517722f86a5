"""How often the training and the validation part look up each id of each field. It knows no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part
from models.embedding import FeaturesEmbedding
from models.fields import PADDING_ID, Field, column_slices

CHUNK_ROWS = 200_000

Counts = NDArray[np.int64]

NOTHING: Mapping[str, Counts] = MappingProxyType({})


@dataclass(frozen=True)
class IdCounts:
    """By field how often each part has each id, [cardinality].

    Those of the training part count what a warm start's earlier trainings met, too.
    """

    fields: tuple[Field, ...]
    training: Mapping[str, Counts]
    validation: Mapping[str, Counts]

    @classmethod
    def of(
        cls,
        fields: Sequence[Field],
        training: Part,
        validation: Part,
        earlier: Mapping[str, Counts] = NOTHING,
    ) -> IdCounts:
        """Counts both parts, of a log with these fields; the training part's are added to `earlier` ones."""
        counts = {
            name: found + earlier[name] if name in earlier else found
            for name, found in _by_field(fields, training).items()
        }
        return cls(tuple(fields), counts, _by_field(fields, validation))

    def of_table(self, embedding: FeaturesEmbedding) -> IdCounts:
        """As these, with the counts of all fields that share a field's rows, in this table or the model."""
        return IdCounts(
            self.fields, self._shared(embedding, self.training), self._shared(embedding, self.validation)
        )

    def _shared(self, embedding: FeaturesEmbedding, counts: Mapping[str, Counts]) -> Mapping[str, Counts]:
        as_stored = {field.name: field for field in embedding.fields}
        total = {name: np.zeros_like(found) for name, found in counts.items()}
        for field in self.fields:
            total[as_stored.get(field.name, field).same_values_as or field.name] += counts[field.name]
        return total


def _by_field(fields: Sequence[Field], part: Part) -> dict[str, Counts]:
    """The padding of a sequence does not count: its row is never part of a pooled embedding."""
    slices = column_slices(fields)
    counts = {field.name: np.zeros(field.cardinality, np.int64) for field in fields}
    for start in range(0, len(part.labels), CHUNK_ROWS):
        chunk = np.asarray(part.ids[start : start + CHUNK_ROWS])
        for field in fields:
            found = np.bincount(chunk[:, slices[field.name]].ravel(), minlength=field.cardinality)
            if field.width > 1:
                found[PADDING_ID] = 0
            counts[field.name] += found
    return counts
