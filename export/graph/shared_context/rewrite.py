"""Rewrites a graph so that what all candidates of a request share is computed once a request.

ids [batch, columns] becomes context_ids [requests, context columns], candidate_ids [rows, candidate columns]
and request_index [rows], the request of each row. It knows operators and no model. Each value is tracked as
blocks (`split_values`). An operator that can't keep them separate gets the whole value: per request if it
depends on the context only, else per row. So the context's embeddings, its part of the first layer, its sums
and its pairs with itself are computed once a request.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from export.errors import ExportError
from export.graph.editing import GraphEditor, attributes_of, constant_of, is_a, row_shape_of, size_of
from export.graph.onnx import serialize
from export.graph.shared_context.elementwise import BY_ELEMENT, by_element
from export.graph.shared_context.int8_matmul import int8_layer, multiply_int8
from export.graph.shared_context.matmul import multiply, product_of
from export.graph.shared_context.movement import MOVES, are_unchanged, concat, look_up, move
from export.graph.shared_context.positions import all_positions
from export.graph.shared_context.split_values import Block, BlockWriter, SplitValue, block_of
from export.graph.simplify import merge_reshapes
from service.bundle.manifest import ONE_OR_ROWS, SHARED_INPUTS

CONTEXT_IDS, CANDIDATE_IDS, REQUEST_INDEX = SHARED_INPUTS
REQUESTS, ROWS = "requests", "rows"


def share_context(graph: bytes, is_context: Sequence[bool]) -> bytes | None:
    """The shared-context form of a graph of ids [batch, columns], float32 or INT8.

    `is_context` says for each column whether it belongs to the context; a sequence has several columns. Each
    side keeps the order of its columns. Returns None where one side has no columns. Raises ExportError if
    `is_context` has another length than the graph has columns.
    """
    editor = GraphEditor.of_bytes(graph)
    ids = editor.graph.inputs[0]
    columns = size_of(row_shape_of(ids) or ())
    if columns != len(is_context):
        raise ExportError(
            f"'is_context' must have one entry for each of the graph's {columns} columns "
            f"(got {len(is_context)}); share the graph of the same schema"
        )
    positions = [np.flatnonzero(np.asarray(is_context, bool) == side) for side in (True, False)]
    if not all(map(len, positions)):
        return None
    dtype = ids.dtype or ir.DataType.INT32
    context = _input(editor, CONTEXT_IDS, (REQUESTS, len(positions[0])), dtype)
    candidates = _input(editor, CANDIDATE_IDS, (ROWS, len(positions[1])), dtype)
    index = _input(editor, REQUEST_INDEX, (ROWS,), ir.DataType.INT32)
    walk = _Walk(editor, context, index)
    blocks = (Block(positions[0], shared=context), Block(positions[1], own=candidates))
    walk.split_values[ids] = SplitValue((1, len(is_context)), blocks)
    for node in editor.nodes():
        walk.visit(node)
    walk.finish()
    editor.graph.inputs.remove(ids)
    editor.sweep()
    merge_reshapes(editor)
    return serialize(editor.proto())


def with_one_index(shared: bytes) -> bytes:
    """The same graph, which says that it takes one index for all rows of a batch of one request.

    Nothing is gathered to the rows then, but broadcast to them. That works where such values only meet
    per-row ones in elementwise operators, or are the last input of a Gemm. Other graphs fail, or give other
    logits where they count the rows by the index: who says so must have tried with several rows.
    """
    model = onnx.load_model_from_string(shared)
    (index,) = (value for value in model.graph.input if value.name == REQUEST_INDEX)
    index.type.tensor_type.shape.dim[0].dim_param = ONE_OR_ROWS
    return serialize(model)


def _input(editor: GraphEditor, name: str, shape: Sequence[str | int], dtype: ir.DataType) -> ir.Value:
    value = ir.val(name, dtype=dtype, shape=ir.Shape(shape))
    editor.graph.inputs.append(value)
    return value


class _Walk:
    """Visits a graph's nodes in order and inserts for each the nodes that compute the same on blocks.

    `split_values` holds the values whose first axis is the batch; `per_row` holds all others that depend on
    ids, computed from whole rows.
    """

    def __init__(self, editor: GraphEditor, context_ids: ir.Value, request_index: ir.Value) -> None:
        self.editor = editor
        self.context_ids = context_ids
        self.request_index = request_index
        self.split_values: dict[ir.Value, SplitValue] = {}
        self.per_row: dict[ir.Value, ir.Value] = {}

    def visit(self, node: ir.Node) -> None:
        """Computes the split outputs of a node."""
        if not any(value in self.split_values or value in self.per_row for value in node.inputs):
            return
        writer = BlockWriter(self.editor, self.request_index, node)
        if self._counts_rows(node):
            self.per_row[node.outputs[0]] = self.editor.copy(node, [self.request_index])[0]  # how many rows
            return
        made = self._split_outputs(writer, node)
        if made is None:
            self._keep_operator(writer, node)
        else:
            self.split_values.update(zip(node.outputs, made, strict=True))

    def _counts_rows(self, node: ir.Node) -> bool:
        """Whether a node computes the batch size: the first axis of a value with one line a row."""
        split = None if node.inputs[0] is None else self.split_values.get(node.inputs[0])
        ends = attributes_of(node, {"start": 0, "end": None})
        is_first = is_a(node, "Shape") and ends == {"start": 0, "end": 1}
        return is_first and split is not None and split.shape[0] == 1

    def finish(self) -> None:
        """Makes the per-row logits the graph's output."""
        output = self.editor.graph.outputs[0]
        node = output.producer()
        if node is None or output not in self.split_values:
            raise ExportError("'graph' must give a logit a row (got another output); export the model again")
        writer = BlockWriter(self.editor, self.request_index, node)
        logits = writer.reshaped(writer.assembled(self.split_values[output], per_request=False), ())
        output.shape = ir.Shape([ROWS])
        self.editor.replace(output, logits)

    def _split_outputs(self, writer: BlockWriter, node: ir.Node) -> list[SplitValue] | None:
        """The split outputs of a node; None where it needs whole values."""
        if is_a(node, "Expand"):
            return self._expand(writer, node)
        if any(value in self.per_row for value in node.inputs):
            return None
        if is_a(node, "Gemm", "MatMul"):
            return self._multiply(writer, node)
        if is_a(node, "Gather") and constant_of(node.inputs[0]) is not None:
            return look_up(writer, node, self.split_values)
        if is_a(node, *MOVES):
            return move(writer, node, self.split_values)
        if is_a(node, "Concat"):
            return concat(writer, node, self.split_values)
        if is_a(node, *BY_ELEMENT):
            return by_element(writer, node, self.split_values)
        return None

    def _multiply(self, writer: BlockWriter, node: ir.Node) -> list[SplitValue] | None:
        layer = int8_layer(node)
        if layer is not None and node.inputs[0] is not None:
            inputs = self.split_values[node.inputs[0]]
            made = None if inputs.is_plain else multiply_int8(writer, inputs, layer)
            return None if made is None else [made]
        found = product_of(node)
        if found is None or found[0] not in self.split_values:
            return None
        split, product = self.split_values[found[0]], found[1]
        added = None if product.bias is None else self.split_values.get(product.bias)
        if product.bias is not None and added is None and constant_of(product.bias) is None:
            return None
        if are_unchanged([split] if added is None else [split, added]):
            return None
        made = multiply(writer, split, product, added)
        return None if made is None else [made]

    def _expand(self, writer: BlockWriter, node: ir.Node) -> list[SplitValue] | None:
        """Broadcasts a row along axes other than the batch, or a constant along the batch."""
        row_shape, source = row_shape_of(node.outputs[0]), node.inputs[0]
        if row_shape is None or source is None:
            return None
        shape = (1, *row_shape)
        split = self.split_values.get(source)
        if split is not None and split.shape[0] == 1:
            whole = writer.reshaped(writer.assembled(split, per_request=split.is_shared), split.shape[1:])
            sizes = self.editor.constant(np.array(shape, np.int64), "shape")
            wide = writer.put("Expand", [whole, sizes], row_shape)
        elif constant_of(source) is not None:
            requests = self.editor.put_shaped(node, "Shape", [self.context_ids], (1,), start=0, end=1)
            others = self.editor.constant(np.array(row_shape, np.int64), "shape")
            sizes = self.editor.put_shaped(node, "Concat", [requests, others], (len(shape),), axis=0)
            wide = writer.put("Expand", [source, sizes], row_shape)
        else:
            return None
        per_request = split is None or split.is_shared
        return [SplitValue(shape, (block_of(wide, all_positions(shape), per_request),))]

    def _keep_operator(self, writer: BlockWriter, node: ir.Node) -> None:
        """The same node on whole values: per request if all inputs are shared, else per row."""
        held = {
            value: self.split_values[value]
            for value in node.inputs
            if value is not None and value in self.split_values
        }
        shapes = [row_shape_of(output) for output in node.outputs]
        per_request = (
            all(split.is_shared for split in held.values())
            and not any(value in self.per_row for value in node.inputs)
            and all(shape is not None for shape in shapes)
        )
        inputs: list[ir.Value | None] = []
        for value in node.inputs:
            if value is None or value not in held:
                inputs.append(value if value is None else self.per_row.get(value, value))
            else:
                inputs.append(
                    writer.reshaped(writer.assembled(held[value], per_request), held[value].shape[1:])
                )
        lines = max((split.shape[0] for split in held.values()), default=1)
        for output, made, shape in zip(node.outputs, self.editor.copy(node, inputs), shapes, strict=True):
            if shape is None:
                self.per_row[output] = made
            else:
                positions = all_positions((lines, *shape))
                block = block_of(writer.reshaped(made, positions.shape), positions, per_request)
                self.split_values[output] = SplitValue((lines, *shape), (block,))
