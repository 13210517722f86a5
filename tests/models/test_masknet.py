"""MaskNet's normalization, masks and blocks against the equations, row by row, in both structures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.fields import Field
from models.masknet import InstanceMask, MaskBlock, MaskNet
from tests.models.layouts import LAYOUTS, PLAIN, randomized, some_ids
from tests.models.onnx_graphs import onnx_logits

STRUCTURES = ("stacked", "parallel")


def normalized_by_the_book(vector: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = vector.sum() / len(vector)
    variance = ((vector - mean) ** 2).sum() / len(vector)
    return (vector - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def block_by_the_book(block: MaskBlock, inputs: Tensor, embedded: Tensor) -> Tensor:
    mask = block.mask
    hidden = (mask.aggregate.weight @ embedded + mask.aggregate.bias).clamp(min=0)
    factors = mask.project.weight @ hidden + mask.project.bias
    products = block.linear.weight @ (factors * inputs)
    norm = block.normalize
    return normalized_by_the_book(products, norm.weight, norm.bias).clamp(min=0)


def logit_by_the_book(model: MaskNet, row: Tensor) -> Tensor:
    embedded, norm = torch.cat(list(row)), model.normalize
    hidden = torch.cat(
        [normalized_by_the_book(*each) for each in zip(row, norm.weight, norm.bias, strict=True)]
    )
    outputs = []
    for block in model.blocks:
        assert isinstance(block, MaskBlock)
        outputs.append(block_by_the_book(block, hidden, embedded))
        hidden = outputs[-1] if model.is_stacked else hidden
    if model.is_stacked:
        return model.bias + model.output.weight[0] @ hidden
    hidden = torch.cat(outputs)
    for layer in model.mlp.hidden:
        hidden = (layer.weight @ hidden + layer.bias).clamp(min=0)
    return model.bias + model.mlp.output.weight[0] @ hidden + model.mlp.output.bias[0]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("fields", LAYOUTS)
def test_masknet_is_its_equations(fields: tuple[Field, ...], structure: str) -> None:
    options: dict[str, Any] = {"blocks": 2, "block_units": 6, "reduction_ratio": 0.5}
    model = randomized(MaskNet(fields, dim=3, hidden_units=(5, 4), structure=structure, **options)).double()
    ids = some_ids(fields, 9)
    for row, logit in zip(model.embedding(ids), model(ids), strict=True):
        torch.testing.assert_close(logit, logit_by_the_book(model, row))


@pytest.mark.parametrize(("ratio", "hidden"), [(2.0, 20), (0.5, 5), (0.01, 1)])
def test_the_ratio_sizes_the_hidden_layer_of_a_mask(ratio: float, hidden: int) -> None:
    assert InstanceMask(12, 10, ratio).aggregate.out_features == hidden


def test_a_new_mask_is_near_one() -> None:
    torch.manual_seed(0)
    assert (InstanceMask(12, 10, 1.0)(torch.randn(50, 12) * 0.01) - 1).abs().max() < 0.1


@pytest.mark.parametrize("structure", STRUCTURES)
def test_new_logits_are_near_the_bias(structure: str) -> None:
    """Though normalized embeddings are of unit size, however small the embeddings are."""
    torch.manual_seed(0)
    logits = MaskNet(PLAIN, structure=structure).eval()(some_ids(PLAIN, 200))
    assert 0 < logits.std() < logits.abs().max() < 0.3


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_parameter_of_both_structures_learns(structure: str) -> None:
    torch.manual_seed(0)
    model = MaskNet(PLAIN, dim=3, hidden_units=(16, 8), structure=structure).eval()
    model(some_ids(PLAIN, 200)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("structure", STRUCTURES)
def test_its_graph_equals_it(structure: str) -> None:
    model = randomized(MaskNet(PLAIN, dim=3, hidden_units=(16, 8), structure=structure))
    ids = some_ids(PLAIN, 30)
    torch.testing.assert_close(onnx_logits(model, ids), model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"structure": "serial"}, r"'structure' must be stacked or parallel \(got 'serial'\)"),
        ({"blocks": 0}, r"'blocks' must be at least 1 \(got 0\)"),
        ({"block_units": 0}, r"'block_units' must be at least 1 \(got 0\)"),
        ({"reduction_ratio": -1}, r"'reduction_ratio' must be at least 0 \(got -1\)"),
    ],
)
def test_what_masks_nothing_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskNet(PLAIN, **wrong)
