"""Attention between fields, in AutoInt and DIFM: heads, and the numbers that a head works with.

Units are, in each layer, the numbers that queries and keys have, and those of its outputs, which are values
with their residual. A head whose outputs are all dead goes whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from export.compress.plan import Plan, require_argument
from export.compress.whole_units import Members, Units, columns_of, rows_of
from models.autoint import AutoInt
from models.difm import DIFM
from models.layers import InteractingLayer


@dataclass(frozen=True)
class _Stack:
    """Interacting layers one above the other, and the linear layer that reads the last, by their paths."""

    layers: dict[str, InteractingLayer]
    reader: tuple[str, nn.Linear]


@dataclass(frozen=True)
class _Weights:
    """Of one layer; each row belongs to a head."""

    query: Tensor
    key: Tensor
    value: Tensor
    residual: Tensor
    sizes: list[tuple[int, int]]

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.query, self.key, self.value, self.residual


def find_units(model: nn.Module) -> list[Units]:
    """Of each layer the numbers of queries with keys, and those of its outputs."""
    stack = _stack_of(model)
    if stack is None:
        return []
    found, layers = [], [*stack.layers.values()]
    for number, layer in enumerate(layers):
        queries, keys = (rows_of(one.weight) for one in (layer.query, layer.key))
        found.append(Units("interactions", len(layer.query.weight), (keys,), (queries,)))
        entering = tuple(rows_of(one.weight) for one in (layer.value, layer.residual))
        leaving: tuple[Members, ...]
        if number + 1 < len(layers):
            above = layers[number + 1]
            readers = (above.query, above.key, above.value, above.residual)
            leaving = tuple(columns_of(one.weight) for one in readers)
        else:
            weight = stack.reader[1].weight  # reads all fields' outputs, one field after the other
            outputs = torch.arange(layer.out_features)
            leaving = (columns_of(weight, outputs.repeat(weight.shape[1] // layer.out_features)),)
        found.append(Units("interactions", layer.out_features, entering, leaving))
    return found


def without_dead(model: nn.Module, plan: Plan) -> Plan:
    """Drops the numbers that are zero or that nothing reads, and heads without any; a layer keeps one."""
    stack = _stack_of(model)
    if stack is None:
        return plan
    path, reader = stack.reader
    last = reader.weight.detach()
    layers = [*stack.layers.values()]
    read = (last != 0).any(dim=0).reshape(-1, layers[-1].out_features).any(dim=0)
    small: list[_Weights] = []
    kept_above: Tensor | None = None  # of the outputs of the layer below the one before
    for layer in reversed(layers):
        weights = _weights_of(layer)
        written = [(one != 0).any(dim=1) for one in (weights.value, weights.residual)]
        weights, kept = _cut(weights, read & torch.stack(written).any(dim=0))
        if kept_above is None:
            columns = kept.repeat(last.shape[1] // len(kept))
            last = last[:, columns]
        else:
            small[0] = _reading(small[0], kept)
        kept_above = kept
        small.insert(0, weights)
        read = torch.stack([(one != 0).any(dim=0) for one in weights.inputs]).any(dim=0)
    sizes = tuple(tuple(weights.sizes) for weights in small)
    if all(list(of_layer) == layer.sizes for of_layer, layer in zip(sizes, layers, strict=True)):
        return plan
    require_argument(model, "head_sizes")
    tensors = {f"{path}.weight": last}
    for own, weights in zip(stack.layers, small, strict=True):
        for name in ("query", "key", "value", "residual"):
            tensors[f"{own}.{name}.weight"] = getattr(weights, name)
    return plan.changed(tensors, head_sizes=sizes)


def _stack_of(model: Any) -> _Stack | None:
    if isinstance(model, AutoInt):
        layers: Any = model.interacting
        return _Stack(
            {f"interacting.{number}": layer for number, layer in enumerate(layers)}, ("output", model.output)
        )
    if isinstance(model, DIFM):
        return _Stack({"attention": model.attention}, ("vector_wise", model.vector_wise))
    return None


def _weights_of(layer: InteractingLayer) -> _Weights:
    parts = (layer.query, layer.key, layer.value, layer.residual)
    query, key, value, residual = (part.weight.detach() for part in parts)
    return _Weights(query, key, value, residual, layer.sizes)


def _cut(weights: _Weights, outputs: Tensor) -> tuple[_Weights, Tensor]:
    """Keeps these outputs, and the numbers of queries that count -> smaller weights, and the outputs kept."""
    compared = (weights.query != 0).any(dim=1) & (weights.key != 0).any(dim=1)
    if not outputs.any():
        outputs = torch.zeros_like(outputs)
        outputs[0] = True
    queries, sizes = torch.zeros_like(compared), []
    first_query = first_value = 0
    for n_queries, n_values in weights.sizes:
        own = slice(first_query, first_query + n_queries)
        live = int(outputs[first_value : first_value + n_values].sum())
        if live:
            queries[own] = compared[own]
            if not compared[own].any():  # all scores are 0: the head averages the values
                queries[first_query] = True
            sizes.append((int(queries[own].sum()), live))
        first_query, first_value = own.stop, first_value + n_values
    cut = _Weights(
        weights.query[queries], weights.key[queries], weights.value[outputs], weights.residual[outputs], sizes
    )
    return cut, outputs


def _reading(weights: _Weights, kept: Tensor) -> _Weights:
    """The weights of a layer above one that keeps these outputs."""
    query, key, value, residual = (one[:, kept] for one in weights.inputs)
    return replace(weights, query=query, key=key, value=value, residual=residual)
