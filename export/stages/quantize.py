"""The stage quantize: the smallest float graph -> the INT8 graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part, open_log
from export.data.samples import sample_positions
from export.graph.quantize import quantize_int8
from export.graph.runtime import run_graph
from export.judge.parity import check_batch_invariance
from export.stages.records import Graphs
from export.stages.variants import (
    CHECKED_ROWS,
    DENSE,
    INT8,
    INVARIANCE_ROWS,
    PRUNED,
    graph_name,
    read_variants,
    write_graph,
)
from export.stages.work import Say, Work


def quantize(work: Work, *, rows: int, say: Say = print) -> Graphs:
    """The smallest float graph -> the INT8 one, with ranges found on `rows` rows spread over training.

    A graph with nothing to quantize gives an empty record, and the float graph serves.
    """
    log = open_log(work.path("log"))
    variants = read_variants(work, log.schema)
    source = variants.get(PRUNED, variants[DENSE])
    work.start("quantize")
    graph = quantize_int8(source.graph, source.ids(spread_rows(log.parts["train"], rows)))
    record = Graphs({})
    if graph is None:
        say(
            f"nothing to quantize in {graph_name(source.name)}, which has neither tables nor layers: "
            "it serves as it is"
        )
    else:
        variant = replace(source, name=INT8, graph=graph)
        ids = variant.ids(np.array(log.parts["validation"].ids[:CHECKED_ROWS]))
        check_batch_invariance(graph, ids[:INVARIANCE_ROWS])
        difference = float(np.abs(run_graph(graph, ids) - run_graph(source.graph, ids)).max())
        record = Graphs({INT8: write_graph(work, variant, difference, say)})
    work.record("quantize", record)
    return record


def spread_rows(part: Part, rows: int) -> NDArray[np.int32]:
    """At most `rows` rows from the first to the last, at even distances."""
    return np.array(part.ids[sample_positions(len(part), rows)])
