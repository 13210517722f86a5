"""Int8 layers on values in pieces, to the bit: rows' int32 sums start from what the request's part sums to.

ONNX Runtime (1.31) makes one QGemm of a Gemm between dequantized inputs, and takes as its bias the int32
numbers that were dequantized, [out] or [rows, out]: it starts each sum from them. So the context's products
and the bias are summed once a request by MatMulInteger, gathered, and dequantized into that place. Whole
numbers add up in any order, and what follows the sum is the plain graph's own node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.graph.editing import Array, constant_of, is_a
from export.graph.piece_products import Product, grouped
from export.graph.pieces import Box, Piece, PieceEditor, Spread, piece_of
from export.graph.places import grid


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
    """The layer that a node is, if it is one."""
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


def multiply_int8(pieces: PieceEditor, spread: Spread, layer: Layer) -> Spread | None:
    """The layer's outputs in pieces; None where its inputs can't be kept apart."""
    codes = [_codes_of(piece) for piece in spread.pieces]
    known = [piece for piece in codes if piece is not None]
    if len(known) < len(codes):
        return None
    groups = grouped(pieces, Spread(spread.shape, tuple(known)), Product(layer.weight.T))
    if groups is None:
        return None
    shape, made = (*spread.shape[:-1], layer.out), []
    for group in groups:
        places = grid([*group[0].indices[:-1], np.arange(layer.out)], shape)
        shared, last = group[0], group[-1]  # one for all that is by request, one for all of rows
        if shared is last:
            product = _gemm(pieces, last, layer, layer.gemm.inputs[2])
        else:
            product = _gemm(pieces, last, layer, _start(pieces, shared, layer, places.shape))
        made.append(piece_of(pieces.reshaped(product, places.shape), places, last.piece.is_shared))
    return Spread(shape, tuple(made))


def _codes_of(piece: Piece) -> Piece | None:
    """A dequantized piece as the bytes it was."""
    if piece.is_sum:
        return None
    node = piece.value().producer()
    while node is not None and is_a(node, "Reshape") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or not is_a(node, "DequantizeLinear") or node.inputs[0] is None:
        return None
    return piece_of(node.inputs[0], piece.places, piece.is_shared)


def _start(pieces: PieceEditor, box: Box, layer: Layer, shape: Sequence[int]) -> ir.Value:
    """What a request's part and the bias sum up to [*shape], by row: dequantized [rows or lines, out]."""
    weight = np.ascontiguousarray(layer.weight[:, box.indices[-1]].T)
    codes = pieces.reshaped(box.piece.value(), (len(weight),))
    inputs = [codes, pieces.editor.constant(weight, "weight.int8"), layer.step[1]]
    whole = pieces.put("MatMulInteger", inputs, (layer.out,), ir.DataType.INT32)
    total = pieces.reshaped(pieces.put("Add", [whole, layer.bias], (layer.out,)), shape)
    inputs = [pieces.reshaped(pieces.gathered(total), (layer.out,)), layer.bias_scale]
    return pieces.put("DequantizeLinear", inputs, (layer.out,), ir.DataType.FLOAT, axis=1)


def _gemm(pieces: PieceEditor, box: Box, layer: Layer, start: ir.Value | None) -> ir.Value:
    """The layer on a part of its inputs, from sums that there are already or from its bias."""
    width = len(box.indices[-1])
    codes = pieces.reshaped(box.piece.value(), (width,))
    floats = pieces.put("DequantizeLinear", [codes, *layer.step], (width,), ir.DataType.FLOAT)
    part = np.ascontiguousarray(layer.weight[:, box.indices[-1]])
    weights = pieces.editor.put_shaped(
        pieces.before,
        "DequantizeLinear",
        [pieces.editor.constant(part, "weight.int8"), *layer.weight_scale],
        part.shape,
        axis=0,
    )
    inputs = [value for value in (floats, weights, start) if value is not None]
    return pieces.put("Gemm", inputs, (layer.out,), transB=1)
