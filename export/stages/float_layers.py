"""Chooses the layers that stay float32 in the INT8 graph, by the AUC that INT8 costs on validation rows.

What rounding does to the logits says little of it: a layer that loses what tells one row from the next may
move them less than one that shakes them all. So labels decide, and only where the rows can tell the loss from
noise. It does not know how a graph is quantized (`make`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.data.encoded import EncodedLog
from export.data.samples import sample_positions
from export.graph.int8_layers import Layer, gaining_layers
from export.graph.runtime import graph_scorer, microseconds_a_row, run_graph
from export.judge.bootstrap import paired_bootstrap
from export.judge.metrics import auc
from export.report.changes import float_layer_lines
from export.stages.work import Say
from service.bundle.manifest import FloatLayer, FloatLayers

JUDGED_ROWS = 131_072  # more rows tell smaller losses than any that is worth a layer
TIMED_BATCHES = (1, 64)

Kept = frozenset[str]
Make = Callable[[Kept], bytes | None]
"""The INT8 graph in which the layers of these names stay float32; None if nothing in it is INT8."""


@dataclass(frozen=True)
class Int8Choice:
    """The INT8 graph that was chosen, the layers that stay float32 in it, and what is told of them."""

    graph: bytes | None
    kept: Kept = frozenset()
    told: FloatLayers | None = None


@dataclass(frozen=True)
class JudgedRows:
    """Rows of the validation part: ids [n, columns] and labels [n]."""

    ids: NDArray[np.int32]
    labels: NDArray[np.uint8]

    @property
    def has_both(self) -> bool:
        """Whether there are clicks and others, without which no AUC is."""
        return 0 < int(np.count_nonzero(self.labels)) < len(self.labels)

    def auc(self, graph: bytes) -> float:
        return auc(self.labels, run_graph(graph, self.ids))


def judged_rows(log: EncodedLog) -> JudgedRows:
    """Rows spread over the validation part, with the log's ids."""
    part = log.parts["validation"]
    chosen = sample_positions(len(part), JUDGED_ROWS)
    return JudgedRows(np.array(part.ids[chosen]), np.array(part.labels[chosen]))


def choose_int8(source: bytes, make: Make, rows: JudgedRows, allowed: float, say: Say = print) -> Int8Choice:
    """The INT8 graph of a float graph whose layers lose at most `allowed` AUC on these rows by being INT8.

    The reference has the same tables and layers of float32, so that narrow rows of tables are no layer's
    fault. Layers are kept in float32 in order of what each alone loses, until the others lose no more than is
    allowed. Where the loss is within noise none is kept.
    """
    whole, layers = make(frozenset()), gaining_layers(source)
    if whole is None or not layers or not rows.has_both:
        return Int8Choice(whole)
    names = frozenset(layer.name for layer in layers)
    reference = make(names) or source
    before, after = run_graph(reference, rows.ids), run_graph(whole, rows.ids)
    of_reference = auc(rows.labels, before)
    lost = auc(rows.labels, after) - of_reference
    if lost >= -allowed or paired_bootstrap(rows.labels, before, after, "auc").high >= 0.0:
        return Int8Choice(whole)
    say(
        f"INT8 of {len(layers)} layers moves the AUC of validation rows by {lost:+.5f}: "
        "measuring each of them alone"
    )
    alone = {layer: rows.auc(make(names - {layer.name}) or source) - of_reference for layer in layers}
    kept: list[Layer] = []
    graph, left = whole, lost
    for layer in sorted(layers, key=lambda each: alone[each]):
        kept.append(layer)
        graph = make(frozenset(each.name for each in kept)) or source
        left = rows.auc(graph) - of_reference
        if left >= -allowed:
            break
    told = FloatLayers(
        allowed=allowed,
        layers=tuple(FloatLayer(each.weights, each.shape, alone[each]) for each in kept),
        auc_deltas=(lost, left),
        bytes=max(0, len(graph) - len(whole)),
        microseconds_a_row=_added_time(whole, graph, rows.ids),
    )
    for line in float_layer_lines(told):
        say(line)
    return Int8Choice(graph, frozenset(each.name for each in kept), told)


def _added_time(less: bytes, more: bytes, ids: NDArray[np.int32]) -> dict[str, float]:
    """Microseconds a row of the second graph minus those of the first, by batch size."""
    scorers = {"less": graph_scorer(less), "more": graph_scorer(more)}
    times = microseconds_a_row(scorers, ids, TIMED_BATCHES, rounds=5)
    return {size: round(time - times["less"][size], 3) for size, time in times["more"].items()}
