"""GBDT+LR against a walk down each tree, node by node."""

from __future__ import annotations

import pytest
import torch

from models.fields import Field, column_slices
from models.gbdt_lr import ALWAYS_LEFT, GBDTLR, Trees
from tests.models.layouts import some_ids

FIELDS = (
    Field("site", 9),
    Field("history", 7, width=3, same_values_as="ad"),
    Field("ad", 7, storage="qr", collisions=2),
)


def walk(model: GBDTLR, row: list[int]) -> float:
    """The logit of one row."""
    numbers, weights = [], []
    for position, (name, place) in enumerate(column_slices(FIELDS).items()):
        first = {"site": 0, "history": 9, "ad": 16}[name]
        ids = row[place] if position != 1 else [value for value in row[place] if value != 0]
        for table, means in ((model.numbers, numbers), (model.linear.embedding.table.weight[:, 0], weights)):
            read = [float(table[first + value].detach()) for value in ids]
            means.append(sum(read) / max(len(read), 1))
    trees, logit = model.get_trees(), float(model.bias.detach()) + sum(weights)
    for tree in range(model.trees):
        node = 0
        for _ in range(model.depth):
            goes_left = numbers[int(trees.fields[tree, node])] <= float(trees.thresholds[tree, node])
            node = 2 * node + (1 if goes_left else 2)
        logit += float(trees.leaves[tree, node - (2**model.depth - 1)])
    return logit


@pytest.mark.parametrize("depth", [1, 3])
def test_a_logit_is_the_sum_of_the_leaves_that_the_row_falls_into_and_of_its_ids(depth: int) -> None:
    torch.manual_seed(0)
    model = GBDTLR(FIELDS, trees=5, depth=depth).eval()
    torch.nn.init.normal_(model.linear.embedding.table.weight)
    ids = some_ids(FIELDS, 40)
    ids[0, 1:4] = 0
    expected = torch.tensor([walk(model, row) for row in ids.tolist()])
    torch.testing.assert_close(model(ids), expected)


def test_every_id_of_every_field_has_one_number_however_embeddings_are_kept() -> None:
    """An ad has a click rate of its own, and another as part of a history."""
    model = GBDTLR(FIELDS, trees=2, depth=2)
    assert len(model.numbers) == 9 + 7 + 7
    assert model.offsets.tolist() == [0, 9, 9, 9, 16]


def test_fitted_trees_are_taken_over_and_given_back() -> None:
    model = GBDTLR((Field("site", 4),), trees=2, depth=1)
    trees = Trees(
        fields=torch.zeros(2, 1, dtype=torch.int64),
        thresholds=torch.tensor([[0.5], [ALWAYS_LEFT]]),
        leaves=torch.tensor([[-1.0, 2.0], [0.25, 9.0]]),
    )
    model.set_trees(torch.tensor([0.0, 0.5, 0.75, 1.0]), trees, bias=-3.0)
    logits = model(torch.tensor([[0], [1], [2], [3]]))
    assert logits.tolist() == [-3.75, -3.75, -0.75, -0.75]
    assert model.get_trees().thresholds.tolist() == [[0.5], [ALWAYS_LEFT]]


@pytest.mark.parametrize("wrong", [{"trees": 0}, {"depth": 0}])
def test_a_forest_has_trees_and_a_tree_has_a_node(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be at least 1 \(got 0\)"):
        GBDTLR(FIELDS, **wrong)
