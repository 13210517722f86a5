"""PNN against its equations: the two signals, the product layer, the layers above."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from models.fields import Field
from models.layers import InnerProducts
from models.pnn import PNN, OuterProduct
from tests.models.layouts import LAYOUTS, PLAIN, randomized, some_ids

EMBEDDINGS = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(4))


def inner_by_loop(embeddings: Tensor) -> Tensor:
    return torch.stack([left @ right for left, right in itertools.combinations(embeddings, 2)])


def outer_by_loop(embeddings: Tensor) -> Tensor:
    pairs = itertools.product(embeddings, repeat=2)
    return torch.stack([torch.outer(left, right) for left, right in pairs]).sum(dim=0).flatten()


def test_inner_products_are_those_of_all_pairs() -> None:
    expected = torch.stack([inner_by_loop(row) for row in EMBEDDINGS])
    layer = InnerProducts(5)
    torch.testing.assert_close(layer(EMBEDDINGS), expected)
    assert layer.out_features == expected.shape[1] == 10


def test_the_outer_product_of_the_sum_is_the_sum_of_all_outer_products() -> None:
    expected = torch.stack([outer_by_loop(row) for row in EMBEDDINGS])
    layer = OuterProduct(3)
    torch.testing.assert_close(layer(EMBEDDINGS), expected)
    assert layer.out_features == expected.shape[1] == 9


@pytest.mark.parametrize("product", ["inner", "outer", "both"])
@pytest.mark.parametrize("fields", LAYOUTS)
def test_the_product_layer_adds_both_signals(fields: tuple[Field, ...], product: Any) -> None:
    model, ids = randomized(PNN(fields, 3, hidden_units=(5, 4), product=product)), some_ids(fields, 9)
    for embeddings, logit in zip(model.embedding(ids), model(ids), strict=True):
        signals = {"inner": inner_by_loop(embeddings), "outer": outer_by_loop(embeddings)}
        p = torch.cat([signal for name, signal in signals.items() if product in (name, "both")])
        z = embeddings.flatten()
        first, second = model.mlp.hidden
        of_z, of_p = first.weight.split([len(z), len(p)], dim=1)
        hidden = torch.stack([(of_z[n] * z).sum() + (of_p[n] * p).sum() + first.bias[n] for n in range(5)])
        hidden = (second.weight @ hidden.clamp(min=0) + second.bias).clamp(min=0)
        expected = model.bias + model.mlp.output.weight[0] @ hidden + model.mlp.output.bias[0]
        torch.testing.assert_close(logit, expected)


def test_another_product_is_refused() -> None:
    product: Any = "cross"
    with pytest.raises(ValueError, match="'product' must be inner, outer or both"):
        PNN(PLAIN, product=product)


def test_defaults_are_those_the_docstring_names() -> None:
    model = PNN(PLAIN)
    assert [type(product) for product in model.products] == [InnerProducts]
    assert [layer.out_features for layer in model.mlp.hidden] == [400, 400, 400]
    assert (model.mlp.dropout.share, model.embedding.table.embedding_dim) == (0.5, 10)
