"""The stages from a model to calibrated graphs: to-onnx, quantize, calibrate. They know no training.

A stage reads from the work folder what earlier ones left, clears what later ones made, ends with its record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part, open_log
from export.data.samples import sample_positions
from export.errors import ExportError
from export.graph.onnx import export_onnx
from export.graph.quantize import quantize_int8
from export.graph.runtime import run_graph
from export.judge.parity import check_against_torch, check_batch_invariance
from export.stages.calibrate import fit_calibrator
from export.stages.records import Calibrated, GraphFile, Graphs, Trained
from export.stages.variants import (
    DENSE,
    INT8,
    PRUNED,
    Variant,
    graph_name,
    read_renumberings,
    read_variants,
)
from export.stages.work import Say, Work
from export.train.checkpoint import load_checkpoint
from service.bundle.calibration import Calibrator

CHECKED_ROWS = 4096
INVARIANCE_ROWS = 1024


def to_onnx(work: Work, *, say: Say = print) -> Graphs:
    """WORK/dense.pt and compact.pt -> float graphs, each checked against PyTorch on rows of validation."""
    log = open_log(work.path("log"))
    models = {DENSE: load_checkpoint(work.path("dense.pt"), log.schema).model}
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
        found[name] = _write_graph(work, variant, difference, say)
    record = Graphs(found)
    work.record("to-onnx", record)
    return record


def quantize(work: Work, *, rows: int, say: Say = print) -> Graphs:
    """The smallest float graph -> the INT8 one, with ranges found on `rows` rows from all over training.

    A graph with nothing to quantize has none: the record is empty, and the float graph serves.
    """
    log = open_log(work.path("log"))
    variants = read_variants(work, log.schema)
    source = variants.get(PRUNED, variants[DENSE])
    work.start("quantize")
    graph = quantize_int8(source.graph, source.ids(spread_rows(log.parts["train"], rows)))
    if graph is None:
        record = Graphs({})
        say(
            f"nothing to quantize in {graph_name(source.name)}, which has neither tables nor layers: "
            "it serves as it is"
        )
        work.record("quantize", record)
        return record
    variant = replace(source, name=INT8, graph=graph)
    ids = variant.ids(np.array(log.parts["validation"].ids[:CHECKED_ROWS]))
    check_batch_invariance(graph, ids[:INVARIANCE_ROWS])
    difference = float(np.abs(run_graph(graph, ids) - run_graph(source.graph, ids)).max())
    record = Graphs({INT8: _write_graph(work, variant, difference, say)})
    work.record("quantize", record)
    return record


def calibrate(
    work: Work,
    *,
    sampling_rate: float,
    methods: Sequence[str],
    say: Say = print,
) -> dict[str, Calibrator]:
    """A calibrator of each graph, fitted on its logits of the calibration part -> WORK/calibration.json."""
    log = open_log(work.path("log"))
    work.read_record("quantize", Graphs)
    variants = read_variants(work, log.schema)
    training = work.read_record("train", Trained).config
    work.start("calibrate")
    part = log.parts["calibration"]
    window = None
    if part.timestamps is not None:
        window = (int(part.timestamps.min()), int(part.timestamps.max()))
    found = {}
    for name, variant in variants.items():
        found[name] = fit_calibrator(
            variant.score(part),
            part.labels,
            variant=name,
            graph_sha256=variant.sha256,
            training=training,
            sampling_rate=sampling_rate,
            window=window,
            methods=methods,
        )
        before, after = found[name].before, found[name].after
        say(
            f"calibrated {name}: {found[name].method}, LogLoss {before.logloss:.5f} -> {after.logloss:.5f}, "
            f"ECE {before.ece:.5f} -> {after.ece:.5f}, PCOC {before.pcoc:.4f} -> {after.pcoc:.4f}"
        )
    work.write("calibration.json", msgspec.json.format(msgspec.json.encode(found), indent=2))
    work.record("calibrate", Calibrated({name: c.method for name, c in found.items()}, sampling_rate))
    return found


def read_calibrators(work: Work, variants: Mapping[str, Variant]) -> dict[str, Calibrator]:
    """The calibrators of these graphs. Raises ExportError where one was fitted on another graph."""
    path = work.path("calibration.json")
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, Calibrator])
    except msgspec.MsgspecError as error:
        raise ExportError(f"'{path}' must hold calibrators (got: {error}); calibrate again") from None
    for name, variant in variants.items():
        if name not in found or found[name].graph_sha256 != variant.sha256:
            raise ExportError(
                f"'{path}' must be fitted on the graph {graph_name(name)} in {work.folder} "
                "(got another graph's); calibrate again"
            )
    return {name: found[name] for name in variants}


def _write_graph(work: Work, variant: Variant, difference: float, say: Say) -> GraphFile:
    work.write(graph_name(variant.name), variant.graph)
    say(f"wrote {graph_name(variant.name)}: {len(variant.graph):,} bytes, logits within {difference:.2g}")
    return GraphFile(size=len(variant.graph), sha256=variant.sha256, max_abs_logit=difference)


def spread_rows(part: Part, rows: int) -> NDArray[np.int32]:
    """At most `rows` rows from the first to the last, at even distances."""
    return np.array(part.ids[sample_positions(len(part), rows)])
