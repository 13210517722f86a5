"""The file of a bundle from which the next export goes on: a dense model and what it was trained on.

It runs no code. The manifest does not list it, so no service reads it, and a copy that only serves may leave
it out. This module does not know what a run makes of it.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.data.past import Past
from export.errors import ExportError
from export.train.build import build_from_fields, model_fields
from models.fields import Field, Pooling, Storage, fields_of
from service.bundle.json_files import encode_json
from service.bundle.schema import Schema
from service.bundle.schema_files import schema_from_files, schema_to_files
from service.bundle.store import load_bundle

TRAINED_FILE: Final = "training/dense.npz"
_RECORD, _WEIGHTS, _PAST, _SCHEMA = "record", "weights/", "past/", "schema/"
_FAULTS = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    zipfile.BadZipFile,
    msgspec.MsgspecError,
)


class Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model keeps the embeddings of a field."""

    storage: Storage
    collisions: int
    pooling: Pooling

    @classmethod
    def of(cls, field: Field) -> Stored:
        return cls(field.storage, field.collisions, field.pooling)


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says beside its arrays; `schema` is the digest of the one that the weights are for."""

    model: str
    hyperparameters: dict[str, Any]
    fields: tuple[Stored, ...]
    training: dict[str, Any]
    schema: str


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained dense model, what it was trained on, and the choices of training that its logits hang on."""

    network: nn.Module
    model: str
    hyperparameters: dict[str, Any]
    past: Past
    training: dict[str, Any]


def trained_file(made: TrainedModel, beside: Schema | None = None) -> bytes:
    """The file's content: an archive of arrays as numpy writes it; the one called `record` is JSON.

    The model's schema is that of the bundle that the file lies in, and is stored only where that one,
    `beside`, lacks values that pruning forgot.
    """
    record = _Record(
        model=made.model,
        hyperparameters=made.hyperparameters,
        fields=tuple(map(Stored.of, fields_of(made.network))),
        training=made.training,
        schema=schema_digest(made.past.schema),
    )
    arrays: dict[str, Any] = {_RECORD: np.frombuffer(encode_json(record), np.uint8)}
    arrays |= {_WEIGHTS + name: value.cpu().numpy() for name, value in made.network.state_dict().items()}
    arrays |= {_PAST + name: array for name, array in made.past.arrays().items()}
    if beside is not None and schema_digest(before_compaction(beside)) != record.schema:
        files = schema_to_files(made.past.schema)
        arrays |= {_SCHEMA + name: np.frombuffer(content, np.uint8) for name, content in files.items()}
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def read_trained_file(folder: Path) -> tuple[str, TrainedModel]:
    """The bundle's name@version, and the model that its TRAINED_FILE holds. Raises ExportError."""
    bundle = load_bundle(folder, native=False)
    path = folder / TRAINED_FILE
    if not path.is_file():
        raise ExportError(
            f"'warm-start' must be a bundle with {TRAINED_FILE} (got {folder} without it: it is lean, an "
            "older export wrote it, or a copy left it out); name the work folder of its export, or train "
            "once without --warm-start"
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            found = _decoded(dict(content), before_compaction(bundle.schema))
    except _FAULTS as error:
        reason = " ".join(str(error).split())
        raise ExportError(
            f"'{path}' must be what the export of its bundle wrote ({reason}); copy the bundle again"
        ) from None
    return f"{bundle.manifest.name}@{bundle.manifest.version}", found


def _decoded(arrays: dict[str, NDArray[Any]], schema: Schema) -> TrainedModel:
    record = msgspec.json.decode(arrays.pop(_RECORD).tobytes(), type=_Record)
    if files := _under(_SCHEMA, arrays):
        schema = schema_from_files(lambda name: files[name].tobytes())
    if record.schema != schema_digest(schema):
        raise ValueError("it is that of a bundle with other values")
    fields = tuple(
        replace(field, storage=one.storage, collisions=one.collisions, pooling=one.pooling)
        for field, one in zip(model_fields(schema), record.fields, strict=True)
    )
    network = build_from_fields(record.model, fields, record.hyperparameters)
    weights = {name: torch.from_numpy(array) for name, array in _under(_WEIGHTS, arrays).items()}
    network.load_state_dict(weights)
    past = Past.of(schema, _under(_PAST, arrays))
    return TrainedModel(network.eval(), record.model, record.hyperparameters, past, record.training)


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def before_compaction(schema: Schema) -> Schema:
    """The schema of the dense model: a pruned one may number ids anew."""
    return Schema(tuple(replace(field, renumbering=None) for field in schema.fields), schema.spelling)


def schema_digest(schema: Schema) -> str:
    """A hash of all that a schema says: equal ones give a row the same ids."""
    found = hashlib.sha256()
    for name, content in schema_to_files(schema).items():
        found.update(name.encode() + hashlib.sha256(content).digest())
    return found.hexdigest()
