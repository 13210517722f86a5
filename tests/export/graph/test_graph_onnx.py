"""Exported graphs: equal to PyTorch, with few operators, and without metadata."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from export.errors import ExportError
from export.graph.onnx import OPSET, describe, export_onnx
from export.graph.runtime import run_graph
from export.graph.torchlib import shared_registry
from export.judge.parity import check_against_torch
from service.bundle.manifest import Tensor


@pytest.mark.parametrize("rows", [1, 2, 33])
def test_the_graph_equals_torch(exported, rows):
    assert check_against_torch(exported.model, exported.float32, exported.ids[:rows]) < 1e-5


def test_same_weights_give_same_bytes(exported):
    """Also for a model in training mode with dropout; the model does not change."""
    model = copy.deepcopy(exported.model).train()
    assert export_onnx(model, exported.columns) == exported.float32
    assert model.training
    weights = exported.model.state_dict()
    assert all(torch.equal(values, weights[name]) for name, values in model.state_dict().items())


def test_the_registry_of_functions_is_made_once_and_is_no_one_elses(exported):
    """The exporter's own method would make another one for every graph."""
    make = ONNXRegistry.__dict__["from_torchlib"]
    with shared_registry():
        made = [ONNXRegistry().from_torchlib(opset_version=OPSET) for _ in range(2)]
        with shared_registry():
            made.append(ONNXRegistry().from_torchlib(opset_version=OPSET))
        assert ONNXRegistry.__dict__["from_torchlib"] is not make
    assert made[0] is made[1] is made[2]
    assert made[0].opset_version == OPSET
    functions = {name: list(metas) for name, metas in made[0].functions.items()}
    export_onnx(exported.model, exported.columns)
    assert made[0].functions == functions
    assert ONNXRegistry.__dict__["from_torchlib"] is make


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_graph_holds_the_model_and_nothing_else(exported, variant):
    model = onnx.load_model_from_string(getattr(exported, variant))
    operators = [node.op_type for node in model.graph.node]
    # Sums that ONNX Runtime adds in an order that depends on the batch, and operators that the exporter
    # writes for shapes and dropout.
    assert not {"ReduceSum", "ReduceMean", "Dropout", "Shape", "GatherND", "Slice"} & set(operators)
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert not model.functions
    assert {entry.domain for entry in model.opset_import} == {""}
    parts = [model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input]
    assert not any(part.doc_string or part.metadata_props for part in parts)


def test_describe_gives_names_types_and_shapes(exported):
    graph = describe(exported.int8, "model.int8.onnx", "int8")
    assert (graph.file, graph.variant, graph.opset) == ("model.int8.onnx", "int8", 20)
    assert graph.inputs == (Tensor("ids", "int32", (None, exported.columns)),)
    assert graph.outputs == (Tensor("logits", "float32", (None,)),)


def test_int64_ids_give_the_same_logits(exported):
    graph = export_onnx(exported.model, exported.columns, ids_type="int64")
    assert describe(graph, "f", "v").inputs[0].dtype == "int64"
    logits = run_graph(graph, exported.ids.astype(np.int64))
    np.testing.assert_array_equal(logits, run_graph(exported.float32, exported.ids))


def test_each_layer_becomes_one_node(exported, tmp_path):
    """ONNX Runtime fuses the quantized layers; in another form they would run dequantized, and slower."""
    operators = optimized_operators(exported.int8, tmp_path)
    layers = len(exported.model.mlp.hidden) if hasattr(exported.model, "mlp") else 0
    assert operators.count("QGemm") == layers
    assert "Relu" not in operators
    assert len(operators) <= 30


def test_wrong_number_of_columns_is_an_error(exported):
    with pytest.raises(ExportError, match=f"'columns' must be {exported.columns}"):
        export_onnx(exported.model, exported.columns + 1)


def test_weights_that_are_not_finite_are_an_error(exported):
    model = copy.deepcopy(exported.model)
    with torch.no_grad():
        model.bias.fill_(float("nan"))
    with pytest.raises(ExportError, match="'bias' must be finite"):
        export_onnx(model, exported.columns)


def optimized_operators(graph: bytes, folder) -> list[str]:
    """The operators of a graph after ONNX Runtime's optimizations."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
