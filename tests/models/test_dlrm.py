"""DLRM against section 2.5 of its paper, with and without numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from models.dlrm import DLRM, Numbers
from models.fields import Field
from models.layers import MLP
from tests.models.layouts import LAYOUTS, PLAIN, randomized, some_ids

WITH_NUMBERS = (
    Field("site", 5),
    Field("price", 4, values=(0.0, 0.0, -1.25, 0.75)),
    Field("history", 7, width=3),
    Field("age", 5, values=(0.0, 0.0, 0.5, -0.5, 2.0)),
    Field("ad", 6),
)


def through(mlp: MLP, inputs: Tensor) -> Tensor:
    for layer in mlp.hidden:
        inputs = (layer.weight @ inputs + layer.bias).clamp(min=0)
    return inputs if not mlp.has_output else mlp.output.weight[0] @ inputs + mlp.output.bias[0]


def test_an_id_of_a_number_has_its_value() -> None:
    layer, ids = Numbers(WITH_NUMBERS), some_ids(WITH_NUMBERS, 20)
    price, age = WITH_NUMBERS[1].values, WITH_NUMBERS[3].values
    assert price is not None
    assert age is not None
    expected = [[price[row[1]], age[row[5]]] for row in ids.tolist()]
    assert torch.equal(layer(ids), torch.tensor(expected))


def test_numbers_pass_the_bottom_and_meet_the_embeddings_in_inner_products() -> None:
    model = randomized(DLRM(WITH_NUMBERS, dim=3, hidden_units=(5, 4), bottom_units=(6,)))
    ids = some_ids(WITH_NUMBERS, 9)
    assert model.numbers is not None
    assert model.bottom is not None
    embeddings = model.embedding(ids[:, [0, 2, 3, 4, 6]])  # site, history, ad
    assert embeddings.shape == (9, 3, 3)
    for row, logit in enumerate(model(ids)):
        dense = through(model.bottom, model.numbers(ids)[row])
        pairs = itertools.combinations([dense, *embeddings[row]], 2)
        interactions = torch.stack([left @ right for left, right in pairs])
        expected = model.bias + through(model.mlp, torch.cat([dense, interactions]))
        torch.testing.assert_close(logit, expected)


@pytest.mark.parametrize("fields", LAYOUTS)
def test_without_numbers_there_is_no_bottom(fields: tuple[Field, ...]) -> None:
    model, ids = randomized(DLRM(fields, dim=3, hidden_units=(5, 4))), some_ids(fields, 9)
    assert model.bottom is None
    for embeddings, logit in zip(model.embedding(ids), model(ids), strict=True):
        pairs = itertools.combinations(embeddings, 2)
        interactions = torch.stack([left @ right for left, right in pairs])
        expected = model.bias + through(model.mlp, torch.cat([*embeddings, interactions]))
        torch.testing.assert_close(logit, expected)


def test_only_fields_that_are_no_numbers_have_embeddings() -> None:
    assert DLRM(WITH_NUMBERS).embedding.table.weight.shape == (5 + 7 + 6, 10)


def test_a_sequence_of_numbers_is_embedded() -> None:
    prices = Field("prices", 4, width=3, values=(0.0, 0.0, -1.0, 1.0))
    model = DLRM((prices, Field("ad", 5)))
    assert model.bottom is None
    assert model.embedding.table.weight.shape[0] == 9


def test_numbers_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="'fields' must hold one without values"):
        DLRM(WITH_NUMBERS[1:2])


def test_defaults_are_the_authors() -> None:
    model = DLRM(WITH_NUMBERS)
    assert model.bottom is not None
    assert [layer.out_features for layer in model.bottom.hidden] == [512, 256, 64, 10]
    assert [layer.out_features for layer in model.mlp.hidden] == [512, 256]
    assert DLRM(PLAIN).mlp.hidden[0].in_features == 4 * 10 + 6
