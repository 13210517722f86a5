"""Values of a batch, split into blocks that are computed once a request, once a row, or both and summed.

It reorders, cuts and joins blocks. It does not know which operator needs them in which form.

A value [rows, *row_shape] is a `SplitValue`: blocks that cover each of its elements once. A block stands for
`Gather(shared, request_index) + own`, where either term may be missing. The sum is deferred as long as
possible, because many rows share a request. `positions` says where the block's elements lie in the row, so
reshaping, transposing or joining values moves no data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from export.graph.editing import (
    Array,
    GraphEditor,
    attributes_of,
    before_reshapes,
    constant_of,
    is_a,
    producer_behind_reshapes,
    row_shape_of,
    size_of,
    through_reshapes,
)
from export.graph.shared_context.positions import (
    all_positions,
    box_of,
    cheapest_transposition,
    grid,
    longest_run,
)


@dataclass(frozen=True)
class Block:
    """Elements of a value: `shared` [requests, *block shape] per request, plus `own` [rows, *block shape].

    positions [*block shape] are the positions of its elements in the flat row of the value.
    """

    positions: Array
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
        """Its only term. Raises TypeError for a sum."""
        term = self.own if self.shared is None else self.shared
        if term is None or self.is_sum:
            raise TypeError("a block with two terms must be summed before it is a value")
        return term

    def each(self, change: Callable[[ir.Value], ir.Value], positions: Array) -> Block:
        """A block with `change` applied to each of its terms, at the given positions."""
        shared = None if self.shared is None else change(self.shared)
        return Block(positions, shared, None if self.own is None else change(self.own))


def block_of(value: ir.Value, positions: Array, per_request: bool) -> Block:
    """A block with one term."""
    return Block(positions, shared=value) if per_request else Block(positions, own=value)


@dataclass(frozen=True)
class SplitValue:
    """A value as blocks; shape is (lines, *row_shape), see `positions`."""

    shape: tuple[int, ...]
    blocks: tuple[Block, ...]

    @property
    def is_shared(self) -> bool:
        """Whether it depends on requests alone."""
        return all(block.is_shared for block in self.blocks)

    @property
    def is_plain(self) -> bool:
        """Whether it is a single block in the graph's own order, and not a sum."""
        if len(self.blocks) > 1 or self.blocks[0].is_sum:
            return False
        return np.array_equal(self.blocks[0].positions.ravel(), np.arange(size_of(self.shape)))


@dataclass(frozen=True)
class Box:
    """A block of all elements at the given indices along each axis of the value, in that order."""

    block: Block
    indices: tuple[Array, ...]

    def rest(self, axis: int) -> tuple[bytes, ...]:
        """The indices along all axes but one, as a hashable key."""
        kept = [indices for number, indices in enumerate(self.indices) if number != axis % len(self.indices)]
        return tuple(indices.tobytes() for indices in kept)


class BlockWriter:
    """Inserts the nodes that move blocks in front of the node `before`."""

    def __init__(self, editor: GraphEditor, request_index: ir.Value, before: ir.Node) -> None:
        self.editor = editor
        self.request_index = request_index
        self.before = before

    def put(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        row_shape: Sequence[int],
        dtype: ir.DataType | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Inserts a node with output [batch, *row_shape]; its type defaults to the first input's."""
        first = inputs[0].dtype if inputs[0] is not None else None
        dtype = dtype or first or ir.DataType.FLOAT
        return self.editor.put(self.before, operator, inputs, row_shape, dtype, **attributes)

    def reshaped(self, value: ir.Value, row_shape: Sequence[int]) -> ir.Value:
        """`value` as [batch, *row_shape], never as a reshape of a reshape."""
        for source in through_reshapes(value):
            shape = row_shape_of(source)
            if shape is None:
                break
            if shape == tuple(row_shape):
                return source
            value = source
        return self.editor.reshape(self.before, value, row_shape)

    def transposed(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """`value` with the axes after the batch in another order."""
        if tuple(order) == tuple(range(len(order))):
            return value
        shape = row_shape_of(value) or ()
        permutation = [0, *(axis + 1 for axis in order)]
        return self.put("Transpose", [value], [shape[axis] for axis in order], perm=permutation)

    def taken(self, value: ir.Value, indices: Array, row_shape: Sequence[int]) -> ir.Value:
        """The elements at these indices of the flat rows of `value`, as [batch, *row_shape]."""
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

    def rearranged(self, block: Block, positions: Array) -> Block:
        """The elements of a block at these positions, or at some of them, in that order and shape."""
        if np.array_equal(block.positions, positions):
            return block
        order, indices = cheapest_transposition(block.positions, positions)
        return block.each(
            lambda term: self.taken(self.transposed(term, order), indices, positions.shape), positions
        )

    def as_box(self, block: Block, shape: Sequence[int]) -> Box | None:
        """The block with one axis for each of the value's, transposed if needed; None if it is not a box."""
        box = box_of(block.positions, shape)
        if box is None:
            return None
        order, indices = box
        positions = grid(indices, shape)
        return Box(
            block.each(lambda term: self.reshaped(self.transposed(term, order), positions.shape), positions),
            indices,
        )

    def gathered(self, value: ir.Value) -> ir.Value:
        """[requests, ..] -> [rows, ..]."""
        source = before_reshapes(value)
        rows = self.put("Gather", [source, self.request_index], row_shape_of(source) or (), axis=0)
        return self.reshaped(rows, row_shape_of(value) or ())

    def summed(self, block: Block) -> Block:
        """A sum as one per-row term; a block with one term is returned unchanged."""
        if block.shared is None or block.own is None:
            return block
        return Block(block.positions, own=self._added(block.own, block.shared))

    def per_row(self, block: Block) -> Block:
        """A block with a per-row term only."""
        block = self.summed(block)
        return block if block.shared is None else Block(block.positions, own=self.gathered(block.shared))

    def _added(self, own: ir.Value, shared: ir.Value) -> ir.Value:
        """own + the shared term, as the bias of the Gemm that computes `own` where there is one."""
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
            addend = self.gathered(self.with_constant(self.reshaped(shared, flat), bias))
        return self.reshaped(self._gemm_again(gemm, addend), shape)

    def with_constant(self, value: ir.Value, constant: ir.Value) -> ir.Value:
        """value + a constant of one row, as the bias of a Gemm that has none, else by an Add."""
        shape, gemm, row = row_shape_of(value) or (), _last_gemm(value), constant_of(constant)
        flat = () if gemm is None else row_shape_of(gemm.outputs[0]) or ()
        if gemm is not None and row is not None and len(gemm.inputs) == 2 and row.size == size_of(flat):
            bias = self.editor.constant(np.ascontiguousarray(row).reshape(flat), "bias")
            return self.reshaped(self._gemm_again(gemm, bias), shape)
        return self.put("Add", [value, constant], shape)

    def _gemm_again(self, gemm: ir.Node, addend: ir.Value) -> ir.Value:
        inputs = [value for value in (*gemm.inputs[:2], addend) if value is not None]
        return self.put("Gemm", inputs, row_shape_of(gemm.outputs[0]) or (), **attributes_of(gemm, {}))

    def joined(self, blocks: Sequence[Block], shape: Sequence[int]) -> Block:
        """Blocks of a value of this shape, all shared or all per row, as one block."""
        if len(blocks) == 1:
            return blocks[0]
        axis = 0
        if len({block.positions.shape[1:] for block in blocks}) > 1 or not all(
            p.positions.ndim for p in blocks
        ):
            axis, blocks = self._side_by_side(blocks, shape)
        positions = np.concatenate([block.positions for block in blocks], axis=axis)
        together = self.put("Concat", [block.value() for block in blocks], positions.shape, axis=axis + 1)
        return block_of(together, positions, blocks[0].is_shared)

    def _side_by_side(self, blocks: Sequence[Block], shape: Sequence[int]) -> tuple[int, list[Block]]:
        """The blocks as boxes that differ along one axis, and that axis; flattened where there is none."""
        boxes = [self.as_box(block, shape) for block in blocks if box_of(block.positions, shape) is not None]
        known = [box for box in boxes if box is not None]
        if len(known) == len(blocks):
            for axis in range(shape[0] == 1, len(shape)):
                if len({box.rest(axis) for box in known}) == 1:
                    return axis - (shape[0] == 1), [box.block for box in known]
        return 0, [self.rearranged(block, block.positions.ravel()) for block in blocks]

    def merged(self, split: SplitValue) -> SplitValue:
        """The same value with its shared blocks joined into one, and its per-row blocks into one."""
        shared = [block for block in split.blocks if block.own is None]
        own = [block for block in split.blocks if block.shared is None]
        joined = [self.joined(group, split.shape) for group in (shared, own) if group]
        return SplitValue(split.shape, (*(block for block in split.blocks if block.is_sum), *joined))

    def assembled(self, split: SplitValue, per_request: bool) -> ir.Value:
        """The whole value in its own order: per row, or per request if shared and `per_request` is set."""
        merged = self.merged(SplitValue(split.shape, tuple(map(self.summed, split.blocks))))
        blocks = merged.blocks if per_request else tuple(map(self.per_row, merged.blocks))
        return self.rearranged(self.joined(blocks, split.shape), all_positions(split.shape)).value()


def _last_gemm(value: ir.Value) -> ir.Node | None:
    """The plain Gemm that produces a value, perhaps behind a Reshape."""
    node = producer_behind_reshapes(value)
    if node is None or not is_a(node, "Gemm") or constant_of(node.inputs[1]) is None:
        return None
    attributes = attributes_of(node, {"alpha": 1.0, "beta": 1.0, "transA": 0})
    return node if attributes["alpha"] == attributes["beta"] == 1.0 and not attributes["transA"] else None
