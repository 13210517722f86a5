"""A row's logit has the same bits alone, in any batch and at any position in it."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError
from export.graph.onnx import export_onnx
from export.graph.quantize import quantize_int8
from export.graph.runtime import open_session
from export.judge.parity import check_batch_invariance
from models.deep_fwfm import DeepFwFM
from models.fields import Field

session_of = functools.cache(open_session)


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_batches_of_all_sizes(exported, variant):
    check_batch_invariance(getattr(exported, variant), exported.ids)
    check_batch_invariance(getattr(exported, variant), exported.ids, batch_sizes=range(1, 140), places=1)


@pytest.mark.parametrize("hidden_units", [(400, 400, 400), (172, 129, 243), (97, 1), (3,)])
def test_layers_of_serving_size(hidden_units):
    fields = [Field(f"f{number}", 30) for number in range(39)]
    ids = np.random.default_rng(2).integers(0, 30, (300, 39)).astype(np.int32)
    float32 = export_onnx(DeepFwFM(fields, 10, hidden_units), 39)
    check_batch_invariance(float32, ids)
    check_batch_invariance(quantize_int8(float32, ids), ids)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_rows_in_any_order(exported, data):
    """Any choice of rows, repeated and out of order, gives each row what it gets alone."""
    variant = data.draw(st.sampled_from(["float32", "int8"]))
    rows = data.draw(st.lists(st.integers(0, len(exported.ids) - 1), min_size=1, max_size=90))
    session = session_of(getattr(exported, variant))
    together = session.run(None, {"ids": exported.ids[rows]})[0]
    alone = [session.run(None, {"ids": exported.ids[[row]]})[0][0] for row in rows]
    assert together.tobytes() == np.array(alone, np.float32).tobytes()


def test_dynamic_quantization_is_found_out():
    """Dynamic quantization has scales over the whole batch, so a row's score depends on the other rows."""
    weights = np.random.default_rng(0).integers(0, 255, (8, 1)).astype(np.uint8)
    nodes = [
        helper.make_node("Cast", ["ids"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "flat"], ["logits"]),
    ]
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([-1]), "flat")]
    graph = helper.make_graph(
        nodes,
        "dynamic",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, ["n", 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    ids = np.random.default_rng(1).integers(0, 1000, (50, 8)).astype(np.int32)
    with pytest.raises(ExportError, match=r"'logits' must not depend on the batch .* in a batch of 1,"):
        check_batch_invariance(model.SerializeToString(), ids)
    check_batch_invariance(model.SerializeToString(), ids, tolerance=1e9)
