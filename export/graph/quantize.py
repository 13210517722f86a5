"""Turns a float graph into a static INT8 one: the embedding table and the hidden layers, nothing measured at run time.

It knows the names of `inference_form` and no schema, no training and no judgement: `parity` says what was lost.

What is INT8 and how:

- Table: uint8 codes around 128 with one scale a field. The codes go through the graph as they are; a field's scale is
  folded into every weight that touches the field, so the first layer reads the codes without a quantization of its
  own and with no rounding beyond the table's (1.2 ms against 1.8 for 1024 rows with a DequantizeLinear per field).
- Hidden layers: per-channel int8 weights, uint8 activations whose range was found on training rows (QDQ; ONNX Runtime
  fuses each layer to one QGemm). The output layer and FwFM's matrix stay float32: they take no time.
- Weights use 7 bits. Where a CPU has no VNNI, ONNX Runtime multiplies u8 x s8 with an instruction that adds two
  products in 16 bits and saturates at 8-bit weights: silently other logits. 255 * 64 * 2 fits, so one bundle gives
  the same integers on every x86 server.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.errors import ExportError
from export.graph.inference_form import (
    FIELD_VECTORS,
    FIRST_LAYER,
    OFFSETS,
    PAIR_MATRIX,
    ROW_WEIGHTS,
    TABLE,
)
from export.graph.onnx import serialize
from export.graph.runtime import open_session, run_graph

ZERO_POINT = 128  # of the table's codes
CODE_LIMIT = 127  # codes lie in ZERO_POINT +- CODE_LIMIT
WEIGHT_LIMIT = 64
ACTIVATION_LIMIT = 255
PERCENTILES = (100.0, 99.99, 99.9)
CALIBRATION_ROWS = 16_384  # more rows move no range and take memory
LAYER_WEIGHT = re.compile(r"hidden\.\d+\.weight")


def quantize_int8(graph: bytes, calibration_ids: NDArray[np.int32]) -> bytes:
    """The INT8 graph of a float graph made by `export_onnx`, calibrated on ids [n, columns] of the training part.

    Activation ranges are cut at one percentile for all layers: the one of PERCENTILES whose logits come nearest to
    the float graph's on the calibration rows that the ranges were not taken from (every second row).
    Raises ExportError when there are too few rows or the graph is not one of `export_onnx`.
    """
    if len(calibration_ids) < 2:
        raise ExportError(
            f"'calibration_ids' must hold at least 2 rows (got {len(calibration_ids)}); use more data"
        )
    rows = calibration_ids[:: -(-len(calibration_ids) // CALIBRATION_ROWS)]
    fitting, judging = rows[::2], rows[1::2]
    model = onnx.load_model_from_string(graph)
    _turn_into_codes(model.graph)
    activations = _hidden_activations(model, fitting)
    wanted = run_graph(graph, judging)
    best, least_error = b"", np.inf
    for percentile in PERCENTILES if activations else PERCENTILES[:1]:
        candidate = _to_int8(model, [_scale(values, percentile) for values in activations])
        error = float(np.square(run_graph(candidate, judging) - wanted, dtype=np.float64).mean())
        if error < least_error:
            best, least_error = candidate, error
    return best


def _turn_into_codes(graph: onnx.GraphProto) -> None:
    """Rounds the table to whole codes in +-CODE_LIMIT and folds each field's scale into the weights it meets."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    if TABLE not in weights or OFFSETS not in weights:
        raise ExportError(
            f"'graph' must hold '{TABLE}' and '{OFFSETS}'; quantize a float graph made by this exporter"
        )
    table = numpy_helper.to_array(weights[TABLE])  # [rows, dim]
    starts = np.unique(numpy_helper.to_array(weights[OFFSETS]))  # a sequence's columns share one
    field_of_row = np.searchsorted(starts, np.arange(len(table)), side="right") - 1
    largest = np.maximum.reduceat(np.abs(table).max(axis=1), starts)
    scales = np.where(largest > 0, largest / CODE_LIMIT, 1.0).astype(np.float32)  # [n_fields]
    by_value = np.repeat(scales, table.shape[1])  # [n_fields * dim]
    folded = {
        TABLE: np.round(table / scales[field_of_row, None]),
        PAIR_MATRIX: scales[:, None] * scales,
        FIELD_VECTORS: scales,
        ROW_WEIGHTS: by_value[:, None],
        FIRST_LAYER: by_value,
    }
    for name, factors in folded.items():
        if name in weights:
            values = factors if name == TABLE else numpy_helper.to_array(weights[name]) * factors
            weights[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


def _hidden_activations(model: onnx.ModelProto, ids: NDArray[np.int32]) -> list[NDArray[np.float32]]:
    """What each hidden layer puts out on these rows, [n, width] each, in order."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = [node.output[0] for node in probe.graph.node if node.op_type == "Relu"]
    if not names:
        return []
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = open_session(probe.SerializeToString())
    return session.run(names, {session.get_inputs()[0].name: np.ascontiguousarray(ids)})


def _scale(activations: NDArray[np.float32], percentile: float) -> np.float32:
    """The step of a layer's uint8 activations; a layer that never fires gets any."""
    largest = np.percentile(activations, percentile) or activations.max()
    return np.float32(largest / ACTIVATION_LIMIT) if largest > 0 else np.float32(1.0)


def _to_int8(model: onnx.ModelProto, steps: Sequence[np.float32]) -> bytes:
    """The graph with uint8 table, int8 hidden layers and uint8 activations, each with its step from `steps`."""
    int8 = _Int8Graph(model.graph)
    step, remaining = np.float32(1.0), iter(steps)  # the first layer reads the codes: step 1
    for node in model.graph.node:
        node = int8.follow(node)
        if node.op_type == "Gather" and node.input[0] == TABLE:
            int8.look_up_codes(node)
        elif node.op_type == "Gemm" and LAYER_WEIGHT.fullmatch(node.input[1]):
            if node.input[1] == FIRST_LAYER:
                node.input[0] = int8.round(node.input[0], step, ZERO_POINT)
            int8.read_int8_weights(node, step)
        else:
            int8.nodes.append(node)
        if node.op_type == "Relu":
            step = next(remaining)
            int8.renamed[node.output[0]] = int8.round(node.output[0], step, 0)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(int8.nodes)
    result.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in int8.weights.items()
    )
    return serialize(result)


class _Int8Graph:
    """The nodes and weights of the INT8 graph while it is written, in the order of the float graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.renamed: dict[str, str] = {}  # value of the float graph -> what stands for it here

    def follow(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """A copy of the node that reads what now stands for its inputs."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [self.renamed.get(name, name) for name in node.input]
        return copy

    def look_up_codes(self, gather: onnx.NodeProto) -> None:
        """Makes the table uint8; the floats after it are the codes less their zero point."""
        self.weights[TABLE] = (self.weights[TABLE] + ZERO_POINT).astype(np.uint8)
        embeddings = gather.output[0]
        gather.output[0] = f"{embeddings}.codes"
        self.nodes.append(gather)
        self._dequantize(gather.output[0], embeddings, np.float32(1.0), np.uint8(ZERO_POINT))

    def round(self, name: str, step: np.float32, zero_point: int) -> str:
        """Quantizes and dequantizes a value; the name of the outcome."""
        rounded = [f"{name}.uint8", f"{name}.step", f"{name}.zero_point"]
        self.weights[rounded[1]], self.weights[rounded[2]] = (
            np.asarray(step),
            np.asarray(zero_point, np.uint8),
        )
        self.nodes.append(
            helper.make_node("QuantizeLinear", [name, *rounded[1:]], [rounded[0]], f"{name}.quantize")
        )
        self.nodes.append(
            helper.make_node("DequantizeLinear", rounded, [f"{name}.rounded"], f"{name}.dequantize")
        )
        return f"{name}.rounded"

    def read_int8_weights(self, gemm: onnx.NodeProto, step: np.float32) -> None:
        """Makes a layer's weights int8 with a scale for each output, its biases int32 in the products' unit."""
        _, weight, bias = gemm.input
        weights, biases = self.weights[weight], self.weights[bias]  # [outputs, inputs], [outputs]
        # A neuron without weights still needs a scale its bias can be told in.
        largest = np.maximum(np.abs(weights).max(axis=1) / WEIGHT_LIMIT, np.abs(biases) / (step * 2.0**30))
        scales = np.where(largest > 0, largest, 1.0).astype(np.float32)
        self._constant(weight, np.round(weights / scales[:, None]).astype(np.int8), scales)
        self._constant(bias, np.round(biases / (scales * step)).astype(np.int32), scales * step)
        gemm.input[1:] = [f"{weight}.float", f"{bias}.float"]
        self.nodes.append(gemm)

    def _constant(self, name: str, values: NDArray[np.integer], scales: NDArray[np.float32]) -> None:
        """Stores whole numbers in place of a constant and dequantizes them along the first axis."""
        self.weights[name] = values
        self._dequantize(name, f"{name}.float", scales, np.zeros(len(scales), values.dtype), axis=0)

    def _dequantize(
        self,
        name: str,
        outcome: str,
        scale: NDArray[np.float32],
        zero_point: NDArray[np.integer],
        **axis: int,
    ) -> None:
        inputs = [name, f"{name}.scale", f"{name}.zero_point"]
        self.weights[inputs[1]], self.weights[inputs[2]] = np.asarray(scale), np.asarray(zero_point)
        self.nodes.append(
            helper.make_node("DequantizeLinear", inputs, [outcome], f"{name}.dequantize", **axis)
        )
