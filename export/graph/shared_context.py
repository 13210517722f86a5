"""Rewrites a graph so that what all candidates of a request share is computed once a request.

ids [batch, columns] becomes context_ids [requests, context columns], candidate_ids [rows, candidate columns]
and request_index [rows], which tells the request of a row. It knows operators and no model: each value is
followed in pieces (`pieces`), and an operator that can't keep them apart gets the value whole, by row, or by
request where only the context is in it. So the context's embeddings, its part of the first layer, its sums
and its pairs among themselves come once a request.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.errors import ExportError
from export.graph.editing import GraphEditor, attributes_of, constant_of, is_a, row_shape_of, size_of
from export.graph.onnx import serialize
from export.graph.piece_elements import BY_ELEMENT, by_element
from export.graph.piece_int8 import int8_layer, multiply_int8
from export.graph.piece_moves import MOVES, are_as_they_were, concat, look_up, move
from export.graph.piece_products import multiply, product_of
from export.graph.pieces import Piece, PieceEditor, Spread, piece_of
from export.graph.places import all_places
from export.graph.tidy import merge_reshapes
from service.bundle.manifest import SHARED_INPUTS

CONTEXT_IDS, CANDIDATE_IDS, REQUEST_INDEX = SHARED_INPUTS
REQUESTS, ROWS = "requests", "rows"


def share_context(graph: bytes, is_context: Sequence[bool]) -> bytes | None:
    """The shared-context form of a graph of ids [batch, columns], float32 or INT8.

    `is_context` tells for each column whether it is the context's; sequences take several. Each side keeps
    its columns in their order. None where one side has no columns. Raises ExportError for another number.
    """
    editor = GraphEditor.of_bytes(graph)
    ids = editor.graph.inputs[0]
    columns = size_of(row_shape_of(ids) or ())
    if columns != len(is_context):
        raise ExportError(
            f"'is_context' must tell of {columns} columns, the graph's (got {len(is_context)}); "
            "share the graph of the same schema"
        )
    places = [np.flatnonzero(np.asarray(is_context, bool) == side) for side in (True, False)]
    if not all(map(len, places)):
        return None
    dtype = ids.dtype or ir.DataType.INT32
    context = _input(editor, CONTEXT_IDS, (REQUESTS, len(places[0])), dtype)
    candidates = _input(editor, CANDIDATE_IDS, (ROWS, len(places[1])), dtype)
    index = _input(editor, REQUEST_INDEX, (ROWS,), ir.DataType.INT32)
    walk = _Walk(editor, context, index)
    pieces = (Piece(places[0], shared=context), Piece(places[1], own=candidates))
    walk.spreads[ids] = Spread((1, len(is_context)), pieces)
    for node in editor.nodes():
        walk.visit(node)
    walk.finish()
    editor.graph.inputs.remove(ids)
    editor.sweep()
    merge_reshapes(editor)
    return serialize(editor.proto())


def _input(editor: GraphEditor, name: str, shape: Sequence[str | int], dtype: ir.DataType) -> ir.Value:
    value = ir.val(name, dtype=dtype, shape=ir.Shape(shape))
    editor.graph.inputs.append(value)
    return value


class _Walk:
    """Goes through a graph's nodes in order and writes for each the nodes that do the same on pieces.

    `spreads` are the values that have the batch in front; `by_row` all others that depend on ids, computed
    from whole rows.
    """

    def __init__(self, editor: GraphEditor, context_ids: ir.Value, request_index: ir.Value) -> None:
        self.editor = editor
        self.context_ids = context_ids
        self.request_index = request_index
        self.spreads: dict[ir.Value, Spread] = {}
        self.by_row: dict[ir.Value, ir.Value] = {}

    def visit(self, node: ir.Node) -> None:
        """Finds what the outputs of a node are in pieces."""
        if not any(value in self.spreads or value in self.by_row for value in node.inputs):
            return
        pieces = PieceEditor(self.editor, self.request_index, node)
        if self._counts_rows(node):
            self.by_row[node.outputs[0]] = self.editor.copy(node, [self.request_index])[0]  # how many rows
            return
        made = self._in_pieces(pieces, node)
        if made is None:
            self._as_it_was(pieces, node)
        else:
            self.spreads.update(zip(node.outputs, made, strict=True))

    def _counts_rows(self, node: ir.Node) -> bool:
        """Whether a node tells the size of the batch; of a row's several lines, or turned, it does not."""
        spread = None if node.inputs[0] is None else self.spreads.get(node.inputs[0])
        ends = attributes_of(node, {"start": 0, "end": None})
        is_first = is_a(node, "Shape") and ends == {"start": 0, "end": 1}
        return is_first and spread is not None and spread.shape[0] == 1

    def finish(self) -> None:
        """Lets the graph's output be read from the rows."""
        output = self.editor.graph.outputs[0]
        node = output.producer()
        if node is None or output not in self.spreads:
            raise ExportError("'graph' must give a logit a row (got another output); export the model again")
        pieces = PieceEditor(self.editor, self.request_index, node)
        logits = pieces.reshaped(pieces.whole(self.spreads[output], by_request=False), ())
        output.shape = ir.Shape([ROWS])
        self.editor.replace(output, logits)

    def _in_pieces(self, pieces: PieceEditor, node: ir.Node) -> list[Spread] | None:
        """The outputs of a node in pieces; None where it takes whole values."""
        if is_a(node, "Expand"):
            return self._expand(pieces, node)
        if any(value in self.by_row for value in node.inputs):
            return None
        if is_a(node, "Gemm", "MatMul"):
            return self._multiply(pieces, node)
        if is_a(node, "Gather") and constant_of(node.inputs[0]) is not None:
            return look_up(pieces, node, self.spreads)
        if is_a(node, *MOVES):
            return move(pieces, node, self.spreads)
        if is_a(node, "Concat"):
            return concat(pieces, node, self.spreads)
        if is_a(node, *BY_ELEMENT):
            return by_element(pieces, node, self.spreads)
        return None

    def _multiply(self, pieces: PieceEditor, node: ir.Node) -> list[Spread] | None:
        layer = int8_layer(node)
        if layer is not None and node.inputs[0] is not None:
            inputs = self.spreads[node.inputs[0]]
            made = None if inputs.is_plain else multiply_int8(pieces, inputs, layer)
            return None if made is None else [made]
        found = product_of(node)
        if found is None or found[0] not in self.spreads:
            return None
        spread, product = self.spreads[found[0]], found[1]
        added = None if product.bias is None else self.spreads.get(product.bias)
        if product.bias is not None and added is None and constant_of(product.bias) is None:
            return None
        if are_as_they_were([spread] if added is None else [spread, added]):
            return None
        made = multiply(pieces, spread, product, added)
        return None if made is None else [made]

    def _expand(self, pieces: PieceEditor, node: ir.Node) -> list[Spread] | None:
        """Repeats a row's numbers along axes other than the batch, or a constant along the batch."""
        row_shape, source = row_shape_of(node.outputs[0]), node.inputs[0]
        if row_shape is None or source is None:
            return None
        shape = (1, *row_shape)
        spread = self.spreads.get(source)
        if spread is not None and spread.shape[0] == 1:
            whole = pieces.reshaped(pieces.whole(spread, by_request=spread.is_shared), spread.shape[1:])
            sizes = self.editor.constant(np.array(shape, np.int64), "shape")
            wide = pieces.put("Expand", [whole, sizes], row_shape)
        elif constant_of(source) is not None:
            requests = self.editor.put_shaped(node, "Shape", [self.context_ids], (1,), start=0, end=1)
            others = self.editor.constant(np.array(row_shape, np.int64), "shape")
            sizes = self.editor.put_shaped(node, "Concat", [requests, others], (len(shape),), axis=0)
            wide = pieces.put("Expand", [source, sizes], row_shape)
        else:
            return None
        by_request = spread is None or spread.is_shared
        return [Spread(shape, (piece_of(wide, all_places(shape), by_request),))]

    def _as_it_was(self, pieces: PieceEditor, node: ir.Node) -> None:
        """The same node on whole values: by request where all is the context's, else by row."""
        held = {
            value: self.spreads[value] for value in node.inputs if value is not None and value in self.spreads
        }
        shapes = [row_shape_of(output) for output in node.outputs]
        by_request = (
            all(spread.is_shared for spread in held.values())
            and not any(value in self.by_row for value in node.inputs)
            and all(shape is not None for shape in shapes)
        )
        inputs: list[ir.Value | None] = []
        for value in node.inputs:
            if value is None or value not in held:
                inputs.append(value if value is None else self.by_row.get(value, value))
            else:
                inputs.append(pieces.reshaped(pieces.whole(held[value], by_request), held[value].shape[1:]))
        lines = max((spread.shape[0] for spread in held.values()), default=1)
        for output, made, shape in zip(node.outputs, self.editor.copy(node, inputs), shapes, strict=True):
            if shape is None:
                self.by_row[output] = made
            else:
                places = all_places((lines, *shape))
                piece = piece_of(pieces.reshaped(made, places.shape), places, by_request)
                self.spreads[output] = Spread((lines, *shape), (piece,))
