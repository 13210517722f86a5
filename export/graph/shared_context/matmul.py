"""Products of split values with constant matrices: shared blocks once a request, per-row blocks once a row.

x @ W is the sum over the blocks of x of block @ (the block's rows of W). Columns of W that only the context
reaches become a shared block. This module knows Gemm and MatMul, and not what they are for.

A product along the middle axis (FwFM's pairs) is one Gemm with W kron I where that matrix is small, and else
transposes first and then uses a Gemm with W: measured faster than a MatMul from the left, or gathering both
ends of more than a few pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from export.graph.editing import Array, attributes_of, constant_of, is_a, row_shape_of, size_of
from export.graph.shared_context.positions import box_of, grid
from export.graph.shared_context.split_values import Block, BlockWriter, Box, SplitValue

MOST_EXPANDED = {"own": 4096, "shared": 16_384}
"""Numbers of W kron I up to which one Gemm is faster, for what is computed once a row and once a request."""


@dataclass(frozen=True)
class Product:
    """x @ weight along an axis of x, which the weight's columns replace; bias [out] is added.

    `transposes`: per-row terms may be transposed before, so they come out with that axis first.
    """

    weight: Array  # [in, out]
    axis: int = -1
    bias: ir.Value | None = None
    transposes: bool = False


def product_of(node: ir.Node) -> tuple[ir.Value, Product] | None:
    """The value and the constant that a node multiplies; None if it is no such product."""
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
    writer: BlockWriter, split: SplitValue, product: Product, added: SplitValue | None = None
) -> SplitValue | None:
    """The split product, plus `added` [rows, out]; None where the blocks can't stay separate."""
    if product.axis == -1 and added is None and product.bias is None and _is_stored_transposed(split):
        transposed = multiply(writer, _swapped(split), Product(product.weight, axis=-2, transposes=True))
        return None if transposed is None else _swapped(transposed)
    if product.axis == -2 and size_of(split.shape[:-2]) > 1:
        return None
    groups = grouped(writer, split, product)
    if groups is None or (added is not None and (len(groups) > 1 or len(added.blocks) > 1)):
        return None
    shape = list(split.shape)
    shape[product.axis] = product.weight.shape[1]
    if added is not None and added.shape != tuple(shape):  # Gemm broadcasts a column to all outputs
        return None
    made = (
        _multiply_columns(writer, group, product, columns, shape, added)
        for group in groups
        for columns in _columns(group, product)
    )
    return SplitValue(tuple(shape), tuple(made))


def grouped(writer: BlockWriter, split: SplitValue, product: Product) -> list[list[Box]] | None:
    """The blocks grouped by their indices on all other axes; each group covers the summed axis completely."""
    groups: dict[tuple[bytes, ...], list[Box]] = {}
    for block in writer.merged(split).blocks:
        box = writer.as_box(block, split.shape)
        if box is None:
            return None
        groups.setdefault(box.rest(product.axis), []).append(box)
    width = len(product.weight)
    if any(sum(len(box.indices[product.axis]) for box in group) != width for group in groups.values()):
        return None
    return list(groups.values())


def _is_stored_transposed(split: SplitValue) -> bool:
    """Whether some block is stored with its last two axes swapped: then it is multiplied from the left."""
    if len(split.shape) < 3 or min(split.shape[-2:]) == 1 or size_of(split.shape[:-2]) > 1:
        return False
    boxes = [box_of(block.positions, split.shape) for block in split.blocks]
    return any(box is not None and box[0] != tuple(range(len(box[0]))) for box in boxes)


def _swapped(split: SplitValue) -> SplitValue:
    """The same blocks, as blocks of the value with its last two axes swapped."""
    *lead, rows, columns = split.shape
    where = np.arange(size_of(split.shape)).reshape(*lead, columns, rows).swapaxes(-1, -2).ravel()
    moved = (replace(block, positions=where[block.positions]) for block in split.blocks)
    return SplitValue((*lead, columns, rows), tuple(moved))


def _columns(group: Sequence[Box], product: Product) -> list[Array]:
    """The columns of the weight, divided by what reaches them: shared blocks, per-row blocks, or both."""
    width = product.weight.shape[1]
    per_request, per_row, owner = np.zeros(width, bool), np.zeros(width, bool), np.zeros(width, int)
    for box in group:
        reached = (product.weight[box.indices[product.axis]] != 0).any(axis=0)
        per_request |= reached & (box.block.shared is not None)
        per_row |= reached & (box.block.own is not None)
    if width == len(product.weight):  # square: the product may be combined with x, so it is divided as x is
        for number, box in enumerate(group):
            own = box.indices[product.axis]
            per_request[own], per_row[own], owner[own] = per_request[own].any(), per_row[own].any(), number
    if any(box.block.shared is not None for box in group):
        per_request |= ~per_row  # columns that nothing reaches
    kinds = per_request + 2 * per_row + 4 * owner * (not (per_request & per_row).all())
    return [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]


def _multiply_columns(
    writer: BlockWriter,
    group: Sequence[Box],
    product: Product,
    columns: Array,
    shape: Sequence[int],
    added: SplitValue | None,
) -> Block:
    """These columns of the product, as the sum of a shared and a per-row term."""
    indices = [*group[0].indices]
    indices[product.axis] = columns
    positions = grid(indices, shape)
    weights = [product.weight[box.indices[product.axis]][:, columns] for box in group]
    terms = [
        (kind, term, weight)
        for kind in ("shared", "own")
        for box, weight in zip(group, weights, strict=True)
        for term in [box.block.shared if kind == "shared" else box.block.own]
        if term is not None
    ]
    terms = [term for term in terms if term[2].any()] or terms[:1]
    totals: dict[str, ir.Value | None] = {"shared": None, "own": None}
    bias = constant_of(product.bias)
    if added is not None:
        addend = writer.rearranged(added.blocks[0], positions)
        totals = {"shared": addend.shared, "own": addend.own}
    elif bias is not None:
        bias = np.broadcast_to(bias.ravel(), product.weight.shape[1])
        totals[terms[0][0]] = writer.editor.constant(np.ascontiguousarray(bias[columns]), "bias")
    depth = positions.shape[-1]
    transposes = product.transposes and any(
        kind == "own" and not _is_small(kind, weight, depth) for kind, _, weight in terms
    )
    for kind, term, weight in terms:
        if transposes and kind == "own":
            totals[kind] = _from_right(
                writer, writer.transposed(term, (1, 0)), weight, positions.T.shape, totals[kind]
            )
        elif product.axis == -1:
            totals[kind] = _from_right(writer, term, weight, positions.shape, totals[kind])
        elif _is_small(kind, weight, depth):
            expanded = np.kron(weight, np.eye(depth, dtype=weight.dtype))
            totals[kind] = _from_right(writer, term, expanded, positions.shape, totals[kind])
        else:
            totals[kind] = _from_left(writer, term, weight, positions.shape, totals[kind])
    block = Block(positions, totals["shared"], totals["own"])
    if not transposes:
        return block
    shared = None if block.shared is None else writer.transposed(block.shared, (1, 0))
    return Block(positions.T, shared, block.own)


def _is_small(kind: str, weight: Array, depth: int) -> bool:
    """Whether the weight kron I is small enough for one Gemm."""
    return weight.size * depth**2 <= MOST_EXPANDED[kind]


def _from_right(
    writer: BlockWriter, value: ir.Value, weight: Array, out_shape: Sequence[int], addend: ir.Value | None
) -> ir.Value:
    """value [batch, .., in] @ weight [in, out], plus addend [batch, .., out] or a constant [out]."""
    width, out = weight.shape
    inputs = [
        writer.reshaped(value, (width,)),
        writer.editor.constant(np.ascontiguousarray(weight), "weight"),
    ]
    if addend is not None:
        inputs.append(addend if constant_of(addend) is not None else writer.reshaped(addend, (out,)))
    return writer.reshaped(writer.put("Gemm", inputs, (out,)), out_shape)


def _from_left(
    writer: BlockWriter, value: ir.Value, weight: Array, out_shape: Sequence[int], addend: ir.Value | None
) -> ir.Value:
    """weight transposed [out, in] @ value [batch, in, depth], plus addend [batch, out, depth]."""
    (width, out), depth = weight.shape, out_shape[-1]
    matrix = writer.editor.constant(np.ascontiguousarray(weight.T), "weight")
    inputs = [matrix, writer.reshaped(value, (width, depth))]
    made = writer.reshaped(writer.put("MatMul", inputs, (out, depth)), out_shape)
    return made if addend is None else writer.put("Add", [made, addend], out_shape)
