"""Builds a model from its name, a schema and hyperparameters. It reads no log and knows no weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from export.data.log_schema import LogSchema
from export.errors import ExportError
from export.train.choices import EmbeddingChoice
from models import MODELS
from models.fields import Field, fields_of, stored_rows
from service.bundle.schema import FIRST_ID, Bins, Kind, Schema
from service.bundle.schema import Field as SchemaField

_FEW_IDS = FIRST_ID + 8


def model_fields(schema: Schema, embedding: EmbeddingChoice | None = None) -> tuple[Field, ...]:
    """The fields of a schema as a model needs them, in column order."""
    choice = embedding or EmbeddingChoice()
    _check_pooling(choice, [field.max_length for field in schema.fields])
    return tuple(
        _stored(
            choice,
            Field(
                name=field.name,
                cardinality=field.cardinality,
                width=field.max_length,
                role="candidate" if field.role == "candidate" else "context",
                values=values_by_id(field),
                same_values_as=field.same_values_as,
            ),
        )
        for field in schema.fields
    )


def _check_pooling(choice: EmbeddingChoice, widths: Sequence[int]) -> None:
    """Raises ExportError for a chosen pooling where no field has several values."""
    if choice.pooling != EmbeddingChoice.pooling and max(widths, default=1) == 1:
        raise ExportError(
            f"'pooling' must be left out for a log without sequences (got {choice.pooling!r}); "
            "name one in the schema, or leave it out"
        )


def _stored(choice: EmbeddingChoice, field: Field) -> Field:
    """The field with the chosen storage and pooling of its embeddings, full where that has no more rows."""
    field = replace(field, pooling=choice.pooling)
    if choice.embedding == "full" or field.cardinality < choice.least_ids:
        return field
    stored = replace(field, storage=choice.embedding, collisions=choice.collisions)
    factors = stored.collisions if stored.storage == "qr" else 0
    return stored if stored_rows(stored) + factors < field.cardinality else field


def described_embeddings(model: nn.Module) -> dict[str, Any]:
    """What differs from the default in a model's embeddings, in the form of `EmbeddingChoice.described`.

    `least_ids` is that of the smallest field whose ids share rows: a choice that makes the same model.
    """
    fields = fields_of(model)
    described: dict[str, Any] = {"pooling": "sum"} if any(field.pooling == "sum" for field in fields) else {}
    shared = [field for field in fields if field.storage != "full"]
    if shared:
        described |= {
            "embedding": shared[0].storage,
            "collisions": shared[0].collisions,
            "least_ids": min(field.cardinality for field in shared),
        }
    return described


def values_by_id(field: SchemaField) -> tuple[float, ...] | None:
    """The number for each id of a numeric field, [cardinality]; None for other fields.

    It is the middle of the bin (for an open bin its edge) on the scale sign(x) ln(1 + |x|), standardised to
    mean 0 and variance 1 over the bins, and 0.0 for ids that are not bins.
    """
    if not isinstance(field.encoding, Bins):
        return None
    edges = np.array(field.encoding.edges)
    if not len(edges):
        return (0.0,) * field.cardinality
    middles = np.concatenate([edges[:1], (edges[:-1] + edges[1:]) / 2, edges[-1:]])
    logs = np.sign(middles) * np.log1p(np.abs(middles))
    scaled = (logs - logs.mean()) / max(float(logs.std()), 1e-9)
    numbers = np.concatenate([np.zeros(FIRST_ID), scaled])
    if field.renumbering is not None:
        numbers = numbers[np.unique(field.renumbering, return_index=True)[1]]
    return tuple(numbers.tolist())


def build_model(
    name: str,
    schema: Schema,
    hyperparameters: Mapping[str, Any] | None = None,
    *,
    embedding: EmbeddingChoice | None = None,
    seed: int = 0,
) -> nn.Module:
    """A fresh model of MODELS for the fields of a schema; the same seed gives the same initial weights."""
    return build_from_fields(name, model_fields(schema, embedding), hyperparameters or {}, seed=seed)


def build_from_fields(
    name: str, fields: Sequence[Field], hyperparameters: Mapping[str, Any], *, seed: int = 0
) -> nn.Module:
    """As build_model, from fields. Raises ExportError with the known models or hyperparameters."""
    check_model(name, hyperparameters)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return MODELS[name](fields, **hyperparameters)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ExportError(
                f"model '{name}' cannot be built with {dict(hyperparameters)!r}: {error}"
            ) from error


def possible_dim(
    name: str,
    fields: Sequence[Field],
    hyperparameters: Mapping[str, Any],
    dim: int,
    *,
    least: int,
    most: int,
) -> int:
    """The dimension of embeddings nearest to `dim`, fewer before more, that a model can be built with.

    Heads and sub-spaces of some models have to divide it. It is tried with a few ids a field. Where none from
    `least` to `most` will do it is `dim`: the reason is told where the model is built.
    """
    few = tuple(_with_few_ids(field) for field in fields)
    for near in sorted(range(least, most + 1), key=lambda each: (abs(each - dim), each)):
        with suppress(ExportError):
            build_from_fields(name, few, {**hyperparameters, "dim": near})
            return near
    return dim


def _with_few_ids(field: Field) -> Field:
    """The field with its first ids."""
    ids = min(field.cardinality, _FEW_IDS)
    return replace(field, cardinality=ids, values=None if field.values is None else field.values[:ids])


def check_fields(
    name: str,
    hyperparameters: Mapping[str, Any],
    log_schema: LogSchema,
    embedding: EmbeddingChoice,
) -> None:
    """Raises ExportError where a log of this description has not the fields that a model needs.

    The model is built with a few ids a field: how many there are only the log tells.
    """
    _check_pooling(embedding, [field.max_length for field in log_schema.fields])
    fields = tuple(
        Field(
            name=field.name,
            cardinality=_FEW_IDS,
            width=field.max_length,
            role="candidate" if field.role == "candidate" else "context",
            values=(0.0,) * _FEW_IDS if field.kind is Kind.NUMERIC else None,
            same_values_as=field.same_values_as,
        )
        for field in log_schema.fields
    )
    try:
        build_from_fields(name, fields, hyperparameters)
    except ExportError as error:
        reason = error.__cause__ or error
        with_what = f" with {dict(hyperparameters)!r}" if hyperparameters else ""
        raise ExportError(
            f"model '{name}' cannot be built{with_what} for a log of the schema '{log_schema.name}': {reason}"
        ) from None


def check_model(name: str, hyperparameters: Mapping[str, Any]) -> None:
    """Raises ExportError unless a model of that name exists and takes these hyperparameters."""
    if name not in MODELS:
        raise ExportError(
            f"'model' must be one of {', '.join(MODELS)} (got {name!r}); "
            "`python -m export models` tells what each is"
        )
    known = hyperparameters_of(name)
    for given in hyperparameters:
        if given not in known:
            raise ExportError(
                f"a hyperparameter of '{name}' must be one of {', '.join(known) or 'none'} (got {given!r}); "
                f"`python -m export models {name}` tells more"
            )


def hyperparameters_of(name: str) -> dict[str, Any]:
    """The hyperparameters a model of MODELS takes, with their defaults, in order."""
    parameters = list(inspect.signature(MODELS[name]).parameters.values())[1:]  # the first one is `fields`
    return {parameter.name: parameter.default for parameter in parameters}
