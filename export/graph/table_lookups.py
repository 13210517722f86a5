"""The tables of a graph that are worth codes: who looks rows up in them, and which rows belong together.

It knows operators, not fields. A segment is a run of a table's rows that is looked up by the same columns of
ids, as a field's rows are; where a lookup does not tell, all rows of the table are one segment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from export.graph.editing import Array, GraphEditor, constant_of, is_a, row_shape_of
from export.graph.tables import looked_up

WORTHWHILE_SHARE: Final = 1 / 8  # of the largest table's size; smaller tables stay float
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


@dataclass(frozen=True)
class Lookup:
    """A Gather of rows; `segments` [*row shape of its indices] are those that it reads.

    Its indices are `ids` plus a constant where they can be taken apart by column; else `ids` is None.
    """

    gather: ir.Node
    segments: Array
    ids: ir.Value | None


@dataclass(frozen=True)
class Table:
    """A table of the graph; `starts` are the first rows of its segments."""

    value: ir.Value
    values: Array  # float32 [rows, columns]
    starts: Array
    lookups: tuple[Lookup, ...]

    @property
    def name(self) -> str:
        return str(self.value.name)

    @property
    def columns(self) -> int:
        return int(self.values.shape[1])

    @property
    def can_be_divided(self) -> bool:
        """Whether its segments may become tables of their own."""
        return all(lookup.ids is not None for lookup in self.lookups)

    def rows_of(self, segment: int) -> slice:
        """The rows of a segment."""
        ends = [*self.starts[1:].tolist(), len(self.values)]
        return slice(int(self.starts[segment]), ends[segment])


def large_tables(editor: GraphEditor, least_share: float = WORTHWHILE_SHARE) -> list[Table]:
    """The tables of at least this share of the largest one's size.

    A table stays float where a logarithm reads its numbers: codes tell those near zero from zero no more.
    """
    found = []
    for value, values in looked_up(editor):
        if values.dtype == np.float32 and all(
            row_shape_of(node.inputs[1]) is not None and not _reaches_logarithm(node)
            for node in value.consumers()
        ):
            gathers = [node for node in editor.nodes("Gather") if node.inputs[0] is value]
            found.append(_table(value, values, gathers))
    largest = max((table.values.size for table in found), default=0)
    return [table for table in found if table.values.size >= largest * least_share]


def columns_of(table: Table, columns: int) -> Mapping[int, tuple[int, ...]]:
    """By segment, which of a row's `columns` ids look it up; empty where lookups are of other columns."""
    found: dict[int, set[int]] = {}
    for lookup in table.lookups:
        if lookup.segments.shape != (columns,):
            return {}
        for column, segment in enumerate(lookup.segments.tolist()):
            found.setdefault(segment, set()).add(column)
    return {segment: tuple(sorted(chosen)) for segment, chosen in found.items()}


def _table(value: ir.Value, values: Array, gathers: list[ir.Node]) -> Table:
    taken_apart = [_ids_and_first_rows(gather) for gather in gathers]
    known = [first for _, first in taken_apart if first is not None]
    starts = np.unique(np.concatenate([[0], *(first.ravel() for first in known)]))
    if len(known) < len(gathers):  # a lookup may read rows of any field
        starts = np.zeros(1, np.int64)
    lookups = []
    for gather, (ids, first) in zip(gathers, taken_apart, strict=True):
        shape = row_shape_of(gather.inputs[1]) or ()
        firsts = np.zeros(shape, np.int64) if first is None else first
        segments = np.searchsorted(starts, firsts, side="right") - 1
        by_column = len(shape) == 1 and row_shape_of(ids) == shape and len(known) == len(gathers)
        lookups.append(Lookup(gather, segments, ids if by_column else None))
    return Table(value, values, starts, tuple(lookups))


def _ids_and_first_rows(gather: ir.Node) -> tuple[ir.Value | None, Array | None]:
    """A lookup's ids, and the first row of each column's field: the constant that is added to them."""
    indices = gather.inputs[1]
    add = indices.producer() if indices is not None else None
    if add is None or not is_a(add, "Add"):
        return None, None
    for at, value in enumerate(add.inputs):
        offsets = constant_of(value)
        if offsets is not None:
            first: Array = np.broadcast_to(offsets, (1, *(row_shape_of(indices) or ())))[0]
            return add.inputs[1 - at], first
    return None, None


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
