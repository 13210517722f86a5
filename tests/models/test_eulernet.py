"""EulerNet's explicit and implicit crosses against complex arithmetic, row by row."""

from __future__ import annotations

import cmath
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.eulernet import EulerInteraction, EulerNet, polar_form
from models.fields import Field
from tests.models.layouts import LAYOUTS, PLAIN, randomized, some_ids
from tests.models.onnx_graphs import onnx_logits


def normalized_by_the_book(vector: list[float], norm: nn.Module) -> list[float]:
    if not isinstance(norm, nn.LayerNorm):
        return vector
    mean = sum(vector) / len(vector)
    deviation = math.sqrt(sum((number - mean) ** 2 for number in vector) / len(vector) + 1e-5)
    weights, biases = norm.weight.tolist(), norm.bias.tolist()
    return [(x - mean) / deviation * w + b for x, w, b in zip(vector, weights, biases, strict=True)]


def layer_by_the_book(layer: EulerInteraction, inputs: list[list[complex]]) -> list[list[complex]]:
    """Complex numbers [n_inputs][dim] of one row -> [n_orders][dim]."""
    dim, orders = len(inputs[0]), layer.orders.tolist()
    weight, bias = layer.implicit.weight.tolist(), layer.implicit.bias.tolist()
    flat = [number for vector in inputs for number in vector]
    outputs = []
    for k, order in enumerate(orders):
        real, imaginary = [], []
        for d in range(dim):
            modulus = math.exp(layer.log_bias[k, d].item())
            angle = layer.angle_bias[k, d].item()
            for power, vector in zip(order, inputs, strict=True):
                modulus *= abs(vector[d]) ** power
                angle += power * cmath.phase(vector[d])
            explicit = cmath.rect(modulus, angle)
            row = k * dim + d
            x = sum(w * number.real for w, number in zip(weight[row], flat, strict=True)) + bias[row]
            y = sum(w * number.imag for w, number in zip(weight[row], flat, strict=True)) + bias[row]
            real.append(explicit.real + max(x, 0.0))
            imaginary.append(explicit.imag + max(y, 0.0))
        pairs = zip(
            normalized_by_the_book(real, layer.normalize[0]),
            normalized_by_the_book(imaginary, layer.normalize[1]),
            strict=True,
        )
        outputs.append([complex(*pair) for pair in pairs])
    return outputs


def logit_by_the_book(model: EulerNet, row: Tensor) -> float:
    moduli = model.modulus[:, 0].tolist()
    numbers = [
        [modulus * cmath.exp(1j * angle) for angle in vector]
        for modulus, vector in zip(moduli, row.tolist(), strict=True)
    ]
    for layer in model.layers:
        assert isinstance(layer, EulerInteraction)
        numbers = layer_by_the_book(layer, numbers)
    flat = [number for vector in numbers for number in vector]
    weights = model.output.weight[0].tolist()
    return model.bias.item() + sum(
        w * (number.real + number.imag) for w, number in zip(weights, flat, strict=True)
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"layer_norm": False}, {"order_vectors": (4, 3)}, {"order_vectors": (4, 4), "layer_norm": False}],
)
@pytest.mark.parametrize("fields", LAYOUTS)
def test_eulernet_is_its_equations(fields: tuple[Field, ...], options: dict[str, Any]) -> None:
    """With moduli of both signs; angles are such that a half turn does not go beyond half a circle."""
    model = randomized(EulerNet(fields, dim=3, **{"order_vectors": (5,), **options})).double()
    with torch.no_grad():
        model.modulus[0] = -0.7
        model.embedding.table.weight.abs_().neg_()
    ids = some_ids(fields, 9)
    embeddings, logits = model.embedding(ids), model(ids).tolist()
    assert -math.pi < embeddings.min() <= embeddings.max() <= 0
    for row, logit in zip(embeddings, logits, strict=True):
        assert logit == pytest.approx(logit_by_the_book(model, row), rel=1e-5, abs=1e-6)


def test_polar_form_is_that_of_complex_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.complex(torch.randn(200, generator=generator), torch.randn(200, generator=generator))
    logs, angles = polar_form((numbers.real, numbers.imag))
    torch.testing.assert_close(logs, numbers.abs().log(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(angles, numbers.angle())


def test_zero_has_a_polar_form() -> None:
    zero = torch.zeros(1)
    logs, angles = polar_form((zero, zero))
    assert logs.item() == pytest.approx(math.log(1e-4))
    assert angles.item() == 0.0


def test_an_order_vector_starts_as_one_feature() -> None:
    torch.manual_seed(0)
    narrow, square = (EulerInteraction(6, size, 2, 0.0, layer_norm=True) for size in (40, 6))
    torch.testing.assert_close(narrow.orders.sum(dim=1), torch.ones(40))
    assert (narrow.orders.max(dim=1).values > 0.9).float().mean() > 0.8
    assert len(narrow.orders.argmax(dim=1).unique()) > 3
    assert torch.equal(square.orders, torch.eye(6))


def test_dropout_drops_moduli_row_by_row() -> None:
    torch.manual_seed(0)
    model = EulerNet(PLAIN, dim=3, dropout=0.5).train()
    with torch.no_grad():
        model.modulus.fill_(3.0)
        model.embedding.table.weight.zero_()
        for layer in model.layers:
            layer.implicit.weight.zero_()
    assert len(model(some_ids(PLAIN, 50)).unique()) > 20


@pytest.mark.parametrize("options", [{}, {"order_vectors": (7, 5)}, {"layer_norm": False}])
def test_its_graph_equals_it(options: dict[str, Any]) -> None:
    model = randomized(EulerNet(PLAIN, dim=3, **{"order_vectors": (6,), **options}), scale=0.3)
    ids = some_ids(PLAIN, 30)
    torch.testing.assert_close(onnx_logits(model, ids), model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", [(), (0,), 5])
def test_layers_without_order_vectors_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"'order_vectors' must be one number a layer, each at least 1"):
        EulerNet(PLAIN, order_vectors=wrong)
