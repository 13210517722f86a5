"""DCN's cross network, computed from one product with x_0, against its layers one after another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.dcn import DCN, CrossNetwork
from models.fields import Field

FIELDS = (Field("site", 5), Field("hour", 4), Field("ad", 6))


def layer_by_layer(cross: CrossNetwork, inputs: Tensor) -> Tensor:
    """Equation 3 for every row and layer, as it is written."""
    logits = []
    for first in inputs:
        crossed = first
        for weight, bias in zip(cross.weight, cross.bias, strict=True):
            crossed = torch.outer(first, crossed) @ weight + bias + crossed
        logits.append(torch.dot(cross.output[:, 0], crossed))
    return torch.stack(logits)


def random_cross(width: int, layers: int) -> CrossNetwork:
    torch.manual_seed(0)
    cross = CrossNetwork(width, layers)
    for parameter in cross.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return cross


@pytest.mark.parametrize("layers", [1, 2, 6])
def test_the_cross_network_is_its_layers_one_after_another(layers: int) -> None:
    cross, inputs = random_cross(7, layers).double(), torch.randn(9, 7).double()
    torch.testing.assert_close(cross(inputs), layer_by_layer(cross, inputs))


def test_its_gradients_are_those_of_the_layers() -> None:
    cross, inputs = random_cross(5, 4).double(), torch.randn(6, 5).double().requires_grad_()
    leaves = [inputs, *cross.parameters()]
    found = torch.autograd.grad(cross(inputs).square().sum(), leaves)
    expected = torch.autograd.grad(layer_by_layer(cross, inputs).square().sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_logit_is_cross_network_and_perceptron_on_the_same_embeddings() -> None:
    model = DCN(FIELDS, dim=3, hidden_units=(4,)).eval()
    torch.nn.init.constant_(model.bias, 0.25)
    ids = torch.tensor([[0, 1, 2], [4, 3, 5]])
    flat = model.embedding(ids).flatten(1)
    torch.testing.assert_close(model(ids), layer_by_layer(model.cross, flat) + model.mlp(flat) + 0.25)


def test_it_has_the_papers_six_layers() -> None:
    assert DCN(FIELDS).cross.weight.shape == (6, 30)


def test_a_cross_network_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'cross_layers' must be at least 1 \(got 0\)"):
        DCN(FIELDS, cross_layers=0)
