"""Quantizes linear layers to INT8: weights with a scale for each output, inputs with a calibrated range.

It knows neither models nor tables, only which values are codes already; `int8_steps` finds the ranges.

A layer is a Gemm with a constant matrix, or a MatMul with one, which becomes a Gemm: ONNX Runtime fuses
QuantizeLinear and DequantizeLinear around its input and its weights into one QGemm. It fuses a MatMul on
[batch, n, k] into MatMulIntegerToFloat and an Add, slower than QGemm between two reshapes, and does not fuse
a MatMul on [batch, k].
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.editing import Array, GraphEditor, attributes_of, constant_of, is_a, row_shape_of, size_of
from export.graph.int8_steps import Step, steps_of
from export.graph.int8_tables import CODE_STEP
from export.graph.row_codes import ZERO_POINT
from export.graph.unrounded import Unrounded

WEIGHT_LIMIT = 64
LARGEST_BIAS = 2.0**30
# A layer's conversions cost time in proportion to its inputs and outputs, and gain in proportion to its
# weights: QGemm is faster from about 20 weights for each input and output (half the harmonic mean of both).
WORTHWHILE_WEIGHTS_A_CONVERSION = 20
WORTHWHILE_PRODUCTS_A_ROW = 2048


def quantize_layers(
    editor: GraphEditor,
    codes: set[ir.Value],
    ids: NDArray[np.int32],
    unrounded: Unrounded | None = None,
    kept: Collection[str] = (),
    *,
    by_batch: bool = False,
) -> int:
    """Rewrites the layers that gain by it, with ranges found on ids [n, columns]; returns their number.

    `kept` names those that stay float32 all the same, as `gaining_layers` does. `by_batch` finds the ranges
    anew in each batch, except of codes, whose range is known. `unrounded` gets what weights and biases were
    rounded from, unless ranges are found by batch.
    """
    for node in _worthwhile_layers(editor, kept):
        _make_gemm(editor, node)
    editor.sweep()
    gemms = _worthwhile_layers(editor, kept)
    inputs = list(dict.fromkeys(gemm.inputs[0] for gemm in gemms if gemm.inputs[0] is not None))
    steps = {value: Step(CODE_STEP, ZERO_POINT) for value in inputs if _holds_codes(value, codes)}
    read_by = {value: _weights_that_read(value, gemms) for value in inputs if value not in steps}
    steps |= steps_of(editor, read_by, ids)
    rounded: dict[ir.Value, ir.Value] = {}
    sources = [gemm.inputs[0] for gemm in gemms]  # a layer that is rewritten has another output
    for gemm, source in zip(gemms, sources, strict=True):
        value = gemm.inputs[0]
        if value is None or source is None:
            continue
        if by_batch and source in read_by:
            _read_ranges_of_batch(editor, gemm, value, steps[source])
            continue
        if source not in rounded:
            rounded[source] = _rounded(editor, gemm, value, steps[source])
        _read_int8_weights(editor, gemm, rounded[source], steps[source], unrounded)
    editor.sweep()  # a remaining float layer would count as a consumer of its input
    for relu in editor.nodes("Relu"):
        _replace_relu_by_max(editor, relu)
    return len(gemms)


@dataclass(frozen=True)
class Layer:
    """A layer of a float graph: what it is called, what its weights are, and how many it reads and makes."""

    name: str
    weights: str
    shape: tuple[int, int]


def gaining_layers(graph: bytes) -> list[Layer]:
    """The layers of a float graph that gain by INT8, in the order in which they run."""
    found = []
    for node in _worthwhile_layers(GraphEditor.of_bytes(graph)):
        source = node.inputs[1]
        numbers = constant_of(source)
        if source is None or numbers is None:
            continue
        is_transposed = bool(attributes_of(node, {"transB": 0})["transB"])
        inputs, outputs = numbers.shape[::-1] if is_transposed else numbers.shape
        found.append(Layer(str(node.name), str(source.name), (inputs, outputs)))
    return found


def _worthwhile_layers(editor: GraphEditor, kept: Collection[str] = ()) -> list[ir.Node]:
    """The layers that gain by INT8, but for those of these names."""
    nodes = editor.nodes("Gemm", "MatMul")
    return [node for node in nodes if node.name not in kept and why_float(node) is None]


def why_float(node: ir.Node) -> str | None:
    """Why a Gemm or MatMul stays float32, as what follows "it"; None for a layer that gains by INT8."""
    row_shape, weight = row_shape_of(node.inputs[0]), constant_of(node.inputs[1])
    attributes = attributes_of(node, {"transA": 0, "alpha": 1.0, "beta": 1.0})
    plain = not attributes["transA"] and attributes["alpha"] == 1.0 and attributes["beta"] == 1.0
    if weight is None:
        return "multiplies computed values, and no constant weights from the right"
    if weight.ndim != 2:
        return "is a product of several groups, for which ONNX Runtime has no QGemm"
    computed_bias = len(node.inputs) > 2 and constant_of(node.inputs[2]) is None
    if row_shape is None or not plain or computed_bias:
        return "is not a plain layer, of weights and biases that are constants"
    lines = size_of(_before_flattening(node.inputs[0])) // row_shape[-1]
    if weight.size / sum(weight.shape) < WORTHWHILE_WEIGHTS_A_CONVERSION:
        return (
            f"has fewer than {WORTHWHILE_WEIGHTS_A_CONVERSION} weights for each input and output, so "
            "rounding these costs more than it saves"
        )
    if weight.size * lines < WORTHWHILE_PRODUCTS_A_ROW:
        return f"has fewer than {WORTHWHILE_PRODUCTS_A_ROW} products a row, too few to gain"
    return None


def _before_flattening(value: ir.Value | None) -> tuple[int, ...]:
    """The shape of a row before a Reshape from [batch, n, k] to [batch * n, k]."""
    node = value.producer() if value is not None else None
    source = node.inputs[0] if node is not None and is_a(node, "Reshape") else value
    return row_shape_of(source) or row_shape_of(value) or ()


def _make_gemm(editor: GraphEditor, node: ir.Node) -> None:
    """Rewrites a layer as a Gemm of [rows, in] with weights [out, in]."""
    rows, row_shape, weight = node.inputs[0], row_shape_of(node.inputs[0]), constant_of(node.inputs[1])
    if rows is None or row_shape is None or weight is None:
        return
    is_transposed = bool(attributes_of(node, {"transB": 0})["transB"])
    if is_a(node, "Gemm") and is_transposed:
        return
    flat = rows
    if len(row_shape) > 1:
        lines = editor.constant(np.array([-1, row_shape[-1]], np.int64), "shape")
        flat = editor.put(node, "Reshape", [rows, lines], row_shape[-1:])
    inputs = [flat, editor.constant(np.ascontiguousarray(weight.T), "weight"), *node.inputs[2:]]
    product = editor.put(node, "Gemm", inputs, weight.shape[1:], transB=1)
    editor.replace(node.outputs[0], editor.reshape(node, product, (*row_shape[:-1], weight.shape[1])))


def _holds_codes(value: ir.Value, codes: set[ir.Value]) -> bool:
    """Whether a value holds codes, perhaps reshaped."""
    node = value.producer()
    return value in codes or (is_a(node, "Reshape") and node is not None and node.inputs[0] in codes)


def _weights_that_read(value: ir.Value, gemms: Iterable[ir.Node]) -> Array:
    """[all outputs, in]: the weights of all layers that read a value."""
    weights = [constant_of(gemm.inputs[1]) for gemm in gemms if gemm.inputs[0] is value]
    return np.concatenate([weight for weight in weights if weight is not None])


def _replace_relu_by_max(editor: GraphEditor, relu: ir.Node) -> None:
    """Replaces the Relu of an INT8 layer by Max, unless its output is quantized again; of a float layer, if.

    ONNX Runtime fuses a layer with its Relu, and then no longer with its int8 weights. It drops a Relu before
    a quantization; where a float layer reads codes and is followed by one, it quantizes that layer's weights
    by itself, in one graph and not in another that should give the same logits. It leaves Max as it is.
    """
    value, output = relu.inputs[0], relu.outputs[0]
    layer = value.producer() if value is not None else None
    row_shape = row_shape_of(output)
    if value is None or layer is None or row_shape is None or not is_a(layer, "Gemm"):
        return
    weight = layer.inputs[1].producer() if layer.inputs[1] is not None else None
    is_quantized_next = len(output.uses()) == 1 and all(
        is_a(node, "QuantizeLinear") for node in output.consumers()
    )
    if is_a(weight, "DequantizeLinear") is not is_quantized_next:
        zero = editor.constant(np.zeros((), np.float32), "zero")
        editor.replace(output, editor.put(relu, "Max", [value, zero], row_shape))


def _rounded(editor: GraphEditor, before: ir.Node, value: ir.Value, step: Step) -> ir.Value:
    """The value, quantized and dequantized."""
    value, row_shape = _evened(editor, before, value, step), row_shape_of(value) or ()
    parameters = [
        editor.constant(np.asarray(step.size), "step"),
        editor.constant(np.asarray(step.zero_point, np.uint8), "zero_point"),
    ]
    codes = editor.put(before, "QuantizeLinear", [value, *parameters], row_shape, ir.DataType.UINT8)
    return editor.put(before, "DequantizeLinear", [codes, *parameters], row_shape)


def _evened(editor: GraphEditor, before: ir.Node, value: ir.Value, step: Step) -> ir.Value:
    """The value by the step's factors, so that its columns can share the step."""
    if step.factors is None:
        return value
    factors = editor.constant(step.factors.astype(np.float32), "factors")
    return editor.put(before, "Mul", [value, factors], row_shape_of(value) or ())


def _evened_weights(gemm: ir.Node, step: Step) -> tuple[str, Array]:
    """The name of a layer's weights, and they [outputs, inputs], for the value by the step's factors."""
    source = gemm.inputs[1]
    weights = constant_of(source)
    if source is None or weights is None:
        raise TypeError("a layer's weight is a constant")
    return str(source.name), weights if step.factors is None else weights / step.factors


def _read_int8_weights(
    editor: GraphEditor, gemm: ir.Node, rounded: ir.Value, step: Step, unrounded: Unrounded | None
) -> None:
    """Rewrites a layer with int8 weights, a scale for each output, and int32 biases in the products' unit."""
    name, weights = _evened_weights(gemm, step)
    # The exporter omits a bias of zeros.
    given = constant_of(gemm.inputs[2]) if len(gemm.inputs) > 2 else None
    biases = (
        np.zeros(len(weights), np.float32)
        if given is None
        else np.broadcast_to(given.reshape(-1), len(weights))
    )
    # A neuron without weights still needs a scale that can represent its bias.
    largest = np.maximum(
        np.abs(weights).max(axis=1) / WEIGHT_LIMIT, np.abs(biases) / (step.size * LARGEST_BIAS)
    )
    scales = np.where(largest > 0, largest, 1.0).astype(np.float32)
    by_weight, by_bias = weights / scales[:, None], biases / (scales * step.size)
    inputs = [
        rounded,
        _dequantized(editor, gemm, f"{name}.int8", np.round(by_weight).astype(np.int8), scales),
        _dequantized(editor, gemm, f"{name}.bias", np.round(by_bias).astype(np.int32), scales * step.size),
    ]
    if unrounded is not None:
        for value, numbers in zip(inputs[1:], (by_weight, by_bias), strict=True):
            unrounded.layers[_codes_behind(value)] = numbers
    product = editor.put(gemm, "Gemm", inputs, (len(weights),), transB=1)
    editor.replace(gemm.outputs[0], product)


def _read_ranges_of_batch(editor: GraphEditor, gemm: ir.Node, value: ir.Value, step: Step) -> None:
    """Rewrites a layer with int8 weights, and inputs whose range is that of the batch.

    Of the step only the factors count. ONNX Runtime fuses these nodes into one DynamicQuantizeMatMul.
    """
    name, weights = _evened_weights(gemm, step)
    given = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    value = _evened(editor, gemm, value, step)
    largest = np.abs(weights).max(axis=1) / WEIGHT_LIMIT
    scales = np.where(largest > 0, largest, 1.0).astype(np.float32)
    int8_weights = np.round(weights / scales[:, None]).astype(np.int8)
    shape = (len(weights),)
    codes, size, zero_point = editor.put_dynamically_quantized(gemm, value)
    columns = editor.constant(np.ascontiguousarray(int8_weights.T), f"{name}.int8")
    sums = editor.put(gemm, "MatMulInteger", [codes, columns, zero_point], shape, ir.DataType.INT32)
    floats = editor.put(gemm, "Cast", [sums], shape, to=ir.DataType.FLOAT)
    by_output = editor.constant(scales, f"{name}.scale")
    both = editor.put_shaped(gemm, "Mul", [size, by_output], shape)
    product = editor.put(gemm, "Mul", [floats, both], shape)
    if given is not None:
        product = editor.put(gemm, "Add", [product, given], shape)
    editor.replace(gemm.outputs[0], product)


def _codes_behind(dequantized: ir.Value) -> str:
    """The name of the constant that a DequantizeLinear reads."""
    node = dequantized.producer()
    return "" if node is None or node.inputs[0] is None else str(node.inputs[0].name)


def _dequantized(editor: GraphEditor, before: ir.Node, name: str, codes: Array, scales: Array) -> ir.Value:
    """Integers as floats, with a scale for each entry of the first axis."""
    inputs = [
        editor.constant(codes, name),
        editor.constant(scales.astype(np.float32), f"{name}.scale"),
        editor.constant(np.zeros(len(scales), codes.dtype), f"{name}.zero_point"),
    ]
    return editor.put_shaped(before, "DequantizeLinear", inputs, codes.shape, axis=0)
