"""Turns a float graph into a static INT8 one: the embedding table and the hidden layers.

It knows the names of `inference_form` and no schema, training or judgement: `parity` says what was lost.

What is INT8 and how:

- Table: uint8 codes around 128 with one scale a field. The codes go through the graph as they are; a field's
  scale is folded into every weight that meets the field. So the first layer reads the codes with no
  quantization of its own and no rounding beyond the table's (1024 rows in 1.2 ms; 1.8 ms with a
  DequantizeLinear by field).
- Hidden layers: int8 weights with a scale an output, uint8 activations with a range found on training rows
  (QDQ; ONNX Runtime fuses a layer to one QGemm). FwFM's matrix and the output layer stay float32: they take
  little time.
- Activation ranges are the largest value seen and a quarter more. On Criteo rows (logits of standard
  deviation 1.3 to 1.7) that keeps the logit's error at 0.006 whether 200 or 16,000 rows calibrate. Cut at
  the 99.99th percentile it is twice that, with single rows off by 0.4; at the 99.9th ten times:
  activations have long tails.
- Weights take 7 bits. A CPU without VNNI multiplies u8 x s8 by adding pairs of products in 16 bits, which
  8-bit weights saturate: silently other logits, by up to 0.03 on an emulated Haswell. 2 * 255 * 64 fits, and
  there all bits are those of a VNNI machine. It costs no time and 0.0003 to 0.0015 of the logit's error
  above. u8 x u8, the other way out, takes 1.4 to 1.65 times as long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.errors import ExportError
from export.graph.inference_form import (
    FIELD_VECTORS,
    FIRST_LAYER,
    OFFSETS,
    OUTPUT_LAYER,
    PAIR_MATRIX,
    ROW_WEIGHTS,
    TABLE,
)
from export.graph.onnx import serialize
from export.graph.runtime import open_session

ZERO_POINT = 128  # of the table's codes
CODE_LIMIT = 127  # codes lie in ZERO_POINT +- CODE_LIMIT
CODE_STEP = np.float32(1.0)  # codes are used as they are
SMALLEST_SCALE = np.finfo(np.float32).tiny  # below it a number's reciprocal overflows
WEIGHT_LIMIT = 64
ACTIVATION_LIMIT = 255
HEADROOM = 1.25
CALIBRATION_ROWS = 16_384  # more of them move no range and take memory
LAYER_WEIGHT = re.compile(r"hidden\.\d+\.weight")


def quantize_int8(graph: bytes, calibration_ids: NDArray[np.int32]) -> bytes:
    """The INT8 graph of a float graph of `export_onnx`, calibrated on ids [n, columns] of the training part.

    Raises ExportError when there are no rows or the graph is not one of `export_onnx`.
    """
    if len(calibration_ids) == 0:
        raise ExportError("'calibration_ids' must hold at least one row (got 0); calibrate on training rows")
    rows = calibration_ids[:: -(-len(calibration_ids) // CALIBRATION_ROWS)]
    model = onnx.load_model_from_string(graph)
    _turn_into_codes(model.graph)
    return _to_int8(model, _activation_steps(model, rows))


def _turn_into_codes(graph: onnx.GraphProto) -> None:
    """Rounds the table to whole codes, still float32; folds a field's scale into the weights it meets."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    if TABLE not in weights or OFFSETS not in weights:
        raise ExportError(
            f"'graph' must hold '{TABLE}' and '{OFFSETS}' (got {sorted(weights)}); "
            "quantize a float graph that this exporter wrote"
        )
    table = numpy_helper.to_array(weights[TABLE])  # [rows, dim]
    starts = np.unique(numpy_helper.to_array(weights[OFFSETS]))  # the columns of a sequence share one
    field_of_row = np.searchsorted(starts, np.arange(len(table)), side="right") - 1
    largest = np.maximum.reduceat(np.abs(table).max(axis=1), starts)
    scales = (largest / CODE_LIMIT).astype(np.float32)  # [n_fields]
    # A field of zeros gets no scale: with any other it would be the loudest input of the first layer, whose
    # weights share one scale an output.
    scales[scales < SMALLEST_SCALE] = 0.0
    codes_a_unit = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0)
    scales_of_row = np.repeat(scales, table.shape[1])  # [n_fields * dim]
    factors = {
        TABLE: codes_a_unit[field_of_row, None],
        PAIR_MATRIX: scales[:, None] * scales,
        FIELD_VECTORS: scales,
        ROW_WEIGHTS: scales_of_row[:, None],
        FIRST_LAYER if FIRST_LAYER in weights else OUTPUT_LAYER: scales_of_row,
    }
    for name in factors.keys() & weights.keys():
        values = numpy_helper.to_array(weights[name]) * factors[name]
        values = np.round(values) if name == TABLE else values
        weights[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


def _activation_steps(model: onnx.ModelProto, ids: NDArray[np.int32]) -> list[np.float32]:
    """For each hidden layer in order, what one step of its uint8 activations is worth."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = [node.output[0] for node in probe.graph.node if node.op_type == "Relu"]
    if not names:
        return []
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = open_session(probe.SerializeToString())
    activations = session.run(names, {session.get_inputs()[0].name: np.ascontiguousarray(ids)})
    largest = [float(layer.max()) for layer in activations]
    # A layer that never fires needs some step; any serves.
    return [np.float32(value * HEADROOM / ACTIVATION_LIMIT if value > 0 else 1.0) for value in largest]


def _to_int8(model: onnx.ModelProto, steps: list[np.float32]) -> bytes:
    """The graph with uint8 table, int8 hidden layers and uint8 activations, one step a hidden layer."""
    int8 = _Int8Graph(model.graph)
    step, later_steps = CODE_STEP, iter(steps)
    for node in int8.followed(model.graph):
        if node.op_type == "Gather" and node.input[0] == TABLE:
            int8.look_up_codes(node)
        elif node.op_type == "Gemm" and LAYER_WEIGHT.fullmatch(node.input[1]):
            if node.input[1] == FIRST_LAYER:
                node.input[0] = int8.round(node.input[0], step, ZERO_POINT)
            int8.read_int8_weights(node, step)
        else:
            int8.nodes.append(node)
        if node.op_type == "Relu":
            step = next(later_steps)
            int8.stand_in[node.output[0]] = int8.round(node.output[0], step, 0)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(int8.nodes)
    result.graph.initializer.extend(int8.used_weights())
    return serialize(result)


class _Int8Graph:
    """The nodes and weights of the INT8 graph while it is written, in the order of the float graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.stand_in: dict[str, str] = {}  # value of the float graph -> the value to read here in its place

    def followed(self, graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
        """Copies of the float graph's nodes, each reading what stands for its inputs by then."""
        for node in graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [self.stand_in.get(name, name) for name in node.input]
            yield copy

    def look_up_codes(self, gather: onnx.NodeProto) -> None:
        """Makes the table uint8; what follows reads the codes less their zero point, as floats."""
        self.weights[TABLE] = (self.weights[TABLE] + ZERO_POINT).astype(np.uint8)
        embeddings = gather.output[0]
        gather.output[0] = f"{embeddings}.codes"
        self.nodes.append(gather)
        self._dequantize(gather.output[0], embeddings, CODE_STEP, np.uint8(ZERO_POINT))

    def round(self, name: str, step: np.float32, zero_point: int) -> str:
        """Quantizes and dequantizes a value; the name of the outcome."""
        parameters = [f"{name}.step", f"{name}.zero_point"]
        self.weights[parameters[0]] = np.asarray(step)
        self.weights[parameters[1]] = np.asarray(zero_point, np.uint8)
        for op, source, outcome in (
            ("QuantizeLinear", name, f"{name}.uint8"),
            ("DequantizeLinear", f"{name}.uint8", f"{name}.rounded"),
        ):
            self.nodes.append(helper.make_node(op, [source, *parameters], [outcome], f"{name}.{op}"))
        return f"{name}.rounded"

    def read_int8_weights(self, gemm: onnx.NodeProto, step: np.float32) -> None:
        """Makes a layer's weights int8 with a scale an output, its biases int32 in the products' unit."""
        weights = self.weights[gemm.input[1]]  # [outputs, inputs]
        # The exporter leaves out a bias of zeros.
        biases = self.weights[gemm.input[2]] if len(gemm.input) > 2 else np.zeros(len(weights), np.float32)
        # A neuron without weights still needs a scale that its bias can be told in.
        largest = np.maximum(np.abs(weights).max(axis=1) / WEIGHT_LIMIT, np.abs(biases) / (step * 2.0**30))
        scales = np.where(largest > 0, largest, 1.0).astype(np.float32)
        layer = gemm.output[0]
        int8_weights = np.round(weights / scales[:, None]).astype(np.int8)
        int32_biases = np.round(biases / (scales * step)).astype(np.int32)
        gemm.input[1:] = [
            self._constant(f"{layer}.weight", int8_weights, scales),
            self._constant(f"{layer}.bias", int32_biases, scales * step),
        ]
        self.nodes.append(gemm)

    def used_weights(self) -> list[onnx.TensorProto]:
        """The weights that a node reads."""
        read = {name for node in self.nodes for name in node.input}
        return [
            numpy_helper.from_array(values, name) for name, values in self.weights.items() if name in read
        ]

    def _constant(self, name: str, values: NDArray[np.integer], scales: NDArray[np.float32]) -> str:
        """Stores whole numbers that are dequantized along the first axis; the name of the outcome."""
        self.weights[name] = values
        self._dequantize(name, f"{name}.float", scales, np.zeros(len(scales), values.dtype), axis=0)
        return f"{name}.float"

    def _dequantize(
        self,
        name: str,
        outcome: str,
        scale: np.float32 | NDArray[np.float32],
        zero_point: np.uint8 | NDArray[np.integer],
        **attributes: Any,
    ) -> None:
        inputs = [name, f"{name}.scale", f"{name}.zero_point"]
        self.weights[inputs[1]], self.weights[inputs[2]] = np.asarray(scale), np.asarray(zero_point)
        self.nodes.append(
            helper.make_node("DequantizeLinear", inputs, [outcome], f"{name}.DequantizeLinear", **attributes)
        )
