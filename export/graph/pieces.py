"""Values of a batch in pieces: what is computed once a request, what is computed once a row, and their sums.

It knows how to bring pieces into another order, apart and together; not which operator wants them how.

A value [rows, *row_shape] is held as a `Spread`: pieces that cover each of its numbers once. A piece stands
for `Gather(shared, request_index) + own`, where either may be missing; the sum is put off as long as it can
be, for many rows share a request. `places` says where its numbers lie in the row, so that to reshape,
transpose or join values moves no number at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from export.graph.editing import Array, GraphEditor, attributes_of, constant_of, is_a, row_shape_of, size_of
from export.graph.places import all_places, box_of, cheapest_turn, grid, longest_run


@dataclass(frozen=True)
class Piece:
    """Numbers of a value: `shared` [requests, *own shape] by request, `own` [rows, *own shape] added to it.

    places [*own shape] are the positions of its numbers in the flat row of the value.
    """

    places: Array
    shared: ir.Value | None = None
    own: ir.Value | None = None

    @property
    def is_sum(self) -> bool:
        return self.shared is not None and self.own is not None

    @property
    def is_shared(self) -> bool:
        """Whether it depends on the request alone."""
        return self.own is None

    def value(self) -> ir.Value:
        """Its one part. Raises TypeError for a sum."""
        part = self.own if self.shared is None else self.shared
        if part is None or self.is_sum:
            raise TypeError("a piece with two parts is no value yet")
        return part

    def each(self, change: Callable[[ir.Value], ir.Value], places: Array) -> Piece:
        """The piece of which every part is changed alike, now at these places."""
        shared = None if self.shared is None else change(self.shared)
        return Piece(places, shared, None if self.own is None else change(self.own))


def piece_of(value: ir.Value, places: Array, by_request: bool) -> Piece:
    """A piece with one part."""
    return Piece(places, shared=value) if by_request else Piece(places, own=value)


@dataclass(frozen=True)
class Spread:
    """A value in pieces; shape is (lines, *row_shape), see `places`."""

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def is_shared(self) -> bool:
        """Whether it depends on requests alone."""
        return all(piece.is_shared for piece in self.pieces)

    @property
    def is_plain(self) -> bool:
        """Whether it is one value as the graph had it, and not a sum."""
        if len(self.pieces) > 1 or self.pieces[0].is_sum:
            return False
        return np.array_equal(self.pieces[0].places.ravel(), np.arange(size_of(self.shape)))


@dataclass(frozen=True)
class Box:
    """A piece of all numbers at some indices along each axis of the value; its own shape is their counts."""

    piece: Piece
    indices: tuple[Array, ...]

    def rest(self, axis: int) -> tuple[bytes, ...]:
        """What all axes but one tell of it; hashable."""
        kept = [indices for number, indices in enumerate(self.indices) if number != axis % len(self.indices)]
        return tuple(indices.tobytes() for indices in kept)


class PieceEditor:
    """Writes the nodes that move pieces, in front of the node `before` of the graph."""

    def __init__(self, editor: GraphEditor, request_index: ir.Value, before: ir.Node) -> None:
        self.editor = editor
        self.request_index = request_index
        self.before = before

    def put(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        row_shape: Sequence[int],
        dtype: ir.DataType | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """A node [batch, *row_shape] in front of the current one, of the first input's type if not told."""
        dtype = dtype or inputs[0].dtype or ir.DataType.FLOAT
        return self.editor.put(self.before, operator, inputs, row_shape, dtype, **attributes)

    def reshaped(self, value: ir.Value, row_shape: Sequence[int]) -> ir.Value:
        """`value` as [batch, *row_shape]; never a reshape of a reshape."""
        source: ir.Value | None = value
        while source is not None and row_shape_of(source) is not None:
            value, node = source, source.producer()
            if row_shape_of(value) == tuple(row_shape):
                return value
            source = node.inputs[0] if node is not None and is_a(node, "Reshape") else None
        return self.editor.reshape(self.before, value, row_shape)

    def turned(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """`value` with its axes after the batch in another order."""
        if tuple(order) == tuple(range(len(order))):
            return value
        shape = row_shape_of(value) or ()
        permutation = [0, *(axis + 1 for axis in order)]
        return self.put("Transpose", [value], [shape[axis] for axis in order], perm=permutation)

    def taken(self, value: ir.Value, indices: Array, row_shape: Sequence[int]) -> ir.Value:
        """The numbers at these positions of the flat rows of `value`, as [batch, *row_shape]."""
        size, first, count = size_of(row_shape_of(value) or ()), int(indices[0]), len(indices)
        if np.array_equal(indices, np.arange(first, first + count)):
            if count == size:
                return self.reshaped(value, row_shape)
            cut = [self.editor.constant(np.array([at], np.int64), "cut") for at in (first, first + count, 1)]
            return self.reshaped(
                self.put("Slice", [self.reshaped(value, (size,)), *cut], (count,)), row_shape
            )
        run = longest_run(indices, size)
        runs = self.reshaped(value, (size // run, run) if run > 1 else (size,))
        order = self.editor.constant((indices[::run] // run).astype(np.int64), "order")
        shape = (count // run, run) if run > 1 else (count,)
        return self.reshaped(self.put("Gather", [runs, order], shape, axis=1), row_shape)

    def arranged(self, piece: Piece, places: Array) -> Piece:
        """The numbers of a piece at these places, in that order and shape; a part of them, too."""
        if np.array_equal(piece.places, places):
            return piece
        order, indices = cheapest_turn(piece.places, places)
        return piece.each(lambda part: self.taken(self.turned(part, order), indices, places.shape), places)

    def boxed(self, piece: Piece, shape: Sequence[int]) -> Box | None:
        """The piece with an axis for each of the value's, turned if it must be; None where it is no box."""
        box = box_of(piece.places, shape)
        if box is None:
            return None
        order, indices = box
        places = grid(indices, shape)
        return Box(
            piece.each(lambda part: self.reshaped(self.turned(part, order), places.shape), places), indices
        )

    def gathered(self, value: ir.Value) -> ir.Value:
        """[requests, ..] -> [rows, ..]."""
        return self.put("Gather", [value, self.request_index], row_shape_of(value) or (), axis=0)

    def summed(self, piece: Piece) -> Piece:
        """A sum as numbers of rows; what has one part as it is."""
        if piece.shared is None or piece.own is None:
            return piece
        return Piece(piece.places, own=self._added(piece.own, piece.shared))

    def by_row(self, piece: Piece) -> Piece:
        """A piece as numbers of rows."""
        piece = self.summed(piece)
        return piece if piece.shared is None else Piece(piece.places, own=self.gathered(piece.shared))

    def _added(self, own: ir.Value, shared: ir.Value) -> ir.Value:
        """own + the request's share, which a Gemm takes in on its way."""
        shape, gemm = row_shape_of(own) or (), _last_gemm(own)
        flat = () if gemm is None else row_shape_of(gemm.outputs[0]) or ()
        bias = gemm.inputs[2] if gemm is not None and len(gemm.inputs) > 2 else None
        in_lines = size_of(flat) != size_of(shape)
        if gemm is None or (in_lines and bias is not None):
            return self.put("Add", [own, self.gathered(shared)], shape)
        if bias is None:
            addend = self.reshaped(self.gathered(shared), flat)
        elif constant_of(bias) is None:
            addend = self._added(bias, self.reshaped(shared, flat))
        else:
            addend = self.gathered(self._with_constant(self.reshaped(shared, flat), bias))
        return self.reshaped(self._gemm_again(gemm, addend), shape)

    def _with_constant(self, shared: ir.Value, constant: ir.Value) -> ir.Value:
        """A request's share and a constant [out], which a Gemm without one takes in."""
        gemm = shared.producer()
        if gemm is not None and is_a(gemm, "Gemm") and len(gemm.inputs) == 2:
            return self._gemm_again(gemm, constant)
        return self.put("Add", [shared, constant], row_shape_of(shared) or ())

    def _gemm_again(self, gemm: ir.Node, addend: ir.Value) -> ir.Value:
        inputs = [value for value in (*gemm.inputs[:2], addend) if value is not None]
        return self.put("Gemm", inputs, row_shape_of(gemm.outputs[0]) or (), **attributes_of(gemm, {}))

    def joined(self, pieces: Sequence[Piece], shape: Sequence[int]) -> Piece:
        """Pieces of a value of this shape that are all shared, or all of rows, as one."""
        if len(pieces) == 1:
            return pieces[0]
        axis = 0
        if len({piece.places.shape[1:] for piece in pieces}) > 1 or not all(p.places.ndim for p in pieces):
            axis, pieces = self._side_by_side(pieces, shape)
        places = np.concatenate([piece.places for piece in pieces], axis=axis)
        together = self.put("Concat", [piece.value() for piece in pieces], places.shape, axis=axis + 1)
        return piece_of(together, places, pieces[0].is_shared)

    def _side_by_side(self, pieces: Sequence[Piece], shape: Sequence[int]) -> tuple[int, list[Piece]]:
        """The pieces as boxes that differ along one axis, and that one; flat where they are no such."""
        boxes = [self.boxed(piece, shape) for piece in pieces if box_of(piece.places, shape) is not None]
        known = [box for box in boxes if box is not None]
        if len(known) == len(pieces):
            for axis in range(shape[0] == 1, len(shape)):
                if len({box.rest(axis) for box in known}) == 1:
                    return axis - (shape[0] == 1), [box.piece for box in known]
        return 0, [self.arranged(piece, piece.places.ravel()) for piece in pieces]

    def few(self, spread: Spread) -> Spread:
        """The same with what is by request joined, and what is of rows."""
        shared = [piece for piece in spread.pieces if piece.own is None]
        own = [piece for piece in spread.pieces if piece.shared is None]
        joined = [self.joined(group, spread.shape) for group in (shared, own) if group]
        return Spread(spread.shape, (*(piece for piece in spread.pieces if piece.is_sum), *joined))

    def whole(self, spread: Spread, by_request: bool) -> ir.Value:
        """All of a value in its own order and shape, of rows unless it is shared and wanted `by_request`."""
        few = self.few(Spread(spread.shape, tuple(map(self.summed, spread.pieces))))
        pieces = few.pieces if by_request else tuple(map(self.by_row, few.pieces))
        return self.arranged(self.joined(pieces, spread.shape), all_places(spread.shape)).value()


def _last_gemm(value: ir.Value) -> ir.Node | None:
    """The plain Gemm that a value comes from, perhaps in another shape."""
    node = value.producer()
    if node is not None and is_a(node, "Reshape") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or not is_a(node, "Gemm") or constant_of(node.inputs[1]) is None:
        return None
    attributes = attributes_of(node, {"alpha": 1.0, "beta": 1.0, "transA": 0})
    return node if attributes["alpha"] == attributes["beta"] == 1.0 and not attributes["transA"] else None
