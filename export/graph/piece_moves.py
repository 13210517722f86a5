"""Operators that look numbers up, move or join them, on values in pieces: mostly a matter of places.

Each function gives the node's outputs in pieces, or None where that gains nothing or can't be done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from export.graph.editing import Array, attributes_of, constant_of, evaluate, is_a, row_shape_of, size_of
from export.graph.pieces import Piece, PieceEditor, Spread, piece_of
from export.graph.places import box_of

MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather")
SHAPES = ("Reshape", "Squeeze", "Unsqueeze")  # moves that change no order

Spreads = Mapping[ir.Value, Spread]


def look_up(pieces: PieceEditor, node: ir.Node, spreads: Spreads) -> list[Spread] | None:
    """table[ids]: each piece of ids looks up its own."""
    source, ids = node.inputs[0], node.inputs[1]
    table = constant_of(source)
    if source is None or table is None or ids is None or ids not in spreads:
        return None
    if int(attributes_of(node, {"axis": 0})["axis"]) != 0:
        return None
    entry, made = table.shape[1:], []
    for piece in map(pieces.summed, spreads[ids].pieces):
        within = np.arange(size_of(entry)).reshape(entry)
        places = np.add.outer(piece.places * size_of(entry), within)
        found = pieces.put("Gather", [source, piece.value()], places.shape, axis=0)
        made.append(piece_of(found, places, piece.is_shared))
    return [Spread((*spreads[ids].shape, *entry), tuple(made))]


def move(pieces: PieceEditor, node: ir.Node, spreads: Spreads) -> list[Spread] | None:
    """Operators that only move the numbers of a row: where from is found by moving their places."""
    spread = spreads.get(node.inputs[0]) if node.inputs[0] is not None else None
    constants = [constant_of(value) for value in node.inputs[1:] if value is not None]
    known = [constant for constant in constants if constant is not None]
    if spread is None or len(known) < len(constants):
        return None
    if any(row_shape_of(output) is None for output in node.outputs):
        return None
    if (spread.is_plain and not is_a(node, *SHAPES)) or not _leaves_the_batch(node, len(spread.shape)):
        return None
    places = np.arange(size_of(spread.shape)).reshape(spread.shape)
    return [_chosen(pieces, spread, np.asarray(where)) for where in evaluate(node, [places, *known])]


def _leaves_the_batch(node: ir.Node, rank: int) -> bool:
    attributes = attributes_of(node, {"axis": 0, "perm": (0,)})
    if is_a(node, "Transpose"):
        return int(attributes["perm"][0]) == 0
    if is_a(node, "Gather", "Split"):
        return int(attributes["axis"]) % rank != 0
    if is_a(node, "Slice"):
        axes = constant_of(node.inputs[3]) if len(node.inputs) > 3 else None
        return axes is not None and bool((axes % rank != 0).all())
    return True


def _chosen(pieces: PieceEditor, spread: Spread, where: Array) -> Spread:
    """The value whose numbers are those at places `where` [*its shape] of another one."""
    made, flat = [], where.ravel()
    for piece in spread.pieces:
        number_at = np.full(size_of(spread.shape), -1)
        number_at[piece.places.ravel()] = np.arange(piece.places.size)
        outputs = np.flatnonzero(number_at[flat] >= 0)
        if len(outputs):
            made.append(_moved(pieces, piece, number_at[flat[outputs]], outputs, where.shape))
    return Spread(where.shape, tuple(made))


def _moved(pieces: PieceEditor, piece: Piece, numbers: Array, outputs: Array, shape: Sequence[int]) -> Piece:
    """The piece's numbers, by their positions in it, at these places of a value of this shape."""
    if len(numbers) == piece.places.size == len(np.unique(numbers)):
        places = np.empty(piece.places.size, np.int64)
        places[numbers] = outputs
        return Piece(places.reshape(piece.places.shape), piece.shared, piece.own)
    box = box_of(outputs, shape)
    sizes = () if box is None else tuple(len(indices) for indices in box[1] if len(indices) > 1)
    places = outputs.reshape(sizes or (len(outputs),))
    return piece.each(lambda part: pieces.taken(part, numbers, places.shape), places)


def concat(pieces: PieceEditor, node: ir.Node, spreads: Spreads) -> list[Spread] | None:
    """Values side by side: their pieces, those by request joined and those of rows."""
    known = [spreads[value] for value in node.inputs if value is not None and value in spreads]
    if len(known) < len(node.inputs) or row_shape_of(node.outputs[0]) is None:
        return None
    axis = int(attributes_of(node, {})["axis"]) % len(known[0].shape)
    if axis == 0 or len({spread.shape[0] for spread in known}) > 1 or are_as_they_were(known):
        return None
    starts = np.cumsum([0, *(size_of(spread.shape) for spread in known)])[:-1]
    numbered = [
        np.arange(start, start + size_of(spread.shape)).reshape(spread.shape)
        for start, spread in zip(starts, known, strict=True)
    ]
    joined = np.concatenate(numbered, axis=axis)
    where = np.argsort(joined.ravel())
    made = [
        Piece(where[piece.places + start], piece.shared, piece.own)
        for start, spread in zip(starts, known, strict=True)
        for piece in spread.pieces
    ]
    return [pieces.few(Spread(joined.shape, tuple(made)))]


def are_as_they_were(spreads: Sequence[Spread]) -> bool:
    """Whether these are values as the graph had them, all by request or all of rows."""
    return all(spread.is_plain for spread in spreads) and len({spread.is_shared for spread in spreads}) == 1
