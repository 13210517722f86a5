"""A schema to the files of a bundle, schema.json and its arrays, and back; it knows no folder.

Reading trusts nothing: anything that was not written this way is refused, with the name of the file.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from service.bundle.bounds import MAX_BINS, MAX_COLUMNS, MAX_FIELDS, Count, Name, Size
from service.bundle.encodings import FIRST_ID, MISSING_ID, OOV_ID, Bins, Encoding, Hashing, Vocabulary
from service.bundle.errors import EXPORT_AGAIN, BundleError, show
from service.bundle.json_files import decode_json, encode_json
from service.bundle.schema import Field, Kind, Role, Schema
from service.bundle.spelling import Spelling

SCHEMA_FILE = "schema.json"
# The position of a field and its number of values -> its vocabulary, None where it is to be read.
Stored = Callable[[int, int], Vocabulary | None]


class _VocabularyRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="vocabulary"):
    file: str
    values: Size


class _HashingRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="hashing"):
    buckets: Size
    seed: Count


class _BinsRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="bins"):
    edges: Annotated[tuple[float, ...], Meta(max_length=MAX_BINS)]


class _FieldRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    name: Name
    kind: Kind
    role: Role
    max_length: Annotated[int, Meta(ge=1, le=MAX_COLUMNS)]
    cardinality: Size
    encoding: _VocabularyRecord | _HashingRecord | _BinsRecord
    renumbering: str | None
    same_values_as: str | None = None


class _SchemaRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The contents of schema.json. Its ids are there for readers, and must be those of the encoder.

    `spelling` is None in bundles that were written before it was kept.
    """

    missing_id: Count
    oov_id: Count
    first_id: Count
    fields: Annotated[tuple[_FieldRecord, ...], Meta(max_length=MAX_FIELDS)]
    spelling: Spelling | None = None


def schema_to_files(schema: Schema) -> dict[str, bytes]:
    """The bytes by file name: schema.json, a JSON array for each vocabulary, an .npy for each renumbering.

    Files are named by the position of the field, because its name may contain any characters. A field with
    the same values as another has no files of its own: its record names those of the other.
    """
    positions = {field.name: position for position, field in enumerate(schema.fields)}
    files: dict[str, bytes] = {}
    records = []
    for field in schema.fields:
        vocabulary, renumbering, _ = file_names(positions[field.same_values_as or field.name])
        encoding: _VocabularyRecord | _HashingRecord | _BinsRecord
        match field.encoding:
            case Vocabulary(values):
                encoding = _VocabularyRecord(vocabulary, len(values))
                if field.same_values_as is None:
                    files[vocabulary] = encode_json(values, indent=1)
            case Hashing(buckets, seed):
                encoding = _HashingRecord(buckets, seed)
            case Bins(edges):
                encoding = _BinsRecord(edges)
        if field.renumbering is not None and field.same_values_as is None:
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
                same_values_as=field.same_values_as,
            )
        )
    record = _SchemaRecord(MISSING_ID, OOV_ID, FIRST_ID, tuple(records), schema.spelling)
    return {SCHEMA_FILE: encode_json(record), **files}


def schema_from_files(read: Callable[[str], bytes], stored: Stored = lambda position, values: None) -> Schema:
    """The schema in the files that `read(name)` returns. Raises BundleError for any invalid file.

    A vocabulary that is `stored` otherwise is not read.
    """
    record = decode_json(SCHEMA_FILE, read(SCHEMA_FILE), _SchemaRecord)
    ids = (record.missing_id, record.oov_id, record.first_id)
    if ids != (MISSING_ID, OOV_ID, FIRST_ID):
        expected = f"written for missing, oov and first ids {(MISSING_ID, OOV_ID, FIRST_ID)}"
        raise BundleError(SCHEMA_FILE, expected, str(ids), EXPORT_AGAIN)
    owners = {
        each.name: _field_from_record(position, each, read, stored)
        for position, each in enumerate(record.fields)
        if each.same_values_as is None
    }
    records = {each.name: each for each in record.fields}
    try:
        return Schema(
            tuple(
                owners[each.name]
                if each.same_values_as is None
                else _sharing_field(each, owners.get(each.same_values_as), records.get(each.same_values_as))
                for each in record.fields
            ),
            record.spelling,
        )
    except ValueError as error:
        raise BundleError(SCHEMA_FILE, "a valid schema", str(error), EXPORT_AGAIN) from error


def _field_from_record(
    position: int,
    record: _FieldRecord,
    read: Callable[[str], bytes],
    stored: Stored,
) -> Field:
    vocabulary, renumbering, _ = file_names(position)
    file = SCHEMA_FILE
    try:
        encoding: Encoding
        match record.encoding:
            case _VocabularyRecord():
                _expect(f"vocabulary file of field {show(record.name)}", record.encoding.file, vocabulary)
                file = vocabulary
                values = record.encoding.values
                encoding = stored(position, values) or Vocabulary(
                    decode_json(file, read(file), tuple[str, ...])
                )
                _expect("number of values", encoding.size, values)
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
        raise BundleError(file, "valid", str(error), EXPORT_AGAIN) from error
    return field


def _sharing_field(record: _FieldRecord, owner: Field | None, owners: _FieldRecord | None) -> Field:
    """A field with the same values as `owner`, sharing its arrays. Raises ValueError."""
    if owner is None or owners is None:
        what, found = f"'same_values_as' of field {show(record.name)}", show(record.same_values_as)
        raise ValueError(f"{what} must be another field of the schema with values of its own (got {found})")
    for what in ("encoding", "renumbering", "cardinality"):
        if getattr(record, what) != getattr(owners, what):
            raise ValueError(f"'{what}' of field {show(record.name)} must be that of {show(owner.name)}")
    return replace(
        owner,
        name=record.name,
        kind=record.kind,
        role=record.role,
        max_length=record.max_length,
        same_values_as=owner.name,
    )


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ValueError(f"'{what}' must be {show(expected)} (got {show(found)})")


def is_of_schema(name: str) -> bool:
    """Whether the file of that name in a bundle is part of its schema; a table adds nothing to it."""
    return name == SCHEMA_FILE or (name.startswith("vocabulary/") and not is_table(name))


def is_table(name: str) -> bool:
    """Whether the file of that name in a bundle is the table of a vocabulary, which services map."""
    return name.startswith("vocabulary/") and name.endswith(".table")


class FieldFiles(NamedTuple):
    """The names of a field's files."""

    vocabulary: str
    renumbering: str
    table: str

    @property
    def sources(self) -> tuple[str, str]:
        """Those that its table is made of; without a renumbering it is the first alone."""
        return self.vocabulary, self.renumbering


def file_names(position: int) -> FieldFiles:
    """Those of the field at `position`, whichever of them it has."""
    start = f"vocabulary/{position}"
    return FieldFiles(f"{start}.json", f"{start}.renumbering.npy", f"{start}.table")


def _npy(renumbering: NDArray[np.int32]) -> bytes:
    file = io.BytesIO()
    np.save(file, renumbering.astype("<i4"), allow_pickle=False)
    return file.getvalue()


def _from_npy(data: bytes, length: int) -> NDArray[np.int32]:
    """int32 [length]. The header must be the one that is written, so that none is parsed."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<i4", "fortran_order": False, "shape": (length,)})
    header = file.getvalue()
    _expect("header", data[: len(header)], header)
    _expect("bytes of the array", len(data) - len(header), 4 * length)
    return np.frombuffer(data, "<i4", offset=len(header))
