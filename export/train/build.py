"""From a model's name, a schema and hyperparameters to a model. It knows no log and no weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from export.errors import ExportError
from models import MODELS
from models.fields import Field
from service.bundle.schema import Schema


def model_fields(schema: Schema) -> tuple[Field, ...]:
    """What a model must know of each field of a schema, in column order."""
    return tuple(Field(field.name, field.cardinality, field.max_length) for field in schema.fields)


def build_model(
    name: str, schema: Schema, hyperparameters: Mapping[str, Any] | None = None, *, seed: int = 0
) -> nn.Module:
    """A fresh model of MODELS for the fields of a schema; the same seed gives the same initial weights."""
    return build_from_fields(name, model_fields(schema), hyperparameters or {}, seed=seed)


def build_from_fields(
    name: str, fields: Sequence[Field], hyperparameters: Mapping[str, Any], *, seed: int = 0
) -> nn.Module:
    """As build_model, from fields. Raises ExportError naming the known models, or hyperparameters."""
    if name not in MODELS:
        raise ExportError(f"'model' must be one of {', '.join(sorted(MODELS))} (got {name!r}); see models/")
    known = hyperparameters_of(name)
    for given in hyperparameters:
        if given not in known:
            raise ExportError(
                f"a hyperparameter of '{name}' must be one of {', '.join(known) or 'none'} (got {given!r}); "
                "see its constructor"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return MODELS[name](fields, **hyperparameters)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ExportError(
                f"model '{name}' cannot be built with {dict(hyperparameters)!r}: {error}"
            ) from error


def hyperparameters_of(name: str) -> dict[str, Any]:
    """The hyperparameters a model of MODELS takes, with their defaults, in order."""
    parameters = list(inspect.signature(MODELS[name]).parameters.values())[1:]  # the first one is `fields`
    return {parameter.name: parameter.default for parameter in parameters}
