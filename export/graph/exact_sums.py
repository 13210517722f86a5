"""Rewrites a graph so that a row's logit has the same bits in every batch and at every position in it.

ONNX Runtime adds in an order that may depend on the batch. Found by running each operator on the same rows in
batches of 1 to 255 at several memory addresses (version 1.31, x86-64 with AVX-512):

- ReduceSum and ReduceMean: along the last axes, the vector loop starts at the row's memory address; along a
  middle axis, a batch of one row has its axes merged. They become products with a constant matrix.
- MatMul of [groups, batch, k] (weights per expert or per pair of fields): one row uses a matrix-vector
  kernel, several rows use a matrix-matrix kernel, which adds in another order. A row of zeros is appended to
  the batch, so it never has one row.
- Softplus, Elu, Selu, Log, Sin, Cos and Atan: different code computes whole vectors and the rest at the end
  of a batch. `whole_vectors` lengthens the rows of the last four. No model here needs the others; the parity
  check refuses a graph that uses them.
- Already exact: Gemm and MatMul with a constant matrix, MatMul of values row by row, Softmax, LayerNorm, Exp,
  Tanh, Sigmoid, Erf, Gelu, Pow, Sqrt, ReduceMax, and every other operator without sums.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.graph.editing import Array, GraphEditor, axes_of, constant_of, is_a, row_shape_of, size_of

# Elements of a matrix that sums along a middle axis; above this size one product a row is faster.
LARGEST_SELECTION = 8192


def make_sums_exact(editor: GraphEditor) -> None:
    """Turns every sum and mean over axes other than the batch into a product that is exact in any batch."""
    for node in editor.nodes("MatMul"):
        _append_zero_row(editor, node)
    for node in editor.nodes("ReduceSum", "ReduceMean"):
        values = node.inputs[0]
        row_shape, kept_shape = row_shape_of(values), row_shape_of(node.outputs[0])
        if values is None or row_shape is None or kept_shape is None:
            continue
        axes = axes_of(node, len(row_shape) + 1)
        if axes is None or not axes or 0 in axes:
            continue
        share = 1.0 / size_of(row_shape[axis - 1] for axis in axes) if node.op_type == "ReduceMean" else 1.0
        total = _product(editor, node, values, axes, share)
        editor.replace(node.outputs[0], editor.reshape(node, total, kept_shape))


def _append_zero_row(editor: GraphEditor, node: ir.Node) -> None:
    """x [groups, batch, k] @ y [groups, k, n] with a zero row appended to x and cut off the product."""
    rows, product = node.inputs[0], node.outputs[0]
    shape = None if rows is None or rows.shape is None else tuple(rows.shape)
    if rows is None or shape is None or len(shape) != 3 or product.shape is None or isinstance(shape[1], int):
        return
    groups, _, width = shape
    if not isinstance(groups, int) or not isinstance(width, int):
        return
    zeros = editor.constant(np.zeros((groups, 1, width), np.float32), "zero_row")
    longer = editor.put_shaped(node, "Concat", [rows, zeros], (groups, "rows", width), axis=1)
    node.replace_input_with(0, longer)
    cut = [editor.constant(np.array([number], np.int64), "cut") for number in (0, -1, 1)]
    following = node.graph.node(node.graph.index(node) + 1) if node.graph is not None else node
    whole = editor.put_shaped(following, "Slice", [product, *cut], tuple(product.shape))
    product.replace_all_uses_with(whole)
    slice_ = whole.producer()
    if slice_ is not None:
        slice_.replace_input_with(0, product)


def _product(
    editor: GraphEditor, before: ir.Node, values: ir.Value, axes: tuple[int, ...], share: float
) -> ir.Value:
    """values [batch, ...] summed along `axes`, times `share`; the caller restores the shape."""
    row_shape = row_shape_of(values) or ()
    source, factors = _without_factors(values, row_shape)
    factors = (factors * share).astype(np.float32)
    last, kept_size = len(row_shape), size_of(row_shape) // size_of(row_shape[axis - 1] for axis in axes)
    if axes == (last,) and kept_size > 1 and _varies_only_along(factors, last - 1):
        weights = factors.reshape(-1, row_shape[-1])[0]
        column = editor.constant(weights[:, None], "sum.weight")
        return editor.put(before, "MatMul", [source, column], (*row_shape[:-1], 1))
    if axes == (last - 1,) and size_of(row_shape) * kept_size > LARGEST_SELECTION:
        if not _varies_only_along(factors, last - 2):
            source, factors = values, np.full(row_shape, share, np.float32)
        weights = np.moveaxis(factors, -2, -1).reshape(-1, row_shape[-2])[0]
        line = editor.constant(weights[None], "sum.weight")
        return editor.put(before, "MatMul", [line, source], (*row_shape[:-2], 1, row_shape[-1]))
    flat = editor.reshape(before, source, (size_of(row_shape),))
    matrix = editor.constant(_selection(factors, axes), "sum.weight")
    return editor.put(before, "MatMul", [flat, matrix], (kept_size,))


def _without_factors(values: ir.Value, row_shape: tuple[int, ...]) -> tuple[ir.Value, Array]:
    """values as source * factors [*row_shape]; factors are ones if `values` is no product with a constant."""
    node = values.producer()
    if is_a(node, "Mul") and node is not None:
        for source, other in (tuple(node.inputs), tuple(node.inputs)[::-1]):
            factors = constant_of(other)
            if source is not None and factors is not None and row_shape_of(source) == row_shape:
                return source, np.broadcast_to(factors, (1, *row_shape))[0]
    return values, np.ones(row_shape, np.float32)


def _varies_only_along(factors: Array, axis: int) -> bool:
    """Whether the factors differ along this axis only."""
    rows = np.moveaxis(factors, axis, -1).reshape(-1, factors.shape[axis])
    return bool((rows == rows[0]).all())


def _selection(factors: Array, axes: tuple[int, ...]) -> Array:
    """[elements of a row, sums]: each element's factor, in the column of its sum."""
    kept = [axis for axis in range(factors.ndim) if axis + 1 not in axes]
    positions = np.indices(factors.shape).reshape(factors.ndim, -1)
    sums = np.zeros(factors.size, np.int64)
    for axis in kept:
        sums = sums * factors.shape[axis] + positions[axis]
    matrix = np.zeros((factors.size, int(sums.max()) + 1), np.float32)
    matrix[np.arange(factors.size), sums] = factors.ravel()
    return matrix
