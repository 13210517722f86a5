"""Writes a bundle atomically and reads it with everything verified; it runs no graph.

A save builds every file in memory, loads them as a service would, and only then touches the disk. Loading
uses the same bytes that it hashes; large tables of vocabularies are mapped, all other files are read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from service.bundle.calibration import (
    CALIBRATION_FILE,
    Calibrator,
    calibrators_from_file,
    calibrators_to_file,
)
from service.bundle.encoder import Encoder
from service.bundle.errors import EXPORT_AGAIN, BundleError, show
from service.bundle.folders import locked, outgoing_of, replacing, restore
from service.bundle.golden import check_golden_ids
from service.bundle.graph_tensors import tables_of
from service.bundle.json_files import decode_json
from service.bundle.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    SHARED_INPUTS,
    Description,
    FileEntry,
    Golden,
    Graph,
    Manifest,
    manifest_from_file,
    manifest_of,
    manifest_to_file,
    most_bytes_of,
)
from service.bundle.native import IS_BUILT, _native
from service.bundle.prior import PRIOR_FILE, Prior, prior_from_file, prior_to_file
from service.bundle.schema import Role, Schema
from service.bundle.schema_files import is_table, schema_from_files, schema_to_files
from service.bundle.vocabulary_tables import TableFile, VocabularyTables, identity_of, tables_to_files

__all__ = ["Bundle", "BundleError", "Contents", "check_replaceable", "load_bundle", "save_bundle"]

MAPPED_BYTES = 64 << 20
"""A table of so many bytes is mapped. One of fewer is read, and goes on whatever is done to its file."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle in memory.

    `graphs` are verified ONNX bytes by variant, `shared_graphs` those that compute a request's context once.
    `prior` is None in a bundle without one. `digest` is the SHA-256 of the manifest, and so of all its files.
    """

    manifest: Manifest
    schema: Schema
    encoder: Encoder
    calibrators: dict[str, Calibrator]
    graphs: dict[str, bytes]
    shared_graphs: dict[str, bytes]
    golden: Golden
    folder: Path
    digest: str
    prior: Prior | None = None
    _tables: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)

    def tables(self, variant: str) -> dict[str, NDArray[Any]]:
        """The tables of a variant's graph, read once, so that all graphs of the bundle can share them.

        Raises BundleError.
        """
        if variant not in self._tables:
            graph = self.manifest.graphs[variant]
            try:
                self._tables[variant] = tables_of(self.graphs[variant], graph.tables)
            except ValueError as error:
                expected = f"a graph with tables {', '.join(graph.tables)}"
                raise BundleError(f"{self.folder}/{graph.file}", expected, str(error), EXPORT_AGAIN) from None
        return self._tables[variant]


def load_bundle(folder: Path, *, native: bool = True) -> Bundle:
    """The bundle in `folder`; each file is read once. Raises BundleError, in one line, for any fault.

    Files that a service does not use (the report) are verified too: people and load tests rely on them.
    Tables of vocabularies are used if the core was built, unless `native` is false.
    """
    folder = Path(folder)
    if not (folder / MANIFEST_FILE).is_file():
        found = "no such file" if folder.is_dir() else "no such folder"
        raise BundleError(str(folder / MANIFEST_FILE), "a bundle's manifest", found, _remedy_for(folder))
    try:
        root = folder.resolve()
        encoded = _read_inside(root, MANIFEST_FILE)
        manifest = manifest_from_file(encoded)
        read = _VerifiedReader(root, manifest.files)
        tables = VocabularyTables(manifest.files, read.table) if native and IS_BUILT else None
        bundle = _assemble(encoded, manifest, read, tables, folder)
        for name in manifest.files.keys() - read.names:
            read.verify(name)
    except BundleError as error:
        file = str(folder / error.file)
        raise BundleError(file, error.expected, error.found, error.remedy) from error
    return bundle


def _assemble(
    encoded: bytes,
    manifest: Manifest,
    read: Callable[[str], bytes],
    tables: VocabularyTables | None,
    folder: Path,
) -> Bundle:
    if tables is None:
        schema = schema_from_files(read)
    else:
        schema = schema_from_files(read, tables.vocabulary)
        tables.check(schema)
    calibrators = calibrators_from_file(read(CALIBRATION_FILE))
    golden = decode_json(GOLDEN_FILE, read(GOLDEN_FILE), Golden)
    golden.validate(manifest.graphs)
    encoder = Encoder(schema, tables)
    check_golden_ids(encoder, golden)
    _match(manifest, schema, calibrators)
    prior = prior_from_file(read(PRIOR_FILE)) if PRIOR_FILE in manifest.files else None
    if prior is not None:
        prior.validate_for(schema)
    graphs = {variant: read(graph.file) for variant, graph in manifest.graphs.items()}
    shared = {
        variant: read(graph.shared_context.file)
        for variant, graph in manifest.graphs.items()
        if graph.shared_context is not None
    }
    digest = hashlib.sha256(encoded).hexdigest()
    return Bundle(manifest, schema, encoder, calibrators, graphs, shared, golden, folder, digest, prior)


def _match(manifest: Manifest, schema: Schema, calibrators: Mapping[str, Calibrator]) -> None:
    """Raises BundleError unless every graph has its own calibrator and the columns of the schema."""
    no_fields = sorted(manifest.training.missing.keys() - {field.name for field in schema.fields})
    if no_fields:
        expected = "such that 'training.missing' names fields of the schema"
        raise BundleError(MANIFEST_FILE, expected, show(no_fields[0]), EXPORT_AGAIN)
    if calibrators.keys() != manifest.graphs.keys():
        expected = f"for the graphs {', '.join(manifest.graphs)}"
        raise BundleError(CALIBRATION_FILE, expected, ", ".join(calibrators) or "none", EXPORT_AGAIN)
    context = sum(field.max_length for field in schema.fields if field.role is Role.CONTEXT)
    context_ids, candidate_ids, _ = SHARED_INPUTS
    widths = {"ids": schema.columns, context_ids: context, candidate_ids: schema.columns - context}
    for variant, graph in manifest.graphs.items():
        fitted_on, actual = calibrators[variant].graph_sha256, manifest.files[graph.file].sha256
        if fitted_on != actual:
            expected = f"fitted on {graph.file} with SHA-256 {actual[:12]}..."
            raise BundleError(CALIBRATION_FILE, expected, f"{fitted_on[:12]}...", "calibrate the graph again")
        calibrators[variant].validate_for(schema)
        shared = graph.shared_context
        for tensor in (*graph.inputs, *(shared.inputs if shared is not None else ())):
            columns = widths.get(tensor.name)
            if columns is not None and tensor.shape != (None, columns):
                expected = (
                    f"such that '{tensor.name}' of {variant} has shape (None, {columns}), as the schema"
                )
                raise BundleError(MANIFEST_FILE, expected, str(tensor.shape), EXPORT_AGAIN)


class _VerifiedReader:
    """Reads listed files of a bundle, and returns only bytes of the listed size and SHA-256."""

    def __init__(self, root: Path, files: Mapping[str, FileEntry]) -> None:
        self.root = root
        self.files = files
        self.names: set[str] = set()

    def __call__(self, name: str) -> bytes:
        entry = self._entry(name)
        data = _read_inside(self.root, name, entry.size)
        self._compare(name, entry, hashlib.sha256(data).hexdigest())
        return data

    def table(self, name: str) -> TableFile:
        """A table: read, or if it is large, mapped, so that other processes share its memory."""
        entry = self._entry(name)
        if entry.size < MAPPED_BYTES:
            return TableFile(self(name))
        with _opened_inside(self.root, name, entry.size) as file:
            identity = identity_of(os.fstat(file.fileno()))
            memory = _native.MappedFile(file.fileno(), entry.size)
        self._compare(name, entry, hashlib.sha256(memory).hexdigest())
        return TableFile(memory, self.root / name, identity)

    def verify(self, name: str) -> None:
        """Reads a file that nobody needs, without keeping it."""
        entry = self._entry(name)
        with _opened_inside(self.root, name, entry.size) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self._compare(name, entry, sha256)

    def _entry(self, name: str) -> FileEntry:
        entry = self.files.get(name)
        if entry is None:
            raise BundleError(
                MANIFEST_FILE, f"a list of all files, {name} too", "no such entry", EXPORT_AGAIN
            )
        return entry

    def _compare(self, name: str, entry: FileEntry, sha256: str) -> None:
        if sha256 != entry.sha256:
            expected = f"of SHA-256 {entry.sha256[:12]}..."
            raise BundleError(name, expected, f"{sha256[:12]}...", "copy the file again")
        self.names.add(name)


@contextmanager
def _opened_inside(root: Path, name: str, size: int | None = None) -> Iterator[BufferedReader]:
    """A file in `root` that is `size` bytes long, open to read. Raises BundleError."""
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise BundleError(name, "a file inside the bundle", "a link out of it", EXPORT_AGAIN)
        if not path.is_file():
            raise BundleError(name, "a file of the bundle", "no such file", "copy the whole folder again")
        found, most = path.stat().st_size, most_bytes_of(name)
        if found > most:
            raise BundleError(name, f"at most {most} bytes long", f"{found} bytes", EXPORT_AGAIN)
        if size is not None and found != size:
            raise BundleError(name, f"{size} bytes long", f"{found} bytes", "copy the file again")
        with path.open("rb") as file:
            yield file
    except (OSError, RuntimeError) as error:  # RuntimeError: circular links
        raise BundleError(name, "readable", str(error), "check the folder's permissions") from error


def _read_inside(root: Path, name: str, size: int | None = None) -> bytes:
    """The bytes of a file in `root` that is `size` bytes long. Raises BundleError."""
    with _opened_inside(root, name, size) as file:
        return file.read(os.fstat(file.fileno()).st_size + 1)  # not what is written to it meanwhile


@dataclass(frozen=True, eq=False)
class Contents:
    """What a bundle holds, apart from its description.

    `graphs` and `shared_graphs` are ONNX bytes by variant; `extra_files` (the report) are listed and hashed,
    and a service does not read them. `unlisted_files` lie in the same folder for the next export: no service
    opens them. Without `vocabulary_tables` a service makes its own of the vocabularies, when it loads them.
    """

    schema: Schema
    graphs: Mapping[str, bytes]
    calibrators: Mapping[str, Calibrator]
    golden: Golden
    shared_graphs: Mapping[str, bytes] = field(default_factory=dict)
    prior: Prior | None = None
    extra_files: Mapping[str, bytes] = field(default_factory=dict)
    unlisted_files: Mapping[str, bytes] = field(default_factory=dict)
    vocabulary_tables: bool = True


def save_bundle(folder: Path, description: Description, contents: Contents) -> Manifest:
    """Writes the bundle into `folder` and returns its manifest; a bundle that is there is replaced.

    On any failure what was in `folder` is still there. Raises BundleError for a description and contents that
    do not fit together, OSError from the disk.
    """
    files = _files(description.graphs, contents)
    manifest = manifest_of(description, files)
    encoded = manifest_to_file(manifest)
    tables = VocabularyTables(manifest.files, lambda name: TableFile(files[name])) if IS_BUILT else None
    bundle = _assemble(encoded, manifest_from_file(encoded), files.__getitem__, tables, folder)
    for variant, graph in manifest.graphs.items():
        if graph.tables:
            bundle.tables(variant)
    _write(Path(folder), {**contents.unlisted_files, **files, MANIFEST_FILE: encoded})
    return manifest


def _files(graphs: Mapping[str, Graph], contents: Contents) -> dict[str, bytes]:
    """All files but the manifest. Raises BundleError for a name used twice or a graph not described."""
    if graphs.keys() != contents.graphs.keys():
        expected = f"described for the graphs {', '.join(contents.graphs)}"
        raise BundleError(MANIFEST_FILE, expected, ", ".join(graphs), "describe each graph")
    schema_files = schema_to_files(contents.schema)
    files = {
        **schema_files,
        **(tables_to_files(contents.schema, schema_files) if contents.vocabulary_tables else {}),
        CALIBRATION_FILE: calibrators_to_file(tuple(contents.calibrators.values())),
        GOLDEN_FILE: msgspec.json.encode(contents.golden) + b"\n",
    }
    if contents.prior is not None:
        files[PRIOR_FILE] = prior_to_file(contents.prior)
    for file, data in (
        *((graphs[variant].file, graph) for variant, graph in contents.graphs.items()),
        *((_shared_file(graphs, variant), graph) for variant, graph in contents.shared_graphs.items()),
        *contents.extra_files.items(),
    ):
        if file in files:
            raise BundleError(file, "the name of one file", "two", "give each its own name")
        files[file] = data
    return files


def _shared_file(graphs: Mapping[str, Graph], variant: str) -> str:
    """The file of a variant's shared graph. Raises BundleError where no description names it."""
    shared = graphs[variant].shared_context if variant in graphs else None
    if shared is None:
        expected = f"with a shared_context of the graph {variant}"
        raise BundleError(MANIFEST_FILE, expected, "none", "describe each graph")
    return shared.file


def check_replaceable(folder: Path) -> None:
    """Raises BundleError if `folder` holds anything but a bundle: a save would refuse it."""
    if not folder.exists() or (folder / MANIFEST_FILE).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        found = "a folder of other files" if folder.is_dir() else "a file"
        raise BundleError(str(folder), "a bundle, empty or absent", found, "choose another folder")


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replaces the bundle in `folder` by `files`, atomically."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent):
        restore(folder)
        check_replaceable(folder)
        with replacing(folder) as incoming:
            for name, data in files.items():
                path = incoming / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    file.write(data)
                if is_table(name) and len(data) >= MAPPED_BYTES:
                    # A copy over it, while a service has it mapped, is refused to all but root.
                    path.chmod(path.stat().st_mode & ~0o222)


def _remedy_for(folder: Path) -> str:
    outgoing = outgoing_of(folder)
    if outgoing.is_dir():
        return f"a save was interrupted: rename {outgoing.name} to {folder.name}, or export again"
    return "name the folder that an export wrote"
