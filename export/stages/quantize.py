"""The stage quantize: the smallest float graph that loses no quality -> the INT8 graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part, open_log
from export.data.samples import sample_positions
from export.graph.quantize import quantize_int8
from export.graph.runtime import run_graph
from export.judge.parity import check_batch_invariance
from export.stages.records import Graphs
from export.stages.refusal import why_refused
from export.stages.variants import (
    CHECKED_ROWS,
    DENSE,
    INT8,
    INVARIANCE_ROWS,
    PRUNED,
    Variant,
    float_variant,
    graph_name,
    read_variants,
    write_graph,
)
from export.stages.work import Say, Work


def quantize(work: Work, *, rows: int, keep_worse: bool = False, say: Say = print) -> Graphs:
    """The float graph that ships -> the INT8 one, with ranges found on `rows` rows spread over training.

    A pruned graph that is worse than the dense one on the validation part is refused here, unless
    `keep_worse`. A graph with nothing to quantize gives a record without graphs, and the float graph serves.
    """
    log = open_log(work.path("log"))
    variants = read_variants(work, log.schema)
    work.start("quantize")
    refused = {} if keep_worse else _refused(variants, log.parts["validation"], say)
    for name, variant in variants.items():  # an earlier run of this stage may have refused another one
        variants[name] = replace(variant, refused=refused.get(name, ""))
    source = variants[float_variant(variants)]
    graph = quantize_int8(source.graph, source.ids(spread_rows(log.parts["train"], rows)))
    record = Graphs({}, refused)
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
        record = Graphs({INT8: write_graph(work, variant, difference, say)}, refused)
    work.record("quantize", record)
    return record


def _refused(variants: Mapping[str, Variant], part: Part, say: Say) -> dict[str, str]:
    """The pruned graph with the reason, where it is worse."""
    if PRUNED not in variants:
        return {}
    logits = variants[DENSE].score(part), variants[PRUNED].score(part)
    reason = why_refused(np.asarray(part.labels), *logits)
    if not reason:
        return {}
    say(f"warning: {PRUNED} {reason}; {DENSE} ships in its place")
    return {PRUNED: reason}


def spread_rows(part: Part, rows: int) -> NDArray[np.int32]:
    """At most `rows` rows from the first to the last, at even distances."""
    return np.array(part.ids[sample_positions(len(part), rows)])
