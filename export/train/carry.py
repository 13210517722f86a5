"""A trained model -> one for a schema with other values, with the weights that it had: rows go by value.

It knows schemas and models, and no log's rows or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.data.encoded import EncodedLog
from export.data.past import Past, is_known, origins
from export.errors import ExportError
from export.train.build import build_from_fields, model_fields
from export.train.config import TrainConfig, rows_an_epoch
from export.train.id_counts import IdCounts
from models.embedding import FeaturesEmbedding
from models.fields import columns, fields_of, first_rows, stored_rows
from service.bundle.schema import Schema


def carried(
    model: nn.Module,
    name: str,
    hyperparameters: Mapping[str, Any],
    old: Schema,
    new: Schema,
    *,
    seed: int = 0,
) -> nn.Module:
    """A model of this name for the schema `new`, with the weights of `model`, which is for `old`.

    The row of a value is the one that it had, so known values get the logits that they had; the row of a new
    value is that of a new model. All other weights stay. Raises ExportError for a model whose other weights
    depend on how many ids a field has; see `fixed_fields`.
    """
    fields = tuple(
        replace(field, storage=before.storage, collisions=before.collisions, pooling=before.pooling)
        for field, before in zip(model_fields(new), fields_of(model), strict=True)
    )
    grown = build_from_fields(name, fields, hyperparameters, seed=seed)
    weights, initial = model.state_dict(), grown.state_dict()
    found, known = origins(old, new), is_known(old, new)
    tables = dict(grown.named_modules(remove_duplicate=False))
    for path, before in model.named_modules(remove_duplicate=False):
        after = tables.get(path)
        if isinstance(before, FeaturesEmbedding) and isinstance(after, FeaturesEmbedding):
            key = f"{path}.table.weight"
            rows, stay = _rows(before, after, found, known)
            weights[key] = torch.where(stay.unsqueeze(1), weights[key][rows], initial[key])
    for key, value in initial.items():
        if key not in weights or weights[key].shape != value.shape:
            raise ExportError(
                f"'warm-start' must go on from a model that can take other values (got {name}, whose "
                f"'{key}' cannot); leave --warm-start out"
            )
    grown.load_state_dict(weights)
    return grown.eval()


def _rows(
    before: FeaturesEmbedding,
    after: FeaturesEmbedding,
    found: Mapping[str, NDArray[np.int64]],
    known: Mapping[str, NDArray[np.bool_]],
) -> tuple[Tensor, Tensor]:
    """For each row of the new table one of the old, [rows], and whether it goes on from that, [rows]."""
    first = dict(zip((field.name for field in before.fields), first_rows(before.fields), strict=True))
    rows, stay = [], []
    for field in after.fields:
        if field.same_values_as is None:
            shared = field.storage != "full"  # its ids stay as they are
            own = np.arange(stored_rows(field)) if shared else found[field.name]
            rows.append(first[field.name] + own)
            stay.append(np.ones(len(own), bool) if shared else known[field.name])
    return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(stay))


def fixed_fields(model: nn.Module, hyperparameters: Mapping[str, Any]) -> frozenset[str]:
    """Fields whose ids must stay as they are, because other things hang on them than a row each.

    Several ids share a row, a domain has layers of its own, and the place of a cross product's weight follows
    from how many ids its fields have.
    """
    fields = fields_of(model)
    found = {field.name for field in fields if field.storage != "full"}
    found.update(name for cross in hyperparameters.get("crosses") or () for name in cross)
    domain = domain_of(model)
    if domain is not None:
        found.add(domain)
    return frozenset(field.same_values_as or field.name for field in fields if field.name in found)


def domain_of(model: nn.Module) -> str | None:
    """The field that a model with layers by domain has chosen; None for any other model."""
    column: Any = getattr(model, "domain_column", None)
    if column is None:
        return None
    fields = fields_of(model)
    return next(field.name for n, field in enumerate(fields) if columns(fields[:n]) == column)


def past_after(log: EncodedLog, config: TrainConfig) -> Past:
    """What a model has met once it was trained on a log, by the log's ids."""
    part = log.parts["train"]
    fields = model_fields(log.schema)
    counts = IdCounts.of(fields, part, log.parts["validation"]).training
    rows = rows_an_epoch(len(part), part.clicks, config.negative_rate)
    none = {name: np.zeros_like(found) for name, found in counts.items()}
    before = log.past or Past(log.schema, 0, none, none)
    return Past(
        log.schema,
        before.rows + rows,
        {name: before.counts[name] + found for name, found in counts.items()},
        {name: np.where(found > 0, 0, before.absent[name] + 1) for name, found in counts.items()},
    )
