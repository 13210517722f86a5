"""Elementwise operators on split values.

They are applied block by block where the blocks of all inputs cover the same positions, else to whole values.
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
    is_a,
    producer_behind_reshapes,
    row_shape_of,
    size_of,
)
from export.graph.shared_context.movement import SplitValues, are_unchanged
from export.graph.shared_context.positions import box_of, grid
from export.graph.shared_context.split_values import Block, BlockWriter, SplitValue, block_of
from export.graph.simplify import UNARY

BY_ELEMENT = (
    *UNARY,
    *("Cast", "Not", "QuantizeLinear", "DequantizeLinear"),
    *("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Pow", "Equal", "Less", "Greater", "And", "Or"),
    *("BitShift", "BitwiseAnd"),
)
SUMS = ("Add", "Sub")  # f(a + b, c + d) = f(a, c) + f(b, d)
FACTORS = ("Mul", "Div")  # distribute over a sum, but not on integers, which round


@dataclass(frozen=True)
class _Operands:
    """An operator's inputs by position: split values, constants and others; `shape` is the output's.

    Constants are arrays [*shape]. `others` holds scalars, and None for an input that is left out.
    """

    shape: tuple[int, ...]
    split_values: dict[int, SplitValue]
    constants: dict[int, Array]
    others: dict[int, ir.Value | None]

    def sources(self, position: int) -> Array:
        """For each element of the flat output its position in this input."""
        split = self.split_values[position]
        positions = np.arange(size_of(split.shape)).reshape(split.shape)
        return np.broadcast_to(positions, self.shape).ravel()


@dataclass(frozen=True)
class _Cell:
    """Positions of the output to which each split input contributes one whole block."""

    positions: Array
    blocks: Mapping[int, Block]


def by_element(writer: BlockWriter, node: ir.Node, split_values: SplitValues) -> list[SplitValue] | None:
    """The split output; None where the inputs are unchanged, or must be assembled first."""
    operands = _operands(writer, node, split_values)
    if operands is None or are_unchanged(list(operands.split_values.values())):
        return None
    cells = _cells(operands)
    made = [_apply(writer, node, operands, cell) for cell in cells or ()]
    known = [block for block in made if block is not None]
    if cells is None or len(known) < len(made):
        return None
    return [SplitValue(operands.shape, tuple(known))]


def _operands(writer: BlockWriter, node: ir.Node, split_values: SplitValues) -> _Operands | None:
    row_shape = row_shape_of(node.outputs[0])
    held = {
        at: split_values[value]
        for at, value in enumerate(node.inputs)
        if value is not None and value in split_values
    }
    lines = {split.shape[0] for split in held.values()}
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
            others[at] = writer.editor.constant(constant.reshape(()), value.name or "constant")
        else:
            constants[at] = np.broadcast_to(constant, shape)
    if any(len(split.shape) != len(shape) for split in held.values()):
        return None
    return _Operands(shape, held, constants, others)


def _cells(operands: _Operands) -> list[_Cell] | None:
    """The output divided by which blocks combine; None if blocks overlap in part, or nothing stays shared."""
    owners = []
    for at, split in operands.split_values.items():
        owner = np.empty(size_of(split.shape), np.int64)
        for number, block in enumerate(split.blocks):
            owner[block.positions.ravel()] = number
        owners.append(owner[operands.sources(at)])
    meetings, meeting_of = np.unique(np.stack(owners), axis=1, return_inverse=True)
    cells = []
    for number, meeting in enumerate(meetings.T):
        positions = np.flatnonzero(meeting_of.ravel() == number)
        met = {
            at: split.blocks[owner]
            for (at, split), owner in zip(operands.split_values.items(), meeting, strict=True)
        }
        if any(
            len(np.unique(operands.sources(at)[positions])) < block.positions.size
            for at, block in met.items()
        ):
            return None
        cells.append(_Cell(positions, met))
    stays_shared = any(all(block.is_shared for block in cell.blocks.values()) for cell in cells)
    return cells if stays_shared or len(cells) == 1 or len(operands.split_values) == 1 else None


def _apply(writer: BlockWriter, node: ir.Node, operands: _Operands, cell: _Cell) -> Block | None:
    """One cell of the output."""
    is_broadcast = any(block.positions.size < len(cell.positions) for block in cell.blocks.values())
    if is_broadcast:
        box = box_of(cell.positions, operands.shape)
        if box is None:
            return None
        positions = grid(box[1], operands.shape)
    else:  # in the order of the first block
        first, block = next(iter(cell.blocks.items()))
        goes_to = np.empty(size_of(operands.split_values[first].shape), np.int64)
        goes_to[operands.sources(first)[cell.positions]] = cell.positions
        positions = goes_to[block.positions]
    given: dict[int, Block | ir.Value | None] = dict(operands.others)
    for at, block in cell.blocks.items():
        wanted = operands.sources(at)[positions]
        given[at] = writer.rearranged(block, _without_repeats(wanted) if is_broadcast else wanted)
    for at, constant in operands.constants.items():
        given[at] = writer.editor.constant(np.ascontiguousarray(constant.ravel()[positions]), "constant")
    return _apply_to_terms(writer, node, [given[at] for at in sorted(given)], positions, is_broadcast)


def _without_repeats(positions: Array) -> Array:
    """Cuts each constant axis to length 1; the operator broadcasts it again."""
    for axis in range(positions.ndim):
        once = np.take(positions, [0], axis=axis)
        positions = once if (positions == once).all() else positions
    return positions


def _apply_to_terms(
    writer: BlockWriter,
    node: ir.Node,
    given: Sequence[Block | ir.Value | None],
    positions: Array,
    is_broadcast: bool,
) -> Block:
    """The operator on blocks of one shape: term by term where it distributes, else on the summed terms."""
    held = [operand for operand in given if isinstance(operand, Block)]
    is_mixed = any(block.is_sum for block in held) or len({block.is_shared for block in held}) > 1
    first = given[0]
    if is_mixed and not is_broadcast and isinstance(first, Block) and len(given) == 2:
        other = given[1]
        if is_a(node, *SUMS):
            return _sum_of(writer, node, first, other, positions)
        is_exact = node.outputs[0].dtype is None or node.outputs[0].dtype.is_floating_point()
        if is_a(node, *FACTORS) and is_exact and not isinstance(other, Block):
            return first.each(lambda term: _put(writer, node, [term, other], positions.shape), positions)
    per_request = all(block.is_shared for block in held)
    values = [
        operand
        if not isinstance(operand, Block)
        else (operand if per_request else writer.per_row(operand)).value()
        for operand in given
    ]
    return block_of(_put(writer, node, values, positions.shape), positions, per_request)


def _sum_of(
    writer: BlockWriter, node: ir.Node, left: Block, right: Block | ir.Value | None, positions: Array
) -> Block:
    """left + right or left - right; a constant joins the shared term if there is one, added less often."""
    if not isinstance(right, Block):
        right = block_of(right, positions, left.shared is not None) if right is not None else Block(positions)
    terms: list[ir.Value | None] = []
    for ours, theirs in ((left.shared, right.shared), (left.own, right.own)):
        if ours is not None and theirs is not None:
            terms.append(_put(writer, node, [ours, theirs], positions.shape))
        elif theirs is not None and is_a(node, "Sub"):
            terms.append(writer.put("Neg", [theirs], positions.shape))
        else:
            terms.append(theirs if ours is None else ours)
    return Block(positions, *terms)


def _put(
    writer: BlockWriter, node: ir.Node, inputs: Sequence[ir.Value | None], shape: Sequence[int]
) -> ir.Value:
    """The same operator on values of one shape."""
    source = _quantized_source(inputs) if is_a(node, "QuantizeLinear") else None
    if source is not None:
        return writer.reshaped(source, shape)
    dtype = node.outputs[0].dtype or ir.DataType.FLOAT
    if is_a(node, "Add") and dtype.is_floating_point():
        for value, other in (inputs, inputs[::-1]):
            if value is not None and other is not None and constant_of(other) is not None:
                return writer.with_constant(value, other)
    return writer.put(node.op_type, inputs, shape, dtype, **attributes_of(node, {}))


def _quantized_source(inputs: Sequence[ir.Value | None]) -> ir.Value | None:
    """The uint8 source of a value that is quantized with the parameters it was dequantized with."""
    source = producer_behind_reshapes(inputs[0])
    if source is None or not is_a(source, "DequantizeLinear") or len(source.inputs) != len(inputs):
        return None
    before, now = ([constant_of(value) for value in given[1:]] for given in (source.inputs, inputs))
    same = all(
        a is not None and b is not None and np.array_equal(a, b) for a, b in zip(before, now, strict=True)
    )
    return source.inputs[0] if same else None
