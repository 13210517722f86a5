"""DeepFM against equations 1 to 4."""

from __future__ import annotations

import itertools

import pytest
import torch

from models.deepfm import DeepFM
from models.fields import Field
from tests.models.layouts import LAYOUTS, randomized, some_ids


@pytest.mark.parametrize("fields", LAYOUTS)
def test_deepfm_is_the_sum_of_its_two_parts(fields: tuple[Field, ...]) -> None:
    model, ids = randomized(DeepFM(fields, dim=3, hidden_units=(5, 4))), some_ids(fields, 9)
    vectors, weights = model.embedding(ids), model.wide.embedding(ids)
    for row, logit in enumerate(model(ids)):
        shallow = sum(weights[row, i, 0] for i in range(len(fields)))
        for i, j in itertools.combinations(range(len(fields)), 2):
            shallow = shallow + torch.dot(vectors[row, i], vectors[row, j])
        hidden = torch.cat(list(vectors[row]))
        for layer in model.mlp.hidden:
            hidden = (layer.weight @ hidden + layer.bias).clamp(min=0)
        deep = model.mlp.output.weight[0] @ hidden + model.mlp.output.bias[0]
        torch.testing.assert_close(logit, model.bias + shallow + deep)


def test_defaults_are_the_papers() -> None:
    model = DeepFM(LAYOUTS[0])
    assert model.embedding.table.weight.shape[1] == 10
    assert [layer.out_features for layer in model.mlp.hidden] == [400, 400, 400]
    assert model.mlp.dropout.share == 0.5
