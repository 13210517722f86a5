"""Raw values -> ids, the same for training and serving; it knows neither logs nor the rest of a request.

Every entry point uses the one lookup of a field; fields with the same values share a dictionary. Values of
requests are looked up by loops in C (`map` over dictionaries): a Python loop over rows and fields would cost
more than inference.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import cycle, repeat
from operator import getitem
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.errors import InvalidValue
from service.bundle.lookups import (
    NO_TABLES,
    CategoricalLookup,
    Lookup,
    NumericLookup,
    SequenceLookup,
    is_text,
    lookups_of,
    refusal_of_text,
    refuse,
)
from service.bundle.native import IS_BUILT, native_encoder
from service.bundle.schema import MISSING_ID, Field, Kind, RawValue, Role, Schema

if TYPE_CHECKING:
    from service.bundle import _native
    from service.bundle.vocabulary_tables import VocabularyTables

__all__ = ["Encoder", "InvalidValue"]

Ids = NDArray[np.int32]
# Absent fields are looked up as the empty string, which every dictionary maps to the missing id.
LEFT_OUT = ""
# Up to this many rows, a dictionary lookup for each number is faster than numpy's bisection of a column.
FEW_ROWS = 8


class _Column:
    """A field with its lookup and its place among the columns of a block."""

    def __init__(self, field: Field, start: int, lookup: Lookup) -> None:
        self.name = field.name
        self.field = field
        self.place: slice | int = slice(start, start + field.max_length)
        if field.kind is not Kind.SEQUENCE:
            self.place = start
        self.lookup = lookup

    def check(self, value: Any, row: int | None) -> None:
        """Raises InvalidValue with `row` if `value` has no id."""
        try:
            self.lookup.one(value)
        except InvalidValue as error:
            raise InvalidValue(self.name, row, error.message) from None
        except TypeError:
            elements = value if self.field.kind is Kind.SEQUENCE else [value]
            refused = next(element for element in elements if not is_text(element))
            raise InvalidValue(self.name, row, refusal_of_text(self.field, refused)) from None

    def many(self, values: Sequence[Any]) -> Any:
        """ids [n], or [n, max_length] of a sequence. Raises InvalidValue with the row."""
        try:
            return self.lookup.many(values)
        except (InvalidValue, TypeError):
            for row, value in enumerate(values):
                self.check(value, row)
            raise


class _Block:
    """The fields of one mapping (the context, a candidate or a whole row) and their columns, in order.

    `places` are these columns among all columns of the schema.
    """

    def __init__(self, schema: Schema, fields: Iterable[Field], lookups: Mapping[str, Lookup]) -> None:
        self.columns: list[_Column] = []
        self.width = 0
        for field in fields:
            self.columns.append(_Column(field, self.width, lookups[field.name]))
            self.width += field.max_length
        self.names = frozenset(column.name for column in self.columns)
        slices = [schema.column_slices[column.name] for column in self.columns]
        self.places = _as_slice([place for each in slices for place in range(each.start, each.stop)])
        scalars = [column for column in self.columns if not isinstance(column.lookup, SequenceLookup)]
        numbers = [column for column in scalars if isinstance(column.lookup, NumericLookup)]
        self._sequences = [column for column in self.columns if isinstance(column.lookup, SequenceLookup)]
        self._numbers = _Scalars(numbers)
        self._texts = _Scalars([column for column in scalars if isinstance(column.lookup, CategoricalLookup)])
        self._scalars = _Scalars(scalars)

    def one(self, values: Mapping[str, Any], row: int | None = None) -> Ids:
        """The ids [width] of one mapping. Raises InvalidValue with `row`."""
        try:
            found = self._scalars.one(values, self._numbers)
            if not self._sequences:
                return found
            ids = np.empty(self.width, np.int32)
            ids[self._scalars.places] = found
            for column in self._sequences:
                ids[column.place] = column.lookup.one(values.get(column.name))
            return ids
        except (InvalidValue, TypeError):
            for column in self.columns:
                column.check(values.get(column.name), row)
            raise

    def many(self, rows: Sequence[Mapping[str, Any]]) -> Ids:
        """The ids [n, width] of many mappings. Raises InvalidValue with the first row of the first field."""
        by_column = [*self._sequences, *([] if len(rows) <= FEW_ROWS else self._numbers.columns)]
        by_row = self._scalars if len(rows) <= FEW_ROWS else self._texts
        try:
            found = by_row.many(rows, self._numbers if len(rows) <= FEW_ROWS else None)
            if not by_column:
                return found
            ids = np.empty((len(rows), self.width), np.int32)
            ids[:, by_row.places] = found
            for column in by_column:
                ids[:, column.place] = column.lookup.many([row.get(column.name) for row in rows])
            return ids
        except (InvalidValue, TypeError):
            for column in self.columns:
                column.many([row.get(column.name) for row in rows])
            raise


class _Scalars:
    """Fields with a single value, looked up together."""

    def __init__(self, columns: Sequence[_Column]) -> None:
        self.columns = columns
        self.places = _as_slice([column.place for column in columns if isinstance(column.place, int)])
        self._names = [column.name for column in columns]
        self._ids = [column.lookup.ids for column in columns]

    def one(self, values: Mapping[str, Any], numbers: _Scalars) -> Ids:
        """ids [fields] of one mapping; `numbers` are the numeric ones of these fields."""
        numbers.refuse_booleans(values)
        given = map(values.get, self._names, repeat(LEFT_OUT))
        return np.fromiter(map(getitem, self._ids, given), np.int32, len(self._names))

    def many(self, rows: Sequence[Mapping[str, Any]], numbers: _Scalars | None) -> Ids:
        """ids [n, fields]."""
        if numbers is not None and numbers.columns:
            for row in rows:
                numbers.refuse_booleans(row)
        names = self._names
        values = [row.get(name, LEFT_OUT) for row in rows for name in names]
        ids = np.fromiter(map(getitem, cycle(self._ids), values), np.int32, len(values))
        return ids.reshape(len(rows), len(names))

    def refuse_booleans(self, values: Mapping[str, Any]) -> None:
        """Raises TypeError for True and False, which a dictionary of numbers cannot tell from 1 and 0."""
        if self._names and bool in map(type, map(values.get, self._names)):
            raise TypeError


def _as_slice(places: list[int]) -> slice | NDArray[np.intp]:
    """`places` as a slice if they are consecutive: numpy writes to a slice several times faster."""
    start = places[0] if places else 0
    run = slice(start, start + len(places))
    return run if places == list(range(run.start, run.stop)) else np.array(places, np.intp)


class Encoder:
    """Encodes the fields of a schema; building it creates a dictionary for each vocabulary without a table.

    The ids of the context and of a candidate are [context columns] and [candidate columns], each in the order
    of the schema; a row of ids [columns] holds both, in the columns of the schema.
    """

    def __init__(
        self,
        schema: Schema,
        tables: VocabularyTables | None = None,
        lookups: Mapping[str, Lookup] | None = None,
    ) -> None:
        self.schema = schema
        self._tables = tables
        if lookups is None:
            lookups = lookups_of(schema.fields, NO_TABLES if tables is None else tables.by_field)
        self._lookups = lookups
        self._row = _Block(schema, schema.fields, lookups)
        self._columns = {column.name: column for column in self._row.columns}
        by_role = {
            role: _Block(schema, [field for field in schema.fields if field.role is role], lookups)
            for role in Role
        }
        self._context, self._candidate = by_role[Role.CONTEXT], by_role[Role.CANDIDATE]
        self.context_names = self._context.names
        self.candidate_names = self._candidate.names
        self.context_width = self._context.width
        self.candidate_width = self._candidate.width
        self.context_places = self._context.places
        self.candidate_places = self._candidate.places

    @cached_property
    def native(self) -> _native.Encoder | None:
        """The same schema in the native core, if that was built; it is made when it is first asked for."""
        if not IS_BUILT:
            return None
        return native_encoder(self.schema, NO_TABLES if self._tables is None else self._tables.by_field)

    def of_fields(self, names: Collection[str]) -> Encoder:
        """An encoder of these fields alone, with values of their own, which gives the same ids.

        It shares the look-ups of this one.
        """
        schema = Schema(tuple(field for field in self.schema.fields if field.name in names))
        return Encoder(schema, self._tables, self._lookups)

    def check_unchanged(self) -> None:
        """Raises BundleError if somebody has written to a table that look-ups read."""
        if self._tables is not None:
            self._tables.check_unchanged()

    def encode_column(self, name: str, values: Sequence[RawValue]) -> Ids:
        """ids [n, max_length] of a field's values. Raises InvalidValue with the row; KeyError."""
        column = self._columns[name]
        return np.array(column.many(values), np.int32).reshape(len(values), column.field.max_length)

    def encode_row(self, row: Mapping[str, RawValue]) -> Ids:
        """ids [columns] of one row with context and candidate fields. Raises InvalidValue."""
        return self._row.one(row)

    def encode_context(self, context: Mapping[str, RawValue]) -> Ids:
        """ids [context columns]. Raises InvalidValue without a row."""
        return self._context.one(context)

    def encode_candidates(self, candidates: Sequence[Mapping[str, RawValue]]) -> Ids:
        """ids [n, candidate columns]. Raises InvalidValue; its row is the candidate."""
        if len(candidates) == 1:
            return self._candidate.one(candidates[0], 0)[None]
        return self._candidate.many(candidates)

    def encode_candidate_columns(self, columns: Mapping[str, Sequence[RawValue]], rows: int) -> Ids:
        """ids [rows, candidate columns] of candidates sent as columns; an absent column is all missing.

        Raises InvalidValue; without a row if a column does not have `rows` values.
        """
        ids = np.empty((rows, self._candidate.width), np.int32)
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

    def join(self, contexts: Ids, candidates: Ids) -> Ids:
        """Rows of ids [n, columns] from contexts [n or 1, context columns] and candidates [n, ...]."""
        ids = np.empty((len(candidates), self._row.width), np.int32)
        ids[:, self.context_places] = contexts
        ids[:, self.candidate_places] = candidates
        return ids

    def encode_request(
        self, context: Mapping[str, RawValue], candidates: Sequence[Mapping[str, RawValue]]
    ) -> Ids:
        """ids [n, columns] of one request, with its context in every row. Raises InvalidValue.

        The error's row is the candidate, or None for an invalid context.
        """
        return self.join(self.encode_context(context), self.encode_candidates(candidates))
