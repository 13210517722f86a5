"""Products of pairs that a perceptron reads: those of PNN, DLRM and FiBiNET.

A unit is a pair with the perceptron's weights on it, and in FiBiNET with the matrix that only it uses. A
perceptron whose weights are generated (APG) keeps all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from export.compress.plan import Plan, require_argument
from export.compress.whole_units import UNOWNED, Members, Units, columns_of
from models.dlrm import DLRM
from models.fibinet import FiBiNET
from models.layers import MLP, InnerProducts
from models.pnn import PNN


@dataclass(frozen=True)
class _Read:
    """The pairs of a model and the layer that reads their products.

    pair_of is [in_features], the pair of each input of that layer, UNOWNED for other inputs. matrices has the
    path of one matrix a pair, [n_pairs, dim, dim].
    """

    pairs: tuple[tuple[int, int], ...]
    pair_of: Tensor
    path: str
    reader: nn.Linear
    matrices: str | None = None


def find_units(model: nn.Module) -> list[Units]:
    """The pairs whose products can go."""
    found = _products_of(model)
    if found is None:
        return []
    entering: tuple[Members, ...] = ()
    if found.matrices is not None:
        matrices = model.get_parameter(found.matrices)
        entering = (Members(matrices, torch.arange(len(found.pairs)).reshape(-1, 1, 1)),)
    leaving = (columns_of(found.reader.weight, found.pair_of),)
    return [Units("interactions", len(found.pairs), entering, leaving)]


def without_dead(model: nn.Module, plan: Plan) -> Plan:
    """Drops pairs that nothing reads, or whose products are zero; one pair stays."""
    found = _products_of(model)
    if found is None:
        return plan
    (units,) = find_units(model)
    live = units.live()
    if live.all():
        return plan
    require_argument(model, "pairs")
    flags = torch.cat([live, live.new_tensor([True])])  # the last is for inputs of no pair
    weight = found.reader.weight.detach()
    tensors = {f"{found.path}.weight": weight[:, flags[found.pair_of].to(weight.device)]}
    if found.matrices is not None:
        matrices = model.get_parameter(found.matrices).detach()
        tensors[found.matrices] = matrices[live.to(matrices.device)]
    pairs = tuple(pair for pair, alive in zip(found.pairs, live.tolist(), strict=True) if alive)
    return plan.changed(tensors, pairs=pairs)


def _products_of(model: Any) -> _Read | None:
    """None if the model is of another kind, has no pairs, or what reads its products is no plain layer."""
    if not isinstance(model, PNN | DLRM | FiBiNET):
        return None
    path, reader = _first_layer(model.mlp)
    if not isinstance(reader, nn.Linear):
        return None
    pair_of = torch.full((reader.in_features,), UNOWNED)
    if isinstance(model, FiBiNET):
        layer, dim = model.bilinear, model.embedding.table.embedding_dim
        pair_of[:] = torch.arange(len(layer.pairs)).repeat_interleave(dim).repeat(2)
        matrices = "bilinear.weight" if layer.each_pair else None
        return _Read(layer.pairs, pair_of, path, reader, matrices)
    products = [module for module in model.modules() if isinstance(module, InnerProducts)]
    if not products:
        return None
    (inner,) = products
    if not inner.pairs:  # of one field
        return None
    if isinstance(model, DLRM):
        start = reader.in_features - inner.out_features
    else:
        start = len(model.fields) * model.embedding.table.embedding_dim
    pair_of[start : start + inner.out_features] = torch.arange(inner.out_features)
    return _Read(inner.pairs, pair_of, path, reader)


def _first_layer(mlp: MLP) -> tuple[str, nn.Module]:
    return ("mlp.hidden.0", mlp.hidden[0]) if len(mlp.hidden) else ("mlp.output", mlp.output)
