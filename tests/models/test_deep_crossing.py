"""Deep Crossing against its formula, unit by unit."""

from __future__ import annotations

import pytest
import torch

from models.deep_crossing import DeepCrossing
from models.fields import Field
from tests.models.layouts import LAYOUTS, randomized, some_ids


@pytest.mark.parametrize("fields", LAYOUTS)
def test_each_unit_adds_two_layers_to_its_input(fields: tuple[Field, ...]) -> None:
    model = randomized(DeepCrossing(fields, dim=3, hidden_units=(5, 4)), scale=0.3)
    ids = some_ids(fields, 9)
    for row, logit in zip(model.embedding(ids), model(ids), strict=True):
        stack = torch.cat(list(row))
        for unit in model.units:
            inner = (unit.inner.weight @ stack + unit.inner.bias).clamp(min=0)
            stack = (stack + unit.outer.weight @ inner + unit.outer.bias).clamp(min=0)
        torch.testing.assert_close(logit, model.bias + model.score.weight[0] @ stack)


def test_five_units_keep_the_width_of_the_stack() -> None:
    model = DeepCrossing(LAYOUTS[0])
    assert [unit.inner.out_features for unit in model.units] == [512, 512, 256, 128, 64]
    assert {unit.outer.out_features for unit in model.units} == {4 * 10}
