"""What pruning and INT8 can take of a model, and why not the rest: found by doing both to it on a few fields.

It knows neither a log nor what a model is good for. Nothing is trained: what can go depends on a model's
layers, not on its weights. So nothing here has to be told of a new model, layer or part of a recipe.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from export.compress.compact import compact
from export.compress.perceptrons import linear_layers
from export.compress.prune import Pruner
from export.compress.recipes import PARTS, RECIPES
from export.graph.int8_shares import Int8Share, int8_shares
from export.graph.onnx import export_onnx
from export.graph.runtime import one_torch_thread
from export.train.build import build_from_fields, hyperparameters_of
from models.fields import Field, Storage, columns
from models.layers import MLP

ALMOST_ALL = 0.9999
"""The share that is pruned: so that whatever can go goes, by chance as little as possible."""
LARGE = 256  # numbers of a layer that are worth a word
NARROW = {"hidden_units": (48, 32)}  # what can be pruned does not depend on widths, and this is faster
ROWS = 512
NUMBERS = (0.0, 0.0, -1.4, -0.6, 0.1, 0.7, 1.3)
FIELDS = (
    Field("domain", 6),
    Field("history", 600, width=4, same_values_as="ad"),
    Field("price", 7, values=NUMBERS),
    Field("tags", 200, width=2, pooling="sum"),
    *(Field(f"user {number}", 400) for number in range(4)),
    *(Field(f"ad {number}", 300, role="candidate") for number in range(2)),
    Field("ad", 600, role="candidate"),
)
"""Fields of every kind."""


@dataclass(frozen=True)
class Ability:
    """Whether a part can be made smaller: yes, in part, no; `zeros` are pruned, and stay where they are."""

    answer: str
    why: tuple[str, ...] = ()


@dataclass(frozen=True)
class Abilities:
    """Of one model: pruning by part of a recipe, storages of embeddings, INT8 of tables and of layers."""

    model: str
    pruning: dict[str, Ability]
    unpruned: str  # the modules with large matrices that no part prunes; empty without any
    embeddings: dict[str, Ability]
    int8: dict[str, Ability]


def pruning_of(name: str) -> tuple[dict[str, Ability], str]:
    """What each part of a recipe takes of a model, and which of its weights no part prunes."""
    found, whole = {}, _narrow(name)
    untouched = {path for path, _ in whole.named_parameters()}
    for part in PARTS:
        model = copy.deepcopy(whole)
        _prune(model, part)
        zeroed = {path for path, weights in model.named_parameters() if not weights.all()}
        untouched -= zeroed
        if not zeroed:
            found[part] = Ability("no", _why_not(part, model))
        else:
            found[part] = _without_rows(name, "full") if part == "embedding" else _pruned(name, model)
    return found, _unpruned(whole, untouched)


def embeddings_of(name: str) -> dict[str, Ability]:
    """Whether a model keeps its embeddings in each storage, and merges rows that are zero there."""
    return {storage: _without_rows(name, storage) for storage in get_args(Storage)}


def int8_of(name: str) -> dict[str, Ability]:
    """How much of a model's tables and layers INT8 takes, in the graph of its defaults."""
    draw = np.random.default_rng(0)
    ids = [draw.integers(0, field.cardinality, (ROWS, field.width)) for field in FIELDS]
    graph = export_onnx(_with_random_weights(build_from_fields(name, FIELDS, {})), columns(FIELDS))
    shares = int8_shares(graph, np.concatenate(ids, axis=1).astype(np.int32))
    return {"tables": _int8(shares.tables), "layers": _int8(shares.layers)}


def abilities_of(name: str, *, with_int8: bool = True) -> Abilities:
    """Everything of one model; INT8 takes some seconds. Raises ExportError for a name that is no model."""
    with one_torch_thread():
        pruning, unpruned = pruning_of(name)
        return Abilities(name, pruning, unpruned, embeddings_of(name), int8_of(name) if with_int8 else {})


@functools.cache
def _without_rows(name: str, storage: Storage) -> Ability:
    """What pruning takes of a model's embeddings in this storage."""
    model = _narrow(name, storage)
    if storage != "full" and _table_rows(model) == _table_rows(_narrow(name)):
        return Ability("no", ("it keeps a number for each id whatever is chosen",))
    _prune(model, "embedding")
    return _pruned(name, model)


def _narrow(name: str, storage: Storage = "full") -> nn.Module:
    """The model with narrow layers, and its embeddings in this storage where fields have many ids."""
    collisions = 1 if storage == "full" else 4
    fields = tuple(
        replace(field, storage=storage, collisions=collisions) if field.cardinality > 100 else field
        for field in FIELDS
    )
    return _with_random_weights(build_from_fields(name, fields, _given(name)))


def _given(name: str) -> dict[str, Any]:
    known = hyperparameters_of(name)
    return {argument: value for argument, value in NARROW.items() if argument in known}


def _with_random_weights(model: nn.Module) -> nn.Module:
    """In evaluation mode, with weights of which none is zero, so that what is zero later was pruned."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(torch.randn(weights.shape, generator=draw) * 0.1)
    return model.eval()


def _prune(model: nn.Module, part: str) -> None:
    rates: dict[str, Any] = {part: ALMOST_ALL}
    Pruner(model, replace(RECIPES["none"], **rates), steps=1).after_step(1)


@functools.cache
def _notes_of_whole(name: str) -> tuple[str, ...]:
    """What is said of a model that has no zeros: it does not come from pruning."""
    return compact(_narrow(name), hyperparameters_of(name) | _given(name)).notes


def _pruned(name: str, model: nn.Module) -> Ability:
    """Whether the zeros of a model leave it."""
    compacted = compact(model, hyperparameters_of(name) | _given(name))
    own = tuple(note for note in compacted.notes if note not in _notes_of_whole(name))
    before, after = compacted.parameters
    if after < before:
        return Ability("in part" if own else "yes", own)
    return Ability("zeros", own or compacted.notes or ("no layer gets smaller by them",))


def _why_not(part: str, model: nn.Module) -> tuple[str, ...]:
    """Why nothing of a part can go, by the layers that the model has."""
    perceptrons = [module for module in model.modules() if isinstance(module, MLP) and len(module.hidden)]
    if part not in ("dnn", "neurons") or not perceptrons:
        nothing = "perceptron" if part in ("dnn", "neurons") else f"layer that '{part}' prunes"
        return (f"it has no {nothing}",)
    strange = [module for module in perceptrons if linear_layers(module) is None]
    kinds = {type(layer).__name__ for module in strange for layer in module.hidden}
    if kinds - {"Linear"}:
        return (f"the hidden layers of its perceptron are {_listed(kinds)}, whose weights are not its own",)
    activations = {type(one).__name__ for module in strange for one in module.activations or ()}
    if activations:
        return (f"the activations of its perceptron, {_listed(activations)}, have parameters",)
    return ("its perceptrons have one layer each, which other parts read",)


def _unpruned(model: nn.Module, untouched: Iterable[str]) -> str:
    """The large matrices that no part prunes, by the module that holds them."""
    weights = {path: weights for path, weights in model.named_parameters() if path in set(untouched)}
    large = [path for path, each in weights.items() if each.ndim > 1 and each.numel() >= LARGE]
    if not large:
        return ""
    children = dict(model.named_children())
    heads = dict.fromkeys(path.partition(".")[0] for path in large)
    kinds = (f"{head} ({type(children[head]).__name__})" if head in children else head for head in heads)
    return ", ".join(kinds)


def _int8(share: Int8Share) -> Ability:
    if share.share is None:
        return Ability("no", ("it has none",))
    why = tuple(
        f"float32 stay {', '.join('x'.join(map(str, shape)) for shape in shapes[:4])}"
        f"{' and more' if len(shapes) > 4 else ''}: each {reason}"
        for reason, shapes in share.kept.items()
    )
    return Ability(f"{share.share:.0%}" if share.share > 0 else "no", why)


def _table_rows(model: nn.Module) -> int:
    return sum(module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
