"""Writes GBDT+LR as an ONNX graph: ids -> one number each -> one TreeEnsembleRegressor -> logits.

The logits are its scores and the sum of the ids' weights. The regression's weight of a leaf is the leaf's
value in the ensemble, so both compute the same sum.
It does not know how trees are fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.fields import PADDING_ID
from models.gbdt_lr import ALWAYS_LEFT, GBDTLR

ML_DOMAIN, ML_OPSET = "ai.onnx.ml", 3
NUMBERS, WEIGHTS, OFFSETS = "numbers", "linear.embedding.table.weight", "offsets"


def tree_ensemble(
    model: GBDTLR, input_name: str, output_name: str, opset: int, ids_type: str
) -> onnx.ModelProto:
    """ids [batch, columns] of `ids_type` -> logits [batch]; constant trees join the base value."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(ids_type))
    weights = {
        OFFSETS: model.offsets.numpy().astype(ids_type),
        NUMBERS: model.numbers.numpy(),
        WEIGHTS: model.linear.embedding.table.weight.detach().numpy().ravel(),
        "each": np.ones((len(model.fields), 1), np.float32),
        "row": np.array([-1], np.int64),
    }
    nodes = [helper.make_node("Add", [input_name, OFFSETS], ["rows"])]
    if any(field.width > 1 for field in model.fields):
        _pool(model, input_name, ids_type, nodes, weights)
    read, weighted = (_looked_up(model, table, nodes) for table in (NUMBERS, WEIGHTS))
    attributes = _ensemble(model)
    nodes += [
        helper.make_node("TreeEnsembleRegressor", [read], ["scores"], domain=ML_DOMAIN, **attributes),
        # A product, because ReduceSum adds in an order that depends on the batch (see exact_sums).
        helper.make_node("MatMul", [weighted, "each"], ["weight_of_ids"]),
        helper.make_node("Add", ["scores", "weight_of_ids"], ["logits_column"]),
        helper.make_node("Reshape", ["logits_column", "row"], [output_name]),
    ]
    columns = len(model.offsets)
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info(input_name, element, ["batch", columns])],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(ML_DOMAIN, ML_OPSET)]
    return helper.make_model(graph, opset_imports=opsets)


def _looked_up(model: GBDTLR, table: str, nodes: list[onnx.NodeProto]) -> str:
    """Adds the lookup of a row's entries in `table`; returns the name of [batch, n_fields].

    Means over sequences are products with a constant matrix.
    """
    columns = f"{table}.columns"
    nodes.append(helper.make_node("Gather", [table, "rows"], [columns]))
    if all(field.width == 1 for field in model.fields):
        return columns
    kept, totals, means = (f"{table}.{name}" for name in ("kept", "totals", "means"))
    nodes += [
        helper.make_node("Mul", [columns, "present"], [kept]),
        helper.make_node("MatMul", [kept, "pooling"], [totals]),
        helper.make_node("Div", [totals, "divisors"], [means]),
    ]
    return means


def _pool(
    model: GBDTLR, ids: str, ids_type: str, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]
) -> None:
    """Adds what means over sequences need: which columns are present, and how many are in each field."""
    widths = [field.width for field in model.fields]
    field_of_column = np.repeat(np.arange(len(widths)), widths)
    weights["pooling"] = np.eye(len(widths), dtype=np.float32)[field_of_column]  # [columns, n_fields]
    weights["padding"] = np.array(PADDING_ID, ids_type)
    weights["always_present"] = np.array(widths)[field_of_column] == 1
    weights["one"] = np.array(1.0, np.float32)
    nodes += [
        helper.make_node("Equal", [ids, "padding"], ["is_padding"]),
        helper.make_node("Not", ["is_padding"], ["is_id"]),
        helper.make_node("Or", ["is_id", "always_present"], ["is_present"]),
        helper.make_node("Cast", ["is_present"], ["present"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["present", "pooling"], ["counts"]),
        helper.make_node("Max", ["counts", "one"], ["divisors"]),
    ]


@dataclass(frozen=True)
class _Node:
    """A node of the ensemble. A leaf has no field; its threshold is the leaf's value."""

    tree: int
    number: int
    field: int | None
    threshold: float
    children: tuple[int, int] = (0, 0)


def _ensemble(model: GBDTLR) -> dict[str, Any]:
    """The attributes of the operator; trees that are a single leaf are added to the base value."""
    trees = model.get_trees()
    constant, nodes = float(model.bias.detach()), list[_Node]()
    for tree in range(model.trees):
        found = _nodes(
            tree, trees.fields[tree].tolist(), trees.thresholds[tree].tolist(), trees.leaves[tree].tolist()
        )
        if len(found) == 1:
            constant += found[0].threshold
        else:
            nodes += found
    if not nodes:  # the operator needs at least one tree
        nodes = [_Node(0, 0, None, 0.0)]
    leaves = [node for node in nodes if node.field is None]
    return {
        "nodes_treeids": [node.tree for node in nodes],
        "nodes_nodeids": [node.number for node in nodes],
        "nodes_featureids": [node.field or 0 for node in nodes],
        "nodes_values": [0.0 if node.field is None else node.threshold for node in nodes],
        "nodes_modes": ["LEAF" if node.field is None else "BRANCH_LEQ" for node in nodes],
        "nodes_truenodeids": [node.children[0] for node in nodes],
        "nodes_falsenodeids": [node.children[1] for node in nodes],
        "target_treeids": [leaf.tree for leaf in leaves],
        "target_nodeids": [leaf.number for leaf in leaves],
        "target_ids": [0] * len(leaves),
        "target_weights": [leaf.threshold for leaf in leaves],
        "base_values": [constant],
        "n_targets": 1,
    }


def _nodes(tree: int, fields: list[int], thresholds: list[float], leaves: list[float]) -> list[_Node]:
    """One complete tree without the nodes that send every row left; the root comes first."""
    found: list[_Node] = []

    def add(position: int) -> int:
        while position < len(thresholds) and thresholds[position] == ALWAYS_LEFT:
            position = 2 * position + 1
        number = len(found)
        if position >= len(thresholds):
            found.append(_Node(tree, number, None, leaves[position - len(thresholds)]))
            return number
        found.append(_Node(tree, number, fields[position], thresholds[position]))
        children = (add(2 * position + 1), add(2 * position + 2))
        found[number] = replace(found[number], children=children)
        return number

    add(0)
    return found
