"""xDeepFM's compressed interaction network: maps, each a weighted sum of products of pairs.

A unit is a pair (map below, field) with the weights of all maps on it; in the first layer (i, j) and (j, i)
are one, since their products are. Only layers whose maps the next one reads have units: the last is a single
matrix whatever its maps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from export.compress.plan import Plan, layers_of, require_argument
from export.compress.whole_units import UNOWNED, Members, Units, columns_of
from models.xdeepfm import CIN, PairedCIN


@dataclass(frozen=True)
class _Layer:
    """What a layer adds to the output, mixed [below, n_fields], and its maps [maps, below, n_fields]."""

    mixed: Tensor
    maps: Tensor


def find_units(model: nn.Module) -> list[Units]:
    """The pairs of each layer whose maps are read."""
    found = []
    for _, network in layers_of(model, CIN):
        for layer, maps in enumerate(network.hidden):
            weight = network.weights[layer]
            unit_of = torch.arange(weight[0].numel()).reshape(weight[0].shape)
            if layer == 0:
                unit_of = torch.minimum(unit_of, unit_of.T)
            numbers, unit_of = torch.unique(unit_of, return_inverse=True)
            members = unit_of.expand(len(weight), -1, -1).clone()
            members[maps:] = UNOWNED  # the next layer does not read these
            found.append(Units("interactions", len(numbers), (Members(weight, members),)))
    for _, network in layers_of(model, PairedCIN):
        found += [Units("interactions", weight.shape[1], (columns_of(weight),)) for weight in network.maps]
    return found


def without_dead(model: nn.Module, plan: Plan) -> Plan:
    """The same network over its live pairs, with its live maps; a CIN becomes a PairedCIN in any case."""
    networks = layers_of(model, (CIN, PairedCIN))
    if not networks:
        return plan
    require_argument(model, "cin_pairs")
    ((path, network),) = networks
    layers = _live(_layers_of(network))
    tensors, pairs = {}, []
    for number, layer in enumerate(layers):
        tensors[f"{path}.mixed.{number}"] = layer.mixed
        if number < len(layers) - 1:
            alive = (layer.maps != 0).any(dim=0)
            pairs.append(tuple((int(i), int(j)) for i, j in alive.nonzero().tolist()))
            tensors[f"{path}.maps.{number}"] = layer.maps[:, alive]
    if isinstance(network, PairedCIN) and tuple(pairs) == network.pairs and _same_maps(network, layers):
        return plan
    maps = tuple(len(layer.maps) for layer in layers[:-1])
    return plan.changed(tensors, cin_maps=maps, cin_pairs=tuple(pairs), **_unsplit(plan))


def _unsplit(plan: Plan) -> dict[str, Any]:
    """`split_half` means nothing beside pairs, and is left out of what is recorded."""
    return {"split_half": False} if "split_half" in plan.hyperparameters else {}


def _same_maps(network: PairedCIN, layers: list[_Layer]) -> bool:
    return [len(weight) for weight in network.maps] == [len(layer.maps) for layer in layers[:-1]]


@torch.no_grad()
def _layers_of(network: Any) -> list[_Layer]:
    """Its layers, the last without maps."""
    if isinstance(network, PairedCIN):
        dense_maps: list[Tensor] = []
        for weight, pairs in zip(network.maps, network.pairs, strict=True):
            below = network.mixed[len(dense_maps)]
            dense = weight.new_zeros(len(weight), *below.shape)
            left, right = torch.tensor(pairs, device=weight.device).T
            dense[:, left, right] = weight
            dense_maps.append(dense)
        last = network.mixed[-1].new_zeros(0, *network.mixed[-1].shape)
        mixed = [one.detach() for one in network.mixed]
        return [_Layer(*one) for one in zip(mixed, [*dense_maps, last], strict=True)]
    layers = []
    for number, (weight, output) in enumerate(zip(network.weights, network.outputs, strict=True)):
        mixed = torch.tensordot(output, weight[network.first_pooled[number] :], dims=1)
        hidden = network.hidden[number] if number < len(network.hidden) else 0
        maps = weight[:hidden].clone()
        if number == 0:
            maps = maps.triu() + maps.tril(diagonal=-1).transpose(1, 2)
        layers.append(_Layer(mixed, maps))
    return layers


def _live(layers: list[_Layer]) -> list[_Layer]:
    """Without maps that are zero or that nothing reads; without the layers above one whose maps all are."""
    for number in range(len(layers) - 1):  # first what only reads zeros is zero as well
        layer, above = layers[number], layers[number + 1]
        zero = ~(layer.maps != 0).flatten(1).any(dim=1)
        mixed = above.mixed.masked_fill(zero.unsqueeze(1), 0.0)
        layers[number + 1] = _Layer(mixed, above.maps.masked_fill(zero.unsqueeze(1), 0.0))
    for number in reversed(range(len(layers) - 1)):
        layer, above = layers[number], layers[number + 1]
        written = (layer.maps != 0).flatten(1).any(dim=1)
        read = (above.mixed != 0).any(dim=1) | (above.maps != 0).any(dim=2).any(dim=0)
        live = written & read
        layers[number] = replace(layer, maps=layer.maps[live])
        layers[number + 1] = _Layer(above.mixed[live], above.maps[:, live])
        if not live.any():
            layers[number] = replace(layer, maps=layer.maps[:0])
            layers = layers[: number + 1]
    return layers
