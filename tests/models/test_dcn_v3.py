"""DCNv3's cross layers and networks against the equations, row by row and entry by entry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.dcn_v3 import DCNV3, CrossLayer, CrossNetwork, SecondHalf, SelfMask
from models.fields import Field
from tests.models.layouts import LAYOUTS, PLAIN, randomized, some_ids
from tests.models.onnx_graphs import onnx_logits

SECOND_HALVES: tuple[SecondHalf, ...] = ("self_mask", "affine")


def derived_by_the_book(layer: CrossLayer, crossing: Tensor) -> list[Tensor]:
    """The second half of the factors of one row from its cross vector."""
    derive, found = layer.derive, []
    mean = sum(crossing) / len(crossing)
    variance = sum((entry - mean) ** 2 for entry in crossing) / len(crossing)
    for entry, weight, bias in zip(crossing, *derive.parameters(), strict=True):
        if isinstance(derive, SelfMask):
            mask = (entry - mean) / (variance + 1e-5) ** 0.5 * weight + bias
            found.append(entry * max(mask, torch.zeros_like(mask)))
        else:
            found.append(weight * entry + bias)
    return found


def network_by_the_book(network: CrossNetwork, first: Tensor) -> Tensor:
    crossed = first
    for layer in network.layers:
        assert isinstance(layer, CrossLayer)
        crossing = layer.cross.weight @ crossed
        derived = derived_by_the_book(layer, crossing[: len(first) - len(crossing)])
        factors = torch.stack([*crossing, *derived]) + layer.bias
        crossed = (crossed if network.exponential else first) * factors + crossed
    return network.output.weight[0] @ crossed


@pytest.mark.parametrize("second_half", SECOND_HALVES)
@pytest.mark.parametrize("dim", [4, 5])
@pytest.mark.parametrize("fields", LAYOUTS)
def test_dcn_v3_is_its_equations(fields: tuple[Field, ...], dim: int, second_half: SecondHalf) -> None:
    options: dict[str, Any] = {"exponential_layers": 2, "linear_layers": 3, "second_half": second_half}
    model = randomized(DCNV3(fields, dim=dim, **options), scale=0.3).double()
    ids = some_ids(fields, 9)
    for row, logit in zip(model.embedding(ids), model(ids), strict=True):
        half = dim - dim // 2
        inputs = torch.cat([vector[:half] for vector in row] + [vector[half:] for vector in row])
        networks = network_by_the_book(model.exponential, inputs), network_by_the_book(model.linear, inputs)
        torch.testing.assert_close(logit, model.bias + sum(networks) / 2)


@pytest.mark.parametrize(("exponential", "degree"), [(True, 8), (False, 4)])
def test_the_degree_doubles_or_grows_by_one(exponential: bool, degree: int) -> None:
    """Differences of the order of a polynomial's degree are constant, and the next ones are zero."""
    torch.manual_seed(0)
    layers = [CrossLayer(2, 2, "affine") for _ in range(3)]
    network = CrossNetwork(layers, 0.0, exponential=exponential).double()
    steps = torch.arange(degree + 4.0, dtype=torch.float64).unsqueeze(1)
    differences = network(steps * torch.rand(4, dtype=torch.float64))
    for _ in range(degree):
        differences = differences.diff()
    assert differences.abs().min() > 1e-3
    torch.testing.assert_close(differences, differences[:1].expand_as(differences), rtol=1e-5, atol=0.0)


def test_a_cross_layer_has_half_the_weights_of_a_full_matrix() -> None:
    assert CrossLayer(6, 6, "self_mask").cross.weight.shape == (6, 12)


def test_the_self_mask_hides_what_is_below_the_mean() -> None:
    crossing = torch.tensor([[1.0, -2.0, 3.0, 0.4]])
    assert (SelfMask(4)(crossing) != 0).tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("second_half", SECOND_HALVES)
def test_every_parameter_learns(second_half: SecondHalf) -> None:
    torch.manual_seed(0)
    model = DCNV3(PLAIN, dim=5, second_half=second_half).eval()
    model(some_ids(PLAIN, 200)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("second_half", SECOND_HALVES)
@pytest.mark.parametrize("dim", [1, 4, 5])
def test_its_graph_equals_it(dim: int, second_half: SecondHalf) -> None:
    model = randomized(DCNV3(PLAIN, dim=dim, second_half=second_half), scale=0.3)
    ids = some_ids(PLAIN, 30)
    torch.testing.assert_close(onnx_logits(model, ids), model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"exponential_layers": 0}, r"'exponential_layers' must be at least 1 \(got 0\)"),
        ({"linear_layers": 0}, r"'linear_layers' must be at least 1 \(got 0\)"),
        ({"second_half": "none"}, r"'second_half' must be self_mask or affine \(got 'none'\)"),
    ],
)
def test_what_crosses_nothing_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DCNV3(PLAIN, **wrong)
