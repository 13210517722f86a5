"""FiBiNET's weights and products against the paper's formulas, pair by pair."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from models.fibinet import SENET, BilinearInteraction, FiBiNET
from models.fields import Field

FIELDS = (Field("site", 5), Field("hour", 4), Field("ad", 6), Field("day", 3))


def weights_by_the_book(senet: SENET, row: Tensor) -> Tensor:
    """Squeeze and excitation of one row e [n_fields, dim]."""
    means = torch.stack([vector.mean() for vector in row])
    squeezed = (senet.squeeze.weight @ means).clamp(min=0)
    return 1 / (1 + torch.exp(-(senet.excite.weight @ squeezed)))


def products_by_the_book(layer: BilinearInteraction, bilinear: str, row: Tensor) -> list[Tensor]:
    """p_ij of one row, for i < j, in the order 01, 02, ..., 12, ..."""
    products = []
    for number, (i, j) in enumerate(itertools.combinations(range(len(row)), 2)):
        matrix = layer.weight[{"all": 0, "each": i, "interaction": number}[bilinear]]
        products.append((row[i] @ matrix) * row[j])
    return products


def test_senet_weighs_the_fields() -> None:
    torch.manual_seed(0)
    senet, embeddings = SENET(n_fields=7, reduction_ratio=3), torch.randn(9, 7, 4)
    assert senet.squeeze.weight.shape == (2, 7)
    expected = torch.stack([weights_by_the_book(senet, row) for row in embeddings])
    torch.testing.assert_close(senet(embeddings), expected)
    assert SENET(n_fields=2, reduction_ratio=3).squeeze.weight.shape == (1, 2)


@pytest.mark.parametrize(("bilinear", "matrices"), [("all", 1), ("each", 4), ("interaction", 10)])
def test_products_of_all_pairs(bilinear: str, matrices: int) -> None:
    torch.manual_seed(0)
    layer, embeddings = BilinearInteraction(5, 3, bilinear), torch.randn(6, 5, 3)
    assert layer.weight.shape == (matrices, 3, 3)
    rows = [torch.stack(products_by_the_book(layer, bilinear, row)) for row in embeddings]
    torch.testing.assert_close(layer(embeddings), torch.stack(rows))
    torch.testing.assert_close(layer.folded()(embeddings), torch.stack(rows))


@pytest.mark.parametrize("bilinear", ["all", "each", "interaction"])
def test_products_of_some_pairs_in_any_order_are_the_same_folded(bilinear: str) -> None:
    torch.manual_seed(0)
    layer = BilinearInteraction(5, 3, bilinear, [(1, 3), (0, 4), (1, 2)])
    embeddings = torch.randn(6, 5, 3)
    torch.testing.assert_close(layer.folded()(embeddings), layer(embeddings))


@pytest.mark.parametrize("bilinear", ["all", "each", "interaction"])
def test_the_perceptron_reads_products_of_plain_and_of_weighted_embeddings(bilinear: str) -> None:
    torch.manual_seed(0)
    model = FiBiNET(FIELDS, dim=3, hidden_units=(5,), bilinear=bilinear).eval()
    torch.nn.init.normal_(model.embedding.table.weight)
    torch.nn.init.normal_(model.wide.embedding.table.weight)
    torch.nn.init.constant_(model.bias, 0.25)
    ids = torch.tensor([[0, 1, 2, 1], [4, 3, 5, 0], [2, 2, 2, 2]])
    inputs = []
    for row in model.embedding(ids):
        weighted = weights_by_the_book(model.senet, row).unsqueeze(1) * row
        plain = products_by_the_book(model.bilinear, bilinear, row)
        inputs.append(torch.cat(plain + products_by_the_book(model.bilinear, bilinear, weighted)))
    expected = 0.25 + model.wide(ids) + model.mlp(torch.stack(inputs))
    torch.testing.assert_close(model(ids), expected)


@pytest.mark.parametrize("bilinear", ["all", "each", "interaction"])
def test_every_matrix_learns(bilinear: str) -> None:
    torch.manual_seed(0)
    model = FiBiNET(FIELDS, dim=3, hidden_units=(5,), bilinear=bilinear).eval()
    ids = torch.randint(0, 3, (50, 4), generator=torch.Generator().manual_seed(1))
    model(ids).square().sum().backward()
    assert model.bilinear.weight.grad is not None
    assert model.bilinear.weight.grad.flatten(1).any(dim=1).all()


@pytest.mark.parametrize(
    ("fields", "wrong", "message"),
    [
        (FIELDS, {"bilinear": "none"}, r"'bilinear' must be all, each or interaction \(got 'none'\)"),
        (FIELDS, {"reduction_ratio": 0}, r"'reduction_ratio' must be at least 1 \(got 0\)"),
        (FIELDS, {"pairs": []}, r"'pairs' must be at least one \(got none\)"),
        (FIELDS[:1], {}, r"'fields' must be at least two \(got 1\)"),
    ],
)
def test_what_has_no_products_is_refused(
    fields: tuple[Field, ...], wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FiBiNET(fields, **wrong)
