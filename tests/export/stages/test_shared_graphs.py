"""The shared-context graphs of a bundle: when one ships, and that it takes the plain graph's tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.data.encoded import Part
from export.graph.onnx import export_onnx
from export.graph.runtime import open_session, request_feeds, request_scorer, run_graph
from export.graph.shared_context import share_context
from export.graph.tables import tables_in, without_tables
from export.stages.shared_graphs import (
    TOLERANCE,
    checked_shared_graph,
    describe_graphs,
    has_the_same_bits_alone,
    largest_difference,
    worthwhile_from,
)
from export.stages.variants import Variant
from models.deep_crossing import DeepCrossing
from models.deep_fwfm import DeepFwFM
from models.fields import Field
from service.bundle.manifest import ONE_OR_ROWS
from tests.tiny_bundle import tiny_schema

FIELDS = (
    Field("site", 300),
    Field("ad", 400, role="candidate"),
    Field("hour", 26),
    Field("seen", 300, width=3),
    Field("size", 9, role="candidate"),
)
IS_CONTEXT = np.array([field.role == "context" for field in FIELDS for _ in range(field.width)])


@pytest.fixture(scope="module")
def graph() -> bytes:
    return export_onnx(DeepFwFM(FIELDS, dim=8, hidden_units=(32, 16)), len(IS_CONTEXT))


def random_ids(rows: int) -> np.ndarray:
    limits = [field.cardinality for field in FIELDS for _ in range(field.width)]
    return np.random.default_rng(0).integers(0, limits, (rows, len(limits))).astype(np.int32)


def test_the_shared_graph_takes_the_plain_graph_s_tables(graph: bytes) -> None:
    shared = share_context(graph, IS_CONTEXT.tolist())
    assert shared is not None
    (name,) = tables_in(graph)
    bare = without_tables(shared, graph)
    assert len(bare) < len(shared) - 1000 * 8 * 4
    session, whole = open_session(bare), open_session(shared)
    assert [each.name for each in session.get_inputs()] == [
        "context_ids",
        "candidate_ids",
        "request_index",
        name,
    ]
    ids = random_ids(20)
    feeds = {
        "context_ids": ids[:2, IS_CONTEXT],
        "candidate_ids": ids[:, ~IS_CONTEXT],
        "request_index": np.repeat(np.arange(2, dtype=np.int32), 10),
    }
    table = table_of(graph, name)
    np.testing.assert_array_equal(session.run(None, {**feeds, name: table})[0], whole.run(None, feeds)[0])
    assert largest_difference(graph, shared, random_ids(512), IS_CONTEXT) < 1e-5
    assert has_the_same_bits_alone(shared, random_ids(512), IS_CONTEXT)


def table_of(graph: bytes, name: str) -> np.ndarray:
    tensors = onnx.load_model_from_string(graph).graph.initializer
    return next(numpy_helper.to_array(tensor) for tensor in tensors if tensor.name == name)


def test_tables_that_differ_stay_inside(graph: bytes) -> None:
    other = export_onnx(DeepFwFM(FIELDS, dim=8, hidden_units=(32, 16)), len(IS_CONTEXT))
    shared = share_context(graph, IS_CONTEXT.tolist())
    assert shared is not None
    assert len(open_session(without_tables(shared, other)).get_inputs()) == 3


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_rows_are_enough_for_the_checks(graph: bytes, rows: int) -> None:
    shared = share_context(graph, IS_CONTEXT.tolist())
    assert shared is not None
    assert largest_difference(graph, shared, random_ids(rows), IS_CONTEXT) < 1e-5
    assert has_the_same_bits_alone(shared, random_ids(rows), IS_CONTEXT)


@pytest.mark.parametrize(("model", "axis"), [(DeepFwFM, "one_or_rows"), (DeepCrossing, "rows")])
def test_one_index_does_for_a_request_where_all_that_it_shares_is_broadcast(
    model: type[DeepFwFM | DeepCrossing], axis: str
) -> None:
    plain = export_onnx(model(FIELDS, dim=8, hidden_units=(32, 16)), len(IS_CONTEXT))
    checked = checked_shared_graph(plain, random_ids(512), IS_CONTEXT, pytest.fail)
    assert checked is not None
    assert checked.difference == largest_difference(plain, checked.graph, random_ids(512), IS_CONTEXT)
    session = open_session(checked.graph)
    assert session.get_inputs()[2].shape == [axis]
    few = checked_shared_graph(plain, random_ids(3), IS_CONTEXT, pytest.fail)
    assert few is not None
    assert few.graph == checked.graph  # even of rows that would be a request each
    one, several = (np.split(random_ids(12), count) for count in (1, 3))
    assert len(request_feeds(one, IS_CONTEXT, session)["request_index"]) == (1 if axis == ONE_OR_ROWS else 12)
    assert (
        request_feeds(several, IS_CONTEXT, session)["request_index"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    )
    assert has_the_same_bits_alone(checked.graph, random_ids(512), IS_CONTEXT)


COLUMN_BY_COLUMN = (  # no piece of the columns can be quantized by itself
    helper.make_node("QuantizeLinear", ["embedded", "scales", "zeros"], ["codes"], axis=1),
    helper.make_node("DequantizeLinear", ["codes", "scales", "zeros"], ["numbers"], axis=1),
)
BESIDE_THE_BATCH = (
    helper.make_node("ReduceMean", ["embedded", "first"], ["mean"]),
    helper.make_node("Sub", ["embedded", "mean"], ["numbers"]),
)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [(COLUMN_BY_COLUMN, "operands could not be"), (BESIDE_THE_BATCH, "its logits would depend on the batch")],
)
def test_a_graph_that_no_rewrite_knows_ships_without_a_shared_graph(
    nodes: Sequence[onnx.NodeProto], reason: str
) -> None:
    schema, lines = tiny_schema(), list[str]()
    ids = np.random.default_rng(0).integers(0, 50, (40, schema.columns)).astype(np.int32)
    described = describe_graphs(
        {"float32": Variant("float32", graph_of(nodes, schema.columns), schema)},
        Part(ids, np.zeros(len(ids), np.uint8), None, None),
        say=lines.append,
    )
    assert described["float32"].shared is None
    assert described["float32"].graph.shared_context is None
    (line,) = lines
    assert line.startswith(f"warning: float32 has no shared-context graph: {reason}")


def graph_of(between: Sequence[onnx.NodeProto], columns: int) -> bytes:
    """ids -> embedded [batch, columns, 3] -> `between` -> numbers -> their sum."""
    weights = {
        "table": np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32),
        "scales": np.linspace(0.1, 0.2, columns, dtype=np.float32),
        "zeros": np.zeros(columns, np.int8),
        "first": np.array([0]),
        "axes": np.array([1, 2]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        *between,
        helper.make_node("ReduceSum", ["numbers", "axes"], ["logits"], keepdims=0),
    ]
    whole = helper.make_graph(
        nodes,
        "whole",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", columns])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        ([9.0, 9.0, 9.0, 9.0, 9.0], None),
        ([1.0, 9.0, 1.0, 1.0, 1.0], 10),
        ([1.0, 1.0, 1.0, 1.0, 1.0], 2),
        ([9.0, 9.0, 9.0, 1.0, 1.0], 100),
        ([9.0, 9.0, 9.0, 9.0, 1.0], 500),
        ([9.0, 1.0, 1.0, 9.0, 1.0], 500),  # slower where it counts
        ([9.0, 1.0, 1.0, 1.0, 5.2], 2),  # a little slower where it is rare
        ([9.0, 1.0, 1.0, 1.0, 5.3], None),  # too much there
        ([9.0, 3.6, 1.0, 1.0, 1.0], 10),  # a little faster is too little
        ([9.0, 3.6, 3.6, 3.6, 3.6], None),
        ([9.0, 3.6, 3.6, 3.4, 5.2], 100),
    ],
)
def test_it_serves_from_where_it_is_clearly_faster(shared: list[float], expected: int | None) -> None:
    sizes = ("1", "2", "10", "100", "500")
    plain = dict.fromkeys(sizes, 5.0)
    assert worthwhile_from(plain, dict(zip(sizes, shared, strict=True))) == expected


def test_a_batch_is_timed_as_several_requests(graph: bytes) -> None:
    shared = share_context(graph, IS_CONTEXT.tolist())
    assert shared is not None
    ids = random_ids(12)
    score = request_scorer(shared, IS_CONTEXT, {12: 3})
    for start in (0, 4, 8):
        ids[start : start + 4, IS_CONTEXT] = ids[start, IS_CONTEXT]
    np.testing.assert_allclose(score(ids)[0], run_graph(graph, ids), atol=1e-5)  # type: ignore[index]
    assert len(score(ids[:5])[0]) == 5  # type: ignore[index]


def test_large_logits_may_differ_by_more() -> None:
    """Rounding is relative: logits a thousand times larger may differ by a thousand times more."""
    torch.manual_seed(0)
    model = DeepFwFM(FIELDS, dim=8, hidden_units=(32, 16)).eval()
    with torch.no_grad():
        for tensor in model.mlp.output.parameters():
            tensor *= 1e6
    graph = export_onnx(model, len(IS_CONTEXT))
    shared = share_context(graph, IS_CONTEXT.tolist())
    assert shared is not None
    logits = run_graph(graph, random_ids(512))
    assert np.abs(logits).max() > 1000.0
    assert largest_difference(graph, shared, random_ids(512), IS_CONTEXT) <= TOLERANCE
