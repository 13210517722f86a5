"""Raw values -> ids, the same for training and serving; it knows neither logs nor requests' other parts.

One lookup a field answers every caller. A vocabulary is a dictionary of final ids (a renumbering is composed
in when it is built, and costs nothing later) in which all that is not a plain hit goes through `__missing__`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from service.bundle.errors import show
from service.bundle.schema import (
    FIRST_ID,
    MISSING_ID,
    OOV_ID,
    Bins,
    Field,
    Hashing,
    Kind,
    RawValue,
    Role,
    Schema,
    Vocabulary,
)

# Python writes integers of up to 640 digits whatever its limits are set to, and this many bits need 617.
MAX_INTEGER_BITS = 2048
# Below this many values a loop over bisect costs less than the numpy calls around searchsorted.
MANY = 24
# Hashes of the most common values are remembered: at most this many a field, of at most this many characters.
REMEMBERED_HASHES = 8192
REMEMBERED_CHARACTERS = 64


PLAIN_NUMBERS = frozenset({int, float, type(None)})


class InvalidValue(ValueError):  # noqa: N818 (the name that its callers speak of)
    """A raw value that its field cannot be: which field, which row (None outside columns), one line why."""

    def __init__(self, field: str, row: int | None, message: str) -> None:
        super().__init__(field, row, message)
        self.field = field
        self.row = row
        self.message = message

    def __str__(self) -> str:
        return self.message


class _VocabularyIds(dict[Any, int]):
    """Text -> id. Only text and None are ever keys: 1, 1.0 and True would be one key to a dictionary."""

    def __init__(self, field: Field, vocabulary: Vocabulary) -> None:
        ids: Iterable[int] = range(FIRST_ID, field.base_cardinality)
        if field.renumbering is not None:
            ids = field.renumbering[FIRST_ID:].tolist()
        super().__init__(zip(vocabulary.values, ids, strict=True))
        self[None] = self[""] = MISSING_ID
        self.field = field

    def __missing__(self, value: Any) -> int:
        return OOV_ID if isinstance(value, str) else self[_digits(self.field, value)]


class _HashedIds(dict[Any, int]):
    """Text -> id by feature hashing; the dictionary holds the ids of the first texts it met."""

    def __init__(self, field: Field, hashing: Hashing) -> None:
        super().__init__({None: MISSING_ID, "": MISSING_ID})
        self.field = field
        self.buckets, self.seed = hashing.buckets, hashing.seed
        self.ids = field.renumbering

    def __missing__(self, value: Any) -> int:
        if not isinstance(value, str):
            return self[_digits(self.field, value)]
        # A lone surrogate is not UTF-8; it is written as if it were, so that every text has an id.
        base = FIRST_ID + crc32(value.encode("utf-8", "surrogatepass"), self.seed) % self.buckets
        found = base if self.ids is None else int(self.ids[base])
        if len(self) < REMEMBERED_HASHES and len(value) <= REMEMBERED_CHARACTERS:
            self[value] = found
        return found


class _Categorical:
    """One value -> one id, by the dictionary."""

    def __init__(self, ids: dict[Any, int]) -> None:
        self.ids = ids
        self.one = ids.__getitem__

    def many(self, values: Sequence[Any]) -> list[int]:
        """ids [n]."""
        ids = self.ids
        return [ids[value] for value in values]


class _Sequence:
    """A list -> the ids of its last `max_length` elements, padded at the end."""

    def __init__(self, field: Field, ids: dict[Any, int]) -> None:
        self.field = field
        self.ids = ids
        self.length = field.max_length
        self.padding = [MISSING_ID] * field.max_length

    def one(self, value: Any) -> list[int]:
        """ids [max_length]."""
        if value is None or (isinstance(value, str) and not value):
            return self.padding
        if not isinstance(value, list | tuple):
            _refuse(
                self.field, "a list of strings and integers", value, "put even a single element in a list"
            )
        ids = self.ids
        found = [ids[element] for element in value[-self.length :]]
        return found + self.padding[len(found) :]

    def many(self, values: Sequence[Any]) -> list[list[int]]:
        """ids [n, max_length]."""
        return [self.one(value) for value in values]


class _Numeric:
    """A number -> the id of its bin, by bisection of the edges."""

    def __init__(self, field: Field, bins: Bins) -> None:
        self.field = field
        self.edges = bins.edges
        ids = np.arange(FIRST_ID, field.base_cardinality, dtype=np.int32)
        self.ids_of_bins = ids if field.renumbering is None else field.renumbering[FIRST_ID:]
        self.ids = self.ids_of_bins.tolist()
        self.edges_array = np.array(bins.edges, np.float64)

    def one(self, value: Any) -> int:
        """The id of one number."""
        if value is None or (isinstance(value, str) and not value):
            return MISSING_ID
        if not isinstance(value, float | int) or isinstance(value, bool):
            _refuse(self.field, "a number", value, "leave it out when it is missing")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not -math.inf < number < math.inf:
            _refuse(self.field, "a finite number", value, "leave it out when it is missing")
        found: int = self.ids[bisect_right(self.edges, number)]
        return found

    def many(self, values: Sequence[Any]) -> Any:
        """ids [n]. The same comparisons by numpy where there are many numbers and none is odd."""
        if len(values) >= MANY and PLAIN_NUMBERS.issuperset(map(type, values)):
            try:
                numbers = np.array(values, np.float64)  # None becomes nan
            except OverflowError:
                return [self.one(value) for value in values]
            found = self.ids_of_bins.take(self.edges_array.searchsorted(numbers, "right"))
            odd = ~np.isfinite(numbers)
            oddities = np.count_nonzero(odd)
            if not oddities:
                return found
            if oddities == values.count(None):
                found[odd] = MISSING_ID
                return found
        return [self.one(value) for value in values]


def _digits(field: Field, value: Any) -> str:
    """The decimal digits of an integer: 1005 and "1005" are the same feature."""
    if isinstance(value, bool) or not isinstance(value, int):
        if field.kind is Kind.SEQUENCE:
            _refuse(
                field, "a list of strings and integers", value, "send its elements as strings", inside=True
            )
        _refuse(field, "a string or an integer", value, "send it as a string")
    if value.bit_length() > MAX_INTEGER_BITS:
        _refuse(field, f"an integer of at most {MAX_INTEGER_BITS} bits", value, "send it as a string")
    return int.__repr__(value)


def _refuse(field: Field, expected: str, value: Any, remedy: str, *, inside: bool = False) -> NoReturn:
    found = f"{show(value)} in it" if inside else show(value)
    raise InvalidValue(field.name, None, f"{show(field.name)} must be {expected} (got {found}); {remedy}")


def _lookup_of(field: Field) -> _Categorical | _Sequence | _Numeric:
    match field.encoding:
        case Vocabulary():
            ids: dict[Any, int] = _VocabularyIds(field, field.encoding)
        case Hashing():
            ids = _HashedIds(field, field.encoding)
        case Bins():
            return _Numeric(field, field.encoding)
    return _Sequence(field, ids) if field.kind is Kind.SEQUENCE else _Categorical(ids)


class _Column:
    """A field with its lookup and its place in the row."""

    def __init__(self, field: Field, place: slice) -> None:
        self.name = field.name
        self.field = field
        self.place = place
        self.lookup = _lookup_of(field)

    def one(self, value: Any) -> Any:
        """The id or ids of one value. Raises InvalidValue without a row."""
        try:
            return self.lookup.one(value)
        except TypeError:  # a list or an object cannot be looked up in a dictionary
            expected = (
                "a list of strings and integers"
                if self.field.kind is Kind.SEQUENCE
                else "a string or an integer"
            )
            _refuse(self.field, expected, value, "send it as a string")

    def many(self, values: Sequence[Any]) -> Any:
        """ids [n] or [n, max_length]. Raises InvalidValue with the row."""
        try:
            return self.lookup.many(values)
        except (InvalidValue, TypeError):
            for row, value in enumerate(values):
                try:
                    self.one(value)
                except InvalidValue as error:
                    raise InvalidValue(self.name, row, error.message) from None
            raise

    def fill(self, ids: NDArray[np.int32], values: Sequence[Any]) -> None:
        """Writes the column into `ids` [n, columns]."""
        found = self.many(values)
        if self.field.max_length == 1 and self.field.kind is not Kind.SEQUENCE:
            ids[:, self.place.start] = found
        else:
            ids[:, self.place] = found


class Encoder:
    """All fields of a schema, made ready to look values up. Building it costs a dictionary a vocabulary."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._columns = {
            field.name: _Column(field, schema.column_slices[field.name]) for field in schema.fields
        }
        self._context = [column for column in self._columns.values() if column.field.role is Role.CONTEXT]
        self._candidate = [column for column in self._columns.values() if column.field.role is Role.CANDIDATE]
        self.context_names = frozenset(column.name for column in self._context)
        self.candidate_names = frozenset(column.name for column in self._candidate)

    def encode_column(self, name: str, values: Sequence[RawValue]) -> NDArray[np.int32]:
        """ids [n, max_length] of a field's values. Raises InvalidValue with the row; KeyError."""
        column = self._columns[name]
        return np.array(column.many(values), np.int32).reshape(len(values), column.field.max_length)

    def encode_row(self, row: Mapping[str, RawValue]) -> NDArray[np.int32]:
        """ids [columns] of one row in which context and candidate fields stand together."""
        ids = np.empty((1, self.schema.columns), np.int32)
        for column in self._columns.values():
            ids[:, column.place] = column.one(row.get(column.name))
        return ids.reshape(-1)

    def encode_request(
        self, context: Mapping[str, RawValue], candidates: Sequence[Mapping[str, RawValue]]
    ) -> NDArray[np.int32]:
        """ids [n, columns]: the context once, broadcast; then the candidates column by column."""
        ids = np.empty((len(candidates), self.schema.columns), np.int32)
        for column in self._context:
            ids[:, column.place] = column.one(context.get(column.name))
        for column in self._candidate:
            column.fill(ids, [candidate.get(column.name) for candidate in candidates])
        return ids

    def encode_request_columns(
        self, context: Mapping[str, RawValue], columns: Mapping[str, Sequence[RawValue]], rows: int
    ) -> NDArray[np.int32]:
        """ids [rows, columns] of candidates that came as columns; an absent one is missing in every row."""
        ids = np.empty((rows, self.schema.columns), np.int32)
        for column in self._context:
            ids[:, column.place] = column.one(context.get(column.name))
        for column in self._candidate:
            values = columns.get(column.name)
            if values is None:
                ids[:, column.place] = MISSING_ID
                continue
            if not isinstance(values, list | tuple) or len(values) != rows:
                expected = f"a list of {rows}, one value a candidate"
                _refuse(column.field, expected, values, "null stands for a value that is missing")
            column.fill(ids, values)
        return ids
