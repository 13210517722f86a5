"""Raw values -> ids, the same for training and serving; it knows neither logs nor the rest of a request.

All four entry points of the encoder go through the one lookup that each field has; fields with the same
values share a dictionary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.errors import InvalidValue
from service.bundle.lookups import Lookup, SequenceLookup, is_text, lookups_of, refusal_of_text, refuse
from service.bundle.schema import MISSING_ID, Field, Kind, RawValue, Role, Schema

__all__ = ["Encoder", "InvalidValue"]

# Up to this many candidates, one list a candidate costs less than one list a field.
FEW_CANDIDATES = 8


class _Column:
    """A field with its lookup and its place in the row."""

    def __init__(self, field: Field, place: slice, lookup: Lookup) -> None:
        self.name = field.name
        self.field = field
        self.is_list = field.kind is Kind.SEQUENCE
        self.place: slice | int = place if self.is_list else place.start
        self.places = list(range(place.start, place.stop))
        self.lookup = lookup

    def check(self, value: Any, row: int | None) -> None:
        """Raises InvalidValue with the row if `value` has no id."""
        try:
            self.lookup.one(value)
        except InvalidValue as error:
            raise InvalidValue(self.name, row, error.message) from None
        except TypeError:
            elements = value if self.is_list else [value]
            odd = next(element for element in elements if not is_text(element))
            raise InvalidValue(self.name, row, refusal_of_text(self.field, odd)) from None

    def many(self, values: Sequence[Any]) -> Any:
        """ids [n], or [n, max_length] of a sequence. Raises InvalidValue with the row."""
        try:
            return self.lookup.many(values)
        except (InvalidValue, TypeError):
            for row, value in enumerate(values):
                self.check(value, row)
            raise


class _Block:
    """The columns that one mapping fills: the context, a candidate, or a whole row.

    One assignment writes them all: `places` are their positions in the row of ids, scalars before sequences.
    """

    def __init__(self, columns: Iterable[_Column]) -> None:
        self.columns = sorted(columns, key=lambda column: column.is_list)
        self.scalars, self.lists = [], []
        for column in self.columns:
            if isinstance(column.lookup, SequenceLookup):
                self.lists.append((column.name, column.lookup.one))
            else:
                self.scalars.append((column.name, column.lookup.one))
        self.names = frozenset(column.name for column in self.columns)
        self.places = _as_slice([place for column in self.columns for place in column.places])

    def ids_of(self, values: Mapping[str, Any], row: int | None = None) -> list[int]:
        """The ids of one mapping, in the order of `places`. Raises InvalidValue with `row`."""
        get = values.get
        try:
            ids = [one(get(name)) for name, one in self.scalars]
            for name, one in self.lists:
                ids += one(get(name))
        except (InvalidValue, TypeError):
            for column in self.columns:
                column.check(get(column.name), row)
            raise
        return ids


def _as_slice(places: list[int]) -> slice | NDArray[np.intp]:
    """A slice where the places are in one run: numpy writes it several times faster."""
    start = places[0] if places else 0
    run = slice(start, start + len(places))
    return run if places == list(range(run.start, run.stop)) else np.array(places, np.intp)


class Encoder:
    """All fields of a schema, made ready to look values up. Building it costs a dictionary a vocabulary."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        slices = schema.column_slices
        lookups = lookups_of(schema.fields)
        self._columns = {
            field.name: _Column(field, slices[field.name], lookups[field.name]) for field in schema.fields
        }
        columns = self._columns.values()
        self._row = _Block(columns)
        self._context = _Block(column for column in columns if column.field.role is Role.CONTEXT)
        self._candidate = _Block(column for column in columns if column.field.role is Role.CANDIDATE)
        self.context_names = self._context.names
        self.candidate_names = self._candidate.names

    def encode_column(self, name: str, values: Sequence[RawValue]) -> NDArray[np.int32]:
        """ids [n, max_length] of a field's values. Raises InvalidValue with the row; KeyError."""
        column = self._columns[name]
        return np.array(column.many(values), np.int32).reshape(len(values), column.field.max_length)

    def encode_row(self, row: Mapping[str, RawValue]) -> NDArray[np.int32]:
        """ids [columns] of one row that holds context and candidate fields. Raises InvalidValue."""
        ids = np.empty(self.schema.columns, np.int32)
        ids[self._row.places] = self._row.ids_of(row)
        return ids

    def encode_context(self, context: Mapping[str, RawValue], rows: int) -> NDArray[np.int32]:
        """ids [rows, columns] in which only the context is filled, alike in all rows. Raises InvalidValue."""
        ids = np.empty((rows, self.schema.columns), np.int32)
        ids[:, self._context.places] = self._context.ids_of(context)
        return ids

    def encode_request(
        self, context: Mapping[str, RawValue], candidates: Sequence[Mapping[str, RawValue]]
    ) -> NDArray[np.int32]:
        """ids [n, columns]: the context once, broadcast; few candidates by rows, many by columns.

        Raises InvalidValue; its row is the candidate, or None when it is the context that is wrong.
        """
        ids = self.encode_context(context, len(candidates))
        if 0 < len(candidates) <= FEW_CANDIDATES:
            ids_of = self._candidate.ids_of
            ids[:, self._candidate.places] = [ids_of(each, row) for row, each in enumerate(candidates)]
            return ids
        for column in self._candidate.columns:
            name = column.name
            ids[:, column.place] = column.many([candidate.get(name) for candidate in candidates])
        return ids

    def encode_request_columns(
        self, context: Mapping[str, RawValue], columns: Mapping[str, Sequence[RawValue]], rows: int
    ) -> NDArray[np.int32]:
        """ids [rows, columns] of candidates that came as columns; an absent one is missing in every row.

        Raises InvalidValue; without a row it is a context field, or a column that has not `rows` values.
        """
        ids = self.encode_context(context, rows)
        for column in self._candidate.columns:
            values = columns.get(column.name)
            if values is None:
                ids[:, column.place] = MISSING_ID
                continue
            if not isinstance(values, list | tuple) or len(values) != rows:
                expected = f"a list of {rows} values, one a candidate"
                refuse(column.field, expected, values, "null stands for a value that is missing")
            ids[:, column.place] = column.many(values)
        return ids
