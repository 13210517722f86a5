"""FINAL's layers, gates and blocks against the equations, its penalty, and its folded form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.fields import Field
from models.final import FINAL, FactorizedInteraction, FieldGate, InteractionBlock
from models.layers import BatchNorm
from tests.models.layouts import LAYOUTS, PLAIN, some_ids, with_statistics
from tests.models.onnx_graphs import onnx_logits


def interaction_by_the_book(layer: FactorizedInteraction, row: Tensor) -> Tensor:
    """x_l of one row, unit by unit."""
    units = len(layer.factors.bias) // 2
    found = []
    for unit in range(units):
        first = layer.factors.weight[unit] @ row + layer.factors.bias[unit]
        factor = layer.factors.weight[units + unit] @ row + layer.factors.bias[units + unit]
        found.append(first + first * factor)
    return torch.stack(found)


def block_by_the_book(block: InteractionBlock, row: Tensor) -> Tensor:
    for layer, norm in zip(block.layers, block.norms, strict=True):
        row = interaction_by_the_book(layer, row)
        if isinstance(norm, BatchNorm):
            row = (row - norm.running_mean) / torch.sqrt(norm.running_var + 1e-5) * norm.weight + norm.bias
    return block.output.weight[0] @ row + block.output.bias[0]


def gated_by_the_book(gate: FieldGate, row: Tensor) -> Tensor:
    """e_1, e_2, ..., g_1 * e_1, g_2 * e_2, ... of one row [n_fields, dim], flat."""
    gated = []
    for i, vector in enumerate(row):
        weights = gate.bias[i, 0] + sum(gate.weight[i, j] * other for j, other in enumerate(row))
        gated.append(weights * vector)
    return torch.cat([*row, *gated])


def logit_by_the_book(model: FINAL, row: Tensor) -> tuple[Tensor, Tensor]:
    assert model.second is not None
    gated = gated_by_the_book(model.gate, row) if isinstance(model.gate, FieldGate) else torch.cat(list(row))
    first = model.bias + block_by_the_book(model.first, gated)
    return first, model.bias + block_by_the_book(model.second, torch.cat(list(row)))


@pytest.mark.parametrize("options", [{}, {"batch_norm": False}, {"field_gate": False}])
@pytest.mark.parametrize("fields", LAYOUTS)
def test_final_is_its_equations(fields: tuple[Field, ...], options: dict[str, Any]) -> None:
    model = with_statistics(FINAL(fields, dim=3, hidden_units=(5, 4), **options)).double()
    ids = some_ids(fields, 9)
    for row, logit in zip(model.embedding(ids), model(ids), strict=True):
        first, second = logit_by_the_book(model, row)
        torch.testing.assert_close(logit, (first + second) / 2)


def test_one_block_is_the_first() -> None:
    model = with_statistics(FINAL(PLAIN, dim=3, hidden_units=(5, 4), two_blocks=False)).double()
    ids = some_ids(PLAIN, 9)
    for row, logit in zip(model.embedding(ids), model(ids), strict=True):
        gated = gated_by_the_book(model.gate, row)
        torch.testing.assert_close(logit, model.bias + block_by_the_book(model.first, gated))
    model.train()(ids)
    assert model.penalty is None


def test_the_degree_doubles_with_each_layer() -> None:
    """A function of degree 2^L has constant differences of that order, and none of a lower order."""
    torch.manual_seed(0)
    block = InteractionBlock(3, (4, 4), 0.0, batch_norm=False).double().eval()
    steps = torch.arange(6.0, dtype=torch.float64).unsqueeze(1)
    differences = block(steps * torch.randn(3, dtype=torch.float64) + 0.5)
    for _ in range(4):
        assert not torch.allclose(differences, torch.zeros_like(differences), atol=1e-4)
        differences = differences.diff()
    torch.testing.assert_close(differences, differences[:1].expand_as(differences))
    assert differences.abs().min() > 1e-4


def test_new_gates_are_one() -> None:
    embeddings = torch.randn(5, 4, 3)
    assert torch.equal(FieldGate(4)(embeddings), torch.cat([embeddings, embeddings], dim=1))


def test_the_blocks_learn_from_their_mean_in_training() -> None:
    model = with_statistics(FINAL(PLAIN, dim=3, hidden_units=(), distillation=0.3)).double()
    ids, expected = some_ids(PLAIN, 9), torch.zeros((), dtype=torch.float64)
    for row in model.embedding(ids):
        students = logit_by_the_book(model, row)
        click = 1 / (1 + math.exp(-sum(student.item() for student in students) / 2))
        for student in students:
            chance = torch.sigmoid(student)
            expected = expected - 0.3 * (click * chance.log() + (1 - click) * (1 - chance).log()) / 9
    wanted = torch.autograd.grad(expected, model.first.output.weight)[0]
    model.train()(ids)
    assert model.penalty is not None
    torch.testing.assert_close(model.penalty, expected)
    torch.testing.assert_close(torch.autograd.grad(model.penalty, model.first.output.weight)[0], wanted)
    model.eval()(ids)
    assert model.penalty is None


@pytest.mark.parametrize("hidden_units", [(), (5,), (5, 4)])
def test_the_normalizations_fold_into_the_next_layers(hidden_units: tuple[int, ...]) -> None:
    block = with_statistics(FINAL(PLAIN, dim=3, hidden_units=hidden_units)).double().first
    before = {name: values.clone() for name, values in block.state_dict().items()}
    folded, inputs = block.folded(), torch.randn(50, 24).double()
    assert not any("norm" in name for name in folded.state_dict())
    torch.testing.assert_close(folded(inputs), block(inputs))
    assert all(torch.equal(values, before[name]) for name, values in block.state_dict().items())


def test_its_graph_equals_it() -> None:
    model, ids = with_statistics(FINAL(PLAIN, dim=3, hidden_units=(5, 4))), some_ids(PLAIN, 30)
    torch.testing.assert_close(onnx_logits(model, ids), model(ids), rtol=1e-4, atol=1e-4)


def test_a_negative_weight_of_the_penalty_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'distillation' must be at least 0 \(got -1\)"):
        FINAL(PLAIN, distillation=-1)
