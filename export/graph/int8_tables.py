"""Quantizes embedding tables to uint8 codes that pass through the graph unscaled.

The rows of a field share one scale. A lookup yields codes. Their scale is tracked as a constant over the
value's axes without the batch, until it can be multiplied into another constant: a layer's weights, or a
matrix that sums. It passes through every operator it commutes with: reshapes, products with other values,
sums within one field. Any other operator (a softmax, an addition) gets the value multiplied by its scale.

A table stays float where a logarithm reads its numbers: codes tell those near zero from zero no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from export.graph.editing import (
    Array,
    GraphEditor,
    attributes_of,
    constant_of,
    evaluate,
    is_a,
    row_shape_of,
    size_of,
)
from export.graph.unrounded import Unrounded

ZERO_POINT = 128
CODE_LIMIT = 127  # codes lie in ZERO_POINT +- CODE_LIMIT
CODE_STEP = np.float32(1.0)  # codes are used unscaled
SMALLEST_SCALE = np.finfo(np.float32).tiny  # the reciprocal of a smaller scale overflows
WORTHWHILE_SHARE = 1 / 8  # of the largest table's size; smaller tables stay float
MOVES = (
    "Reshape",
    "Transpose",
    "Slice",
    "Split",
    "Gather",
)  # move elements of their first input
HOMOGENEOUS = ("Relu", "Abs", "LeakyRelu")  # f(s x) = s f(x) for s >= 0
# What may lie between a table and the logarithm of its numbers, or of their sums and products.
BEFORE_LOGARITHMS = (*MOVES, *HOMOGENEOUS, "Add", "Clip", "Concat", "Div", "MatMul", "Mul")


@dataclass
class Codes:
    """What is known of the values of a graph with quantized tables."""

    editor: GraphEditor
    scales: dict[ir.Value, Array] = field(default_factory=dict)  # [*row_shape], not yet applied
    exact: set[ir.Value] = field(default_factory=set)  # integers in +-CODE_LIMIT
    scaled: dict[ir.Value, ir.Value] = field(default_factory=dict)  # the same values, scale applied


def quantize_tables(editor: GraphEditor, unrounded: Unrounded | None = None) -> set[ir.Value]:
    """Rewrites the large tables of a graph; returns the values that hold only codes.

    `unrounded` gets what the codes were rounded from.
    """
    codes = Codes(editor)
    for table in _large_tables(editor):
        floats = constant_of(table)
        factors = _look_up_codes(codes, table)
        if unrounded is not None and floats is not None:
            unrounded.tables[str(table.name)] = floats, factors
    for node in editor.nodes():
        if any(value in codes.scales for value in node.inputs) and not _pass_scales(codes, node):
            for value in dict.fromkeys(node.inputs):
                if value in codes.scales:
                    editor.replace_input(node, value, _apply_scale(codes, node, value))
    return codes.exact


def _large_tables(editor: GraphEditor) -> list[ir.Value]:
    tables = []
    for table in editor.graph.initializers.values():
        values, uses = constant_of(table), table.uses()
        if values is None or values.ndim != 2 or values.dtype != np.float32 or not uses:
            continue
        if all(is_a(node, "Gather") and at == 0 and _axis(node) == 0 for node, at in uses) and all(
            row_shape_of(node.inputs[1]) is not None and not _reaches_logarithm(node) for node, _ in uses
        ):
            tables.append((table, values.size))
    largest = max((size for _, size in tables), default=0)
    return [table for table, size in tables if size >= largest * WORTHWHILE_SHARE]


def _reaches_logarithm(node: ir.Node) -> bool:
    """Whether a logarithm reads what a node computes, with none but BEFORE_LOGARITHMS between."""
    found, waiting = {node}, [node]
    while waiting:
        for reader in waiting.pop().outputs[0].consumers():
            if is_a(reader, "Log"):
                return True
            if is_a(reader, *BEFORE_LOGARITHMS) and reader not in found:
                found.add(reader)
                waiting.append(reader)
    return False


def _look_up_codes(codes: Codes, table: ir.Value) -> Array:
    """Makes a table uint8 with a scale for each field; lookups yield codes minus the zero point.

    Returns what each row is multiplied by before it is rounded, [rows].
    """
    editor, values = codes.editor, constant_of(table)
    if values is None:
        raise TypeError("a table is a constant")
    gathers = [node for node in editor.nodes("Gather") if node.inputs[0] is table]
    first_rows = [_first_rows(node) for node in gathers]
    known = [rows for rows in first_rows if rows is not None]
    starts = np.unique(np.concatenate([[0], *(rows.ravel() for rows in known)]))
    if len(known) < len(gathers):  # a lookup may read rows of any field
        starts = np.zeros(1, np.int64)
    largest = np.maximum.reduceat(np.abs(values).max(axis=1), starts)
    scales = (largest / CODE_LIMIT).astype(np.float32)
    # A field of zeros gets the scale 0: any other would make it the largest input of the first layer, whose
    # weights share one scale for each output.
    scales[scales < SMALLEST_SCALE] = 0.0
    reciprocals = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0)
    rows_a_field = np.diff([*starts, len(values)])
    factors: Array = np.repeat(reciprocals, rows_a_field)
    table_codes = np.round(values * factors[:, None]) + ZERO_POINT
    table.const_value, table.dtype = ir.tensor(table_codes.astype(np.uint8)), ir.DataType.UINT8
    for gather, rows in zip(gathers, first_rows, strict=True):
        looked_up = gather.outputs[0]
        row_shape = row_shape_of(looked_up) or ()
        segment = np.searchsorted(starts, 0 if rows is None else rows, side="right") - 1
        inputs = [value for value in gather.inputs if value is not None]
        lookup = editor.put(
            gather, "Gather", inputs, row_shape, ir.DataType.UINT8, **attributes_of(gather, {})
        )
        parameters = [
            editor.constant(np.asarray(CODE_STEP), "codes.step"),
            editor.constant(np.asarray(ZERO_POINT, np.uint8), "codes.zero_point"),
        ]
        floats = editor.put(gather, "DequantizeLinear", [lookup, *parameters], row_shape)
        editor.replace(looked_up, floats)
        codes.scales[floats] = np.broadcast_to(scales[segment][..., None], row_shape).copy()
        codes.exact.add(floats)
    return factors


def _first_rows(gather: ir.Node) -> Array | None:
    """The first row of each looked-up column's field, from the constant that is added to the ids."""
    ids = gather.inputs[1]
    add = ids.producer() if ids is not None else None
    if add is None or not is_a(add, "Add"):
        return None
    for value in add.inputs:
        offsets = constant_of(value)
        if offsets is not None:
            rows: Array = np.broadcast_to(offsets, (1, *(row_shape_of(ids) or ())))[0]
            return rows
    return None


def _pass_scales(codes: Codes, node: ir.Node) -> bool:
    """Moves the scales of a node's inputs to its outputs or into its constants; False if neither works."""
    if is_a(node, "MatMul", "Gemm"):
        return _pass_product(codes, node)
    data = node.inputs if is_a(node, "Concat", "Mul") else node.inputs[:1]
    if is_a(node, "Div") and node.inputs[1] in codes.scales:
        return False
    if not is_a(node, *MOVES, *HOMOGENEOUS, "Concat", "Mul", "Div"):
        return False
    given: list[Array] = []
    for position, value in enumerate(node.inputs):
        constant, row_shape = constant_of(value), row_shape_of(value)
        if value in codes.scales:
            given.append(codes.scales[value][None])
        elif constant is not None and position >= len(data):
            given.append(np.ones_like(constant) if is_a(node, "Div") else constant)
        elif constant is not None and constant.ndim:
            given.append(np.ones(constant.shape, np.float32))
        elif constant is not None:
            given.append(np.array(1.0, np.float32))
        elif row_shape is not None:
            given.append(np.ones((1, *row_shape), np.float32))
        else:
            return False
    outcomes = [
        _one_row(scale, output) for scale, output in zip(evaluate(node, given), node.outputs, strict=True)
    ]
    known = [scale for scale in outcomes if scale is not None]
    if len(known) < len(outcomes):
        return False
    is_exact = is_a(node, *MOVES, "Concat") and all(value in codes.exact for value in data)
    for output, scale in zip(node.outputs, known, strict=True):
        codes.scales[output] = scale
        if is_exact:
            codes.exact.add(output)
    return True


def _one_row(scale: Array, output: ir.Value) -> Array | None:
    """[.., *row_shape] -> [*row_shape] if all rows are equal, else None; a reshape may have added rows."""
    row_shape = row_shape_of(output)
    if row_shape is None or scale.shape[1:] != row_shape or not (scale == scale[:1]).all():
        return None
    return np.asarray(scale[0], np.float32)


def _pass_product(codes: Codes, node: ir.Node) -> bool:
    left, right = node.inputs[0], node.inputs[1]
    row_shape = row_shape_of(node.outputs[0])
    if (
        left is None
        or right is None
        or row_shape is None
        or any(value in codes.scales for value in node.inputs[2:])
    ):
        return False
    left_constant, right_constant = constant_of(left), constant_of(right)
    if right_constant is not None and right_constant.ndim == 2 and left in codes.scales:
        is_transposed = is_a(node, "Gemm") and bool(attributes_of(node, {"transB": 0})["transB"])
        weight = right_constant.T if is_transposed else right_constant  # [in, out]
        outcome = _into_weight(codes.scales[left], weight, row_shape)
        if isinstance(outcome, tuple):
            scaled = outcome[0].T if is_transposed else outcome[0]
            node.replace_input_with(
                1, codes.editor.constant(np.ascontiguousarray(scaled), right.name or "weight")
            )
        elif outcome is not None and is_a(node, "MatMul"):
            codes.scales[node.outputs[0]] = outcome
        else:
            return False
        return True
    if is_a(node, "Gemm"):
        return False
    if left_constant is not None and left_constant.ndim == 2 and right in codes.scales:
        transposed_row = (*row_shape[:-2], row_shape[-1], row_shape[-2])
        outcome = _into_weight(codes.scales[right].swapaxes(-1, -2), left_constant.T, transposed_row)
        if isinstance(outcome, tuple):
            node.replace_input_with(
                0, codes.editor.constant(np.ascontiguousarray(outcome[0].T), left.name or "weight")
            )
        elif outcome is not None:
            codes.scales[node.outputs[0]] = outcome.swapaxes(-1, -2).copy()
        return outcome is not None
    if left_constant is not None or right_constant is not None:
        return False
    return _pass_value_product(codes, node, left, right, row_shape)


def _into_weight(scale: Array, weight: Array, row_shape: Sequence[int]) -> tuple[Array] | Array | None:
    """Moves the scale [.., in] of x in x @ weight [in, out].

    Returns a 1-tuple of the new weight, or the scale [*row_shape] of the product if the weight only sums
    elements of one scale, as the pooling of a sequence does. Returns None if neither is possible.
    """
    fan_out = weight.shape[1]
    if fan_out > 1 and (np.count_nonzero(weight, axis=1) <= 1).all():
        largest = np.max(np.where(weight != 0, scale[..., None], -np.inf), axis=-2)  # [.., out]
        smallest = np.min(np.where(weight != 0, scale[..., None], np.inf), axis=-2)
        if np.array_equal(largest, smallest):
            return np.broadcast_to(largest, row_shape).astype(np.float32)
    rows = scale.reshape(-1, scale.shape[-1])
    if (rows == rows[0]).all():
        return ((weight * rows[0][:, None]).astype(np.float32),)
    if (scale == scale[..., :1]).all():
        return np.broadcast_to(scale[..., :1], row_shape).astype(np.float32)
    return None


def _pass_value_product(
    codes: Codes, node: ir.Node, left: ir.Value, right: ir.Value, row_shape: Sequence[int]
) -> bool:
    """x [.., m, k] @ y [.., k, n]: a scale that is constant along k moves to the product."""
    product = np.ones(row_shape, np.float32)
    for value, axis in ((left, -1), (right, -2)):
        scale = codes.scales.get(value)
        if scale is None:
            continue
        if scale.ndim < 2:
            return False
        first = np.take(scale, [0], axis=axis)
        if not (scale == first).all():
            return False
        product *= first
    codes.scales[node.outputs[0]] = product
    return True


def _apply_scale(codes: Codes, before: ir.Node, value: ir.Value) -> ir.Value:
    if value not in codes.scaled:
        scale = codes.scales[value]
        factor = scale.ravel()[:1].reshape(()) if size_of(scale.shape) and np.ptp(scale) == 0 else scale
        constant = codes.editor.constant(factor, "codes.scale")
        codes.scaled[value] = codes.editor.put(before, "Mul", [value, constant], scale.shape)
    return codes.scaled[value]


def _axis(gather: ir.Node) -> int:
    return int(attributes_of(gather, {"axis": 0})["axis"])
