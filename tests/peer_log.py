"""A small encoded log with a planted effect, for the benchmark of other libraries."""

from __future__ import annotations

import numpy as np

from benchmarks.peers.grid import Shape
from export.data.encoded import EncodedLog, Part
from service.bundle.schema import Bins, Field, Kind, Role, Schema, Vocabulary

SHAPE = Shape(dim=4, hidden_units=(8, 4), batch_size=64)
ITEMS = Vocabulary(tuple("abcde"))
SCHEMA = Schema(
    (
        Field("history", Kind.SEQUENCE, Role.CONTEXT, ITEMS, max_length=3, same_values_as="item"),
        Field("price", Kind.NUMERIC, Role.CANDIDATE, Bins((1.0, 2.0))),
        Field("item", Kind.CATEGORICAL, Role.CANDIDATE, ITEMS),
    )
)


def small_log(rows: int = 600) -> EncodedLog:
    """A log in which a click follows the item and the first element of the history."""
    draw = np.random.default_rng(4)

    def part() -> Part:
        history = draw.integers(2, 7, (rows, 3)) * (draw.random((rows, 3)) < 0.8)
        history = -np.sort(-history, axis=1)  # padding comes last
        ids = np.column_stack([history, draw.integers(2, 5, rows), draw.integers(2, 7, rows)]).astype(
            np.int32
        )
        logits = 1.2 * (ids[:, 4] - 4) + 0.8 * (ids[:, 0] - 4)
        labels = (draw.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
        return Part(ids, labels, None, None)

    parts = {name: part() for name in ("train", "validation", "calibration", "test")}
    return EncodedLog(SCHEMA, parts, "row order", None, "small", 0, [])
