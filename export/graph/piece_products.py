"""Products with constant matrices, of values in pieces: each request's part once, each row's part by row.

x @ W is the sum over the pieces of x of piece @ its rows of W. Columns of W that only the context reaches
become a piece by request. It knows Gemm and MatMul, and not what they are for.

Microseconds of FwFM's half between 8 candidate fields of dimension 10, at 1 / 100 / 500 rows: turned, then
one Gemm 8.4 / 21 / 70; a Gemm with W kron I 7.5 / 25 / 99; a MatMul from the left 8.2 / 31 / 127; gathering
both ends of 2 pairs 8.5 / 19 / 58, of 4 pairs 8.6 / 23 / 78. So it is turned, whatever the pairs; without a
pair between candidates nothing is left of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from export.graph.editing import Array, attributes_of, constant_of, is_a, row_shape_of, size_of
from export.graph.pieces import Box, Piece, PieceEditor, Spread
from export.graph.places import box_of, grid


@dataclass(frozen=True)
class Product:
    """x @ weight along an axis of x, whose place the weight's columns take; bias [out] is added.

    `turns`: rows' parts, not requests', come out with that axis first, for they are turned before.
    """

    weight: Array  # [in, out]
    axis: int = -1
    bias: ir.Value | None = None
    turns: bool = False


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
        return left, Product(weight.T if attributes["transB"] else weight, bias=bias)
    if weight is not None and weight.ndim == 2:
        return left, Product(weight)
    weight = constant_of(left)
    if weight is not None and weight.ndim == 2 and len(row_shape_of(right) or ()) >= 2:
        return right, Product(weight.T, axis=-2)
    return None


def multiply(
    pieces: PieceEditor, spread: Spread, product: Product, added: Spread | None = None
) -> Spread | None:
    """The product in pieces, plus `added` [rows, out]; None where the pieces can't be kept apart."""
    if product.axis == -1 and added is None and product.bias is None and _lies_turned(spread):
        turned = multiply(pieces, _swapped(spread), Product(product.weight, axis=-2, turns=True))
        return None if turned is None else _swapped(turned)
    if product.axis == -2 and size_of(spread.shape[:-2]) > 1:
        return None
    groups = grouped(pieces, spread, product)
    if groups is None or (added is not None and (len(groups) > 1 or len(added.pieces) > 1)):
        return None
    shape = list(spread.shape)
    shape[product.axis] = product.weight.shape[1]
    if added is not None and added.shape != tuple(shape):  # Gemm stretches a column to all of its outputs
        return None
    made = (
        _multiply_columns(pieces, group, product, columns, shape, added)
        for group in groups
        for columns in _columns(group, product)
    )
    return Spread(tuple(shape), tuple(made))


def grouped(pieces: PieceEditor, spread: Spread, product: Product) -> list[list[Box]] | None:
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


def _columns(group: Sequence[Box], product: Product) -> list[Array]:
    """The columns of the weight, apart by who reaches them: only requests, only rows, both."""
    width = product.weight.shape[1]
    by_request, by_row, place = np.zeros(width, bool), np.zeros(width, bool), np.zeros(width, int)
    for box in group:
        reached = (product.weight[box.indices[product.axis]] != 0).any(axis=0)
        by_request |= reached & (box.piece.shared is not None)
        by_row |= reached & (box.piece.own is not None)
    if width == len(product.weight):  # as many as there are rows: what is to meet x lies as x does
        for number, box in enumerate(group):
            own = box.indices[product.axis]
            by_request[own], by_row[own], place[own] = by_request[own].any(), by_row[own].any(), number
    if any(box.piece.shared is not None for box in group):
        by_request |= ~by_row  # what nothing reaches is as well by request
    kinds = by_request + 2 * by_row + 4 * place * (not (by_request & by_row).all())
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
    places = grid(indices, shape)
    weights = [product.weight[box.indices[product.axis]][:, columns] for box in group]
    terms = [
        (kind, part, weight)
        for kind in ("shared", "own")
        for box, weight in zip(group, weights, strict=True)
        for part in [box.piece.shared if kind == "shared" else box.piece.own]
        if part is not None
    ]
    terms = [term for term in terms if term[2].any()] or terms[:1]
    totals: dict[str, ir.Value | None] = {"shared": None, "own": None}
    if added is not None:
        addend = pieces.arranged(added.pieces[0], places)
        totals = {"shared": addend.shared, "own": addend.own}
    elif product.bias is not None:
        bias = np.broadcast_to(np.ravel(constant_of(product.bias)), product.weight.shape[1])  # type: ignore[arg-type]
        totals[terms[0][0]] = pieces.editor.constant(np.ascontiguousarray(bias[columns]), "bias")
    turns = product.turns and any(kind == "own" for kind, _, _ in terms)
    for kind, part, weight in terms:
        if turns and kind == "own":
            totals[kind] = _from_right(
                pieces, pieces.turned(part, (1, 0)), weight, places.T.shape, totals[kind]
            )
        elif product.axis == -1:
            totals[kind] = _from_right(pieces, part, weight, places.shape, totals[kind])
        else:
            totals[kind] = _from_left(pieces, part, weight, places.shape, totals[kind])
    piece = Piece(places, totals["shared"], totals["own"])
    if not turns:
        return piece
    shared = None if piece.shared is None else pieces.turned(piece.shared, (1, 0))
    return Piece(places.T, shared, piece.own)


def _from_right(
    pieces: PieceEditor, value: ir.Value, weight: Array, out_shape: Sequence[int], addend: ir.Value | None
) -> ir.Value:
    """value [batch, .., in] @ weight [in, out], plus addend [batch, .., out] or a constant [out]."""
    width, out = weight.shape
    inputs = [
        pieces.reshaped(value, (width,)),
        pieces.editor.constant(np.ascontiguousarray(weight), "weight"),
    ]
    if addend is not None:
        inputs.append(addend if constant_of(addend) is not None else pieces.reshaped(addend, (out,)))
    return pieces.reshaped(pieces.put("Gemm", inputs, (out,)), out_shape)


def _from_left(
    pieces: PieceEditor, value: ir.Value, weight: Array, out_shape: Sequence[int], addend: ir.Value | None
) -> ir.Value:
    """weight transposed [out, in] @ value [batch, in, depth], plus addend [batch, out, depth]."""
    (width, out), depth = weight.shape, out_shape[-1]
    matrix = pieces.editor.constant(np.ascontiguousarray(weight.T), "weight")
    inputs = [matrix, pieces.reshaped(value, (width, depth))]
    made = pieces.reshaped(pieces.put("MatMul", inputs, (out, depth)), out_shape)
    return made if addend is None else pieces.put("Add", [made, addend], out_shape)
