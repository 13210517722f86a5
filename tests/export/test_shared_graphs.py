"""The shared-context graphs of a bundle: when there is one, and that its tables are the plain graph's."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.graph.onnx import export_onnx
from export.graph.runtime import open_session
from export.graph.shared_context import share_context
from export.graph.tables import tables_in, without_tables
from export.shared_graphs import largest_difference, worthwhile_from
from models.deep_fwfm import DeepFwFM
from models.fields import Field

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


def test_the_shared_graph_is_given_the_plain_one_s_tables(graph: bytes) -> None:
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


def table_of(graph: bytes, name: str) -> np.ndarray:
    tensors = onnx.load_model_from_string(graph).graph.initializer
    return next(numpy_helper.to_array(tensor) for tensor in tensors if tensor.name == name)


def test_tables_that_differ_stay_inside(graph: bytes) -> None:
    other = export_onnx(DeepFwFM(FIELDS, dim=8, hidden_units=(32, 16)), len(IS_CONTEXT))
    shared = share_context(graph, IS_CONTEXT.tolist())
    assert shared is not None
    assert len(open_session(without_tables(shared, other)).get_inputs()) == 3


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        ([9.0, 9.0, 9.0, 9.0], None),
        ([1.0, 9.0, 1.0, 1.0], 10),
        ([1.0, 1.0, 1.0, 1.0], 2),
        ([9.0, 9.0, 9.0, 1.0], 100),
        ([9.0, 1.0, 1.0, 9.0], None),
    ],
)
def test_it_serves_from_where_it_is_always_faster(shared: list[float], expected: int | None) -> None:
    sizes = ("1", "2", "10", "100")
    plain = dict.fromkeys(sizes, 5.0)
    assert worthwhile_from(plain, dict(zip(sizes, shared, strict=True))) == expected
