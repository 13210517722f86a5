"""Each layer against the loops of its equation, written as the paper writes them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from models.fields import Field
from models.layers import MLP, BiInteraction, Dropout, FieldLinear, FieldPairs


def some_embeddings(rows: int, n_fields: int, dim: int) -> Tensor:
    return torch.randn(rows, n_fields, dim, generator=torch.Generator().manual_seed(1))


def test_linear_is_the_sum_of_inner_products_of_equation_6() -> None:
    layer, embeddings = FieldLinear(n_fields=5, dim=3), some_embeddings(8, 5, 3)
    for row, logit in enumerate(layer(embeddings)):
        expected = sum(torch.dot(embeddings[row, i], layer.weight[i]) for i in range(5))
        torch.testing.assert_close(logit, expected)


@pytest.mark.parametrize("pairs", [None, [(0, 4), (1, 2), (3, 4)], [(2, 3)], []])
def test_pairs_are_the_weighted_inner_products_of_equation_6(pairs: list[tuple[int, int]] | None) -> None:
    layer, embeddings = FieldPairs(5, pairs), some_embeddings(8, 5, 3)
    matrix = layer.matrix()
    assert torch.equal(matrix, matrix.T)
    assert not matrix.diagonal().any()
    assert int((matrix != 0).sum()) == 2 * len(layer.pairs)
    for row, logit in enumerate(layer(embeddings)):
        expected = torch.zeros(())
        for weight, (i, j) in zip(layer.weight, layer.pairs, strict=True):
            expected = expected + torch.dot(embeddings[row, i], embeddings[row, j]) * weight
            assert matrix[i, j] == weight
        torch.testing.assert_close(logit, expected)


def test_all_pairs_are_kept_by_default() -> None:
    assert FieldPairs(39).weight.shape == (741,)


@pytest.mark.parametrize("pairs", [[(1, 1)], [(2, 1)], [(0, 3)], [(0, 1), (0, 1)]])
def test_pairs_that_are_no_upper_triangle_are_refused(pairs: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"'pairs' must be distinct"):
        FieldPairs(3, pairs)


def test_mlp_is_affine_maps_with_relu_between() -> None:
    layer = MLP(6, (5, 4), dropout=0.5).eval()
    inputs = torch.randn(9, 6)
    for row, logit in zip(inputs, layer(inputs), strict=True):
        hidden = row
        for linear in layer.hidden:
            assert isinstance(linear, torch.nn.Linear)
            hidden = torch.stack(
                [
                    (weights * hidden).sum() + bias
                    for weights, bias in zip(linear.weight, linear.bias, strict=True)
                ]
            ).clamp(min=0)
        expected = (layer.output.weight[0] * hidden).sum() + layer.output.bias[0]
        torch.testing.assert_close(logit, expected)


def test_a_deep_perceptron_keeps_the_scale_of_its_inputs() -> None:
    torch.manual_seed(0)
    layer = MLP(200, (400,) * 6, dropout=0.0, outputs=None)
    inputs = torch.randn(500, 200)
    with torch.inference_mode():
        assert float(layer(inputs).square().mean()) == pytest.approx(1.0, rel=0.3)
    assert not any(name.endswith("bias") and value.any() for name, value in layer.named_parameters())


def test_a_new_perceptron_says_nothing_of_an_empty_row() -> None:
    assert not MLP(7, (5, 4), dropout=0.5).eval()(torch.zeros(1, 7)).any()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    layer, inputs = Dropout(share), torch.ones(1001, 333)
    torch.manual_seed(3)
    found = layer(inputs)
    dropped = (found == 0).float()
    assert dropped.mean().item() == pytest.approx(share, abs=0.005)
    assert found.max().item() == pytest.approx(1 / (1 - share), rel=1e-3)
    # No row, no column and no four numbers of one random integer are dropped together.
    assert dropped.mean(dim=1).std().item() == pytest.approx((share * (1 - share) / 333) ** 0.5, rel=0.15)
    assert (
        torch.corrcoef(torch.stack([dropped[:, :-1].flatten(), dropped[:, 1:].flatten()]))[0, 1].abs() < 0.01
    )
    assert not torch.equal(found, layer(inputs))
    torch.manual_seed(3)
    assert torch.equal(found, layer(inputs))


def test_dropout_is_off_in_evaluation_and_masks_the_gradient_in_training() -> None:
    layer = Dropout(0.5)
    inputs = torch.ones(8, 5, requires_grad=True)
    found = layer(inputs)
    found.sum().backward()
    assert inputs.grad is not None
    assert torch.equal(inputs.grad, found.detach())
    assert layer.eval()(inputs) is inputs


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_dropout_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"'dropout' must be in \[0, 1\)"):
        Dropout(share)


@pytest.mark.parametrize(("cardinality", "width", "name"), [(0, 1, "cardinality"), (3, 0, "width")])
def test_fields_without_ids_are_refused(cardinality: int, width: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' of field 'site' must be at least 1"):
        Field("site", cardinality, width)


def test_bi_interaction_is_the_sum_over_pairs_of_element_wise_products() -> None:
    embeddings = some_embeddings(8, 5, 3)
    pairs = itertools.combinations(range(5), 2)
    expected = sum((embeddings[:, i] * embeddings[:, j] for i, j in pairs), torch.zeros(8, 3))
    torch.testing.assert_close(BiInteraction()(embeddings), expected)


def test_a_tower_is_a_perceptron_without_its_output() -> None:
    inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    whole, tower = MLP(6, (5, 3), 0.0).eval(), MLP(6, (5, 3), 0.0, outputs=None).eval()
    tower.load_state_dict(whole.state_dict(), strict=False)
    assert not any(name.startswith("output") for name in tower.state_dict())
    torch.testing.assert_close(whole.output(tower(inputs)).squeeze(1), whole(inputs))
    assert tower.out_features == 3
    assert MLP(6, (5,), 0.0, outputs=2)(inputs).shape == (4, 2)
    assert torch.equal(MLP(6, (), 0.0, outputs=None)(inputs), inputs)
