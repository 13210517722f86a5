"""Vocabularies as tables for the native core, in files that are mapped; it knows neither rows nor requests.

A table holds what the JSON of a vocabulary and its renumbering say, packed for look-ups in place
(native/vocabulary.hpp), behind 32 bytes that name the two. Without tables, or without the core, a bundle
means the same: its values are then read from the JSON.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from service.bundle.bounds import MAX_VOCABULARY_BYTES
from service.bundle.encodings import Vocabulary
from service.bundle.errors import EXPORT_AGAIN, BundleError
from service.bundle.manifest import FileEntry
from service.bundle.native import IS_BUILT, _native, ids_of_values
from service.bundle.schema import Field, Schema
from service.bundle.schema_files import file_names

SOURCE_BYTES = 32  # in front of the packed words


def tables_to_files(schema: Schema, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The tables of a schema by file name; `files` are its others. Without the core there are none.

    Nor is there one where it would be larger than the file of a vocabulary may be, or have too long a run.
    """
    tables: dict[str, bytes] = {}
    for position, field in enumerate(schema.fields if IS_BUILT else ()):
        names = file_names(position)
        if names.vocabulary in files:
            hashes = [hashlib.sha256(files[name]).digest() for name in names.sources if name in files]
            packed = _packed(field, hashlib.sha256(b"".join(hashes)).digest())
            if packed is not None:
                tables[names.table] = packed
    return tables


def _packed(field: Field, source: bytes) -> bytes | None:
    assert isinstance(field.encoding, Vocabulary)
    # The seed follows from all values: whoever writes some of them into a log cannot choose them for it, and
    # the same values give the same file. No text of a client enters a table: a look-up reads one run at most.
    seed = int.from_bytes(hashlib.sha256(b"seed" + source).digest()[:8], "little")
    table = _native.Vocabulary.pack(field.encoding.values, ids_of_values(field), seed)
    if table.longest_run > _native.LONGEST_RUN or SOURCE_BYTES + table.nbytes > MAX_VOCABULARY_BYTES:
        return None
    return source + bytes(table)


@dataclass(frozen=True, eq=False)
class TableFile:
    """The verified bytes of a table: of a file that is mapped from `path`, or in memory."""

    memory: bytes | _native.MappedFile
    path: Path | None = None
    identity: tuple[int, ...] = ()

    def check_unchanged(self) -> None:
        """Raises BundleError if somebody has written to the file since, or it could not be read."""
        if self.path is None or isinstance(self.memory, bytes):
            return
        found = "" if self.memory.is_whole else "a file that was cut short, or a disk that failed"
        try:
            status = self.path.stat()
        except OSError:  # another bundle is in its place; what is mapped stays
            pass
        else:
            now = identity_of(status)
            if now != self.identity and now[:2] == self.identity[:2]:
                found = found or "a file that was written to"
        if found:
            remedy = "copy the whole folder again, and reload"
            raise BundleError(str(self.path), "as it was when it was loaded", found, remedy)


def identity_of(status: os.stat_result) -> tuple[int, ...]:
    """What distinguishes a file from another one, and behind that from itself once it is written to."""
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


class StoredVocabulary(Vocabulary):
    """The values of a table. They become strings when somebody asks for them, which no look-up does."""

    def __init__(self, table: _native.Vocabulary) -> None:
        object.__setattr__(self, "_table", table)

    @cached_property
    def values(self) -> tuple[str, ...]:
        """As in `Vocabulary`."""
        table: _native.Vocabulary = self.__dict__["_table"]
        return table.values

    @property
    def size(self) -> int:
        """As in `Vocabulary`."""
        return len(self.__dict__["_table"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.values == other.values

    def __hash__(self) -> int:
        return hash((self.values,))


class VocabularyTables:
    """The tables among the files of a bundle; `open_file` gives the verified bytes of one."""

    def __init__(self, files: Mapping[str, FileEntry], open_file: Callable[[str], TableFile]) -> None:
        self._entries = files
        self._open_file = open_file
        self._files: dict[str, TableFile] = {}
        self._by_position: dict[int, _native.Vocabulary] = {}
        self.by_field: dict[str, _native.Vocabulary] = {}

    def vocabulary(self, position: int, values: int) -> Vocabulary | None:
        """That of the field at `position` with so many `values`, if it has a table. Raises BundleError."""
        names = file_names(position)
        if not {names.table, names.vocabulary} <= self._entries.keys():
            return None
        sources = [self._entries[name].sha256 for name in names.sources if name in self._entries]
        source = hashlib.sha256(bytes.fromhex("".join(sources))).digest()
        file = self._open_file(names.table)
        if memoryview(file.memory)[:SOURCE_BYTES] != source:
            raise _invalid(names.table, "one of other values, or no table")
        try:
            table = _native.Vocabulary.open(file.memory, SOURCE_BYTES)
        except ValueError as error:
            raise _invalid(names.table, str(error)) from None
        if len(table) != values:
            raise _invalid(names.table, f"one of {len(table)} values, not of {values}")
        self._files[names.table] = file
        self._by_position[position] = table
        return StoredVocabulary(table)

    def check(self, schema: Schema) -> None:
        """Raises BundleError unless every table is whole and gives the ids of its field."""
        for position, table in self._by_position.items():
            field = schema.fields[position]
            try:
                table.check(ids_of_values(field))
            except ValueError as error:
                raise _invalid(file_names(position).table, str(error)) from None
            self.by_field[field.name] = table

    def check_unchanged(self) -> None:
        """Raises BundleError if somebody has written to a file that is mapped."""
        for file in self._files.values():
            file.check_unchanged()


def _invalid(name: str, found: str) -> BundleError:
    return BundleError(name, "the table of its field's vocabulary", found, EXPORT_AGAIN)
