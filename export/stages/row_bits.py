"""How many bits the INT8 graph's embedding rows take, chosen on rows of the log and told by field.

It knows fields and their columns, not how a width is chosen or how rows are packed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from export.graph.row_widths import Rows, SegmentRows, mixed_rows, narrow_rows
from export.stages.plan import EmbeddingBits
from export.stages.work import Say
from service.bundle.manifest import EmbeddingRows
from service.bundle.schema import Schema

CHOSEN_ON_ROWS = 8_192  # more rows change few widths, and a width is measured on all of them
ALL_FIELDS = "*"
"""Stands for all fields of a table that is not looked up by the ids as they are, as a hashed one."""


def choose_row_bits(
    graph: bytes, ids: NDArray[np.int32], bits: EmbeddingBits, loss_share: float
) -> Rows | None:
    """The rows of a float graph's tables, chosen on ids [n, columns]; None where all take 8 bits anyway."""
    if bits == "8":
        return None
    return narrow_rows(graph, ids, int(bits)) if bits == "4" else mixed_rows(graph, ids, loss_share)


def told_by_field(rows: Rows, asked: EmbeddingBits, schema: Schema, say: Say) -> EmbeddingRows | None:
    """What the manifest says of narrower rows; None for a graph without tables."""
    if asked == "8" or not rows.segments:
        return None
    tables: dict[str, dict[str, int]] = {}
    for segment in rows.segments:
        names = _names(segment, schema)
        tables.setdefault(segment.table, {}).update(dict.fromkeys(names, segment.form.bits))
    told = EmbeddingRows(asked, tables, sum(segment.bytes for segment in rows.segments), rows.loss)
    say(
        f"embedding rows of {told.bytes:,} bytes: {_counted(rows.segments)}; "
        f"expected LogLoss +{rows.loss:.6f}"
    )
    return told


def _counted(segments: Sequence[SegmentRows]) -> str:
    """Rows by their width, the widest first."""
    rows: dict[int, int] = {}
    for segment in segments:
        rows[segment.form.bits] = rows.get(segment.form.bits, 0) + segment.rows
    return ", ".join(f"{count:,} at {bits} bits" for bits, count in sorted(rows.items(), reverse=True))


def _names(segment: SegmentRows, schema: Schema) -> list[str]:
    columns = set(segment.columns)
    found = [name for name, own in schema.column_slices.items() if columns & set(range(schema.columns)[own])]
    return found or [ALL_FIELDS]
