"""INT8 layers on split values, bit for bit: a row's int32 sum starts from the sum of its request.

ONNX Runtime (1.31) fuses a Gemm on dequantized inputs into one QGemm. It takes the int32 values that were
dequantized into the bias, [out] or [rows, out], as the start of each sum. So MatMulInteger sums the context's
products and the bias once a request; the sums are gathered to the rows and dequantized into the bias. Integer
sums do not depend on their order, and the node after the sum is the plain graph's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.graph.editing import Array, constant_of, is_a, producer_behind_reshapes
from export.graph.shared_context.matmul import Product, grouped
from export.graph.shared_context.positions import grid
from export.graph.shared_context.split_values import Block, BlockWriter, Box, SplitValue, block_of


@dataclass(frozen=True)
class Layer:
    """A layer as `int8_layers` writes it; each constant with its scale and zero point."""

    gemm: ir.Node
    step: tuple[ir.Value, ir.Value]
    weight: Array  # int8 [out, in]
    weight_scale: tuple[ir.Value, ir.Value]
    bias: ir.Value
    bias_scale: ir.Value

    @property
    def out(self) -> int:
        return len(self.weight)


def int8_layer(node: ir.Node) -> Layer | None:
    """The layer that a node computes; None if it is not an INT8 layer."""
    if not is_a(node, "Gemm") or len(node.inputs) < 3:
        return None
    sources = [value.producer() if value is not None else None for value in node.inputs]
    given = [tuple(v for v in source.inputs if v is not None) for source in sources if source is not None]
    if not all(is_a(source, "DequantizeLinear") for source in sources) or any(
        len(three) < 3 for three in given
    ):
        return None
    (_, *step), (weight, *weight_scale), (bias, bias_scale, _) = given
    numbers = constant_of(weight)
    if numbers is None or constant_of(bias) is None:
        return None
    return Layer(node, (step[0], step[1]), numbers, (weight_scale[0], weight_scale[1]), bias, bias_scale)


def multiply_int8(writer: BlockWriter, split: SplitValue, layer: Layer) -> SplitValue | None:
    """The layer's split output; None where its inputs can't stay separate."""
    codes = [_codes_of(block) for block in split.blocks]
    known = [block for block in codes if block is not None]
    if len(known) < len(codes):
        return None
    groups = grouped(writer, SplitValue(split.shape, tuple(known)), Product(layer.weight.T))
    if groups is None:
        return None
    shape, made = (*split.shape[:-1], layer.out), []
    for group in groups:
        positions = grid([*group[0].indices[:-1], np.arange(layer.out)], shape)
        shared, last = group[0], group[-1]  # at most one shared and one per-row box
        if shared is last:
            product = _gemm(writer, last, layer, layer.gemm.inputs[2])
        else:
            product = _gemm(writer, last, layer, _start(writer, shared, layer, positions.shape))
        made.append(block_of(writer.reshaped(product, positions.shape), positions, last.block.is_shared))
    return SplitValue(shape, tuple(made))


def _codes_of(block: Block) -> Block | None:
    """The uint8 source of a dequantized block; None if it is not one."""
    if block.is_sum:
        return None
    node = producer_behind_reshapes(block.value())
    if node is None or not is_a(node, "DequantizeLinear") or node.inputs[0] is None:
        return None
    return block_of(node.inputs[0], block.positions, block.is_shared)


def _start(writer: BlockWriter, box: Box, layer: Layer, shape: Sequence[int]) -> ir.Value:
    """The bias plus the products of a shared box, gathered to the rows and dequantized: [rows, out]."""
    weight = np.ascontiguousarray(layer.weight[:, box.indices[-1]].T)
    codes = writer.reshaped(box.block.value(), (len(weight),))
    inputs = [codes, writer.editor.constant(weight, "weight.int8"), layer.step[1]]
    whole = writer.put("MatMulInteger", inputs, (layer.out,), ir.DataType.INT32)
    total = writer.reshaped(writer.put("Add", [whole, layer.bias], (layer.out,)), shape)
    inputs = [writer.reshaped(writer.gathered(total), (layer.out,)), layer.bias_scale]
    return writer.put("DequantizeLinear", inputs, (layer.out,), ir.DataType.FLOAT, axis=1)


def _gemm(writer: BlockWriter, box: Box, layer: Layer, start: ir.Value | None) -> ir.Value:
    """The layer on some of its inputs; each sum starts from `start`."""
    width = len(box.indices[-1])
    codes = writer.reshaped(box.block.value(), (width,))
    floats = writer.put("DequantizeLinear", [codes, *layer.step], (width,), ir.DataType.FLOAT)
    part = np.ascontiguousarray(layer.weight[:, box.indices[-1]])
    weights = writer.editor.put_shaped(
        writer.before,
        "DequantizeLinear",
        [writer.editor.constant(part, "weight.int8"), *layer.weight_scale],
        part.shape,
        axis=0,
    )
    inputs = [value for value in (floats, weights, start) if value is not None]
    return writer.put("Gemm", inputs, (layer.out,), transB=1)
