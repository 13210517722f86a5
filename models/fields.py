"""Fields as models see them: names, cardinalities, widths, and the numbers behind ids.

It knows nothing of raw values; the schema maps values to ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

PADDING_ID = 0
"""The id that pads sequences to their field's width; in a field of width 1 an ordinary id."""

Role = Literal["context", "candidate"]
Storage = Literal["full", "qr", "hashed"]
Pooling = Literal["mean", "sum"]


@dataclass(frozen=True)
class Field:
    """One slot of the input. Its ids lie in [0, cardinality).

    width           ids per row; above 1 it is a sequence, oldest first, padded with PADDING_ID at the end
    role            whether the field belongs to the request's context or to each candidate
    values          [cardinality], for a numeric field: the number of each id, on a scale near unit variance,
                    and 0.0 for an id without a number
    same_values_as  the field whose ids and embedding this one uses (a history of ads)
    storage         how embeddings are stored: a row for each id (`full`), the product of a quotient's and a
                    remainder's row (`qr`), or one row for several ids (`hashed`)
    collisions      the number of ids that share a quotient's row, or a row
    pooling         how a sequence's embeddings are combined: their mean or their sum
    """

    name: str
    cardinality: int
    width: int = 1
    role: Role = "context"
    values: tuple[float, ...] | None = None
    same_values_as: str | None = None
    storage: Storage = "full"
    collisions: int = 1
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        self._check("cardinality", "at least 1", self.cardinality >= 1, "ids lie in [0, cardinality)")
        self._check("width", "at least 1", self.width >= 1, "it is the number of ids in a row")
        self._check("role", "context or candidate", self.role in ("context", "candidate"), "choose one")
        self._check("storage", "full, qr or hashed", self.storage in ("full", "qr", "hashed"), "choose one")
        self._check("pooling", "mean or sum", self.pooling in ("mean", "sum"), "choose one")
        self._check("collisions", "at least 1", self.collisions >= 1, "it is how many ids share a row")
        if self.values is not None and len(self.values) != self.cardinality:
            raise ValueError(
                f"'values' of field '{self.name}' must be {self.cardinality} numbers, one per id "
                f"(got {len(self.values)})"
            )

    def _check(self, what: str, expected: str, holds: bool, remedy: str) -> None:
        if not holds:
            raise ValueError(
                f"'{what}' of field '{self.name}' must be {expected} (got {getattr(self, what)!r}); {remedy}"
            )


def fields_of(model: Any) -> tuple[Field, ...]:
    """The fields that a model of MODELS was built for."""
    return tuple(model.fields)


def columns(fields: Sequence[Field]) -> int:
    """Columns of the id matrix of these fields: the sum of their widths."""
    return sum(field.width for field in fields)


def column_slices(fields: Sequence[Field]) -> dict[str, slice]:
    """The columns of each field, by name."""
    slices, first = {}, 0
    for field in fields:
        slices[field.name] = slice(first, first + field.width)
        first += field.width
    return slices


def table_rows(field: Field) -> int:
    """Rows that this field adds to a table: one per id, or per `collisions` ids; 0 if it shares another's."""
    return 0 if field.same_values_as is not None else stored_rows(field)


def stored_rows(field: Field) -> int:
    """Rows that its ids use, its own or another field's: one per id, or per `collisions` ids."""
    return field.cardinality if field.storage == "full" else -(-field.cardinality // field.collisions)


def first_rows(fields: Sequence[Field]) -> list[int]:
    """For each field its first row in one table that holds all fields, [n_fields].

    Raises ValueError for no fields, for duplicate names, and for a field that shares the rows of a field that
    does not exist or has other ids.
    """
    names = [field.name for field in fields]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"'fields' must be one or more, of different names (got {names!r}); name each once")
    own, first = {}, 0
    for field in fields:
        own[field.name] = first
        first += table_rows(field)
    by_name = {field.name: field for field in fields}
    for field in fields:
        if field.same_values_as is None:
            continue
        source = by_name.get(field.same_values_as)
        if source is None or source.same_values_as is not None:
            raise ValueError(
                f"'same_values_as' of field '{field.name}' must name a field with rows of its own "
                f"(got {field.same_values_as!r}); the fields are {', '.join(by_name)}"
            )
        storage = (field.cardinality, field.storage, field.collisions)
        if storage != (source.cardinality, source.storage, source.collisions):
            raise ValueError(
                f"field '{field.name}' must store its embeddings as '{source.name}' does, whose ids it holds "
                f"(got {storage})"
            )
        own[field.name] = own[source.name]
    return [own[field.name] for field in fields]


def column_offsets(fields: Sequence[Field]) -> list[int]:
    """For each column the first row of its field in one table that holds all fields, [columns]."""
    return by_column(fields, first_rows(fields))


def by_column(fields: Sequence[Field], numbers: Sequence[int]) -> list[int]:
    """One number per field -> one per column."""
    return [number for field, number in zip(fields, numbers, strict=True) for _ in range(field.width)]


def find_field(fields: Sequence[Field], name: str, argument: str) -> int:
    """The position of the field of this name. Raises ValueError that names a model's `argument`."""
    names = [field.name for field in fields]
    if name not in names:
        raise ValueError(f"'{argument}' must be one of the fields {', '.join(names)} (got {name!r})")
    return names.index(name)
