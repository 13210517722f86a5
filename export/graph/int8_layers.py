"""Turns linear layers into int8 ones: weights with a scale an output, inputs with a range seen before.

It knows neither models nor tables, only which values are whole codes already.

A layer is a Gemm with a constant matrix, or a MatMul with one, which becomes a Gemm: QuantizeLinear and
DequantizeLinear around its input and its weights are what ONNX Runtime fuses into one QGemm. Of a MatMul on
[batch, n, k] it makes MatMulIntegerToFloat and an Add, which take 0.85 microseconds a row at [39, 10] x 10
where QGemm between two reshapes takes 0.47; of a MatMul on [batch, k] it makes nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper

from export.graph.editing import Array, GraphEditor, attributes_of, constant_of, is_a, row_shape_of, size_of
from export.graph.runtime import open_session
from export.graph.table_codes import CODE_STEP, ZERO_POINT

WEIGHT_LIMIT = 64
ACTIVATION_LIMIT = 255
HEADROOM = 1.25
CALIBRATION_BATCH = 1024
# A layer's conversions cost as many steps as it has inputs and outputs, and gain as many as it has weights:
# at 20 weights for each of both (the harmonic mean of its sides, halved) QGemm begins to be faster.
WORTHWHILE_WEIGHTS_A_CONVERSION = 20
WORTHWHILE_PRODUCTS_A_ROW = 2048
WORTHWHILE_NOISE_CUT = 16.0  # in the variance of a layer's rounding noise, for one more pass over its inputs


@dataclass(frozen=True)
class Step:
    """What one step of a value's uint8 form is worth, and which byte stands for zero.

    The value [.., in] is multiplied by `factors` [in] before, where its numbers differ too much in size to
    share a step.
    """

    size: np.float32
    zero_point: int
    factors: Array | None = None


def turn_layers_into_int8(editor: GraphEditor, codes: set[ir.Value], ids: NDArray[np.int32]) -> int:
    """Rewrites the layers that gain by it, with ranges found on ids [n, columns]; how many these were."""
    for node in _worthwhile_layers(editor):
        _make_gemm(editor, node)
    editor.sweep()
    gemms = _worthwhile_layers(editor)
    inputs = list(dict.fromkeys(gemm.inputs[0] for gemm in gemms if gemm.inputs[0] is not None))
    steps = {value: Step(CODE_STEP, ZERO_POINT) for value in inputs if _holds_codes(value, codes)}
    read_by = {value: _weights_that_read(value, gemms) for value in inputs if value not in steps}
    steps |= _steps_of(editor, read_by, ids)
    rounded: dict[ir.Value, ir.Value] = {}
    for gemm in gemms:
        value = gemm.inputs[0]
        if value is None:
            continue
        if value not in rounded:
            rounded[value] = _rounded(editor, gemm, value, steps[value])
        _read_int8_weights(editor, gemm, rounded[value], steps[value])
    editor.sweep()  # a float layer that is still there would count as a reader of its input
    for relu in editor.nodes("Relu"):
        _keep_relu_apart(editor, relu)
    return len(gemms)


def _worthwhile_layers(editor: GraphEditor) -> list[ir.Node]:
    found = []
    for node in editor.nodes("Gemm", "MatMul"):
        row_shape, weight = row_shape_of(node.inputs[0]), constant_of(node.inputs[1])
        attributes = attributes_of(node, {"transA": 0, "alpha": 1.0, "beta": 1.0})
        plain = not attributes["transA"] and attributes["alpha"] == 1.0 and attributes["beta"] == 1.0
        if row_shape is None or weight is None or weight.ndim != 2 or not plain:
            continue
        if len(node.inputs) > 2 and constant_of(node.inputs[2]) is None:
            continue
        lines = size_of(_before_flattening(node.inputs[0])) // row_shape[-1]
        if (
            weight.size / sum(weight.shape) >= WORTHWHILE_WEIGHTS_A_CONVERSION
            and weight.size * lines >= WORTHWHILE_PRODUCTS_A_ROW
        ):
            found.append(node)
    return found


def _before_flattening(value: ir.Value | None) -> tuple[int, ...]:
    """The shape of a row: [batch, n, k] may have been flattened to [batch * n, k]."""
    node = value.producer() if value is not None else None
    source = node.inputs[0] if node is not None and is_a(node, "Reshape") else value
    return row_shape_of(source) or row_shape_of(value) or ()


def _make_gemm(editor: GraphEditor, node: ir.Node) -> None:
    """Makes a layer a Gemm of [rows, in] with weights [out, in]."""
    rows, row_shape, weight = node.inputs[0], row_shape_of(node.inputs[0]), constant_of(node.inputs[1])
    if rows is None or row_shape is None or weight is None:
        return
    turned = bool(attributes_of(node, {"transB": 0})["transB"])
    if is_a(node, "Gemm") and turned:
        return
    flat = rows
    if len(row_shape) > 1:
        lines = editor.constant(np.array([-1, row_shape[-1]], np.int64), "shape")
        flat = editor.put(node, "Reshape", [rows, lines], row_shape[-1:])
    inputs = [flat, editor.constant(np.ascontiguousarray(weight.T), "weight"), *node.inputs[2:]]
    product = editor.put(node, "Gemm", inputs, weight.shape[1:], transB=1)  # type: ignore[arg-type]
    editor.replace(node.outputs[0], editor.reshape(node, product, (*row_shape[:-1], weight.shape[1])))


def _holds_codes(value: ir.Value, codes: set[ir.Value]) -> bool:
    """Whether a value is codes, or codes in another shape."""
    node = value.producer()
    return value in codes or (is_a(node, "Reshape") and node is not None and node.inputs[0] in codes)


def _weights_that_read(value: ir.Value, gemms: Iterable[ir.Node]) -> Array:
    """[all outputs, in]: the weights of all layers that read a value."""
    weights = [constant_of(gemm.inputs[1]) for gemm in gemms if gemm.inputs[0] is value]
    return np.concatenate([weight for weight in weights if weight is not None])


def _steps_of(
    editor: GraphEditor, read_by: Mapping[ir.Value, Array], ids: NDArray[np.int32]
) -> dict[ir.Value, Step]:
    """The steps of values of the float graph, by their range on these rows and a quarter more.

    `read_by` tells the weights [outputs, in] that a value [.., in] is multiplied by.
    """
    if not read_by:
        return {}
    probe = ir.to_proto(editor.model)
    names = [str(value.name) for value in read_by]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = open_session(probe.SerializeToString())
    smallest = [np.zeros(weights.shape[1], np.float32) for weights in read_by.values()]
    largest = [np.zeros(weights.shape[1], np.float32) for weights in read_by.values()]
    for start in range(0, len(ids), CALIBRATION_BATCH):
        batch = np.ascontiguousarray(ids[start : start + CALIBRATION_BATCH])
        for position, seen in enumerate(session.run(names, {session.get_inputs()[0].name: batch})):
            np.minimum(smallest[position], seen.min(axis=0), out=smallest[position])
            np.maximum(largest[position], seen.max(axis=0), out=largest[position])
    ranges = zip(read_by.items(), smallest, largest, strict=True)
    return {value: _step(low, high, weights) for (value, weights), low, high in ranges}


def _step(smallest: Array, largest: Array, weights: Array) -> Step:
    """smallest, largest [in] seen; weights [outputs, in]."""
    sizes = np.maximum(-smallest, largest)
    loudest = float(sizes.max())
    factors = None
    if loudest > 0.0:
        influence = np.square(weights.astype(np.float64)).sum(axis=0)
        own, shared = (influence * np.square(sizes)).sum(), influence.sum() * loudest**2
        if shared > own * WORTHWHILE_NOISE_CUT:
            # What was never seen to move keeps the loudest one's step, lest it saturate at the first move.
            factors = np.divide(loudest, sizes, out=np.ones_like(sizes), where=sizes > loudest * 1e-6)
    if (smallest < 0.0).any():
        return Step(np.float32(loudest * HEADROOM / (ZERO_POINT - 1)), ZERO_POINT, factors)
    # A value that is always zero needs some step; any serves.
    return Step(np.float32(loudest * HEADROOM / ACTIVATION_LIMIT if loudest > 0 else 1.0), 0, factors)


def _keep_relu_apart(editor: GraphEditor, relu: ir.Node) -> None:
    """ONNX Runtime fuses a layer with its ReLU, and then not with its int8 weights, unless bytes follow.

    Relu then becomes Max, which it leaves alone: 400 x 400 at one row takes 11 microseconds, not 38.
    """
    value, output = relu.inputs[0], relu.outputs[0]
    layer = value.producer() if value is not None else None
    row_shape = row_shape_of(output)
    if value is None or layer is None or row_shape is None or not is_a(layer, "Gemm"):
        return
    weight = layer.inputs[1].producer() if layer.inputs[1] is not None else None
    bytes_follow = len(output.uses()) == 1 and all(
        is_a(node, "QuantizeLinear") for node in output.consumers()
    )
    if is_a(weight, "DequantizeLinear") and not bytes_follow:
        zero = editor.constant(np.zeros((), np.float32), "zero")
        editor.replace(output, editor.put(relu, "Max", [value, zero], row_shape))


def _rounded(editor: GraphEditor, before: ir.Node, value: ir.Value, step: Step) -> ir.Value:
    """The value quantized and dequantized."""
    row_shape = row_shape_of(value) or ()
    parameters = [
        editor.constant(np.asarray(step.size), "step"),
        editor.constant(np.asarray(step.zero_point, np.uint8), "zero_point"),
    ]
    if step.factors is not None:
        factors = editor.constant(step.factors.astype(np.float32), "factors")
        value = editor.put(before, "Mul", [value, factors], row_shape)
    whole = editor.put(before, "QuantizeLinear", [value, *parameters], row_shape, ir.DataType.UINT8)
    return editor.put(before, "DequantizeLinear", [whole, *parameters], row_shape)


def _read_int8_weights(editor: GraphEditor, gemm: ir.Node, rounded: ir.Value, step: Step) -> None:
    """Makes a layer's weights int8 with a scale an output, its biases int32 in the products' unit."""
    weights = constant_of(gemm.inputs[1])  # [outputs, inputs]
    if weights is None:
        raise TypeError("a layer's weight is a constant")
    if step.factors is not None:
        weights = weights / step.factors
    # The exporter leaves out a bias of zeros.
    given = constant_of(gemm.inputs[2]) if len(gemm.inputs) > 2 else None
    biases = (
        np.zeros(len(weights), np.float32)
        if given is None
        else np.broadcast_to(given.reshape(-1), len(weights))
    )
    # A neuron without weights still needs a scale that its bias can be told in.
    largest = np.maximum(np.abs(weights).max(axis=1) / WEIGHT_LIMIT, np.abs(biases) / (step.size * 2.0**30))
    scales = np.where(largest > 0, largest, 1.0).astype(np.float32)
    whole_weights = np.round(weights / scales[:, None]).astype(np.int8)
    whole_biases = np.round(biases / (scales * step.size)).astype(np.int32)
    name = str(gemm.inputs[1].name)  # type: ignore[union-attr]
    inputs = [
        rounded,
        _dequantized(editor, gemm, f"{name}.int8", whole_weights, scales),
        _dequantized(editor, gemm, f"{name}.bias", whole_biases, scales * step.size),
    ]
    product = editor.put(gemm, "Gemm", inputs, (len(weights),), transB=1)
    editor.replace(gemm.outputs[0], product)


def _dequantized(editor: GraphEditor, before: ir.Node, name: str, whole: Array, scales: Array) -> ir.Value:
    """Whole numbers as floats, by a scale for each entry of the first axis."""
    inputs = [
        editor.constant(whole, name),
        editor.constant(scales.astype(np.float32), f"{name}.scale"),
        editor.constant(np.zeros(len(scales), whole.dtype), f"{name}.zero_point"),
    ]
    return editor.put_shaped(before, "DequantizeLinear", inputs, whole.shape, axis=0)
