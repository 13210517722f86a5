"""Operators that look up, move or join elements of split values: most only change positions.

Each function returns the node's split outputs, or None where splitting is impossible or gains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from export.graph.editing import Array, attributes_of, constant_of, evaluate, is_a, row_shape_of, size_of
from export.graph.shared_context.positions import box_of
from export.graph.shared_context.split_values import Block, BlockWriter, SplitValue, block_of

MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather")
SHAPES = ("Reshape", "Squeeze", "Unsqueeze")  # keep the order of elements

SplitValues = Mapping[ir.Value, SplitValue]


def look_up(writer: BlockWriter, node: ir.Node, split_values: SplitValues) -> list[SplitValue] | None:
    """table[ids], one lookup for each block of ids."""
    source, ids = node.inputs[0], node.inputs[1]
    table = constant_of(source)
    if source is None or table is None or ids is None or ids not in split_values:
        return None
    if int(attributes_of(node, {"axis": 0})["axis"]) != 0:
        return None
    entry, made = table.shape[1:], []
    for block in map(writer.summed, split_values[ids].blocks):
        within = np.arange(size_of(entry)).reshape(entry)
        positions = np.add.outer(block.positions * size_of(entry), within)
        found = writer.put("Gather", [source, block.value()], positions.shape, axis=0)
        made.append(block_of(found, positions, block.is_shared))
    return [SplitValue((*split_values[ids].shape, *entry), tuple(made))]


def move(writer: BlockWriter, node: ir.Node, split_values: SplitValues) -> list[SplitValue] | None:
    """Operators that only move the elements of a row; applied to positions they show where each came from."""
    split = split_values.get(node.inputs[0]) if node.inputs[0] is not None else None
    constants = [constant_of(value) for value in node.inputs[1:] if value is not None]
    known = [constant for constant in constants if constant is not None]
    if split is None or len(known) < len(constants):
        return None
    if any(row_shape_of(output) is None for output in node.outputs):
        return None
    if (split.is_plain and not is_a(node, *SHAPES)) or not _keeps_the_batch(node, len(split.shape)):
        return None
    positions = np.arange(size_of(split.shape)).reshape(split.shape)
    return [_chosen(writer, split, np.asarray(where)) for where in evaluate(node, [positions, *known])]


def _keeps_the_batch(node: ir.Node, rank: int) -> bool:
    attributes = attributes_of(node, {"axis": 0, "perm": (0,)})
    if is_a(node, "Transpose"):
        return int(attributes["perm"][0]) == 0
    if is_a(node, "Gather", "Split"):
        return int(attributes["axis"]) % rank != 0
    if is_a(node, "Slice"):
        axes = constant_of(node.inputs[3]) if len(node.inputs) > 3 else None
        return axes is not None and bool((axes % rank != 0).all())
    return True


def _chosen(writer: BlockWriter, split: SplitValue, where: Array) -> SplitValue:
    """The value whose elements are those at positions `where` [*its shape] of `split`."""
    made, flat = [], where.ravel()
    for block in split.blocks:
        number_at = np.full(size_of(split.shape), -1)
        number_at[block.positions.ravel()] = np.arange(block.positions.size)
        outputs = np.flatnonzero(number_at[flat] >= 0)
        if len(outputs):
            made.append(_moved(writer, block, number_at[flat[outputs]], outputs, where.shape))
    return SplitValue(where.shape, tuple(made))


def _moved(writer: BlockWriter, block: Block, numbers: Array, outputs: Array, shape: Sequence[int]) -> Block:
    """Elements `numbers` of the block, as a block at positions `outputs` of a value of this shape."""
    if len(numbers) == block.positions.size == len(np.unique(numbers)):
        positions = np.empty(block.positions.size, np.int64)
        positions[numbers] = outputs
        return Block(positions.reshape(block.positions.shape), block.shared, block.own)
    box = box_of(outputs, shape)
    sizes = () if box is None else tuple(len(indices) for indices in box[1] if len(indices) > 1)
    positions = outputs.reshape(sizes or (len(outputs),))
    return block.each(lambda term: writer.taken(term, numbers, positions.shape), positions)


def concat(writer: BlockWriter, node: ir.Node, split_values: SplitValues) -> list[SplitValue] | None:
    """Concat: the shared blocks of all inputs joined, and their per-row blocks joined."""
    known = [split_values[value] for value in node.inputs if value is not None and value in split_values]
    if len(known) < len(node.inputs) or row_shape_of(node.outputs[0]) is None:
        return None
    axis = int(attributes_of(node, {})["axis"]) % len(known[0].shape)
    if axis == 0 or len({split.shape[0] for split in known}) > 1 or are_unchanged(known):
        return None
    starts = np.cumsum([0, *(size_of(split.shape) for split in known)])[:-1]
    numbered = [
        np.arange(start, start + size_of(split.shape)).reshape(split.shape)
        for start, split in zip(starts, known, strict=True)
    ]
    joined = np.concatenate(numbered, axis=axis)
    where = np.argsort(joined.ravel())
    made = [
        Block(where[block.positions + start], block.shared, block.own)
        for start, split in zip(starts, known, strict=True)
        for block in split.blocks
    ]
    return [writer.merged(SplitValue(joined.shape, tuple(made)))]


def are_unchanged(split_values: Sequence[SplitValue]) -> bool:
    """Whether none of these is divided or reordered, and all are shared or all are per row."""
    return (
        all(split.is_plain for split in split_values)
        and len({split.is_shared for split in split_values}) == 1
    )
