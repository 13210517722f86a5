"""Cross layers, which multiply by a linear map of what they read: those of DCN, GDCN, xDeepInt, DynInt.

A unit of a full matrix is a row, which makes one number of the cross; of two matrices of low rank it is one
of their ranks; of DCN's vectors it is a weight. A matrix with r rows (or columns) that are not zero is the
product of two of rank r, and the models have a form for that: so zero rows make it smaller and faster, once
they are more than half. Single zeros inside a matrix win nothing, and stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from export.compress.plan import Plan, UnsupportedError, layers_of, require_argument
from export.compress.whole_units import UNOWNED, Members, Units, columns_of, rows_of
from models import dcn, dcn_v2
from models.dcn_v3 import CrossLayer
from models.dynint_da import GatedInteraction
from models.dynint_dwp import WeightedInteraction
from models.gdcn import GatedCrossLayer
from models.xdeepint import PolynomialInteraction

_MIXING = (PolynomialInteraction, GatedInteraction, WeightedInteraction)


@dataclass(frozen=True)
class _Map:
    """A full matrix, or two of low rank; `up` [out, rank], `down` [rank, in]."""

    path: str
    layer: nn.Linear | nn.Sequential

    @property
    def down(self) -> nn.Linear:
        layer: Any = self.layer
        return layer if isinstance(layer, nn.Linear) else layer[0]

    @property
    def up(self) -> nn.Linear:
        layer: Any = self.layer
        return layer if isinstance(layer, nn.Linear) else layer[1]

    @property
    def is_full(self) -> bool:
        return isinstance(self.layer, nn.Linear)

    def factors(self) -> tuple[Tensor, Tensor]:
        """The map as up @ down of the least rank that zero rows and columns show."""
        if not self.is_full:
            down, up = self.down.weight.detach(), self.up.weight.detach()
            live = (down != 0).any(dim=1) & (up != 0).any(dim=0)
            return up[:, live], down[live]
        weight = self.down.weight.detach()
        rows, columns = (weight != 0).any(dim=1), (weight != 0).any(dim=0)
        if rows.sum() <= columns.sum():
            return torch.eye(len(weight), device=weight.device)[:, rows], weight[rows]
        return weight[:, columns], torch.eye(weight.shape[1], device=weight.device)[columns]


def find_units(model: nn.Module) -> list[Units]:
    """The rows, ranks or weights of each cross layer."""
    found = []
    for one in _maps(model):
        entering, leaving = (rows_of(one.down.weight),), (columns_of(one.up.weight),)
        found.append(Units("interactions", len(one.down.weight), entering, () if one.is_full else leaving))
    for _, experts in layers_of(model, dcn_v2.LowRankExperts):
        for number in range(experts.experts):
            own = slice(number * experts.rank, (number + 1) * experts.rank)
            unit_of = torch.full((experts.experts * experts.rank,), UNOWNED)
            unit_of[own] = torch.arange(experts.rank)
            entering = (rows_of(experts.down.weight, unit_of),)
            leaving = (columns_of(experts.up.weight, unit_of),)
            found.append(Units("interactions", experts.rank, entering, leaving))
    for _, network in layers_of(model, dcn.CrossNetwork):
        numbers = torch.arange(network.weight.numel()).reshape(network.weight.shape)
        found.append(Units("interactions", network.weight.numel(), (Members(network.weight, numbers),)))
    return found


def without_dead(model: nn.Module, plan: Plan) -> Plan:
    """Matrices of low rank where enough rows are zero, of a lower one where they are that already.

    Raises UnsupportedError where there are zeros that win nothing.
    """
    if networks := layers_of(model, dcn.CrossNetwork):
        return _without_dead_vectors(plan, *networks[0])
    if experts := layers_of(model, dcn_v2.LowRankExperts):
        return _of_lower_rank(plan, experts)
    maps = _maps(model)
    if not maps:
        return plan
    factors = [one.factors() for one in maps]
    rank = max(1, *(len(down) for _, down in factors))
    full = [one.layer.weight for one in maps if isinstance(one.layer, nn.Linear)]
    if full and all(weight.all() for weight in full):
        return plan
    size = sum(one.down.weight.numel() for one in maps)
    if not full and rank == len(maps[0].down.weight):
        return plan
    if full and rank * sum(sum(weight.shape) for weight in full) >= size:
        raise UnsupportedError(
            f"two matrices of rank {rank} take no less time than the full one with its zeros; "
            "that takes more than half of its rows, or of its columns"
        )
    require_argument(model, "rank")
    tensors: dict[str, Tensor] = {}
    for one, (up, down) in zip(maps, factors, strict=True):
        tensors[f"{one.path}.0.weight"] = _padded(down, rank, axis=0)
        tensors[f"{one.path}.1.weight"] = _padded(up, rank, axis=1)
        if one.up.bias is not None:
            tensors[f"{one.path}.1.bias"] = one.up.bias.detach()
    return plan.changed(tensors, rank=rank)


def _maps(model: nn.Module) -> list[_Map]:
    found = []
    for path, network in layers_of(model, dcn_v2.CrossNetwork):
        found += [(f"{path}.layers.{number}", layer) for number, layer in enumerate(network.layers)]
    for path, layer in layers_of(model, GatedCrossLayer):
        found += [(f"{path}.cross", layer.cross), (f"{path}.gate", layer.gate)]
    found += [(f"{path}.cross", layer.cross) for path, layer in layers_of(model, CrossLayer)]
    found += [(f"{path}.mixing", layer.mixing) for path, layer in layers_of(model, _MIXING)]
    return [_Map(path, layer) for path, layer in found if isinstance(layer, nn.Linear | nn.Sequential)]


def _padded(matrix: Tensor, length: int, *, axis: int) -> Tensor:
    """With zeros up to this length: all layers of a model have one rank."""
    shape = list(matrix.shape)
    shape[axis] = length - shape[axis]
    return torch.cat([matrix, matrix.new_zeros(shape)], dim=axis)


def _of_lower_rank(plan: Plan, layers: list[tuple[str, Any]]) -> Plan:
    """Experts x_i -> U_i tanh(C_i tanh(V_i x)) of as few ranks as the expert with the most needs.

    A zero row of V_i makes a zero, as does a zero column of C_i here, which is stored transposed.
    """
    cut: list[tuple[str, int, Tensor, Tensor, Tensor]] = []
    for path, layer in layers:
        down = layer.down.weight.detach().unflatten(0, (layer.experts, layer.rank))  # [experts, rank, width]
        up = layer.up.weight.detach().unflatten(1, (layer.experts, layer.rank))  # [width, experts, rank]
        for number, middle in enumerate(layer.middle.detach()):
            reads = (down[number] != 0).any(dim=1) & (middle != 0).any(dim=1)
            writes = (up[:, number] != 0).any(dim=0) & (middle != 0).any(dim=0)
            cut.append((path, number, down[number][reads], middle[reads][:, writes], up[:, number, writes]))
    rank = max(1, *(max(middle.shape) for _, _, _, middle, _ in cut))
    if rank == layers[0][1].rank:
        return plan
    tensors: dict[str, Tensor] = {}
    for path, _ in layers:
        own = [one for one in cut if one[0] == path]
        middles = [_padded(_padded(one[3], rank, axis=0), rank, axis=1) for one in own]
        tensors[f"{path}.down.weight"] = torch.cat([_padded(one[2], rank, axis=0) for one in own])
        tensors[f"{path}.middle"] = torch.stack(middles)
        tensors[f"{path}.up.weight"] = torch.cat([_padded(one[4], rank, axis=1) for one in own], dim=1)
    return plan.changed(tensors, rank=rank)


def _without_dead_vectors(plan: Plan, path: str, network: dcn.CrossNetwork) -> Plan:
    """A layer without weights only adds its bias, which the layer before can add too."""
    weight, bias = network.weight.detach(), network.bias.detach()
    live = (weight != 0).any(dim=1)
    live[0] = True
    if live.all():
        if weight.all():
            return plan
        raise UnsupportedError(
            "zeros of a vector win nothing, since its layer is one product with the others"
        )
    owner = live.cumsum(dim=0) - 1
    merged = bias.new_zeros(int(live.sum()), bias.shape[1]).index_add_(0, owner, bias)
    tensors = {f"{path}.weight": weight[live], f"{path}.bias": merged}
    return plan.changed(tensors, cross_layers=int(live.sum()))
