"""The shared parts of the PIN models against loops: sub-spaces, eq. 2, networks without a gradient to X_0."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.polynomial_interaction import FieldOutput, InstanceNetwork, crossed, overlap


def some_embeddings(rows: int = 3, n_fields: int = 5, dim: int = 6) -> Tensor:
    return torch.randn(rows, n_fields, dim, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("sub_spaces", [1, 2, 3, 6])
def test_crossing_makes_every_part_of_every_field_a_column(sub_spaces: int) -> None:
    embeddings = some_embeddings()
    found, depth = crossed(embeddings, sub_spaces), 6 // sub_spaces
    assert found.shape == (3, depth, 5 * sub_spaces)
    for row in range(3):
        for field in range(5):
            for part in range(sub_spaces):
                expected = embeddings[row, field, part * depth : (part + 1) * depth]
                assert torch.equal(found[row, :, field * sub_spaces + part], expected)


@pytest.mark.parametrize("sub_spaces", [1, 3])
def test_the_output_weighs_fields_and_sums_over_the_embedding(sub_spaces: int) -> None:
    output, embeddings = FieldOutput(5, sub_spaces).double(), some_embeddings()
    for row, logit in enumerate(output(crossed(embeddings, sub_spaces))):
        aggregated = output.weight.T @ embeddings[row]  # W_out X_l of eq. 2, [1, dim]
        torch.testing.assert_close(logit, aggregated.sum())


def test_an_instance_network_is_two_layers_that_give_x0_no_gradient() -> None:
    network, embeddings = InstanceNetwork(30, 4, reduction_ratio=8).double(), some_embeddings()
    assert network.hidden.weight.shape == (3, 30)
    embeddings.requires_grad_()
    found = network(embeddings)
    for row, outputs in enumerate(found):
        hidden = (network.hidden.weight @ embeddings[row].flatten() + network.hidden.bias).clamp(min=0)
        torch.testing.assert_close(outputs, network.output.weight @ hidden + network.output.bias)
    found.square().sum().backward()
    assert embeddings.grad is None
    assert all(weights.grad is not None and weights.grad.any() for weights in network.parameters())


def test_an_instance_network_keeps_a_hidden_unit_at_any_reduction() -> None:
    assert InstanceNetwork(4, 2, reduction_ratio=100).hidden.out_features == 1


def test_overlap_is_the_sum_of_absolute_cosines_of_the_pairs() -> None:
    vectors = torch.randn(2, 7, 4, 9, generator=torch.Generator().manual_seed(2)).double()
    expected = torch.zeros((), dtype=torch.float64)
    for matrix in vectors.flatten(0, 1):
        for p in range(4):
            for q in range(p):
                lengths = matrix[p].square().sum().sqrt() * matrix[q].square().sum().sqrt()
                expected += ((matrix[p] * matrix[q]).sum() / lengths).abs() / 14
    torch.testing.assert_close(overlap(vectors), expected)


def test_overlap_ends() -> None:
    assert overlap(torch.eye(4)) == 0
    torch.testing.assert_close(overlap(torch.ones(4, 9)), torch.tensor(6.0))
    assert overlap(torch.ones(5, 1, 9)) == 0  # one vector is orthogonal to all others
