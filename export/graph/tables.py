"""The tables of a graph, and a graph that takes them as inputs, so two graphs of a bundle share one copy.

It knows operators and neither models nor bundles.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from export.graph.editing import Array, GraphEditor, constant_of, is_row_lookup
from export.graph.onnx import serialize

SMALLEST_TABLE = 1 << 14  # bytes; a smaller table is not worth an input


def tables_in(graph: bytes) -> tuple[str, ...]:
    """The names of the initializers that are only used for row lookups, in the order of the graph."""
    return tuple(str(table.name) for table in _tables(GraphEditor.of_bytes(graph)))


def without_tables(graph: bytes, given: bytes) -> bytes:
    """`graph` with every table that `given` also holds, by name and content, as an additional input."""
    given_tables = {table.name: table.const_value for table in _tables(GraphEditor.of_bytes(given))}
    editor = GraphEditor.of_bytes(graph)
    for table in _tables(editor):
        other = given_tables.get(table.name)
        here = table.const_value
        if other is None or here is None or other.dtype != here.dtype or other.tobytes() != here.tobytes():
            continue
        make_input(editor, table)
    return serialize(editor.proto())


def make_input(editor: GraphEditor, table: ir.Value) -> None:
    """Makes an initializer an input of the same name."""
    name = str(table.name)
    as_input = ir.val(f"{name}.input", dtype=table.dtype, shape=table.shape)
    table.replace_all_uses_with(as_input)
    del editor.graph.initializers[name]
    as_input.name = name
    editor.graph.inputs.append(as_input)


def looked_up(editor: GraphEditor) -> Iterator[tuple[ir.Value, Array]]:
    """The initializers of two axes that are only used for row lookups, with their numbers."""
    for value in editor.graph.initializers.values():
        values, uses = constant_of(value), value.uses()
        if values is None or values.ndim != 2 or not uses:
            continue
        if all(is_row_lookup(node, at) for node, at in uses):
            yield value, values


def _tables(editor: GraphEditor) -> list[ir.Value]:
    return [value for value, values in looked_up(editor) if values.nbytes >= SMALLEST_TABLE]
