"""Rewrites a graph with fewer and faster nodes that compute the same. It knows operators, not models.

At one row the number of nodes is most of a graph's time, whatever they do. Gemm between two reshapes, which
are free, is faster than MatMul and Add; Mul of a value with itself is faster than Pow.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.graph.editing import (
    GraphEditor,
    attributes_of,
    before_reshapes,
    constant_of,
    is_a,
    row_shape_of,
    size_of,
)

BINARY = ("Add", "Sub", "Mul", "Div")
UNARY = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Neg", "Abs", "Exp", "Sqrt", "Gelu", "Erf", "Clip")


def simplify(editor: GraphEditor) -> None:
    """Rewrites the exporter's graph; run before `make_sums_exact`."""
    editor.fold_constants()
    for node in editor.nodes("Floor"):
        _divide_integers(editor, node)
    for node in editor.nodes("Pow"):
        _square_by_product(editor, node)
    for node in editor.nodes("Squeeze", "Unsqueeze", "Reshape"):
        _reshape_by_constant(editor, node)
    for node in editor.nodes("MatMul"):
        _to_gemm(editor, node)
    editor.sweep()
    for node in editor.nodes("Gather"):
        _move_into_table(editor, node)
    editor.sweep()


def merge_reshapes(editor: GraphEditor) -> None:
    """Moves reshapes behind elementwise operators and merges a reshape of a reshape into one."""
    for node in editor.nodes(*UNARY):
        value = node.inputs[0]
        source = value.producer() if value is not None else None
        shape = row_shape_of(node.outputs[0])
        before = row_shape_of(source.inputs[0]) if is_a(source, "Reshape") and source is not None else None
        if value is None or source is None or shape is None or before is None or len(value.uses()) > 1:
            continue
        inputs = [source.inputs[0], *node.inputs[1:]]
        moved = editor.put(node, node.op_type, inputs, before, **attributes_of(node, {}))
        editor.replace(node.outputs[0], editor.reshape(node, moved, shape))
    for node in editor.nodes(*BINARY):
        _move_before_reshape(editor, node)
    for node in editor.nodes("Reshape"):
        source = node.inputs[0].producer() if node.inputs[0] is not None else None
        shape = row_shape_of(node.outputs[0])
        if is_a(source, "Reshape") and source is not None and shape is not None:
            first = source.inputs[0]
            if first is not None and row_shape_of(first) is not None:
                editor.replace(node.outputs[0], editor.reshape(node, first, shape))
    editor.sweep()


def _move_before_reshape(editor: GraphEditor, node: ir.Node) -> None:
    """f(reshaped(a), b), which is only shaped back, becomes f(a, reshaped(b))."""
    shape, uses = row_shape_of(node.outputs[0]), [use.node for use in node.outputs[0].uses()]
    flat = row_shape_of(uses[0].outputs[0]) if len(uses) == 1 and is_a(uses[0], "Reshape") else None
    values = [value for value in node.inputs if value is not None]
    if flat is None or not all(row_shape_of(value) == shape for value in values):
        return
    sources = [before_reshapes(value) for value in values]
    if any(row_shape_of(source) == flat for source in sources):
        inputs = [editor.reshape(node, source, flat) for source in sources]
        editor.replace(uses[0].outputs[0], editor.put(node, node.op_type, inputs, flat))


def _divide_integers(editor: GraphEditor, floor: ir.Node) -> None:
    """floor(float(ids) / divisors) becomes one integer Div, which is also exact above 2**24."""
    divide = _producer(floor.inputs[0])
    cast = _producer(divide.inputs[0]) if is_a(divide, "Div") and divide is not None else None
    back = [node for node, _ in floor.outputs[0].uses()]
    if (
        divide is None
        or cast is None
        or not is_a(cast, "Cast")
        or not all(is_a(node, "Cast") for node in back)
    ):
        return
    ids, divisors = cast.inputs[0], constant_of(divide.inputs[1])
    row_shape = row_shape_of(ids)
    if ids is None or ids.dtype is None or divisors is None or row_shape is None:
        return
    if not all(node.outputs[0].dtype == ids.dtype for node in back) or (divisors != np.round(divisors)).any():
        return
    whole = editor.constant(divisors.astype(ids.dtype.numpy()), "divisors")
    quotient = editor.put(floor, "Div", [ids, whole], row_shape, ids.dtype)
    for node in back:
        editor.replace(node.outputs[0], quotient)


def _square_by_product(editor: GraphEditor, node: ir.Node) -> None:
    exponent, row_shape = constant_of(node.inputs[1]), row_shape_of(node.outputs[0])
    if exponent is None or exponent.size > 1 or float(exponent.ravel()[0]) != 2.0 or row_shape is None:
        return
    base = node.inputs[0]
    if base is not None:
        editor.replace(node.outputs[0], editor.put(node, "Mul", [base, base], row_shape))


def _reshape_by_constant(editor: GraphEditor, node: ir.Node) -> None:
    """Every change of shape that keeps the batch first becomes a Reshape with a constant shape."""
    source, row_shape = node.inputs[0], row_shape_of(node.outputs[0])
    before = row_shape_of(source)
    if (
        source is not None
        and before is not None
        and row_shape is not None
        and size_of(before) == size_of(row_shape)
    ):
        editor.replace(node.outputs[0], editor.reshape(node, source, row_shape))


def _to_gemm(editor: GraphEditor, node: ir.Node) -> None:
    """x [batch, .., in] @ constant [in, out] + constant [out] -> Gemm."""
    rows, weight = node.inputs[0], constant_of(node.inputs[1])
    shape = row_shape_of(rows)
    uses = node.outputs[0].uses()
    if rows is None or shape is None or not shape or weight is None or weight.ndim != 2 or len(uses) != 1:
        return
    add = next(iter(uses)).node
    if not is_a(add, "Add"):
        return
    bias = next((constant_of(value) for value in add.inputs if value is not node.outputs[0]), None)
    out = weight.shape[1]
    if bias is None or bias.size not in (1, out) or (bias.ndim > 0 and bias.shape[-1] != bias.size):
        return
    constant = editor.constant(np.broadcast_to(bias.reshape(-1), (out,)).astype(np.float32), "bias")
    flat = rows
    if len(shape) > 1:
        flat = editor.put(
            node,
            "Reshape",
            [rows, editor.constant(np.array([-1, shape[-1]], np.int64), "shape")],
            (shape[-1],),
        )
    product = editor.put(node, "Gemm", [flat, node.inputs[1], constant], (out,))
    editor.replace(add.outputs[0], editor.reshape(add, product, (*shape[:-1], out)))


def _move_into_table(editor: GraphEditor, gather: ir.Node) -> None:
    """table[ids] + c -> (table + c)[ids] for a scalar c; the same for a product."""
    table, uses = constant_of(gather.inputs[0]), gather.outputs[0].uses()
    row_shape = row_shape_of(gather.outputs[0])
    if table is None or row_shape is None or len(uses) != 1:
        return
    node = next(iter(uses)).node
    if not is_a(node, "Add", "Mul"):
        return
    number = next((constant_of(value) for value in node.inputs if value is not gather.outputs[0]), None)
    if number is None or number.size != 1 or table.dtype != np.float32:
        return
    moved = table + number if node.op_type == "Add" else table * number
    source = editor.constant(moved.astype(np.float32).reshape(table.shape), "table")
    attributes = attributes_of(gather, {"axis": 0})
    looked_up = editor.put(gather, "Gather", [source, gather.inputs[1]], row_shape, **attributes)
    editor.replace(node.outputs[0], looked_up)


def _producer(value: ir.Value | None) -> ir.Node | None:
    return value.producer() if value is not None else None
