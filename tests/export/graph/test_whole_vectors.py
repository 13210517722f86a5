"""Functions whose vector code and scalar code differ: on longer rows they have the same bits in any batch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.graph.editing import GraphEditor
from export.graph.onnx import serialize
from export.graph.runtime import open_session
from export.graph.whole_vectors import FUNCTIONS, LANES, fill_vectors

ROWS = 300


def graph_of(function: str, row_shape: tuple[int, ...]) -> bytes:
    """ids [batch, *row_shape], as floats, through a function."""
    shape = ["batch", *row_shape]
    nodes = [
        helper.make_node("Cast", ["ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node(function, ["floats"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT32, shape)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "function", inputs, outputs)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()


def filled(graph: bytes) -> bytes:
    editor = GraphEditor.of_bytes(graph)
    fill_vectors(editor)
    return serialize(editor.proto())


def differing(graph: bytes, ids: NDArray[np.int32]) -> int:
    """Batches of which some number has other bits than in a batch of all rows."""
    session = open_session(graph)
    together = session.run(None, {"ids": ids})[0]
    found = 0
    for size in (1, 2, 3, 5, 7, 9, 16, 17, 33, 65, 255):
        for first in range(0, min(ROWS - size, 40), 3):
            part = session.run(None, {"ids": np.ascontiguousarray(ids[first : first + size])})[0]
            found += part.tobytes() != together[first : first + size].tobytes()
    return found


@pytest.mark.parametrize("row_shape", [(1,), (LANES - 1,), (LANES + 1,), (3, 7), (41,)])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_row_has_the_same_bits_in_any_batch(function: str, row_shape: tuple[int, ...]) -> None:
    ids = np.random.default_rng(0).integers(1, 50, (ROWS, *row_shape)).astype(np.int32)
    graph = graph_of(function, row_shape)
    longer = filled(graph)
    assert differing(longer, ids) == 0
    plain, exact = (open_session(each).run(None, {"ids": ids})[0] for each in (graph, longer))
    np.testing.assert_allclose(exact, plain, rtol=1e-6, atol=1e-7)
    assert exact.shape == (ROWS, *row_shape)


@pytest.mark.parametrize("row_shape", [(LANES,), (2, LANES // 2), (3 * LANES,)])
def test_rows_of_whole_vectors_stay_as_they_are(row_shape: tuple[int, ...]) -> None:
    operators = [
        node.op_type for node in onnx.load_model_from_string(filled(graph_of("Sin", row_shape))).graph.node
    ]
    assert operators == ["Cast", "Sin"]


def test_two_functions_of_a_value_share_its_longer_rows() -> None:
    nodes = [
        helper.make_node("Cast", ["ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sin", ["floats"], ["sines"]),
        helper.make_node("Cos", ["floats"], ["cosines"]),
        helper.make_node("Mul", ["sines", "cosines"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", 5])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])]
    graph = helper.make_graph(nodes, "functions", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    operators = [
        node.op_type for node in onnx.load_model_from_string(filled(model.SerializeToString())).graph.node
    ]
    assert operators.count("Concat") == 1
