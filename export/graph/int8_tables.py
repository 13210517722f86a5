"""Quantizes embedding tables to codes that pass through the graph unscaled.

The rows of a segment, a field's as a rule, share one scale. A lookup yields codes. Their scale is tracked as
a constant over the value's axes without the batch, until it can be multiplied into another constant: a
layer's weights, or a matrix that sums. It passes through every operator it commutes with: reshapes, products
with other values, sums within one field. Any other operator (a softmax, an addition) gets the value
multiplied by its scale.

`row_codes` packs narrow codes, `table_lookups` says which tables have codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from export.graph.row_codes import ZERO_POINT, Form, codes_of, form_of, pack, row_bytes, unpack
from export.graph.table_lookups import HOMOGENEOUS, MOVES, Lookup, Table, large_tables
from export.graph.unrounded import Unrounded

CODE_STEP = np.float32(1.0)  # codes are used unscaled

Forms = Mapping[str, Sequence[Form]]
"""By table, how the rows of each of its segments are written."""


@dataclass
class Codes:
    """What is known of the values of a graph with quantized tables."""

    editor: GraphEditor
    scales: dict[ir.Value, Array] = field(default_factory=dict)  # [*row_shape], not yet applied
    exact: set[ir.Value] = field(default_factory=set)  # integers in +-CODE_LIMIT
    scaled: dict[ir.Value, ir.Value] = field(default_factory=dict)  # the same values, scale applied


def quantize_tables(
    editor: GraphEditor, forms: Forms | None = None, unrounded: Unrounded | None = None
) -> set[ir.Value]:
    """Rewrites the tables in `forms`, else the large ones at 8 bits.

    Returns the values that hold only codes. `unrounded` gets what codes of 8 bits were rounded from.
    """
    codes = Codes(editor)
    for table in large_tables(editor) if forms is None else large_tables(editor, 0.0):
        if forms is None:
            _look_up_codes(codes, table, bytes_a_number(table), unrounded)
        elif table.name in forms:
            _look_up_codes(codes, table, forms[table.name], unrounded)
    for node in editor.nodes():
        if any(value in codes.scales for value in node.inputs) and not _pass_scales(codes, node):
            for value in dict.fromkeys(node.inputs):
                if value in codes.scales:
                    editor.replace_input(node, value, _apply_scale(codes, node, value))
    return codes.exact


def bytes_a_number(table: Table) -> tuple[Form, ...]:
    """8 bits for every row, with a scale for each segment that its largest number fits."""
    largest = np.maximum.reduceat(np.abs(table.values).max(axis=1), table.starts)
    return tuple(form_of(one, 8) for one in largest)


def _look_up_codes(codes: Codes, table: Table, forms: Sequence[Form], unrounded: Unrounded | None) -> None:
    """Writes a table's rows in their forms; lookups yield codes minus the zero point."""
    editor = codes.editor
    written = _write(editor, table, forms, unrounded)
    scales = np.array([form.scale for form in forms], np.float32)
    for lookup in table.lookups:
        looked_up = lookup.gather.outputs[0]
        row_shape = row_shape_of(looked_up) or ()
        bytes_ = _unpacked(editor, lookup, written, row_shape)
        parameters = [
            editor.constant(np.asarray(CODE_STEP), "codes.step"),
            editor.constant(np.asarray(ZERO_POINT, np.uint8), "codes.zero_point"),
        ]
        floats = editor.put(lookup.gather, "DequantizeLinear", [bytes_, *parameters], row_shape)
        editor.replace(looked_up, floats)
        codes.scales[floats] = np.broadcast_to(scales[lookup.segments][..., None], row_shape).copy()
        codes.exact.add(floats)


@dataclass(frozen=True)
class _Written:
    """The packed rows of all segments of one width; `first` [segments of the table], -1 for other widths."""

    bits: int
    table: ir.Value
    first: Array


def _write(
    editor: GraphEditor, table: Table, forms: Sequence[Form], unrounded: Unrounded | None
) -> list[_Written]:
    """A table for each width; where there is only one, in place of the float table."""
    widths = sorted({form.bits for form in forms}, reverse=True)
    written = []
    for bits in widths:
        chosen = [segment for segment, form in enumerate(forms) if form.bits == bits]
        rows = [table.values[table.rows_of(segment)] for segment in chosen]
        parts = [codes_of(own, forms[segment]) for segment, own in zip(chosen, rows, strict=True)]
        packed = pack(np.concatenate(parts), bits)
        first = np.full(len(forms), -1, np.int64)
        first[chosen] = np.cumsum([0, *map(len, parts)])[:-1]
        value = table.value
        if len(widths) > 1:
            value = editor.constant(packed, f"{table.name}.{bits}_bits")
        else:
            value.const_value = ir.tensor(packed)
            value.shape, value.dtype = ir.Shape(packed.shape), ir.DataType.UINT8
        if unrounded is not None and bits == 8:
            factors = np.repeat([forms[segment].factor for segment in chosen], [*map(len, rows)])
            unrounded.tables[str(value.name)] = np.concatenate(rows), factors
        written.append(_Written(bits, value, first))
    return written


def _unpacked(
    editor: GraphEditor, lookup: Lookup, written: Sequence[_Written], row_shape: tuple[int, ...]
) -> ir.Value:
    """The codes that a lookup finds, [batch, *row_shape], uint8."""
    gather, ids = lookup.gather, lookup.ids
    if len(written) == 1 or ids is None:
        return _found(editor, gather, gather.inputs[1], written[0], row_shape)
    parts, order = [], []
    for group in written:
        columns = np.flatnonzero(group.first[lookup.segments] >= 0)
        if not len(columns):
            continue
        dtype, shape = ids.dtype or ir.DataType.INT32, (len(columns),)
        chosen = editor.constant(columns.astype(np.int64), "codes.columns")
        own = editor.put(gather, "Gather", [ids, chosen], shape, dtype, axis=1)
        first = group.first[lookup.segments[columns]].astype(dtype.numpy())
        rows = editor.put(gather, "Add", [own, editor.constant(first, "codes.first_rows")], shape, dtype)
        parts.append(_found(editor, gather, rows, group, (*shape, row_shape[-1])))
        order.append(columns)
    if len(parts) == 1:
        return parts[0]
    joined = editor.put(gather, "Concat", parts, row_shape, ir.DataType.UINT8, axis=1)
    back = editor.constant(np.argsort(np.concatenate(order)), "codes.order")
    return editor.put(gather, "Gather", [joined, back], row_shape, ir.DataType.UINT8, axis=1)


def _found(
    editor: GraphEditor, gather: ir.Node, rows: ir.Value | None, group: _Written, row_shape: tuple[int, ...]
) -> ir.Value:
    """Looks rows up in the table of one width, and unpacks them."""
    shape = (*row_shape[:-1], row_bytes(row_shape[-1], group.bits))
    bytes_ = editor.put(
        gather, "Gather", [group.table, rows], shape, ir.DataType.UINT8, **attributes_of(gather, {})
    )
    return unpack(editor, gather, bytes_, row_shape, group.bits)


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
