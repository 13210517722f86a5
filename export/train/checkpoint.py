"""Saves a trained model as one file and loads it. Without optimizer state: training cannot be resumed.

The file is torch.save of tensors and plain data, never code: format version, model name, hyperparameters,
fields, weights.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from export.errors import ExportError
from export.train.build import build_from_fields, model_fields
from models.fields import Field, fields_of
from service.bundle.folders import replacing
from service.bundle.schema import Schema

CHECKPOINT_VERSION = 2


class CheckpointError(ExportError):
    """A checkpoint cannot be used. The message names the file, the fault and the remedy."""


class Loaded(NamedTuple):
    """A model in evaluation mode on the CPU, its name in MODELS and the hyperparameters that built it."""

    model: nn.Module
    name: str
    hyperparameters: dict[str, Any]


def save_checkpoint(
    path: Path, model: nn.Module, model_name: str, hyperparameters: Mapping[str, Any]
) -> None:
    """Write a model to `path`; a checkpoint that is there stays until the new one is whole.

    Raises OSError.
    """
    content = {
        "version": CHECKPOINT_VERSION,
        "model": model_name,
        "hyperparameters": plain(hyperparameters),
        "fields": [plain(asdict(field)) for field in fields_of(model)],
        "weights": {name: value.detach().cpu().clone() for name, value in model.state_dict().items()},
    }
    with replacing(Path(path)) as incoming, incoming.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's own, of which a full disk is the reason
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: Path, schema: Schema | None = None) -> Loaded:
    """Reads a model. Raises CheckpointError if it is no checkpoint or its fields are not the schema's."""
    path = Path(path)
    content = _read(path)
    try:
        fields = tuple(_field(entry) for entry in content["fields"])
        name, hyperparameters, weights = content["model"], content["hyperparameters"], content["weights"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"'{path.name}' must be a checkpoint of this program ({error!r}); train again"
        ) from None
    if schema is not None:
        _check_fields(path, fields, model_fields(schema))
    model = build_from_fields(name, fields, hyperparameters)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"'{path.name}' must hold the weights of '{name}' ({reason}); train again"
        ) from None
    return Loaded(model.eval(), name, hyperparameters)


def _read(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():  # torch warns about files of other formats, which are refused below
            warnings.simplefilter("ignore")
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"'{path}' must be a checkpoint (there is no such file); train first") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        is_foreign = isinstance(error, pickle.UnpicklingError)  # torch says how to trust it all the same
        reason = "no file of weights alone" if is_foreign else str(error).strip().partition("\n")[0]
        raise CheckpointError(f"'{path.name}' must be a checkpoint (got {reason!r}); train again") from None
    found = content.get("version") if isinstance(content, dict) else None
    if found != CHECKPOINT_VERSION:
        raise CheckpointError(
            f"'{path.name}' must be a checkpoint of version {CHECKPOINT_VERSION} (got {found!r}); train again"
        )
    checkpoint: dict[str, Any] = content
    return checkpoint


def _check_fields(path: Path, found: Sequence[Field], expected: Sequence[Field]) -> None:
    if len(found) != len(expected):
        raise CheckpointError(
            f"'{path.name}' must have the schema's {len(expected)} fields (got {len(found)}); "
            "train again on this schema"
        )
    for position, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        # The storage of embeddings was chosen for training; the schema does not know it.
        stored_alike = replace(theirs, storage=ours.storage, collisions=ours.collisions, pooling=ours.pooling)
        if ours != stored_alike:
            raise CheckpointError(
                f"field {position} of '{path.name}' must be {theirs} (got {ours}); train again on this schema"
            )


def _field(entry: Mapping[str, Any]) -> Field:
    values = entry["values"]
    return Field(**{**entry, "values": None if values is None else tuple(values)})


def plain(value: Any) -> Any:
    """Hyperparameters as data that weights_only loading and JSON accept: no tuples, no numpy."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "item"):
        return value.item()
    raise CheckpointError(
        f"a hyperparameter must be a number, a text, None, a list or a mapping (got {value!r}); use those"
    )
