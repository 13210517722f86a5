"""One lookup for each field: raw values -> ids; it knows the field, neither rows nor requests.

A vocabulary is a dictionary of final ids, or a table of the bundle that holds them: a renumbering is applied
when either is built and costs nothing later. Everything but a plain hit goes through `__missing__`. Fields
with the same values share the dictionary, so it knows no field's name. Every lookup has `one` and `many`,
which give the same ids. They raise InvalidValue without a row, or TypeError for a value that `is_text`
refuses (`refusal_of_text` gives the reason).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from service.bundle.errors import InvalidValue, show
from service.bundle.schema import FIRST_ID, MISSING_ID, OOV_ID, Bins, Field, Hashing, Kind, Vocabulary

if TYPE_CHECKING:
    from service.bundle import _native

NO_TABLES: Final[Mapping[str, _native.Vocabulary]] = MappingProxyType({})
# Python converts integers of up to 640 digits whatever its limit is set to; this many bits have 617 digits.
MAX_INTEGER_BITS = 2048
# Below this many values, a loop over bisect is faster than the numpy calls around searchsorted.
MANY = 12
# Ids that are computed, or found in a table, are cached: at most this many of a field, and of values up to
# this length. Common values come first.
CACHED_TEXTS = 8192
CACHED_CHARACTERS = 64
# The same for numbers: most logs hold small counts. Larger ones are not cached: any number of large integers
# hash alike, and every look-up would be compared with all that a client has put there.
CACHED_NUMBERS = 2048
LARGEST_CACHED_NUMBER = 2.0**53
AS_STRING = "send it as a string"
PLAIN_NUMBERS = frozenset({int, float, type(None)})


class _VocabularyIds(dict[Any, int]):
    """Text -> id. Only text is a key: to a dictionary 1, 1.0 and True would be the same key.

    Nor is None a key: with one, CPython compares keys in a way that writes to their reference counts, so that
    every forked worker would copy the pages of the dictionary.
    """

    def __init__(self, field: Field, vocabulary: Vocabulary) -> None:
        ids: Iterable[int] = range(FIRST_ID, field.base_cardinality)
        if field.renumbering is not None:
            ids = field.renumbering[FIRST_ID:].tolist()
        super().__init__(zip(vocabulary.values, ids, strict=True))
        self[""] = MISSING_ID

    def __missing__(self, value: Any) -> int:
        if isinstance(value, str):
            return OOV_ID
        return MISSING_ID if value is None else self[_digits(value)]


class _CachedIds(dict[Any, int]):
    """Text -> id by `find`; the dictionary caches the ids of the first texts that have one of their own."""

    def __init__(self, find: Callable[[str], int]) -> None:
        super().__init__({"": MISSING_ID})
        self.find = find

    def __missing__(self, value: Any) -> int:
        if not isinstance(value, str):
            return MISSING_ID if value is None else self[_digits(value)]
        found = self.find(value)
        if found != OOV_ID and len(self) < CACHED_TEXTS and len(value) <= CACHED_CHARACTERS:
            self[value] = found
        return found


def _hashed(field: Field, hashing: Hashing) -> Callable[[str], int]:
    """Feature hashing: text -> id."""
    buckets, seed, ids = hashing.buckets, hashing.seed, field.renumbering

    def find(text: str) -> int:
        # Lone surrogates are not UTF-8; they are encoded as if they were, so that every text has an id.
        base = FIRST_ID + crc32(text.encode("utf-8", "surrogatepass"), seed) % buckets
        return base if ids is None else int(ids[base])

    return find


class CategoricalLookup:
    """One value -> one id, from the dictionary."""

    def __init__(self, ids: dict[Any, int]) -> None:
        self.ids = ids
        self.one = ids.__getitem__

    def many(self, values: Sequence[Any]) -> NDArray[np.int32]:
        """ids [n]."""
        return np.fromiter(map(self.one, values), np.int32, len(values))


class SequenceLookup:
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
            refuse(self.field, "a list of strings and integers", value, "put even a single element in a list")
        ids = self.ids
        found = [ids[element] for element in value[-self.length :]]
        return found + self.padding[len(found) :]

    def many(self, values: Sequence[Any]) -> NDArray[np.int32]:
        """ids [n, max_length]."""
        ids = [self.one(value) for value in values]
        return np.array(ids, np.int32).reshape(len(values), self.length)


class _NumberIds(dict[Any, int]):
    """Number -> the id of its bin, by bisection; the dictionary caches the ids of the first numbers.

    To a dictionary True is 1, so callers refuse booleans first.
    """

    def __init__(self, field: Field, edges: Sequence[float], ids_of_bins: list[int]) -> None:
        super().__init__({None: MISSING_ID, "": MISSING_ID})
        self.field, self.edges, self.ids_of_bins = field, edges, ids_of_bins

    def __missing__(self, value: Any) -> int:
        if not isinstance(value, float | int) or isinstance(value, bool):
            refuse(self.field, "a number", value, "leave it out when it is missing")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not -math.inf < number < math.inf:
            refuse(self.field, "a finite number", value, "leave it out when it is missing")
        found = self.ids_of_bins[bisect_right(self.edges, number)]
        if len(self) < CACHED_NUMBERS and -LARGEST_CACHED_NUMBER < number < LARGEST_CACHED_NUMBER:
            self[value] = found
        return found


class NumericLookup:
    """A number -> the id of its bin."""

    def __init__(self, field: Field, bins: Bins) -> None:
        ids = np.arange(FIRST_ID, field.base_cardinality, dtype=np.int32)
        self.ids_of_bins = ids if field.renumbering is None else field.renumbering[FIRST_ID:]
        self.ids = _NumberIds(field, bins.edges, self.ids_of_bins.tolist())
        self.edges_array = np.array(bins.edges, np.float64)

    def one(self, value: Any) -> int:
        """The id of one number."""
        is_key = isinstance(value, str | float | int | None) and not isinstance(value, bool)
        return self.ids[value] if is_key else self.ids.__missing__(value)

    def many(self, values: Sequence[Any]) -> Any:
        """ids [n], by the same comparisons in numpy if there are many values and all are numbers or None."""
        if len(values) >= MANY and PLAIN_NUMBERS.issuperset(map(type, values)):
            try:
                numbers = np.array(values, np.float64)  # None becomes nan
            except OverflowError:
                return [self.one(value) for value in values]
            found = self.ids_of_bins.take(self.edges_array.searchsorted(numbers, "right"))
            is_missing = ~np.isfinite(numbers)
            missing = np.count_nonzero(is_missing)
            if not missing:
                return found
            if missing == values.count(None):
                found[is_missing] = MISSING_ID
                return found
        return [self.one(value) for value in values]


def _digits(value: Any) -> str:
    """The decimal digits of an integer: 1005 and "1005" are the same feature. Raises TypeError."""
    if not _has_digits(value):
        raise TypeError
    return int.__repr__(value)


def _has_digits(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= MAX_INTEGER_BITS


def is_text(value: Any) -> bool:
    """Whether `value` is text, missing, or an integer that can be written as text."""
    return value is None or isinstance(value, str) or _has_digits(value)


def refusal_of_text(field: Field, value: Any) -> str:
    """Why `value`, which `is_text` refuses, cannot be text of the field, in one line."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _refusal(field, f"an integer of at most {MAX_INTEGER_BITS} bits", show(value), AS_STRING)
    if field.kind is Kind.SEQUENCE:
        return _refusal(field, "a list of strings and integers", f"{show(value)} in it", AS_STRING)
    return _refusal(field, "a string or an integer", show(value), AS_STRING)


def _refusal(field: Field, expected: str, found: str, remedy: str) -> str:
    return f"{show(field.name)} must be {expected} (got {found}); {remedy}"


def refuse(field: Field, expected: str, value: Any, remedy: str) -> NoReturn:
    """Raises InvalidValue without a row."""
    raise InvalidValue(field.name, None, _refusal(field, expected, show(value), remedy))


Lookup = CategoricalLookup | SequenceLookup | NumericLookup


def lookups_of(
    fields: Sequence[Field], tables: Mapping[str, _native.Vocabulary] = NO_TABLES
) -> dict[str, Lookup]:
    """The lookup of each field by name; fields with the same values share a dictionary.

    A field with a table in `tables` needs no dictionary of its values.
    """
    dictionaries = {
        field.name: _ids_of(field, tables.get(field.name)) for field in fields if field.same_values_as is None
    }
    return {field.name: _lookup(field, dictionaries[field.same_values_as or field.name]) for field in fields}


def _ids_of(field: Field, table: _native.Vocabulary | None) -> dict[Any, int]:
    """Text -> id; empty for a numeric field, which needs no dictionary."""
    if table is not None:
        return _CachedIds(table.find)
    match field.encoding:
        case Vocabulary():
            return _VocabularyIds(field, field.encoding)
        case Hashing():
            return _CachedIds(_hashed(field, field.encoding))
        case Bins():
            return {}


def _lookup(field: Field, ids: dict[Any, int]) -> Lookup:
    if isinstance(field.encoding, Bins):
        return NumericLookup(field, field.encoding)
    return SequenceLookup(field, ids) if field.kind is Kind.SEQUENCE else CategoricalLookup(ids)
