"""Products with constant matrices, of values in pieces: each request's part once, each row's part by row.

x @ W is the sum over the pieces of x of piece @ its rows of W. Columns of W that only the context reaches
become a piece by request. It knows Gemm, MatMul and their int8 form, and not what they are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from export.graph.editing import Array, attributes_of, constant_of, is_a, row_shape_of, size_of
from export.graph.pieces import Box, Piece, PieceEditor, Spread, box_of


@dataclass(frozen=True)
class Product:
    """x @ weight along an axis of x, whose place the weight's columns take; bias [out] is added."""

    weight: Array  # [in, out]
    axis: int
    bias: ir.Value | None = None


def product_of(node: ir.Node) -> tuple[ir.Value, Product] | None:
    """The value and the constant that a node multiplies, if it does so."""
    left, right = node.inputs[0], node.inputs[1]
    if left is None or right is None:
        return None
    weight = constant_of(right)
    if is_a(node, "Gemm"):
        attributes = attributes_of(node, {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0})
        if weight is None or attributes["alpha"] != 1.0 or attributes["beta"] != 1.0 or attributes["transA"]:
            return None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return left, Product(weight.T if attributes["transB"] else weight, -1, bias)
    if weight is not None and weight.ndim == 2:
        return left, Product(weight, -1)
    weight = constant_of(left)
    if weight is not None and weight.ndim == 2 and len(row_shape_of(right) or ()) >= 2:
        return right, Product(weight.T, -2)
    return None


def multiply(
    pieces: PieceEditor, spread: Spread, product: Product, added: Spread | None = None
) -> Spread | None:
    """The product in pieces, plus `added` [rows, out]; None where the pieces can't be kept apart."""
    if product.axis == -1 and _lies_turned(spread):
        turned = multiply(pieces, _swapped(spread), Product(product.weight, -2), added)
        return None if turned is None else _swapped(turned)
    groups = _grouped(pieces, spread, product)
    if groups is None or (added is not None and (len(groups) > 1 or len(added.pieces) > 1)):
        return None
    if product.axis == -2 and size_of(spread.shape[:-2]) > 1:
        return None
    shape = list(spread.shape)
    shape[product.axis] = product.weight.shape[1]
    made = (
        _multiply_columns(pieces, group, product, columns, shape, added)
        for group in groups
        for columns in _columns(group, product)
    )
    return Spread(tuple(shape), tuple(made))


def _lies_turned(spread: Spread) -> bool:
    """Whether some piece is kept with its last two axes swapped: then it is multiplied from the left."""
    if len(spread.shape) < 3 or min(spread.shape[-2:]) == 1 or size_of(spread.shape[:-2]) > 1:
        return False
    boxes = [box_of(piece.places, spread.shape) for piece in spread.pieces]
    return any(box is not None and box[0] != tuple(range(len(box[0]))) for box in boxes)


def _swapped(spread: Spread) -> Spread:
    """The same pieces as those of the value with its last two axes swapped."""
    *lead, rows, columns = spread.shape
    where = np.arange(size_of(spread.shape)).reshape(*lead, columns, rows).swapaxes(-1, -2).ravel()
    moved = (replace(piece, places=where[piece.places]) for piece in spread.pieces)
    return Spread((*lead, columns, rows), tuple(moved))


def _grouped(pieces: PieceEditor, spread: Spread, product: Product) -> list[list[Box]] | None:
    """The pieces by what they share but for the axis that is summed over, along which each group is whole."""
    groups: dict[tuple[bytes, ...], list[Box]] = {}
    for piece in pieces.few(spread).pieces:
        box = pieces.boxed(piece, spread.shape)
        if box is None:
            return None
        groups.setdefault(box.rest(product.axis), []).append(box)
    width = len(product.weight)
    if any(sum(len(box.indices[product.axis]) for box in group) != width for group in groups.values()):
        return None
    return list(groups.values())


def _columns(group: Sequence[Box], product: Product) -> list[Array]:
    """The columns of the weight, apart by who reaches them: only requests, only rows, both."""
    width = product.weight.shape[1]
    by_request, by_row = np.zeros(width, bool), np.zeros(width, bool)
    for box in group:
        reached = (product.weight[box.indices[product.axis]] != 0).any(axis=0)
        by_request |= reached & (box.piece.shared is not None)
        by_row |= reached & (box.piece.own is not None)
    if width == len(product.weight):  # as many as there are rows: they stay apart as these are
        for box in group:
            own = box.indices[product.axis]
            by_request[own], by_row[own] = by_request[own].any(), by_row[own].any()
    if any(box.piece.shared is not None for box in group):
        by_request |= ~by_row  # what nothing reaches is as well by request
    kinds = by_request.astype(int) + 2 * by_row
    return [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]


def _multiply_columns(
    pieces: PieceEditor,
    group: Sequence[Box],
    product: Product,
    columns: Array,
    shape: Sequence[int],
    added: Spread | None,
) -> Piece:
    """These columns of the product, as the sum of what requests and what rows give to it."""
    indices = [*group[0].indices]
    indices[product.axis] = columns
    places = np.ravel_multi_index(np.meshgrid(*indices, indexing="ij"), tuple(shape))
    terms = [
        (kind, part, product.weight[box.indices[product.axis]][:, columns])
        for kind in ("shared", "own")
        for box in group
        for part in [getattr(box.piece, kind)]
        if part is not None
    ]
    terms = [term for term in terms if term[2].any()] or terms[:1]
    totals: dict[str, ir.Value] = {}
    if added is not None:
        addend = pieces.arranged(added.pieces[0], places)
        totals = {
            kind: part for kind, part in (("shared", addend.shared), ("own", addend.own)) if part is not None
        }
    elif product.bias is not None:
        bias = np.broadcast_to(np.ravel(constant_of(product.bias)), product.weight.shape[1])  # type: ignore[arg-type]
        totals[terms[0][0]] = pieces.editor.constant(np.ascontiguousarray(bias[columns]), "bias")
    for kind, part, weight in terms:
        totals[kind] = _multiplied(pieces, part, weight, product.axis, places.shape, totals.get(kind))
    return Piece(places, **totals)


def _multiplied(
    pieces: PieceEditor,
    value: ir.Value,
    weight: Array,
    axis: int,
    out_shape: Sequence[int],
    addend: ir.Value | None,
) -> ir.Value:
    """value [batch, .., in, ..] @ weight [in, out] along an axis, plus addend [batch, ..] or [out]."""
    width, out = weight.shape
    if axis == -1:
        lines = pieces.reshaped(value, (width,))
        inputs = [lines, pieces.editor.constant(np.ascontiguousarray(weight), "weight")]
        if addend is not None:
            inputs.append(addend if constant_of(addend) is not None else pieces.reshaped(addend, (out,)))
        return pieces.reshaped(pieces.put("Gemm", inputs, (out,), value), out_shape)
    depth = out_shape[-1]
    columns = pieces.reshaped(value, (width, depth))
    matrix = pieces.editor.constant(np.ascontiguousarray(weight.T), "weight")
    made = pieces.put("MatMul", [matrix, columns], (out, depth), value)
    made = pieces.reshaped(made, out_shape)
    return made if addend is None else pieces.put("Add", [made, addend], out_shape, value)


def multiply_int8(pieces: PieceEditor, spread: Spread, gemm: ir.Node) -> Spread | None:
    """The same of an int8 layer, to the bit: the request's part is the int32 sum that the row's starts from.

    ONNX Runtime's QGemm takes the dequantized bias as the int32 numbers that it is made of, whatever their
    shape, and adds to them. None where the pieces can't be kept apart, or are one.
    """
    codes = [_codes_of(piece) for piece in spread.pieces]
    known = [piece for piece in codes if piece is not None]
    if len(known) < len(codes):
        return None
    groups = _grouped(pieces, Spread(spread.shape, tuple(known)), _layer(gemm))
    if groups is None:
        return None
    shape = (*spread.shape[:-1], _layer(gemm).weight.shape[1])
    made = []
    for group in groups:
        if len(group) > 2 or (len(group) > 1 and size_of(spread.shape[:-1]) > 1):
            return None
        indices = [*group[0].indices[:-1], np.arange(shape[-1])]
        places = np.ravel_multi_index(np.meshgrid(*indices, indexing="ij"), shape)
        parts = sorted(group, key=lambda box: not box.piece.is_shared)
        start = _int8_start(pieces, parts[0], gemm) if len(parts) > 1 else None
        product = _int8_gemm(pieces, parts[-1], gemm, start)
        kind = "own" if start is not None or not parts[-1].piece.is_shared else "shared"
        made.append(Piece(places, **{kind: pieces.reshaped(product, places.shape)}))
    return Spread(shape, tuple(made))


def is_int8(gemm: ir.Node) -> bool:
    """Whether a node is a layer as `int8_layers` writes it."""
    if not is_a(gemm, "Gemm") or len(gemm.inputs) < 3:
        return False
    sources = [value.producer() if value is not None else None for value in gemm.inputs]
    return all(is_a(source, "DequantizeLinear") for source in sources) and all(
        constant_of(source.inputs[0]) is not None for source in sources[1:] if source is not None
    )


def _source(gemm: ir.Node, position: int) -> ir.Node:
    value = gemm.inputs[position]
    node = value.producer() if value is not None else None
    if node is None:
        raise TypeError("an int8 layer reads what DequantizeLinear gives")
    return node


def _layer(gemm: ir.Node) -> Product:
    weight = constant_of(_source(gemm, 1).inputs[0])  # [out, in]
    if weight is None:
        raise TypeError("a layer's weight is a constant")
    return Product(weight.T, -1)


def _codes_of(piece: Piece) -> Piece | None:
    """A dequantized piece as the bytes it was."""
    if piece.is_sum:
        return None
    node = piece.value().producer()
    reshaped = node is not None and is_a(node, "Reshape")
    source = (
        node.inputs[0].producer() if node is not None and reshaped and node.inputs[0] is not None else node
    )
    if source is None or not is_a(source, "DequantizeLinear") or source.inputs[0] is None:
        return None
    return replace(piece, **{"shared" if piece.is_shared else "own": source.inputs[0]})


def _int8_start(pieces: PieceEditor, box: Box, gemm: ir.Node) -> ir.Value:
    """The sums of a request's part and the bias [requests, out] in int32, gathered, as floats [rows, out]."""
    weight = _layer(gemm).weight[box.indices[-1]]
    out, bias = weight.shape[1], _source(gemm, 2)
    codes = pieces.reshaped(box.piece.value(), (len(weight),))
    zero_point = _source(gemm, 0).inputs[2]
    inputs = [codes, pieces.editor.constant(np.ascontiguousarray(weight), "weight.int8"), zero_point]
    whole = pieces.editor.put(pieces.before, "MatMulInteger", inputs, (out,), ir.DataType.INT32)  # type: ignore[list-item]
    total = pieces.put("Add", [whole, bias.inputs[0]], (out,), whole)  # type: ignore[list-item]
    start = pieces.gathered(total)
    return pieces.editor.put(pieces.before, "DequantizeLinear", [start, bias.inputs[1]], (out,), axis=1)  # type: ignore[list-item]


def _int8_gemm(pieces: PieceEditor, box: Box, gemm: ir.Node, start: ir.Value | None) -> ir.Value:
    """The layer on a part of its inputs, from the sums that are there already or from its bias."""
    weight, floats = _source(gemm, 1), _source(gemm, 0)
    out, width = _layer(gemm).weight.shape[1], len(box.indices[-1])
    codes = pieces.reshaped(box.piece.value(), (width,))
    inputs = pieces.editor.put(pieces.before, "DequantizeLinear", [codes, *floats.inputs[1:]], (width,))  # type: ignore[list-item]
    dequantized, whole = gemm.inputs[1], _layer(gemm).weight
    if not np.array_equal(box.indices[-1], np.arange(len(whole))):
        part = pieces.editor.constant(np.ascontiguousarray(whole[box.indices[-1]].T), "weight.int8")
        dequantized = pieces.editor.put_shaped(
            pieces.before,
            "DequantizeLinear",
            [part, *weight.inputs[1:]],
            (out, width),
            axis=0,  # type: ignore[list-item]
        )
    bias = gemm.inputs[2] if start is None else start
    return pieces.editor.put(pieces.before, "Gemm", [inputs, dequantized, bias], (out,), transB=1)  # type: ignore[list-item]
