"""Values of a batch in pieces: what is computed once a request, what is computed once a row, and their sums.

It knows how to bring pieces into another order, apart and together; not which operator wants them how.

A value [rows, *row_shape] is held as a `Spread`: pieces that cover each of its numbers once. A piece stands
for `Gather(shared, request_index) + own`, where either may be missing; the sum is put off as long as it can
be, for many rows share a request. `places` says where its numbers lie in the row, so that to reshape,
transpose or join values moves no number at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from export.graph.editing import Array, GraphEditor, attributes_of, constant_of, is_a, row_shape_of, size_of


@dataclass(frozen=True)
class Piece:
    """Numbers of a value: `shared` [requests, *own shape] by request, `own` [rows, *own shape] added to it.

    places [*own shape] are the positions of its numbers in the flat row of the value.
    """

    places: Array
    shared: ir.Value | None = None
    own: ir.Value | None = None

    def value(self) -> ir.Value:
        """Its one part. Raises TypeError for a sum."""
        part = self.own if self.shared is None else self.shared
        if part is None or self.is_sum:
            raise TypeError("a piece with two parts is no value yet")
        return part

    @property
    def is_sum(self) -> bool:
        return self.shared is not None and self.own is not None

    @property
    def is_shared(self) -> bool:
        return self.own is None


@dataclass(frozen=True)
class Spread:
    """A value in pieces.

    shape is (lines, *row_shape): a row may have become several lines, [batch * lines, *row_shape].
    """

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def is_shared(self) -> bool:
        return all(piece.is_shared for piece in self.pieces)

    @property
    def is_plain(self) -> bool:
        """Whether it is one value as the graph had it, and not a sum."""
        if len(self.pieces) > 1 or self.pieces[0].is_sum:
            return False
        return bool((self.pieces[0].places.ravel() == np.arange(size_of(self.shape))).all())


@dataclass(frozen=True)
class Box:
    """A piece whose numbers are all those at some indices along each axis; its own shape is their counts."""

    piece: Piece
    indices: tuple[Array, ...]

    def rest(self, axis: int) -> tuple[bytes, ...]:
        """What is told of it by all axes but one; hashable."""
        kept = [indices for number, indices in enumerate(self.indices) if number != axis % len(self.indices)]
        return tuple(indices.tobytes() for indices in kept)


class PieceEditor:
    """Writes the nodes that move pieces. `before` is the node of the graph in front of which they come."""

    def __init__(self, editor: GraphEditor, request_index: ir.Value, before: ir.Node) -> None:
        self.editor = editor
        self.request_index = request_index
        self.before = before

    def put(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        row_shape: Sequence[int],
        like: ir.Value,
        **attributes: object,
    ) -> ir.Value:
        """A node in front of the current one, whose output has the type of `like`."""
        dtype = like.dtype or ir.DataType.FLOAT
        return self.editor.put(self.before, operator, inputs, row_shape, dtype, **attributes)

    def reshaped(self, value: ir.Value, row_shape: Sequence[int]) -> ir.Value:
        """`value` as [batch, *row_shape]; no reshape of a reshape."""
        source: ir.Value | None = value
        while source is not None:
            if row_shape_of(source) == tuple(row_shape):
                return source
            value, node = source, source.producer()
            source = node.inputs[0] if node is not None and is_a(node, "Reshape") else None
            if source is not None and row_shape_of(source) is None:
                break
        return self.editor.reshape(self.before, value, row_shape)

    def taken(self, value: ir.Value, indices: Array, row_shape: Sequence[int]) -> ir.Value:
        """The numbers at these positions of the flat rows of `value`, as [batch, *row_shape]."""
        size, wanted = size_of(row_shape_of(value) or ()), indices.ravel()
        if len(wanted) == size and (wanted == np.arange(size)).all():
            return self.reshaped(value, row_shape)
        first, count = int(wanted[0]), len(wanted)
        if (wanted == np.arange(first, first + count)).all():
            cut = [
                self.editor.constant(np.array([end], np.int64), "cut") for end in (first, first + count, 1)
            ]
            part = self.put("Slice", [self.reshaped(value, (size,)), *cut], (count,), value)
            return self.reshaped(part, row_shape)
        block = _block(wanted, size)
        rows = self.reshaped(value, (size // block, block) if block > 1 else (size,))
        order = self.editor.constant((wanted[::block] // block).astype(np.int64), "order")
        shape = (count // block, block) if block > 1 else (count,)
        return self.reshaped(self.put("Gather", [rows, order], shape, value, axis=1), row_shape)

    def each(self, piece: Piece, change: object, places: Array) -> Piece:
        """A piece whose every part is changed alike."""
        parts = [None if part is None else change(part) for part in (piece.shared, piece.own)]  # type: ignore[operator]
        return Piece(places, *parts)

    def arranged(self, piece: Piece, places: Array) -> Piece:
        """The numbers of a piece at these places, in that order and shape; a part of them, too."""
        if piece.places.shape == places.shape and (piece.places == places).all():
            return piece
        turned, indices = _cheapest_turn(piece.places, places)
        return self.each(
            piece, lambda part: self.taken(self.turned(part, turned), indices, places.shape), places
        )

    def turned(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """`value` with its axes after the batch in another order."""
        if tuple(order) == tuple(range(len(order))):
            return value
        shape = row_shape_of(value) or ()
        permutation = [0, *(axis + 1 for axis in order)]
        return self.put("Transpose", [value], [shape[axis] for axis in order], value, perm=permutation)

    def boxed(self, piece: Piece, shape: Sequence[int]) -> Box | None:
        """The piece with an axis for each of the value's, turned if it must be; None where it is no box."""
        box = box_of(piece.places, shape)
        if box is None:
            return None
        order, indices = box
        sizes = tuple(map(len, indices))
        places = np.transpose(piece.places, order).reshape(sizes)
        whole = self.each(piece, lambda part: self.reshaped(self.turned(part, order), sizes), places)
        return Box(whole, indices)

    def gathered(self, value: ir.Value) -> ir.Value:
        """[requests, ..] -> [rows, ..]."""
        return self.put("Gather", [value, self.request_index], row_shape_of(value) or (), value, axis=0)

    def summed(self, piece: Piece) -> Piece:
        """A piece of which only the rows' part is left; what is by request alone stays so."""
        if not piece.is_sum or piece.shared is None or piece.own is None:
            return piece
        return Piece(piece.places, own=self._added(piece.own, piece.shared))

    def by_row(self, piece: Piece) -> Piece:
        """A piece as numbers of rows."""
        piece = self.summed(piece)
        if piece.shared is None:
            return piece
        return Piece(piece.places, own=self.gathered(piece.shared))

    def _added(self, own: ir.Value, shared: ir.Value) -> ir.Value:
        """own + the request's share, which a Gemm takes in on its way."""
        shape, gemm = row_shape_of(own) or (), _last_gemm(own)
        flat = () if gemm is None else row_shape_of(gemm.outputs[0]) or ()
        more = gemm.inputs[2] if gemm is not None and len(gemm.inputs) > 2 else None
        in_lines = size_of(flat) != size_of(shape)
        if gemm is None or (in_lines and more is not None):
            return self.put("Add", [own, self.gathered(shared)], shape, own)
        if more is not None and constant_of(more) is None:
            addend = self._added(more, self.reshaped(shared, flat))
        else:
            if more is not None:
                shared = self.put("Add", [self.reshaped(shared, flat), more], flat, shared)
            addend = self.reshaped(self.gathered(shared), flat)
        attributes = {name: attribute.value for name, attribute in gemm.attributes.items()}
        total = self.put("Gemm", [*gemm.inputs[:2], addend], flat, own, **attributes)
        return self.reshaped(total, shape)

    def joined(self, pieces: Sequence[Piece]) -> Piece:
        """Pieces that are all shared, or all of rows, as one."""
        if len(pieces) == 1:
            return pieces[0]
        tails = {piece.places.shape[1:] for piece in pieces}
        if len(tails) > 1 or any(piece.places.ndim == 0 for piece in pieces):
            flat = [piece.places.ravel() for piece in pieces]
            pieces = [
                self.each(
                    piece, lambda part: self.reshaped(part, (size_of(row_shape_of(part) or ()),)), places
                )
                for piece, places in zip(pieces, flat, strict=True)
            ]
        places = np.concatenate([piece.places for piece in pieces])
        together = self.put(
            "Concat", [piece.value() for piece in pieces], places.shape, pieces[0].value(), axis=1
        )
        return replace(pieces[0], places=places, **{"shared" if pieces[0].is_shared else "own": together})

    def few(self, spread: Spread) -> Spread:
        """The same with what is by request joined, and what is of rows."""
        kept = [piece for piece in spread.pieces if piece.is_sum]
        for group in (
            [piece for piece in spread.pieces if piece.is_shared],
            [piece for piece in spread.pieces if piece.shared is None],
        ):
            kept += [self.joined(group)] if group else []
        return Spread(spread.shape, tuple(kept))

    def whole(self, spread: Spread, of_rows: bool) -> Piece:
        """All of a value as one piece of shape [*shape]; by request where that is enough and wanted."""
        few = self.few(Spread(spread.shape, tuple(map(self.summed, spread.pieces))))
        pieces = [self.by_row(piece) if of_rows else piece for piece in few.pieces]
        return self.arranged(self.joined(pieces), np.arange(size_of(spread.shape)).reshape(spread.shape))


def box_of(places: Array, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[Array, ...]] | None:
    """How places [*own shape] are the product of indices along each axis of `shape`.

    The order of their own axes in which they are, and the indices by axis.
    """
    axes = range(places.ndim)
    for order in itertools.permutations(axes) if places.ndim <= 4 else [tuple(axes)]:
        coordinates = np.unravel_index(np.transpose(places, order).ravel(), tuple(shape))
        firsts = [_in_order_of_appearance(values) for values in coordinates]
        if math.prod(map(len, firsts)) != places.size:
            return None
        grid = np.stack([axis.ravel() for axis in np.meshgrid(*firsts, indexing="ij")])
        if (grid == np.stack(coordinates)).all():
            return tuple(order), tuple(firsts)
    return None


def _in_order_of_appearance(values: Array) -> Array:
    _, firsts = np.unique(values, return_index=True)
    return np.asarray(values[np.sort(firsts)])


def _cheapest_turn(places: Array, wanted: Array) -> tuple[tuple[int, ...], Array]:
    """The order of axes from which `wanted` can be taken in the longest runs, and its indices there."""
    best: tuple[int, tuple[int, ...], Array] | None = None
    axes = range(places.ndim)
    for order in itertools.permutations(axes) if places.ndim <= 4 else [tuple(axes)]:
        turned = np.transpose(places, order).ravel()
        sorted_ = np.argsort(turned, kind="stable")
        indices = sorted_[np.searchsorted(turned[sorted_], wanted.ravel())]
        run = _block(indices, len(turned))
        if (np.diff(indices) == 1).all():
            run = places.size + 1
        if best is None or run > best[0]:
            best = run, tuple(order), indices
    if best is None:
        raise ValueError("there is always one order of axes")
    return best[1], best[2]


def _block(indices: Array, size: int) -> int:
    """The longest run such that all of `indices` are runs of this length, each from a multiple of it on."""
    starts = np.flatnonzero(np.diff(indices, prepend=indices[:1] - 2) != 1)
    lengths = np.diff([*starts, len(indices)])
    return math.gcd(size, *map(int, lengths), *map(int, indices[starts]))


def _last_gemm(value: ir.Value) -> ir.Node | None:
    """The plain Gemm that a value comes from, perhaps in another shape."""
    node = value.producer()
    if node is not None and is_a(node, "Reshape") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or not is_a(node, "Gemm") or constant_of(node.inputs[1]) is None:
        return None
    attributes = attributes_of(node, {"alpha": 1.0, "beta": 1.0, "transA": 0})
    return node if attributes["alpha"] == attributes["beta"] == 1.0 and not attributes["transA"] else None
