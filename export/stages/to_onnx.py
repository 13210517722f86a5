"""The stage to-onnx: the dense and the compacted model -> float graphs, each checked against PyTorch."""

from __future__ import annotations

import numpy as np

from export.data.encoded import open_log
from export.graph.onnx import export_onnx
from export.judge.parity import check_against_torch, check_batch_invariance
from export.stages.dense_twin import dense_checkpoint
from export.stages.records import GraphFile, Graphs
from export.stages.variants import (
    CHECKED_ROWS,
    DENSE,
    INVARIANCE_ROWS,
    PRUNED,
    Variant,
    read_renumberings,
    write_graph,
)
from export.stages.work import Say, Work
from export.train.checkpoint import load_checkpoint


def to_onnx(work: Work, *, say: Say = print) -> Graphs:
    """WORK/dense.pt, or its better twin.pt, and compact.pt -> float graphs.

    Each is checked against PyTorch on rows of validation.
    """
    log = open_log(work.path("log"))
    models = {DENSE: load_checkpoint(dense_checkpoint(work), log.schema).model}
    renumberings = read_renumberings(work, log.schema)
    if work.has("compact.pt"):
        models[PRUNED] = load_checkpoint(work.path("compact.pt"), log.schema.renumbered(renumberings)).model
    work.start("to-onnx")
    ids = np.array(log.parts["validation"].ids[:CHECKED_ROWS])
    found: dict[str, GraphFile] = {}
    for name, network in models.items():
        graph = export_onnx(network, log.schema.columns)
        variant = Variant(name, graph, log.schema, renumberings if name == PRUNED else {})
        difference = check_against_torch(network, graph, variant.ids(ids))
        check_batch_invariance(graph, variant.ids(ids[:INVARIANCE_ROWS]))
        found[name] = write_graph(work, variant, difference, say)
    record = Graphs(found)
    work.record("to-onnx", record)
    return record
