"""A graph is refused before it runs unless it is plain: known operators, and tensors with their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from service.bundle.bounds import MAX_TREE_NODES
from service.bundle.errors import BundleError
from service.bundle.graph_check import check_graph
from tests.tiny_bundle import tiny_graph, tiny_schema, tiny_shared_graph

GRAPH = tiny_graph(tiny_schema())
HIDDEN = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
BODY = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "inner", [], [])


def refusal(graph: bytes) -> str:
    with pytest.raises(BundleError) as refused:
        check_graph(graph, "model.float32.onnx")
    assert str(refused.value).startswith("'model.float32.onnx' must be a")
    return str(refused.value)


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    """The tiny graph with a change."""
    model = onnx.load_from_string(GRAPH)
    change(model)
    return model.SerializeToString()


def with_node(node: onnx.NodeProto) -> bytes:
    return changed(lambda model: model.graph.node.append(node))


def with_tensor(tensor: onnx.TensorProto) -> bytes:
    return changed(lambda model: model.graph.initializer.append(tensor))


def test_a_plain_graph_passes() -> None:
    for graph in (GRAPH, tiny_shared_graph(tiny_schema())):
        check_graph(graph, "model.float32.onnx")


@pytest.mark.parametrize(
    ("operator", "domain"),
    [
        ("Loop", ""),
        ("If", ""),
        ("Scan", ""),
        ("ConstantOfShape", ""),
        ("Tile", ""),
        ("Pad", ""),
        ("Resize", ""),
        ("Constant", ""),
        ("RandomNormal", ""),
        ("StringNormalizer", ""),
        ("Relu", "com.microsoft"),
        ("Relu", "mine"),
        ("TreeEnsembleClassifier", "ai.onnx.ml"),
        ("", ""),
    ],
)
def test_an_operator_that_no_export_writes_is_refused(operator: str, domain: str) -> None:
    message = refusal(with_node(helper.make_node(operator, ["ids"], ["y"], domain=domain)))
    assert "must be a graph of the operators Abs, Add," in message
    assert operator in message


def test_of_an_operator_that_is_named_twice_none_counts() -> None:
    """Protobuf takes the last name, where another reader may take the first."""
    node = helper.make_node("Relu", ["ids"], ["y"]).SerializeToString()
    twice = onnx.NodeProto(op_type="Loop").SerializeToString() + node
    graph = b"\x0a" + bytes([len(twice)]) + twice
    assert "Loop Relu" in refusal(b"\x3a" + bytes([len(graph)]) + graph)


@pytest.mark.parametrize(
    "graph",
    [
        with_node(helper.make_node("Relu", ["x"], ["y"], body=BODY)),
        with_node(helper.make_node("Relu", ["x"], ["y"], bodies=[BODY])),
        with_node(helper.make_node("Relu", ["x"], ["y"], value=HIDDEN)),
        with_node(helper.make_node("Relu", ["x"], ["y"], values=[HIDDEN])),
        changed(lambda model: model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=HIDDEN))),
        changed(lambda model: model.functions.append(helper.make_function("d", "F", [], ["c"], [], []))),
        changed(lambda model: model.training_info.append(onnx.TrainingInfoProto(algorithm=BODY))),
    ],
)
def test_no_graph_or_tensor_hides_elsewhere(graph: bytes) -> None:
    assert "plain nodes and tensors" in refusal(graph)


def test_a_domain_that_could_change_what_operators_mean_is_refused() -> None:
    graph = changed(lambda model: model.opset_import.append(helper.make_opsetid("mine", 1)))
    assert "the domain 'mine'" in refusal(graph)


def test_external_data_is_refused() -> None:
    assert "tensor 'hidden' in a file of its own" in refusal(with_tensor(HIDDEN))
    location = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1])
    location.external_data.add(key="location", value="table.bin")
    assert "tensor 'hidden' in a file of its own" in refusal(with_tensor(location))


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1_500_000_000]),
        TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1 << 40], raw_data=b"\0" * 8),
        TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[-1], raw_data=b""),
        TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[2], raw_data=b"\0" * 9),
        TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1] * 9, raw_data=b"\0" * 4),
        TensorProto(name="t", data_type=TensorProto.INT64, dims=[9], int64_data=[1, 2]),
        TensorProto(name="t", data_type=TensorProto.STRING, dims=[1], string_data=[b"text"]),
        TensorProto(name="t", data_type=TensorProto.BFLOAT16, dims=[1], raw_data=b"\0\0"),
    ],
)
def test_a_tensor_that_does_not_hold_its_numbers_is_refused(tensor: onnx.TensorProto) -> None:
    assert "tensor 't' of " in refusal(with_tensor(tensor))


@given(
    st.sampled_from([TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64]),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
)
def test_numbers_may_be_in_fields_of_their_types(kind: int, numbers: list[int]) -> None:
    for raw in (False, True):
        tensor = helper.make_tensor("t", kind, [len(numbers)], numbers)
        if raw:
            tensor = numpy_helper.from_array(numpy_helper.to_array(tensor), "t")
        check_graph(with_tensor(tensor), "model.float32.onnx")


@pytest.mark.parametrize(
    ("dtype", "raw"),
    [(np.float32, True), (np.float64, True), (np.float16, True), (np.float32, False), (np.float64, False)],
)
def test_a_weight_that_is_not_finite_is_refused(dtype: type, raw: bool) -> None:
    for value in (math.nan, math.inf, -math.inf):
        values = np.ones(7, dtype)
        values[3] = value
        if raw:
            tensor = numpy_helper.from_array(values, "unused")
        else:
            tensor = helper.make_tensor("unused", helper.np_dtype_to_tensor_dtype(values.dtype), [7], values)
        assert "tensor 'unused' with nan or infinite" in refusal(with_tensor(tensor))


def test_a_lone_infinity_is_a_mask_and_a_lone_nan_is_a_fault() -> None:
    check_graph(with_tensor(numpy_helper.from_array(np.array(-math.inf, np.float32), "mask")), "g")
    for tensor in (
        numpy_helper.from_array(np.array(math.nan, np.float32), "mask"),
        helper.make_tensor("mask", TensorProto.FLOAT, [1], [math.nan]),
    ):
        assert "tensor 'mask' with nan" in refusal(with_tensor(tensor))


def test_attributes_are_finite() -> None:
    node = helper.make_node("Gemm", ["a", "b"], ["y"], alpha=math.inf)
    assert "attribute 'alpha'" in refusal(with_node(node))


def test_a_tree_that_is_too_deep_to_descend_is_refused() -> None:
    """ONNX Runtime builds trees by recursion: a chain of a hundred thousand nodes ends the process."""
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", nodes_treeids=[0] * (MAX_TREE_NODES + 1)
    )
    assert f"{MAX_TREE_NODES + 1} in tree 0" in refusal(with_node(node))


def test_nodes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.bundle.graph_check.MAX_NODES", 7)
    assert "a graph of at most 7 nodes (got 8)" in refusal(GRAPH)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_fail_in_no_other_way(data: bytes) -> None:
    with suppress(BundleError):
        check_graph(data, "g")


@given(st.data())
def test_a_damaged_graph_fails_in_no_other_way(data: st.DataObject) -> None:
    damaged = bytearray(GRAPH)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(GRAPH) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BundleError):
        check_graph(bytes(damaged), "g")
