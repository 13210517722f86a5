"""DCN-V2's cross layers against the equations, row by row and expert by expert."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.dcn_v2 import DCNV2, CrossNetwork, LowRankExperts
from models.fields import Field

FIELDS = (Field("site", 5), Field("hour", 4), Field("ad", 6))


def crossed_by_the_book(cross: CrossNetwork, first: Tensor) -> Tensor:
    """Equations 1 to 4 for one row x_0 [width]."""
    crossed = first
    for layer in cross.layers:
        crossed = first * inner(layer, crossed) + crossed
    return crossed


def inner(layer: nn.Module, row: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return layer.weight @ row + layer.bias
    if isinstance(layer, nn.Sequential):
        matrix, bias = product_of(layer)
        return matrix @ row + bias
    assert isinstance(layer, LowRankExperts)
    rank, total = layer.rank, torch.zeros_like(row)
    gates = torch.softmax(layer.gate.weight @ row + layer.gate.bias, dim=0)
    for expert in range(layer.experts):
        own = slice(expert * rank, (expert + 1) * rank)
        low = torch.tanh(layer.down.weight[own] @ row)
        low = torch.tanh(layer.middle[expert].T @ low)
        total = total + gates[expert] * (layer.up.weight[:, own] @ low + layer.up.bias)
    return total


def product_of(low_rank: nn.Sequential) -> tuple[Tensor, Tensor]:
    """U V^T [width, width] and b."""
    down, up = low_rank
    assert isinstance(down, nn.Linear)
    assert isinstance(up, nn.Linear)
    return up.weight @ down.weight, up.bias


SHAPES = [{"rank": None, "experts": 1}, {"rank": 2, "experts": 1}, {"rank": 2, "experts": 3}]


@pytest.mark.parametrize("shape", SHAPES)
def test_cross_layers_follow_the_equations(shape: dict[str, Any]) -> None:
    torch.manual_seed(0)
    cross, inputs = CrossNetwork(6, cross_layers=3, **shape).double(), torch.randn(8, 6).double()
    expected = torch.stack([crossed_by_the_book(cross, row) for row in inputs])
    torch.testing.assert_close(cross(inputs), expected)


def test_each_layer_of_a_mixture_has_gates_of_its_own_with_a_bias() -> None:
    layers = CrossNetwork(6, cross_layers=3, rank=2, experts=3).layers
    gates = [layer.gate for layer in layers if isinstance(layer, LowRankExperts)]
    assert len({gate.weight.data_ptr() for gate in gates}) == 3
    assert all(gate.bias.shape == (3,) for gate in gates)


@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_the_two_structures(structure: str) -> None:
    torch.manual_seed(0)
    model = DCNV2(FIELDS, dim=2, hidden_units=(4,), structure=structure).eval()
    ids = torch.tensor([[0, 1, 2], [4, 3, 5]])
    flat = model.embedding(ids).flatten(1)
    crossed = torch.stack([crossed_by_the_book(model.cross, row) for row in flat])
    if structure == "stacked":
        expected = model.mlp(crossed)
    else:
        assert model.output is not None
        expected = crossed @ model.output.weight[0] + model.mlp(flat)
    torch.testing.assert_close(model(ids), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_every_parameter_of_every_shape_learns(shape: dict[str, Any], structure: str) -> None:
    torch.manual_seed(0)
    model = DCNV2(FIELDS, dim=2, hidden_units=(4,), structure=structure, **shape).eval()
    ids = torch.randint(0, 4, (200, 3), generator=torch.Generator().manual_seed(1))
    model(ids).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cross_layers": 0}, r"'cross_layers' must be at least 1 \(got 0\)"),
        ({"rank": 31}, r"'rank' must be at most 30 \(got 31\)"),
        ({"rank": 0}, r"'rank' must be at least 1 \(got 0\)"),
        ({"experts": 4}, r"'experts' must be 1 without a rank \(got 4\)"),
        ({"experts": 0, "rank": 4}, r"'experts' must be at least 1 \(got 0\)"),
        ({"structure": "sideways"}, r"'structure' must be stacked or parallel \(got 'sideways'\)"),
    ],
)
def test_what_makes_no_cross_network_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DCNV2(FIELDS, **wrong)
