"""The graph of GBDT+LR equals the model in any batch and has no constant trees."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from export.graph.onnx import export_onnx
from export.judge.parity import check_against_torch, check_batch_invariance
from models.fields import Field, columns
from models.gbdt_lr import ALWAYS_LEFT, GBDTLR, Trees

PLAIN = (Field("site", 11), Field("hour", 5), Field("ad", 9))
WITH_SEQUENCES = (Field("site", 11), Field("history", 9, width=3, same_values_as="ad"), Field("ad", 9))


def some_ids(fields: tuple[Field, ...], rows: int) -> np.ndarray:
    random = np.random.default_rng(0)
    sizes = [field.cardinality for field in fields for _ in range(field.width)]
    return np.stack([random.integers(0, size, rows) for size in sizes], axis=1).astype(np.int32)


@pytest.mark.parametrize("fields", [PLAIN, WITH_SEQUENCES])
def test_the_graph_equals_the_model(fields: tuple[Field, ...]) -> None:
    torch.manual_seed(0)
    model = GBDTLR(fields, trees=20, depth=3).eval()
    with torch.no_grad():
        model.leaf_weights.normal_()
        model.linear.embedding.table.weight.normal_()
        model.bias.fill_(0.5)
    graph = export_onnx(model, columns(fields))
    ids = some_ids(fields, 1100)
    assert check_against_torch(model, graph, ids) < 1e-5
    check_batch_invariance(graph, ids)


def with_thresholds(thresholds: list[list[float]]) -> GBDTLR:
    """Trees of depth 2 over one field."""
    model = GBDTLR((Field("ad", 6),), trees=len(thresholds), depth=2)
    trees = Trees(
        fields=torch.zeros(len(thresholds), 3, dtype=torch.int64),
        thresholds=torch.tensor(thresholds),
        leaves=torch.arange(4.0 * len(thresholds)).reshape(-1, 4),
    )
    model.set_trees(torch.arange(6.0), trees, bias=0.25)
    return model.eval()


@pytest.mark.parametrize(
    ("thresholds", "nodes"),
    [
        ([[2.0, 1.0, 3.0]], 7),
        ([[2.0, ALWAYS_LEFT, 3.0]], 5),
        ([[ALWAYS_LEFT, 1.0, 3.0]], 3),
        ([[2.0, 1.0, 3.0], [ALWAYS_LEFT] * 3], 7),
        ([[ALWAYS_LEFT] * 3, [ALWAYS_LEFT] * 3], 1),
    ],
)
def test_nodes_that_pass_every_row_on_are_left_out(thresholds: list[list[float]], nodes: int) -> None:
    model = with_thresholds(thresholds)
    graph = export_onnx(model, 1)
    assert check_against_torch(model, graph, np.arange(6, dtype=np.int32).reshape(-1, 1)) < 1e-6
    (ensemble,) = (
        node for node in onnx.load_model_from_string(graph).graph.node if node.op_type.startswith("TreeEns")
    )
    attributes = {
        attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in ensemble.attribute
    }
    assert len(attributes["nodes_treeids"]) == nodes
