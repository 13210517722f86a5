"""A build for one log: fields in place of what stands for them, and why some models cannot be built on it.

It trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from benchmarks.papers.cells import CONTEXT, FEW, ITEM, USER, Build
from export.compress.recipes import Recipe
from export.errors import ExportError
from export.train.build import build_model
from export.train.choices import EmbeddingChoice
from models.embedding import FeaturesEmbedding
from service.bundle.schema import Field, Schema

LEAST_IDS = 200  # a field of fewer keeps a row an id: DLRM's threshold, from which xsDeepFwFM has its QR


class CannotRun(ExportError):
    """A build is not possible here; its text says why."""


@dataclass(frozen=True)
class Fields:
    """The fields of a log that a paper calls user, item, context, and one of few values."""

    user: str
    item: str
    context: str
    few: str

    @classmethod
    def of(cls, schema: Schema, given: Sequence[str] = ()) -> Fields:
        """The given ones in this order; else by roles: ids tell most of the field with the most of them.

        Raises ExportError for a name that the log has no such field of.
        """
        single = [field for field in schema.fields if field.max_length == 1 and field.cardinality > 2]
        if given:
            names = {field.name for field in single}
            if len(given) != 4 or not set(given) <= names:
                raise ExportError(
                    f"'conditions' must be four fields of one value each (got {', '.join(given)}); "
                    f"the log has {', '.join(sorted(names))}"
                )
            return cls(*given)
        if not single:
            return cls("", "", "", "")  # a build that needs one of them says so
        context = [field for field in single if field.role == "context"] or single
        items = [field for field in single if field.role == "candidate"] or single
        return cls(_most(context).name, _most(items).name, _fewest(context).name, _fewest(items).name)

    def __str__(self) -> str:
        return f"user {self.user}, item {self.item}, context {self.context}, coarse {self.few}"


def _most(among: Sequence[Field]) -> Field:
    return max(among, key=lambda field: field.cardinality)


def _fewest(among: Sequence[Field]) -> Field:
    return min(among, key=lambda field: field.cardinality)


def settled(build: Build, schema: Schema, of: Fields) -> Build:
    """The build with fields of the log, and without what changes nothing on it: that is made once."""
    named = {USER: of.user, ITEM: of.item, CONTEXT: of.context, FEW: of.few}
    hyperparameters = {name: _named(value, named) for name, value in build.hyperparameters.items()}
    has_bags = any(field.max_length > 1 for field in schema.fields)
    return replace(
        build,
        hyperparameters=hyperparameters,
        pooling=build.pooling if has_bags else "mean",
        collisions=build.collisions if build.embedding != "full" else EmbeddingChoice.collisions,
        teacher=None if build.teacher is None else settled(build.teacher, schema, of),
    )


def _named(value: Any, named: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return named.get(value, value)
    if isinstance(value, list):
        return (
            list(dict.fromkeys(_named(one, named) for one in value))
            if value and isinstance(value[0], str)
            else value
        )
    return value


def names_fields(build: Build) -> bool:
    """Whether something stands in it for fields of the log."""
    nobody = dict.fromkeys((USER, ITEM, CONTEXT, FEW), "")
    return any(_named(value, nobody) != value for value in build.hyperparameters.values())


def embedding_of(build: Build) -> EmbeddingChoice:
    """How the build keeps its embeddings."""
    if build.embedding == "full":
        return EmbeddingChoice(pooling=build.pooling)
    return EmbeddingChoice(
        embedding=build.embedding, collisions=build.collisions, least_ids=LEAST_IDS, pooling=build.pooling
    )


def recipe_of(build: Build) -> Recipe:
    """The pruning of a build. Raises CannotRun for a part that cannot be pruned in this version."""
    known = {one.name for one in fields(Recipe)}
    for part in build.rates:
        if part not in known:
            raise CannotRun(f"'{part}' cannot be pruned in this version")
    unpruned: dict[str, Any] = {"dnn": 0.0, "field_matrix": 0.0, "embedding": 0.0}
    return Recipe("as in the paper", **(unpruned | dict(build.rates)))


def parameters_of(build: Build, schema: Schema, most: int) -> tuple[int, int]:
    """How many parameters the model has in all, and outside its embeddings. No weight is made.

    Raises CannotRun for more than `most`, ExportError for a model that this log's fields do not allow.
    """
    with torch.device("meta"):
        network = build_model(build.model, schema, dict(build.hyperparameters), embedding=embedding_of(build))
    total = _count(network)
    if total > most:
        raise CannotRun(f"it would have {total:,} parameters, more than --most-parameters {most:,}")
    tables = [one for one in network.modules() if isinstance(one, FeaturesEmbedding)]
    return total, total - sum(map(_count, tables))


def _count(module: nn.Module) -> int:
    return sum(weights.numel() for weights in module.parameters())
