"""The generated matrices of DynInt-DGP: U Sigma V^T, with a kernel Sigma for each row.

A unit is one of the kernel's ranks: a column of V with the column of U that reads it. A lower rank is the
model's own hyperparameter, and makes the networks smaller that generate the kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.compress.plan import Plan, layers_of, require_argument
from export.compress.whole_units import Units, columns_of
from models.dynint_dgp import GeneratedInteraction


def find_units(model: nn.Module) -> list[Units]:
    """The ranks of each layer."""
    return [
        Units("interactions", layer.rank, (columns_of(layer.right),), (columns_of(layer.left),))
        for _, layer in layers_of(model, GeneratedInteraction)
    ]


def without_dead(model: nn.Module, plan: Plan) -> Plan:
    """Kernels of the rank that the layer with the most live ones needs; the others keep dead ones."""
    layers = layers_of(model, GeneratedInteraction)
    if not layers:
        return plan
    live = [(layer.right != 0).any(dim=0) & (layer.left != 0).any(dim=0) for _, layer in layers]
    rank = max(1, *(int(one.sum()) for one in live))
    if rank == layers[0][1].rank:
        return plan
    require_argument(model, "kernel_size")
    tensors: dict[str, Tensor] = {}
    for (path, layer), alive in zip(layers, live, strict=True):
        kept = alive.int().argsort(descending=True, stable=True)[:rank].sort().values
        generated = torch.arange(layer.generator.output.out_features, device=kept.device)
        if layer.kernel == "full":
            generated = generated.reshape(layer.rank, layer.rank)[kept][:, kept].flatten()
        else:
            generated = kept
        dead = ~alive[kept]
        for name in ("left", "right"):
            columns = getattr(layer, name).detach()[:, kept]
            tensors[f"{path}.{name}"] = columns.masked_fill(dead, 0.0)
        output = layer.generator.output
        tensors[f"{path}.generator.output.weight"] = output.weight.detach()[generated]
        tensors[f"{path}.generator.output.bias"] = output.bias.detach()[generated]
    return plan.changed(tensors, kernel_size=rank)
