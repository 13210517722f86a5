"""FM against equation 1, pair by pair."""

from __future__ import annotations

import itertools

import pytest
import torch

from models.fields import Field
from models.fm import FM
from tests.models.layouts import LAYOUTS, randomized, some_ids


@pytest.mark.parametrize("fields", LAYOUTS)
def test_fm_is_its_equation(fields: tuple[Field, ...]) -> None:
    model, ids = randomized(FM(fields, dim=3)), some_ids(fields, 9)
    vectors, weights = model.embedding(ids), model.wide.embedding(ids)
    for row, logit in enumerate(model(ids)):
        expected = model.bias + sum(weights[row, i, 0] for i in range(len(fields)))
        for i, j in itertools.combinations(range(len(fields)), 2):
            expected = expected + torch.dot(vectors[row, i], vectors[row, j])
        torch.testing.assert_close(logit, expected)


def test_fm_has_ten_factors_an_id() -> None:
    model = FM(LAYOUTS[0])
    assert model.embedding.table.weight.shape[1] == 10
    assert model.wide.embedding.table.weight.shape[1] == 1
