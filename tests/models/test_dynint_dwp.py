"""DynInt-DWP against eq. 6, 9 and 12, row by row with G written out, and the gradient that it blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.dynint_dwp import DynIntDWP, WeightedInteraction
from models.fields import Field
from models.xdeepint import XDeepInt
from tests.models.layouts import LAYOUTS, PLAIN, randomized, some_ids


def layers_of(model: DynIntDWP) -> list[WeightedInteraction]:
    return [layer for layer in model.layers if isinstance(layer, WeightedInteraction)]


def vectors_of(layer: WeightedInteraction, instance: Tensor) -> tuple[Tensor, Tensor]:
    """All u_p and all v_p, each [rank, parts], for X_0 of one row as [n_fields, dim]."""
    network = layer.generator
    hidden = (network.hidden.weight @ instance.flatten() + network.hidden.bias).clamp(min=0)
    outputs = network.output.weight @ hidden + network.output.bias + 1 / layer.rank**0.5
    left, right = outputs.chunk(2)
    return left.reshape(layer.rank, -1), right.reshape(layer.rank, -1)


def weighting_matrix(layer: WeightedInteraction, instance: Tensor) -> Tensor:
    """G^(i) of eq. 9, [parts, parts]."""
    pairs = zip(*vectors_of(layer, instance), strict=True)
    return torch.stack([torch.outer(u, v) for u, v in pairs]).sum(dim=0)


def logit_by_the_book(model: DynIntDWP, embeddings: Tensor, *, block_gradient: bool = True) -> Tensor:
    """Eq. 6 with the explicit G^(i), and eq. 2, for the embeddings [n_fields, dim] of one row."""
    instance = embeddings.detach() if block_gradient else embeddings
    x0 = x = embeddings.reshape(len(embeddings) * model.sub_spaces, -1)  # [parts, depth]
    for layer in layers_of(model):
        weighted = weighting_matrix(layer, instance) * layer.mixing.weight
        x = x * (weighted @ x0) + x
    return model.bias + (model.output.weight.T @ x.reshape(embeddings.shape)).sum()


@pytest.mark.parametrize("fields", LAYOUTS)
@pytest.mark.parametrize(
    ("layers", "sub_spaces", "latent_rank"), [(0, 1, 1), (1, 1, 1), (2, 2, 3), (3, 4, 2)]
)
def test_it_follows_the_equations(
    fields: tuple[Field, ...], layers: int, sub_spaces: int, latent_rank: int
) -> None:
    shape: dict[str, Any] = {"layers": layers, "sub_spaces": sub_spaces, "latent_rank": latent_rank}
    model = randomized(DynIntDWP(fields, dim=4, reduction_ratio=2, **shape).double())
    ids = some_ids(fields, 9)
    expected = [logit_by_the_book(model, row) for row in model.embedding(ids)]
    torch.testing.assert_close(model(ids), torch.stack(expected))


def test_the_generators_pass_no_gradient_to_the_embeddings() -> None:
    model, ids = randomized(DynIntDWP(PLAIN, dim=4, sub_spaces=2).double()), some_ids(PLAIN, 9)
    table = model.embedding.table.weight
    (found,) = torch.autograd.grad(model(ids).sum(), table)
    rows = model.embedding(ids)
    (blocked,) = torch.autograd.grad(sum(logit_by_the_book(model, row) for row in rows), table)
    rows = model.embedding(ids)
    through = sum(logit_by_the_book(model, row, block_gradient=False) for row in rows)
    torch.testing.assert_close(found, blocked)
    assert not torch.allclose(found, torch.autograd.grad(through, table)[0])


def test_the_penalty_is_that_of_equation_12_and_for_training_only() -> None:
    model = randomized(DynIntDWP(PLAIN, latent_rank=3, orthogonal_rate=0.3).double())
    ids = some_ids(PLAIN, 9)
    expected = torch.zeros((), dtype=torch.float64)
    for row in model.embedding(ids):
        for layer in layers_of(model):
            for matrix in vectors_of(layer, row):
                for p in range(3):
                    for q in range(p):
                        lengths = matrix[p].norm() * matrix[q].norm()
                        expected = expected + 0.3 * (matrix[p] @ matrix[q]).abs() / lengths / 9
    model.train()(ids)
    assert model.penalty is not None
    torch.testing.assert_close(model.penalty, expected)
    model.penalty.backward()
    learning = {name for name, weights in model.named_parameters() if weights.grad is not None}
    assert learning == {name for name, _ in model.named_parameters() if ".generator." in name}
    model.eval()(ids)
    assert model.penalty is None


@pytest.mark.parametrize("latent_rank", [1, 2, 4])
def test_a_new_weighting_matrix_is_near_one_for_any_rank(latent_rank: int) -> None:
    torch.manual_seed(0)
    model, ids = DynIntDWP(PLAIN, latent_rank=latent_rank), some_ids(PLAIN, 5)
    for row in model.embedding(ids):
        matrices = [weighting_matrix(layer, row) for layer in layers_of(model)]
        assert abs(torch.stack(matrices).mean().item() - 1) < 0.15


def test_with_a_weighting_matrix_of_ones_it_is_xdeepint() -> None:
    model, static, ids = DynIntDWP(PLAIN), XDeepInt(PLAIN), some_ids(PLAIN, 9)
    static.load_state_dict({name: model.state_dict()[name] for name in static.state_dict()})
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if ".generator.output." in name:
                weights.zero_()
    torch.testing.assert_close(model(ids), static(ids))


def test_the_vectors_of_a_fresh_model_differ() -> None:
    """Equal vectors would get equal gradients and stay a matrix of rank 1."""
    torch.manual_seed(0)
    layer = layers_of(DynIntDWP(PLAIN, latent_rank=2))[0]
    left, right = layer.weights(torch.zeros(1, 4, 16))
    assert left.shape == right.shape == (1, 2, 16)
    assert (left[0, 0] - left[0, 1]).abs().max() > 0.01
    assert (right[0, 0] - right[0, 1]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"latent_rank": 0}, r"'latent_rank' must be at least 1 \(got 0\)"),
        ({"reduction_ratio": 0}, r"'reduction_ratio' must be at least 1 \(got 0\)"),
        ({"orthogonal_rate": -1.0}, r"'orthogonal_rate' must be at least 0 \(got -1.0\)"),
    ],
)
def test_what_weighs_nothing_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynIntDWP(PLAIN, **wrong)
