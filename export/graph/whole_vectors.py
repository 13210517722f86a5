"""Lengthens rows to whole vectors for functions that ONNX Runtime computes in two ways. It knows no model.

Vector code computes the whole vectors of a batch, and scalar code, with other last bits, the rest at its end.
Where a row fills whole vectors, so does any number of rows, and there is no rest. Checked as the operators of
`exact_sums` were: rows of 1 to 40 numbers in batches of 1 to 255.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.graph.editing import GraphEditor, row_shape_of, size_of

FUNCTIONS = ("Atan", "Cos", "Log", "Sin")
LANES = 16  # of the longest vectors, those of AVX-512; shorter ones divide it


def fill_vectors(editor: GraphEditor) -> None:
    """Computes each of FUNCTIONS on rows whose length is a multiple of LANES, and cuts off the rest."""
    for node in editor.nodes(*FUNCTIONS):
        value, row_shape = node.inputs[0], row_shape_of(node.outputs[0])
        if value is None or row_shape is None or size_of(row_shape) % LANES == 0:
            continue
        size = size_of(row_shape)
        whole = -(-size // LANES) * LANES
        flat = editor.reshape(node, value, (size,))
        # Numbers of the row itself are in the domain of the function.
        again, begun = divmod(whole - size, size)
        pieces = [flat] * (1 + again) + ([_first(editor, node, flat, begun)] if begun else [])
        padded = editor.put(node, "Concat", pieces, (whole,), axis=1)
        computed = editor.put(node, node.op_type, [padded], (whole,))
        editor.replace(node.outputs[0], editor.reshape(node, _first(editor, node, computed, size), row_shape))


def _first(editor: GraphEditor, before: ir.Node, value: ir.Value, count: int) -> ir.Value:
    """[batch, n] -> [batch, count], the first ones."""
    cut = [editor.constant(np.array([number], np.int64), "cut") for number in (0, count, 1)]
    return editor.put(before, "Slice", [value, *cut], (count,))
