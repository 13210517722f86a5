"""Graphs that no model of the zoo has, with operators that are easily split wrongly."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.graph.runtime import open_session
from export.graph.shared_context import CANDIDATE_IDS, CONTEXT_IDS, REQUEST_INDEX, share_context

IS_CONTEXT = np.array([True, False, True])
COLUMNS, DIM, REQUESTS, ROWS = 3, 4, 3, 6
node = helper.make_node

random = np.random.default_rng(0)
CONSTANTS = {
    "table": random.normal(size=(100, DIM)),
    "in 12": random.normal(size=(COLUMNS * DIM, 1)),
    "in 12, out 5": random.normal(size=(COLUMNS * DIM, 5)),
    "in 5": random.normal(size=(5, 1)),
    "in 4": random.normal(size=(DIM, 1)),
    "in 1": random.normal(size=(1, 1)),
    "two": np.array(2, np.int32),
    "as 12": np.array([-1, COLUMNS * DIM]),
    "as 4": np.array([-1, DIM]),
    "as one": np.array([-1]),
}
EMBEDDED = [node("Gather", ["table", "ids"], ["embedded"]), node("Reshape", ["embedded", "as 12"], ["flat"])]
SUM_OF_IDS = [
    node("Split", ["ids"], ["first", "second", "third"], axis=1, num_outputs=3),
    node("Add", ["first", "second"], ["sum"]),  # a context and a candidate column
]
GRAPHS: dict[str, list[NodeProto]] = {
    "a Gemm broadcasts its bias": [
        *EMBEDDED,
        node("Gemm", ["flat", "in 12"], ["column"]),
        node("Gemm", ["flat", "in 12, out 5", "column"], ["wide"]),
        node("Gemm", ["wide", "in 5"], ["score"]),
    ],
    "a row of a sum of ids": [
        *SUM_OF_IDS,
        node("Gather", ["table", "sum"], ["looked up"]),
        node("Reshape", ["looked up", "as 4"], ["vector"]),
        node("Gemm", ["vector", "in 4"], ["score"]),
    ],
    "half a sum of whole numbers": [
        *SUM_OF_IDS,
        node("Div", ["sum", "two"], ["half"]),
        node("Cast", ["half"], ["number"], to=TensorProto.FLOAT),
        node("Gemm", ["number", "in 1"], ["score"]),
    ],
    "the size of another axis than the batch": [
        *EMBEDDED,
        node("Transpose", ["embedded"], ["by column"], perm=[1, 0, 2]),
        node("Shape", ["by column"], ["columns"], start=0, end=1),
        node("Cast", ["columns"], ["number"], to=TensorProto.FLOAT),
        node("Gemm", ["flat", "in 12"], ["sum"]),
        node("Mul", ["sum", "number"], ["score"]),
    ],
    "how many lines there are": [
        *EMBEDDED,
        node("Reshape", ["embedded", "as 4"], ["lines"]),
        node("Shape", ["lines"], ["count"], start=0, end=1),
        node("Shape", ["ids"], ["rows"], start=0, end=1),
        node("Div", ["count", "rows"], ["lines of a row"]),
        node("Cast", ["lines of a row"], ["number"], to=TensorProto.FLOAT),
        node("Gemm", ["flat", "in 12"], ["sum"]),
        node("Mul", ["sum", "number"], ["score"]),
    ],
}


def graph_of(nodes: list[NodeProto]) -> bytes:
    constants = {
        name: values.astype(np.float32) if values.dtype == np.float64 else values
        for name, values in CONSTANTS.items()
    }
    graph = helper.make_graph(
        [*nodes, node("Reshape", ["score", "as one"], ["logits"])],
        "operators",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", COLUMNS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


@pytest.mark.parametrize("name", GRAPHS)
def test_it_equals_the_plain_graph(name: str) -> None:
    graph = graph_of(GRAPHS[name])
    shared = share_context(graph, IS_CONTEXT.tolist())
    assert shared is not None
    draw, index = np.random.default_rng(1), np.array([0, 2, 2, 1, 2, 0], np.int32)
    requests, rows = (draw.integers(0, 50, (n, COLUMNS)).astype(np.int32) for n in (REQUESTS, ROWS))
    plain = open_session(graph).run(None, {"ids": np.where(IS_CONTEXT, requests[index], rows)})[0]
    inputs = {
        CONTEXT_IDS: requests[:, IS_CONTEXT],
        CANDIDATE_IDS: rows[:, ~IS_CONTEXT],
        REQUEST_INDEX: index,
    }
    found = open_session(shared).run(None, inputs)[0]
    assert plain.std() > 0.1
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)
