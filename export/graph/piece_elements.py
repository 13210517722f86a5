"""Operators that work number by number, on values in pieces.

Where the pieces of several values are the same places they meet piece by piece; else the values meet whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.graph.editing import Array, attributes_of, constant_of, is_a, row_shape_of, size_of
from export.graph.piece_moves import Spreads, are_as_they_were
from export.graph.pieces import Piece, PieceEditor, Spread, piece_of
from export.graph.places import box_of, grid

BY_ELEMENT = (
    *("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Neg", "Abs", "Exp", "Sqrt", "Gelu", "Erf", "Clip", "Cast"),
    *("Not", "QuantizeLinear", "DequantizeLinear"),
    *("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Pow", "Equal", "Less", "Greater", "And", "Or"),
)
SUMS = ("Add", "Sub")  # of sums are sums, part by part
FACTORS = ("Mul", "Div")  # so is a sum times a constant; not a quotient of whole numbers, which is rounded


@dataclass(frozen=True)
class _Operands:
    """An operator's inputs by position: values in pieces, and all others; `shape` is the output's.

    Constants are there as arrays [*shape]; lone numbers, and inputs left out, as the graph has them.
    """

    shape: tuple[int, ...]
    spreads: dict[int, Spread]
    constants: dict[int, Array]
    others: dict[int, ir.Value | None]

    def sources(self, position: int) -> Array:
        """For each number of the flat output the place in this value."""
        spread = self.spreads[position]
        places = np.arange(size_of(spread.shape)).reshape(spread.shape)
        return np.broadcast_to(places, self.shape).ravel()


@dataclass(frozen=True)
class _Cell:
    """Places of the output for which each value in pieces gives one whole piece, by the input's position."""

    places: Array
    pieces: Mapping[int, Piece]


def by_element(pieces: PieceEditor, node: ir.Node, spreads: Spreads) -> list[Spread] | None:
    """The output in pieces; None where the values are as they were, or meet whole."""
    operands = _operands(pieces, node, spreads)
    if operands is None or are_as_they_were(list(operands.spreads.values())):
        return None
    cells = _cells(operands)
    made = [_apply(pieces, node, operands, cell) for cell in cells or ()]
    known = [piece for piece in made if piece is not None]
    if cells is None or len(known) < len(made):
        return None
    return [Spread(operands.shape, tuple(known))]


def _operands(pieces: PieceEditor, node: ir.Node, spreads: Spreads) -> _Operands | None:
    row_shape = row_shape_of(node.outputs[0])
    held = {
        at: spreads[value] for at, value in enumerate(node.inputs) if value is not None and value in spreads
    }
    lines = {spread.shape[0] for spread in held.values()}
    if row_shape is None or len(lines) != 1:
        return None
    shape = (*lines, *row_shape)
    constants: dict[int, Array] = {}
    others: dict[int, ir.Value | None] = {}
    for at, value in enumerate(node.inputs):
        constant = constant_of(value)
        if at in held:
            continue
        if value is None:
            others[at] = None
        elif constant is None:
            return None
        elif constant.size == 1:
            others[at] = pieces.editor.constant(constant.reshape(()), value.name or "constant")
        else:
            constants[at] = np.broadcast_to(constant, shape)
    if any(len(spread.shape) != len(shape) for spread in held.values()):
        return None
    return _Operands(shape, held, constants, others)


def _cells(operands: _Operands) -> list[_Cell] | None:
    """The output cut up by which pieces meet; None where they meet in part, or nothing stays by request."""
    owners = []
    for at, spread in operands.spreads.items():
        owner = np.empty(size_of(spread.shape), np.int64)
        for number, piece in enumerate(spread.pieces):
            owner[piece.places.ravel()] = number
        owners.append(owner[operands.sources(at)])
    meetings, meeting_of = np.unique(np.stack(owners), axis=1, return_inverse=True)
    cells = []
    for number, meeting in enumerate(meetings.T):
        places = np.flatnonzero(meeting_of.ravel() == number)
        met = {
            at: spread.pieces[owner]
            for (at, spread), owner in zip(operands.spreads.items(), meeting, strict=True)
        }
        if any(len(np.unique(operands.sources(at)[places])) < piece.places.size for at, piece in met.items()):
            return None
        cells.append(_Cell(places, met))
    stays_apart = any(all(piece.is_shared for piece in cell.pieces.values()) for cell in cells)
    return cells if stays_apart or len(cells) == 1 or len(operands.spreads) == 1 else None


def _apply(pieces: PieceEditor, node: ir.Node, operands: _Operands, cell: _Cell) -> Piece | None:
    """One cell of the output."""
    stretched = any(piece.places.size < len(cell.places) for piece in cell.pieces.values())
    if stretched:
        box = box_of(cell.places, operands.shape)
        if box is None:
            return None
        places = grid(box[1], operands.shape)
    else:  # as the first piece lies
        first, piece = next(iter(cell.pieces.items()))
        goes_to = np.empty(size_of(operands.spreads[first].shape), np.int64)
        goes_to[operands.sources(first)[cell.places]] = cell.places
        places = goes_to[piece.places]
    given: dict[int, Piece | ir.Value | None] = dict(operands.others)
    for at, piece in cell.pieces.items():
        wanted = operands.sources(at)[places]
        given[at] = pieces.arranged(piece, _without_repeats(wanted) if stretched else wanted)
    for at, constant in operands.constants.items():
        given[at] = pieces.editor.constant(np.ascontiguousarray(constant.ravel()[places]), "constant")
    return _on_parts(pieces, node, [given[at] for at in sorted(given)], places, stretched)


def _without_repeats(places: Array) -> Array:
    """Each axis along which all is the same cut to one, which the operator stretches again."""
    for axis in range(places.ndim):
        once = np.take(places, [0], axis=axis)
        places = once if (places == once).all() else places
    return places


def _on_parts(
    pieces: PieceEditor,
    node: ir.Node,
    given: Sequence[Piece | ir.Value | None],
    places: Array,
    stretched: bool,
) -> Piece:
    """The operator on pieces of one shape: part by part where it may, else on what the parts sum to."""
    held = [operand for operand in given if isinstance(operand, Piece)]
    is_mixed = any(piece.is_sum for piece in held) or len({piece.is_shared for piece in held}) > 1
    first = given[0]
    if is_mixed and not stretched and isinstance(first, Piece) and len(given) == 2:
        other = given[1]
        if is_a(node, *SUMS):
            return _sum_of(pieces, node, first, other, places)
        is_exact = node.outputs[0].dtype is None or node.outputs[0].dtype.is_floating_point()
        if is_a(node, *FACTORS) and is_exact and not isinstance(other, Piece):
            return first.each(lambda part: _put(pieces, node, [part, other], places.shape), places)
    by_request = all(piece.is_shared for piece in held)
    values = [
        operand
        if not isinstance(operand, Piece)
        else (operand if by_request else pieces.by_row(operand)).value()
        for operand in given
    ]
    return piece_of(_put(pieces, node, values, places.shape), places, by_request)


def _sum_of(
    pieces: PieceEditor, node: ir.Node, left: Piece, right: Piece | ir.Value | None, places: Array
) -> Piece:
    """left + right or left - right; a constant goes where it is added least often."""
    if not isinstance(right, Piece):
        right = piece_of(right, places, left.shared is not None) if right is not None else Piece(places)
    parts = []
    for ours, theirs in ((left.shared, right.shared), (left.own, right.own)):
        if ours is not None and theirs is not None:
            parts.append(_put(pieces, node, [ours, theirs], places.shape))
        elif theirs is not None and is_a(node, "Sub"):
            parts.append(pieces.put("Neg", [theirs], places.shape))
        else:
            parts.append(theirs if ours is None else ours)  # type: ignore[arg-type]
    return Piece(places, *parts)


def _put(
    pieces: PieceEditor, node: ir.Node, inputs: Sequence[ir.Value | None], shape: Sequence[int]
) -> ir.Value:
    """The same operator on values of one shape."""
    bytes_ = _bytes_of(inputs) if is_a(node, "QuantizeLinear") else None
    if bytes_ is not None:
        return pieces.reshaped(bytes_, shape)
    dtype = node.outputs[0].dtype or ir.DataType.FLOAT
    return pieces.put(node.op_type, inputs, shape, dtype, **attributes_of(node, {}))  # type: ignore[arg-type]


def _bytes_of(inputs: Sequence[ir.Value | None]) -> ir.Value | None:
    """The bytes that a value was, if it is now quantized as it was dequantized."""
    source = inputs[0].producer() if inputs[0] is not None else None
    while source is not None and is_a(source, "Reshape") and source.inputs[0] is not None:
        source = source.inputs[0].producer()
    if source is None or not is_a(source, "DequantizeLinear") or len(source.inputs) != len(inputs):
        return None
    before, now = ([constant_of(value) for value in given[1:]] for given in (source.inputs, inputs))
    same = all(
        a is not None and b is not None and np.array_equal(a, b) for a, b in zip(before, now, strict=True)
    )
    return source.inputs[0] if same else None
