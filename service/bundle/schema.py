"""The ordered fields of a log and how raw values of each become ids; it knows neither models nor requests.

Every field has its own ids: 0 is missing (and the padding of a sequence), 1 is out of vocabulary, and what
the encoding tells apart starts at 2. After compaction a field may carry a renumbering of these base ids.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.bundle.encodings import (
    FIRST_ID,
    MAX_CARDINALITY,
    MISSING_ID,
    OOV_ID,
    Bins,
    Encoding,
    Hashing,
    Vocabulary,
    first_repeated,
)
from service.bundle.errors import EXPORT_AGAIN, BundleError, decode_json, show

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
    "schema_from_files",
    "schema_to_files",
]

SCHEMA_FILE = "schema.json"

RawValue = str | int | float | None | Sequence[str | int]


class Kind(StrEnum):
    """What a raw value of the field is."""

    CATEGORICAL = "categorical"
    NUMERIC = "numeric"
    SEQUENCE = "sequence"


class Role(StrEnum):
    """Whether the request or each candidate of it carries the field."""

    CONTEXT = "context"
    CANDIDATE = "candidate"


@dataclass(frozen=True, eq=False)
class Field:
    """One slot of a row. `max_length` ids a row: over 1 only for a sequence, whose last elements are kept.

    `renumbering` (int32 [base_cardinality]) takes a base id to the id that the graph knows: rows of the
    embedding that pruning made all zero share one id. Ids 0 and 1 map to themselves, and no other id to them.
    Raises ValueError for a field that makes no sense.
    """

    name: str
    kind: Kind
    role: Role
    encoding: Encoding
    max_length: int = 1
    renumbering: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", Kind(self.kind))
        object.__setattr__(self, "role", Role(self.role))
        if not self.name:
            raise ValueError("'name' must not be empty; name the field as requests will")
        if (self.kind is Kind.NUMERIC) != isinstance(self.encoding, Bins):
            wanted = "Bins" if self.kind is Kind.NUMERIC else "Vocabulary or Hashing"
            raise self._wrong("encoding", wanted, type(self.encoding).__name__)
        if self.max_length < 1 or (self.max_length > 1 and self.kind is not Kind.SEQUENCE):
            raise self._wrong("max_length", "1, or more for a sequence", show(self.max_length))
        if self.base_cardinality > MAX_CARDINALITY:
            raise self._wrong("cardinality", f"at most {MAX_CARDINALITY}", str(self.base_cardinality))
        if self.renumbering is not None:
            object.__setattr__(self, "renumbering", self._checked(self.renumbering))

    @property
    def base_cardinality(self) -> int:
        """How many ids the encoding gives, before any renumbering."""
        return FIRST_ID + self.encoding.size

    @cached_property
    def cardinality(self) -> int:
        """Ids are in [0, cardinality): the rows of the field's embedding."""
        return self.base_cardinality if self.renumbering is None else int(self.renumbering.max()) + 1

    def _checked(self, renumbering: NDArray[Any]) -> NDArray[np.int32]:
        """A read-only int32 copy of `renumbering`. Raises ValueError when it is not one."""
        if not isinstance(renumbering, np.ndarray) or renumbering.dtype.kind not in "iu":
            raise self._wrong("renumbering", "an array of integers", type(renumbering).__name__)
        if renumbering.shape != (self.base_cardinality,):
            raise self._wrong("renumbering", f"of shape ({self.base_cardinality},)", str(renumbering.shape))
        if renumbering[MISSING_ID] != MISSING_ID or renumbering[OOV_ID] != OOV_ID:
            raise self._wrong("renumbering", "0 at 0 and 1 at 1", f"{renumbering[0]} and {renumbering[1]}")
        rest = renumbering[FIRST_ID:]
        if rest.size and not FIRST_ID <= rest.min() <= rest.max() < self.base_cardinality:
            expected = f"from {FIRST_ID} to {self.base_cardinality - 1} from position {FIRST_ID} on"
            raise self._wrong("renumbering", expected, f"{rest.min()} to {rest.max()}")
        copy = renumbering.astype(np.int32)
        copy.setflags(write=False)
        return copy

    def _wrong(self, what: str, expected: str, found: str) -> ValueError:
        return ValueError(f"'{what}' of field {show(self.name)} must be {expected} (got {found})")


@dataclass(frozen=True, eq=False)
class Schema:
    """All fields, in the order of the columns of an id row. Raises ValueError for none or a name twice."""

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        names = [field.name for field in self.fields]
        if not names:
            raise ValueError("'fields' must hold at least one field (got none)")
        if len(set(names)) != len(names):
            raise ValueError(f"'fields' must have unique names (got {show(first_repeated(names))} twice)")

    @cached_property
    def columns(self) -> int:
        """How many ids a row has."""
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
        """The field of that name. Raises KeyError when there is none."""
        return self._by_name[name]

    def renumbered(self, renumberings: Mapping[str, NDArray[Any]]) -> Schema:
        """This schema with ids taken one step further: `renumberings[name]` [cardinality] maps today's ids.

        Fields that are not named stay as they are. Raises ValueError for an unknown name or a bad mapping.
        """
        unknown = sorted(set(renumberings) - set(self._by_name))
        if unknown:
            raise ValueError(f"'renumberings' must name fields of the schema (got {show(unknown[0])})")
        return Schema(tuple(_renumbered(field, renumberings.get(field.name)) for field in self.fields))


def _renumbered(field: Field, step: NDArray[Any] | None) -> Field:
    if step is None:
        return field
    if step.shape != (field.cardinality,):
        raise field._wrong("renumbering", f"of shape ({field.cardinality},)", str(step.shape))
    return replace(field, renumbering=step if field.renumbering is None else step[field.renumbering])


class _VocabularyRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="vocabulary"):
    file: str
    values: int


class _HashingRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="hashing"):
    buckets: int
    seed: int


class _BinsRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="bins"):
    edges: tuple[float, ...]


class _FieldRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    kind: Kind
    role: Role
    max_length: int
    cardinality: int
    encoding: _VocabularyRecord | _HashingRecord | _BinsRecord
    renumbering: str | None


class _SchemaRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What schema.json says. The ids are written for its readers, and must be those that the encoder uses."""

    missing_id: int
    oov_id: int
    first_id: int
    fields: tuple[_FieldRecord, ...]


def schema_to_files(schema: Schema) -> dict[str, bytes]:
    """schema.json, a JSON array for each vocabulary, an .npy for each renumbering.

    Files are named by the position of the field: names of fields may hold any characters.
    """
    files: dict[str, bytes] = {}
    records = []
    for position, field in enumerate(schema.fields):
        vocabulary, renumbering = _file_names(position)
        encoding: _VocabularyRecord | _HashingRecord | _BinsRecord
        match field.encoding:
            case Vocabulary(values):
                encoding = _VocabularyRecord(vocabulary, len(values))
                files[vocabulary] = msgspec.json.format(msgspec.json.encode(values), indent=1) + b"\n"
            case Hashing(buckets, seed):
                encoding = _HashingRecord(buckets, seed)
            case Bins(edges):
                encoding = _BinsRecord(edges)
        if field.renumbering is not None:
            files[renumbering] = _npy(field.renumbering)
        records.append(
            _FieldRecord(
                name=field.name,
                kind=field.kind,
                role=field.role,
                max_length=field.max_length,
                cardinality=field.cardinality,
                encoding=encoding,
                renumbering=None if field.renumbering is None else renumbering,
            )
        )
    record = _SchemaRecord(MISSING_ID, OOV_ID, FIRST_ID, tuple(records))
    return {SCHEMA_FILE: msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n", **files}


def schema_from_files(read: Callable[[str], bytes]) -> Schema:
    """The schema whose files `read(name)` gives. Raises BundleError for anything that is not as written."""
    record = decode_json(SCHEMA_FILE, read(SCHEMA_FILE), _SchemaRecord)
    ids = (record.missing_id, record.oov_id, record.first_id)
    if ids != (MISSING_ID, OOV_ID, FIRST_ID):
        expected = f"written for missing, oov and first ids {(MISSING_ID, OOV_ID, FIRST_ID)}"
        raise BundleError(SCHEMA_FILE, expected, str(ids), EXPORT_AGAIN)
    fields = tuple(_field_from_record(position, each, read) for position, each in enumerate(record.fields))
    try:
        return Schema(fields)
    except ValueError as error:
        raise BundleError(SCHEMA_FILE, "a sound schema", str(error), EXPORT_AGAIN) from error


def _field_from_record(position: int, record: _FieldRecord, read: Callable[[str], bytes]) -> Field:
    vocabulary, renumbering = _file_names(position)
    file = SCHEMA_FILE
    try:
        encoding: Encoding
        match record.encoding:
            case _VocabularyRecord():
                _expect(f"vocabulary file of field {show(record.name)}", record.encoding.file, vocabulary)
                file = vocabulary
                encoding = Vocabulary(decode_json(file, read(file), tuple[str, ...]))
                _expect("number of values", len(encoding.values), record.encoding.values)
                file = SCHEMA_FILE
            case _HashingRecord():
                encoding = Hashing(record.encoding.buckets, record.encoding.seed)
            case _BinsRecord():
                encoding = Bins(record.encoding.edges)
        field = Field(record.name, record.kind, record.role, encoding, record.max_length)
        if record.renumbering is not None:
            _expect(f"renumbering file of field {show(record.name)}", record.renumbering, renumbering)
            file = renumbering
            field = replace(field, renumbering=_from_npy(read(file), field.base_cardinality))
        _expect(f"cardinality of field {show(record.name)}", field.cardinality, record.cardinality)
    except BundleError:
        raise
    except ValueError as error:
        raise BundleError(file, "sound", str(error), EXPORT_AGAIN) from error
    return field


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ValueError(f"'{what}' must be {show(expected)} (got {show(found)})")


def _file_names(position: int) -> tuple[str, str]:
    return f"vocabulary/{position}.json", f"vocabulary/{position}.renumbering.npy"


def _npy(renumbering: NDArray[np.int32]) -> bytes:
    file = io.BytesIO()
    np.save(file, renumbering.astype("<i4"), allow_pickle=False)
    return file.getvalue()


def _from_npy(data: bytes, length: int) -> NDArray[np.int32]:
    """int32 [length]. The header is read first, so that a wrong one cannot ask for memory."""
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("'npy version' must be 1.0")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    _expect("array", (str(dtype), shape, len(data) - file.tell()), ("int32", (length,), 4 * length))
    return np.frombuffer(data, "<i4", offset=file.tell())
