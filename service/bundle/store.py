"""Writes a bundle whole or not at all, and reads it with everything verified; it runs nothing of it.

A save builds every file in memory, loads them back as a service would, and only then touches the disk: a
hidden sibling folder, synced, then renamed into place. Loading uses the very bytes that it has hashed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
from service.bundle.errors import EXPORT_AGAIN, BundleError
from service.bundle.golden import check_golden_ids
from service.bundle.graph_tensors import tables_of
from service.bundle.json_files import decode_json
from service.bundle.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    SHARED_INPUTS,
    Compression,
    FileEntry,
    Golden,
    Graph,
    Latency,
    Manifest,
    Metrics,
    ModelInfo,
    Parity,
    Training,
    manifest_from_file,
    manifest_to_file,
    version_of,
)
from service.bundle.schema import Role, Schema
from service.bundle.schema_files import schema_from_files, schema_to_files

__all__ = ["Bundle", "BundleError", "check_replaceable", "load_bundle", "save_bundle"]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle in memory.

    `graphs` are the ONNX bytes whose hashes were checked, `shared_graphs` those that compute a request's
    context once, where there are such; both by variant.
    """

    manifest: Manifest
    schema: Schema
    encoder: Encoder
    calibrators: dict[str, Calibrator]
    graphs: dict[str, bytes]
    shared_graphs: dict[str, bytes]
    golden: Golden
    folder: Path
    _tables: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)

    def tables(self, variant: str) -> dict[str, NDArray[Any]]:
        """The tables of a variant's graph, read once; all graphs made of this bundle can use the same.

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


def load_bundle(folder: Path, *, verify_all: bool = False) -> Bundle:
    """The bundle in `folder`; each file is read once. Raises BundleError, one line, for anything amiss.

    `verify_all` also checks the files that a service does not use (the report).
    """
    folder = Path(folder)
    if not (folder / MANIFEST_FILE).is_file():
        found = "no such file" if folder.is_dir() else "no such folder"
        raise BundleError(str(folder / MANIFEST_FILE), "a bundle's manifest", found, _remedy_for(folder))
    try:
        root = folder.resolve()
        manifest = manifest_from_file(_read_inside(root, MANIFEST_FILE))
        read = _VerifiedReader(root, manifest.files)
        bundle = _assemble(manifest, read, folder)
        for name in manifest.files.keys() - read.names if verify_all else ():
            read(name)
    except BundleError as error:
        file = str(folder / error.file)
        raise BundleError(file, error.expected, error.found, error.remedy) from error
    return bundle


def _assemble(manifest: Manifest, read: Callable[[str], bytes], folder: Path) -> Bundle:
    schema = schema_from_files(read)
    calibrators = calibrators_from_file(read(CALIBRATION_FILE))
    golden = decode_json(GOLDEN_FILE, read(GOLDEN_FILE), Golden)
    golden.validate(manifest.graphs)
    encoder = Encoder(schema)
    check_golden_ids(encoder, golden)
    _match(manifest, schema, calibrators)
    graphs = {variant: read(graph.file) for variant, graph in manifest.graphs.items()}
    shared = {
        variant: read(graph.shared_context.file)
        for variant, graph in manifest.graphs.items()
        if graph.shared_context is not None
    }
    return Bundle(manifest, schema, encoder, calibrators, graphs, shared, golden, folder)


def _match(manifest: Manifest, schema: Schema, calibrators: Mapping[str, Calibrator]) -> None:
    """Raises BundleError unless each graph has its own calibrator and takes the schema's columns."""
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
        shared = graph.shared_context
        for tensor in (*graph.inputs, *(shared.inputs if shared is not None else ())):
            columns = widths.get(tensor.name)
            if columns is not None and tensor.shape != (None, columns):
                expected = (
                    f"such that '{tensor.name}' of {variant} has shape (None, {columns}), as the schema"
                )
                raise BundleError(MANIFEST_FILE, expected, str(tensor.shape), EXPORT_AGAIN)


class _VerifiedReader:
    """Reads listed files of a bundle, and hands out only bytes whose size and SHA-256 are as listed."""

    def __init__(self, root: Path, files: Mapping[str, FileEntry]) -> None:
        self.root = root
        self.files = files
        self.names: set[str] = set()

    def __call__(self, name: str) -> bytes:
        entry = self.files.get(name)
        if entry is None:
            raise BundleError(
                MANIFEST_FILE, f"a list of all files, {name} too", "no such entry", EXPORT_AGAIN
            )
        data = _read_inside(self.root, name, entry.size)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != entry.sha256:
            expected = f"of SHA-256 {entry.sha256[:12]}..."
            raise BundleError(name, expected, f"{sha256[:12]}...", "copy the file again")
        self.names.add(name)
        return data


def _read_inside(root: Path, name: str, size: int | None = None) -> bytes:
    """The bytes of a file that lies in `root` and is `size` long. Raises BundleError."""
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise BundleError(name, "a file inside the bundle", "a link out of it", EXPORT_AGAIN)
        if not path.is_file():
            raise BundleError(name, "a file of the bundle", "no such file", "copy the whole folder again")
        found = path.stat().st_size
        if size is not None and found != size:
            raise BundleError(name, f"{size} bytes long", f"{found} bytes", "copy the file again")
        return path.read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        raise BundleError(name, "readable", str(error), "check the folder's permissions") from error


def save_bundle(
    folder: Path,
    *,
    name: str,
    model: ModelInfo,
    schema: Schema,
    graphs: Mapping[str, bytes],
    descriptions: Mapping[str, Graph],
    serving_variant: str,
    calibrators: Mapping[str, Calibrator],
    golden: Golden,
    training: Training,
    kept_out: Mapping[str, str] | None = None,
    evaluation: Mapping[str, Metrics] | None = None,
    uncalibrated: Mapping[str, Metrics] | None = None,
    parity: tuple[Parity, ...] = (),
    latency: tuple[Latency, ...] = (),
    machine: str = "",
    compression: Compression | None = None,
    shared_graphs: Mapping[str, bytes] | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    created_at: datetime | None = None,
) -> Manifest:
    """Writes the bundle into `folder` and returns its manifest; a bundle that is already there is replaced.

    `graphs`, `shared_graphs` and `descriptions` are the ONNX bytes and what the manifest says of them, by
    variant; `extra_files` (the report) are listed and hashed, and not read by a service. On any failure what
    was in `folder` is still there. Raises BundleError for parts that do not fit together, OSError from the
    disk.
    """
    if descriptions.keys() != graphs.keys():
        expected = f"described for the graphs {', '.join(graphs)}"
        raise BundleError(MANIFEST_FILE, expected, ", ".join(descriptions), "describe each graph")
    files = {
        **schema_to_files(schema),
        CALIBRATION_FILE: calibrators_to_file(tuple(calibrators.values())),
        GOLDEN_FILE: msgspec.json.encode(golden) + b"\n",
    }
    for file, data in (
        *((descriptions[variant].file, graph) for variant, graph in graphs.items()),
        *_shared_files(shared_graphs or {}, descriptions),
        *(extra_files or {}).items(),
    ):
        if file in files:
            raise BundleError(file, "the name of one file", "two", "give each its own name")
        files[file] = data
    entries = {
        file: FileEntry(len(files[file]), hashlib.sha256(files[file]).hexdigest()) for file in sorted(files)
    }
    manifest = Manifest(
        name=name,
        version=version_of(entries),
        created_at=(created_at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"),
        model=model,
        files=entries,
        graphs=dict(descriptions),
        serving_variant=serving_variant,
        kept_out=dict(kept_out or {}),
        training=training,
        evaluation=dict(evaluation or {}),
        uncalibrated=dict(uncalibrated or {}),
        parity=tuple(parity),
        latency=tuple(latency),
        machine=machine,
        compression=compression,
    )
    encoded = manifest_to_file(manifest)
    bundle = _assemble(manifest_from_file(encoded), files.__getitem__, folder)
    for variant, graph in manifest.graphs.items():
        if graph.tables:
            bundle.tables(variant)
    _write(Path(folder), {**files, MANIFEST_FILE: encoded})
    return manifest


def _shared_files(
    graphs: Mapping[str, bytes], descriptions: Mapping[str, Graph]
) -> Iterator[tuple[str, bytes]]:
    """Files and their ONNX bytes. Raises BundleError for a graph that no description tells the file of."""
    for variant, graph in graphs.items():
        shared = descriptions[variant].shared_context if variant in descriptions else None
        if shared is None:
            expected = f"with a shared_context of the graph {variant}"
            raise BundleError(MANIFEST_FILE, expected, "none", "describe each graph")
        yield shared.file, graph


def check_replaceable(folder: Path) -> None:
    """Raises BundleError if `folder` holds something that is not a bundle: a save would not touch it."""
    if not folder.exists() or (folder / MANIFEST_FILE).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        found = "a folder of other files" if folder.is_dir() else "a file"
        raise BundleError(str(folder), "a bundle, empty or absent", found, "choose another folder")


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Puts `files` in place of whatever bundle is in `folder`: all of them or none."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    incoming, outgoing = _sibling(folder, "incoming"), _sibling(folder, "outgoing")
    with _locked(folder.parent):
        _restore(outgoing, folder)  # after a save that was killed between its two renames
        check_replaceable(folder)
        shutil.rmtree(incoming, ignore_errors=True)
        shutil.rmtree(outgoing, ignore_errors=True)
        try:
            _write_synced(incoming, files)
            if folder.exists():
                folder.rename(outgoing)
            incoming.rename(folder)
            _sync(folder.parent)
        finally:
            _restore(outgoing, folder)
            shutil.rmtree(incoming, ignore_errors=True)
            shutil.rmtree(outgoing, ignore_errors=True)


def _restore(outgoing: Path, folder: Path) -> None:
    if outgoing.exists() and not folder.exists():
        outgoing.rename(folder)


def _write_synced(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes `files` below the new `folder` and waits until the disk has them."""
    folder.mkdir()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    for path in (*(each for each in folder.rglob("*") if each.is_dir()), folder):
        _sync(path)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Held by one save at a time, so that the hidden folders found inside are leftovers."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sibling(folder: Path, purpose: str) -> Path:
    return folder.with_name(f".{folder.name}.{purpose}")


def _remedy_for(folder: Path) -> str:
    outgoing = _sibling(folder, "outgoing")
    if outgoing.is_dir():
        return f"a save was interrupted: rename {outgoing.name} to {folder.name}, or export again"
    return "name the folder that an export wrote"
