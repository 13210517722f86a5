"""The ordered fields of a log and how their raw values become ids; it knows neither models nor requests.

Every field has its own ids: 0 is missing (and pads sequences), 1 is out of vocabulary, and the ids of the
encoding start at 2. After compaction a field may have a renumbering of these base ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.bounds import MAX_CARDINALITY, MAX_COLUMNS, MAX_FIELDS, MAX_NAME_CHARACTERS
from service.bundle.encodings import (
    FIRST_ID,
    MISSING_ID,
    OOV_ID,
    Bins,
    Encoding,
    Hashing,
    Vocabulary,
    first_repeated,
)
from service.bundle.errors import show
from service.bundle.spelling import Spelling

__all__ = [
    "FIRST_ID",
    "MISSING_ID",
    "OOV_ID",
    "Bins",
    "Encoding",
    "Field",
    "Hashing",
    "Kind",
    "RawValue",
    "Role",
    "Schema",
    "Vocabulary",
]

RawValue = str | int | float | None | Sequence[str | int | None]


class Kind(StrEnum):
    """The type of a field's raw values."""

    CATEGORICAL = "categorical"
    NUMERIC = "numeric"
    SEQUENCE = "sequence"


class Role(StrEnum):
    """Whether the request or each of its candidates has the field."""

    CONTEXT = "context"
    CANDIDATE = "candidate"


@dataclass(frozen=True, eq=False)
class Field:
    """One slot of a row, with `max_length` ids: above 1 only for a sequence, whose last elements are kept.

    `renumbering` (int32 [base_cardinality]) maps a base id to the id in the graph: embedding rows that
    pruning set to zero share one id. Ids 0 and 1 map to themselves, and no other id maps to them.
    `same_values_as` names a field with the same encoding and renumbering, so that a value has the same id in
    both (a history of `item_id`s). Raises ValueError for contradictory arguments.
    """

    name: str
    kind: Kind
    role: Role
    encoding: Encoding
    max_length: int = 1
    renumbering: NDArray[np.int32] | None = None
    same_values_as: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", Kind(self.kind))
        object.__setattr__(self, "role", Role(self.role))
        if not self.name:
            raise ValueError("'name' must not be empty; use the name of the field in requests")
        if len(self.name) > MAX_NAME_CHARACTERS:
            raise self._invalid("name", f"of at most {MAX_NAME_CHARACTERS} characters", str(len(self.name)))
        if (self.kind is Kind.NUMERIC) != isinstance(self.encoding, Bins):
            wanted = "Bins" if self.kind is Kind.NUMERIC else "Vocabulary or Hashing"
            raise self._invalid("encoding", wanted, type(self.encoding).__name__)
        if self.max_length < 1 or (self.max_length > 1 and self.kind is not Kind.SEQUENCE):
            raise self._invalid("max_length", "1, or more for a sequence", show(self.max_length))
        if self.max_length > MAX_COLUMNS:
            raise self._invalid("max_length", f"at most {MAX_COLUMNS}", show(self.max_length))
        if self.base_cardinality > MAX_CARDINALITY:
            raise self._invalid("cardinality", f"at most {MAX_CARDINALITY}", str(self.base_cardinality))
        if self.renumbering is not None:
            object.__setattr__(self, "renumbering", self._checked(self.renumbering))
        if self.same_values_as is not None and self.kind is Kind.NUMERIC:
            raise self._invalid("same_values_as", "absent in a numeric field", show(self.same_values_as))

    @property
    def base_cardinality(self) -> int:
        """The number of ids of the encoding, before any renumbering."""
        return FIRST_ID + self.encoding.size

    @cached_property
    def cardinality(self) -> int:
        """Ids are in [0, cardinality), the rows of the field's embedding."""
        return self.base_cardinality if self.renumbering is None else int(self.renumbering.max()) + 1

    def _checked(self, renumbering: NDArray[Any]) -> NDArray[np.int32]:
        """A read-only int32 copy of `renumbering`. Raises ValueError if it is invalid."""
        if not isinstance(renumbering, np.ndarray) or renumbering.dtype.kind not in "iu":
            raise self._invalid("renumbering", "an array of integers", type(renumbering).__name__)
        if renumbering.shape != (self.base_cardinality,):
            raise self._invalid("renumbering", f"of shape ({self.base_cardinality},)", str(renumbering.shape))
        if renumbering[MISSING_ID] != MISSING_ID or renumbering[OOV_ID] != OOV_ID:
            raise self._invalid("renumbering", "0 at 0 and 1 at 1", f"{renumbering[0]} and {renumbering[1]}")
        rest = renumbering[FIRST_ID:]
        if rest.size and not FIRST_ID <= rest.min() <= rest.max() < self.base_cardinality:
            expected = f"from {FIRST_ID} to {self.base_cardinality - 1} from position {FIRST_ID} on"
            raise self._invalid("renumbering", expected, f"{rest.min()} to {rest.max()}")
        copy = renumbering.astype(np.int32)
        copy.setflags(write=False)
        return copy

    def _invalid(self, what: str, expected: str, found: str) -> ValueError:
        return ValueError(f"'{what}' of field {show(self.name)} must be {expected} (got {found})")


@dataclass(frozen=True, eq=False)
class Schema:
    """All fields, in the order of their columns in a row of ids.

    `spelling` is how the log wrote raw values, None where that is not known. Raises ValueError without a
    field, for a repeated name, for a `same_values_as` between fields that give a value different ids, and for
    a spelling of a field that is none.
    """

    fields: tuple[Field, ...]
    spelling: Spelling | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        names = [field.name for field in self.fields]
        if not names:
            raise ValueError("'fields' must hold at least one field (got none)")
        if len(names) > MAX_FIELDS:
            raise ValueError(f"'fields' must be at most {MAX_FIELDS} (got {len(names)})")
        if self.columns > MAX_COLUMNS:
            raise ValueError(f"'fields' must have at most {MAX_COLUMNS} ids a row (got {self.columns})")
        if len(set(names)) != len(names):
            raise ValueError(f"'fields' must have unique names (got {show(first_repeated(names))} twice)")
        for field in self.fields:
            if field.same_values_as is not None:
                self._check_shared(field, field.same_values_as)
        if self.spelling is not None:
            sequences = {field.name for field in self.fields if field.kind is Kind.SEQUENCE}
            if unknown := sorted(set(self.spelling.separators) - sequences):
                raise ValueError(f"'separators' must name sequences of the schema (got {show(unknown[0])})")
            if unknown := sorted(set(self.spelling.columns) - set(names)):
                raise ValueError(f"'columns' must name fields of the schema (got {show(unknown[0])})")

    def _check_shared(self, field: Field, name: str) -> None:
        owner = self._by_name.get(name)
        if owner is None or owner.same_values_as is not None or owner.kind is Kind.NUMERIC:
            expected = "another field of the schema, not numeric, with values of its own"
            raise field._invalid("same_values_as", expected, show(name))
        if field.encoding is not owner.encoding and field.encoding != owner.encoding:
            raise field._invalid("encoding", f"that of {show(name)}", "another one")
        if not _same_array(field.renumbering, owner.renumbering):
            raise field._invalid("renumbering", f"that of {show(name)}", "another one")

    @cached_property
    def columns(self) -> int:
        """The number of ids in a row."""
        return sum(field.max_length for field in self.fields)

    @cached_property
    def column_slices(self) -> dict[str, slice]:
        """The columns of each field."""
        slices, start = {}, 0
        for field in self.fields:
            slices[field.name] = slice(start, start + field.max_length)
            start += field.max_length
        return slices

    @cached_property
    def _by_name(self) -> dict[str, Field]:
        return {field.name: field for field in self.fields}

    def field(self, name: str) -> Field:
        """The field of that name. Raises KeyError."""
        return self._by_name[name]

    def renumbered(self, renumberings: Mapping[str, NDArray[Any]]) -> Schema:
        """This schema with the current ids of fields mapped by `renumberings[name]` [cardinality].

        Fields with the same values as a named one follow it; all others stay the same. Raises ValueError for
        an unknown name, an invalid mapping, or one that makes fields with the same values differ.
        """
        unknown = sorted(set(renumberings) - set(self._by_name))
        if unknown:
            raise ValueError(f"'renumberings' must name fields of the schema (got {show(unknown[0])})")
        owners = {field.name: field.same_values_as or field.name for field in self.fields}
        return Schema(
            tuple(
                _renumbered(field, renumberings.get(field.name, renumberings.get(owners[field.name])))
                for field in self.fields
            ),
            self.spelling,
        )


def _same_array(one: NDArray[Any] | None, other: NDArray[Any] | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def _renumbered(field: Field, step: NDArray[Any] | None) -> Field:
    if step is None:
        return field
    if step.shape != (field.cardinality,):
        raise field._invalid("renumbering", f"of shape ({field.cardinality},)", str(step.shape))
    return replace(field, renumbering=step if field.renumbering is None else step[field.renumbering])
