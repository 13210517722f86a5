"""What the training parts before today's met, by id, and which id of theirs each id of today goes on from.

It knows schemas and counts, no weights and no files of a log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.data.errors import LogError
from export.data.log_schema import LogField
from service.bundle.schema import FIRST_ID, OOV_ID, Bins, Field, Hashing, Kind, Schema, Vocabulary

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Past:
    """What a model was trained on so far, over all its runs.

    schema  the ids that it knows
    rows    the rows that one epoch of each run goes through, together
    counts  by field how often these rows have each id, [cardinality]
    absent  by field for how many runs in a row, the last one included, no row has it, [cardinality]
    """

    schema: Schema
    rows: int
    counts: Mapping[str, Counts]
    absent: Mapping[str, Counts]

    def moved_to(self, schema: Schema) -> Past:
        """The same by the ids of another schema; ids that this one does not know have counts of 0."""
        found, known = origins(self.schema, schema), is_known(self.schema, schema)

        def moved(counts: Mapping[str, Counts]) -> dict[str, Counts]:
            return {name: np.where(known[name], counts[name][ids], 0) for name, ids in found.items()}

        return Past(schema, self.rows, moved(self.counts), moved(self.absent))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All but the schema, by names that a file can hold: fields go by their position."""
        found: dict[str, NDArray[Any]] = {"rows": np.array(self.rows, np.int64)}
        for position, field in enumerate(self.schema.fields):
            found[f"{position}.counts"] = self.counts[field.name]
            found[f"{position}.absent"] = self.absent[field.name]
        return found

    @classmethod
    def of(cls, schema: Schema, arrays: Mapping[str, NDArray[Any]]) -> Past:
        """What `arrays` made of it. Raises ValueError for arrays that are not of this schema."""

        def by_field(what: str) -> dict[str, Counts]:
            found = {}
            for position, field in enumerate(schema.fields):
                array = arrays.get(f"{position}.{what}")
                if array is None or array.shape != (field.cardinality,) or array.dtype != np.int64:
                    raise ValueError(
                        f"'{position}.{what}' must be int64 numbers by id of the field '{field.name}', "
                        f"{field.cardinality} of them (got {None if array is None else array.shape})"
                    )
                found[field.name] = array
            return found

        if "rows" not in arrays or arrays["rows"].shape != ():
            raise ValueError("'rows' must be a number (got none)")
        return cls(schema, int(arrays["rows"]), by_field("counts"), by_field("absent"))


def origins(old: Schema, new: Schema) -> dict[str, NDArray[np.int64]]:
    """By field, for each id of the new schema the old id that it goes on from, [cardinality].

    A value goes on from itself, and one that the old vocabulary lacks from out of vocabulary, which it was
    until now. A bin goes on from the one that holds its middle. Raises LogError for schemas of other fields.
    """
    check_same_fields(new.fields, old)
    return {field.name: _origin(old.field(field.name), field) for field in new.fields}


def is_known(old: Schema, new: Schema) -> dict[str, NDArray[np.bool_]]:
    """By field whether the old schema has an id for what each id of the new one means, [cardinality]."""
    found = origins(old, new)
    return {name: (ids != OOV_ID) | (np.arange(len(ids)) == OOV_ID) for name, ids in found.items()}


def _origin(old: Field, new: Field) -> NDArray[np.int64]:
    special = np.arange(FIRST_ID)
    match old.encoding, new.encoding:
        case Vocabulary(values), Vocabulary(wanted):
            ids = {value: FIRST_ID + place for place, value in enumerate(values)}
            own = np.fromiter((ids.get(value, OOV_ID) for value in wanted), np.int64, len(wanted))
        case Bins(edges), Bins(wanted_edges) if edges != wanted_edges:
            own = FIRST_ID + np.searchsorted(edges, _within_bins(wanted_edges), side="right")
        case _:
            return np.arange(new.cardinality)
    return np.concatenate([special, own])


def _within_bins(edges: Sequence[float]) -> NDArray[np.float64]:
    """A number of each bin, [bins]: its middle; of a bin without an end the number next to its edge."""
    starts = np.asarray(edges, np.float64)
    if not len(starts):
        return np.zeros(1)
    below = np.nextafter(starts[:1], -np.inf)
    return np.concatenate([below, starts[:-1] / 2 + starts[1:] / 2, starts[-1:]])


def check_same_fields(fields: Sequence[LogField | Field], old: Schema) -> None:
    """Raises LogError unless these are the old schema's fields in its order, whatever their values are.

    Layers above embeddings are laid out by field, so a model has no place for another one.
    """
    for position, (new, known) in enumerate(zip_longest(fields, old.fields), 1):
        expected, found = (None if one is None else _described(one) for one in (known, new))
        if expected != found:
            raise LogError(
                f"field {position} must be as in the model that the warm start goes on from, "
                f"{expected or 'absent'} (got {found or 'none'}); train once without --warm-start"
            )


def _described(field: LogField | Field) -> str:
    """All that makes two fields the same one, but for values and bins."""
    told = [field.kind, field.role, _encoding(field)]
    if field.kind is Kind.SEQUENCE:
        told.append(f"at most {field.max_length} long")
    if field.same_values_as is not None:
        told.append(f"the values of '{field.same_values_as}'")
    return f"'{field.name}' ({', '.join(told)})"


def _encoding(field: LogField | Field) -> str:
    if field.kind is Kind.NUMERIC:
        return "bins"
    hashed = field if isinstance(field, LogField) and field.encoding == "hashing" else field.encoding
    if isinstance(hashed, LogField | Hashing):
        return f"hashing to {hashed.buckets} buckets by seed {hashed.seed}"
    return "vocabulary"
