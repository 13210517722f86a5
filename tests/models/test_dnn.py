"""DNN against a loop over its layers."""

from __future__ import annotations

import pytest
import torch

from models.dnn import DNN
from models.fields import Field
from tests.models.layouts import LAYOUTS, randomized, some_ids


@pytest.mark.parametrize("fields", LAYOUTS)
def test_dnn_is_a_perceptron_on_the_concatenated_embeddings(fields: tuple[Field, ...]) -> None:
    model, ids = randomized(DNN(fields, dim=3, hidden_units=(5, 4))), some_ids(fields, 9)
    for row, logit in zip(model.embedding(ids), model(ids), strict=True):
        hidden = torch.cat(list(row))
        for layer in model.mlp.hidden:
            hidden = (layer.weight @ hidden + layer.bias).clamp(min=0)
        expected = model.bias + model.mlp.output.weight[0] @ hidden + model.mlp.output.bias[0]
        torch.testing.assert_close(logit, expected)


def test_the_layers_are_deeplights() -> None:
    model = DNN(LAYOUTS[0])
    assert [tuple(layer.weight.shape) for layer in model.mlp.hidden] == [(400, 40), (400, 400), (400, 400)]
    assert model.mlp.dropout.share == 0.5
