"""What operators other than products make of values in pieces.

Each function gives the outputs in pieces, or None where the operator can't keep them apart or is as well
left as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.graph.editing import (
    Array,
    attributes_of,
    constant_of,
    evaluate,
    is_a,
    row_shape_of,
    size_of,
)
from export.graph.pieces import Piece, PieceEditor, Spread, box_of

MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather")
BY_ELEMENT = (
    *("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Neg", "Abs", "Exp", "Sqrt", "Gelu", "Erf", "Clip", "Cast"),
    *("Not", "QuantizeLinear", "DequantizeLinear"),
    *("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Pow", "Equal", "Less", "Greater", "And", "Or"),
)
SUMS = ("Add", "Sub")  # of sums are sums, part by part
FACTORS = ("Mul", "Div")  # so are products of sums with constants

Spreads = Mapping[ir.Value, Spread]


def look_up(pieces: PieceEditor, node: ir.Node, spreads: Spreads) -> list[Spread] | None:
    """table[ids]: each piece of ids looks up its own."""
    table, ids = constant_of(node.inputs[0]), node.inputs[1]
    if table is None or ids not in spreads or node.inputs[0] is None:
        return None
    if int(attributes_of(node, {"axis": 0})["axis"]) != 0:
        return None
    source, entry, made = node.inputs[0], table.shape[1:], []
    for piece in spreads[ids].pieces:
        within = np.arange(size_of(entry)).reshape(entry)
        places = np.add.outer(piece.places * size_of(entry), within)
        found = pieces.put("Gather", [source, piece.value()], places.shape, source, axis=0)
        made.append(Piece(places, **{"shared" if piece.is_shared else "own": found}))
    return [Spread((*spreads[ids].shape, *entry), tuple(made))]


def move(pieces: PieceEditor, node: ir.Node, spreads: Spreads) -> list[Spread] | None:
    """Every operator that only moves the numbers of a row: where from is found by moving their positions."""
    source = node.inputs[0]
    constants = [constant_of(value) for value in node.inputs[1:] if value is not None]
    shapes = [row_shape_of(output) for output in node.outputs]
    if source not in spreads or any(found is None for found in (*constants, *shapes)):
        return None
    spread = spreads[source]
    if not is_a(node, "Reshape", "Squeeze", "Unsqueeze") and spread.is_plain:
        return None
    if not _leaves_the_batch(node, len(spread.shape)):
        return None
    positions = np.arange(size_of(spread.shape)).reshape(spread.shape)
    moved = evaluate(node, [positions, *constants])  # type: ignore[list-item]
    return [_chosen(pieces, spread, np.asarray(where)) for where in moved]


def _leaves_the_batch(node: ir.Node, rank: int) -> bool:
    attributes = attributes_of(node, {"axis": 0, "perm": (0,)})
    if is_a(node, "Transpose"):
        return bool(attributes["perm"][0] == 0)
    if is_a(node, "Gather", "Split"):
        return attributes["axis"] % rank != 0
    if is_a(node, "Slice"):
        axes = constant_of(node.inputs[3]) if len(node.inputs) > 3 else None
        return axes is not None and bool((axes % rank != 0).all())
    return True


def _chosen(pieces: PieceEditor, spread: Spread, where: Array) -> Spread:
    """The value whose numbers are those at positions `where` [*its shape] of another one."""
    made, flat = [], where.ravel()
    for piece in spread.pieces:
        of_piece = np.full(size_of(spread.shape), -1)
        of_piece[piece.places.ravel()] = np.arange(piece.places.size)
        outputs = np.flatnonzero(of_piece[flat] >= 0)
        chosen = of_piece[flat[outputs]]
        if len(chosen) == 0:
            continue
        if len(chosen) == piece.places.size and len(np.unique(chosen)) == len(chosen):
            places = np.empty(piece.places.size, np.int64)
            places[chosen] = outputs
            made.append(Piece(places.reshape(piece.places.shape), piece.shared, piece.own))
            continue
        box = box_of(outputs, where.shape)
        shape = tuple(len(indices) for indices in box[1] if len(indices) > 1) if box is not None else ()
        shape = shape or (len(outputs),)
        made.append(
            pieces.each(
                piece,
                lambda part, chosen=chosen, shape=shape: pieces.taken(part, chosen, shape),
                outputs.reshape(shape),
            )
        )
    return Spread(where.shape, tuple(made))


def concat(pieces: PieceEditor, node: ir.Node, spreads: Spreads) -> list[Spread] | None:
    """Values side by side: their pieces, those by request joined and those of rows."""
    given = [spreads.get(value) for value in node.inputs]  # type: ignore[arg-type]
    known = [spread for spread in given if spread is not None]
    row_shape = row_shape_of(node.outputs[0])
    if len(known) < len(given) or row_shape is None or len({spread.shape[0] for spread in known}) > 1:
        return None
    axis = attributes_of(node, {})["axis"] % len(known[0].shape)
    if axis == 0 or _is_left(known):
        return None
    starts = np.cumsum([0, *(size_of(spread.shape) for spread in known)])
    numbers = [
        np.arange(start, start + size_of(spread.shape)).reshape(spread.shape)
        for start, spread in zip(starts, known, strict=False)
    ]
    joined = np.concatenate(numbers, axis=axis)
    where = np.empty(joined.size, np.int64)
    where[joined.ravel()] = np.arange(joined.size)
    made = [
        Piece(where[piece.places + start], piece.shared, piece.own)
        for start, spread in zip(starts, known, strict=False)
        for piece in spread.pieces
    ]
    return [pieces.few(Spread(joined.shape, tuple(made)))]


def _is_left(spreads: Sequence[Spread]) -> bool:
    """Whether these are values as the graph had them, all by request or all of rows."""
    return all(spread.is_plain for spread in spreads) and len({spread.is_shared for spread in spreads}) == 1


@dataclass(frozen=True)
class _Operands:
    """The inputs of an operator that works by element: spreads, constants by element, and lone numbers."""

    node: ir.Node
    shape: tuple[int, ...]
    given: tuple[Spread | Array | ir.Value | None, ...]

    def sources(self, number: int) -> Array:
        """For each number of the output the position in this operand, [*shape]."""
        spread = self.given[number]
        if not isinstance(spread, Spread):
            raise TypeError("only values in pieces have positions")
        positions = np.arange(size_of(spread.shape)).reshape(spread.shape)
        return np.broadcast_to(positions, self.shape)


def by_element(pieces: PieceEditor, node: ir.Node, spreads: Spreads) -> list[Spread] | None:
    """What works number by number does so piece by piece; where pieces differ, only whole ones meet."""
    operands = _operands(pieces, node, spreads)
    if operands is None:
        return None
    held = [given for given in operands.given if isinstance(given, Spread)]
    if _is_left(held) or any(len(spread.shape) != len(operands.shape) for spread in held):
        return None
    cells = _cells(operands)
    if cells is None:
        return None
    made = [_apply(pieces, operands, cell) for cell in cells]
    if any(piece is None for piece in made):
        return None
    return [Spread(operands.shape, tuple(piece for piece in made if piece is not None))]


def _operands(pieces: PieceEditor, node: ir.Node, spreads: Spreads) -> _Operands | None:
    row_shape = row_shape_of(node.outputs[0])
    lines = {spreads[value].shape[0] for value in node.inputs if value in spreads}
    if row_shape is None or len(lines) != 1:
        return None
    shape = (*lines, *row_shape)
    given: list[Spread | Array | ir.Value | None] = []
    for value in node.inputs:
        constant = constant_of(value)
        if value is None:
            given.append(None)
        elif value in spreads:
            given.append(spreads[value])
        elif constant is None:
            return None
        elif constant.size == 1:
            given.append(pieces.editor.constant(constant.reshape(()), value.name or "constant"))
        else:
            given.append(np.broadcast_to(constant, shape))
    return _Operands(node, shape, tuple(given))


@dataclass(frozen=True)
class _Cell:
    """Positions of the output for which each operand in pieces gives one whole piece, by operand."""

    positions: Array
    pieces: Mapping[int, Piece]


def _cells(operands: _Operands) -> list[_Cell] | None:
    held = [number for number, given in enumerate(operands.given) if isinstance(given, Spread)]
    owners = {}
    for number in held:
        spread = operands.given[number]
        owner = np.empty(size_of(spread.shape), np.int64)  # type: ignore[union-attr]
        for count, piece in enumerate(spread.pieces):  # type: ignore[union-attr]
            owner[piece.places.ravel()] = count
        owners[number] = owner[operands.sources(number)].ravel()
    labels, inverse = np.unique(np.stack(list(owners.values())), axis=1, return_inverse=True)
    cells = []
    for count, label in enumerate(labels.T):
        positions = np.flatnonzero(inverse.ravel() == count)
        met = {number: operands.given[number].pieces[at] for number, at in zip(held, label, strict=True)}  # type: ignore[union-attr]
        for number, piece in met.items():
            if len(np.unique(operands.sources(number).ravel()[positions])) < piece.places.size:
                return None
        cells.append(_Cell(positions, met))
    apart = len(cells) == 1 or any(all(p.is_shared for p in cell.pieces.values()) for cell in cells)
    return cells if apart or len(held) == 1 else None


def _apply(pieces: PieceEditor, operands: _Operands, cell: _Cell) -> Piece | None:
    """One cell of the output."""
    first = next(iter(cell.pieces))
    stretched = any(len(cell.positions) > piece.places.size for piece in cell.pieces.values())
    if stretched:
        box = box_of(cell.positions, operands.shape)
        if box is None:
            return None
        places = np.ravel_multi_index(np.meshgrid(*box[1], indexing="ij"), operands.shape)
    else:
        goes_to = np.empty(size_of(operands.given[first].shape), np.int64)  # type: ignore[union-attr]
        goes_to[operands.sources(first).ravel()[cell.positions]] = cell.positions
        places = goes_to[cell.pieces[first].places]
    met = {}
    for number, piece in cell.pieces.items():
        wanted = operands.sources(number).ravel()[places]
        for axis in range(wanted.ndim) if stretched else ():
            once = np.take(wanted, [0], axis=axis)
            wanted = once if (wanted == once).all() else wanted
        met[number] = pieces.arranged(piece, wanted)
    given: list[Piece | ir.Value | None] = []
    for number, operand in enumerate(operands.given):
        if isinstance(operand, Spread):
            given.append(met[number])
        elif isinstance(operand, np.ndarray):
            given.append(pieces.editor.constant(np.ascontiguousarray(operand.ravel()[places]), "constant"))
        else:
            given.append(operand)
    return _on_parts(pieces, operands.node, given, places, stretched)


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
    if is_mixed and not stretched and isinstance(given[0], Piece) and len(given) == 2:
        if is_a(node, *SUMS):
            return _sum_of(pieces, node, given[0], given[1], places)
        if is_a(node, *FACTORS) and len(held) == 1:
            return pieces.each(
                held[0], lambda part: _put(pieces, node, [part, given[1]], places.shape), places
            )
    summed = [pieces.summed(operand) if isinstance(operand, Piece) else operand for operand in given]
    by_request = all(operand.is_shared for operand in summed if isinstance(operand, Piece))
    values = [
        operand
        if not isinstance(operand, Piece)
        else (operand if by_request else pieces.by_row(operand)).value()
        for operand in summed
    ]
    return Piece(places, **{"shared" if by_request else "own": _put(pieces, node, values, places.shape)})


def _sum_of(
    pieces: PieceEditor, node: ir.Node, left: Piece, right: Piece | ir.Value | None, places: Array
) -> Piece:
    """left + right or left - right."""
    parts: dict[str, ir.Value] = {}
    for kind in ("shared", "own"):
        ours = getattr(left, kind)
        if isinstance(right, Piece):
            theirs = getattr(right, kind)
        else:  # a constant goes where it is added least often
            theirs = right if kind == ("own" if left.shared is None else "shared") else None
        if ours is not None and theirs is not None:
            parts[kind] = _put(pieces, node, [ours, theirs], places.shape)
        elif ours is not None:
            parts[kind] = ours
        elif theirs is not None:
            parts[kind] = theirs if is_a(node, "Add") else pieces.put("Neg", [theirs], places.shape, theirs)
    return Piece(places, **parts)


def _put(
    pieces: PieceEditor, node: ir.Node, inputs: Sequence[ir.Value | None], shape: Sequence[int]
) -> ir.Value:
    if is_a(node, "QuantizeLinear"):
        source = _bytes_of(inputs)
        if source is not None:
            return pieces.reshaped(source, shape)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    dtype = node.outputs[0].dtype or ir.DataType.FLOAT
    return pieces.editor.put(pieces.before, node.op_type, inputs, shape, dtype, **attributes)  # type: ignore[arg-type]


def _bytes_of(inputs: Sequence[ir.Value | None]) -> ir.Value | None:
    """The bytes that a value was, if it is now to be quantized as it was dequantized."""
    source = inputs[0].producer() if inputs[0] is not None else None
    while source is not None and is_a(source, "Reshape") and source.inputs[0] is not None:
        source = source.inputs[0].producer()
    if source is None or not is_a(source, "DequantizeLinear") or len(source.inputs) != len(inputs):
        return None
    was, is_ = ([constant_of(value) for value in given[1:]] for given in (source.inputs, inputs))
    same = all(
        a is not None and b is not None and np.array_equal(a, b) for a, b in zip(was, is_, strict=True)
    )
    return source.inputs[0] if same else None
