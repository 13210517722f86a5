"""What the stages before packaging left in the work folder, read together and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from export.data.encoded import EncodedLog, Part, open_log
from export.stages.calibrate import read_calibrators
from export.stages.dense_twin import dense_checkpoint, twin_line
from export.stages.prune import unpruned_line
from export.stages.qat import qat_line
from export.stages.records import Calibrated, Graphs, LogSummary, Pruned, Trained, Unpruned
from export.stages.variants import DENSE, PRUNED, Variant, graph_name, read_variants
from export.stages.work import Work
from export.train.checkpoint import load_checkpoint
from service.bundle.calibration import Calibrator


@dataclass(frozen=True)
class Artifacts:
    """The log, the graphs and calibrators by variant, the PyTorch models, and the stages' records.

    `hyperparameters` build the dense model.
    `choices` are sentences on what was pruned, compared and wished for, as far as graphs do not show it.
    """

    log: EncodedLog
    summary: LogSummary
    variants: dict[str, Variant]
    calibrators: dict[str, Calibrator]
    models: dict[str, nn.Module]
    hyperparameters: dict[str, Any]
    trained: Trained
    pruned: Pruned | None
    choices: tuple[str, ...]
    quantized: Graphs
    calibrated: Calibrated

    @property
    def test(self) -> Part:
        """The rows that decide what the graphs are worth."""
        return self.log.parts["test"]


def read_artifacts(work: Work) -> Artifacts:
    """Raises ExportError for a stage that has not run, and for a file that is not what it wrote."""
    log = open_log(work.path("log"))
    work.path(graph_name(DENSE))
    quantized = work.read_record("quantize", Graphs)
    variants = read_variants(work, log.schema)
    pruned = work.read_record("prune", Pruned) if PRUNED in variants else None
    trained, summary = work.read_record("train", Trained), work.read_record("fit-schema", LogSummary)
    dense = load_checkpoint(dense_checkpoint(work), log.schema)
    models = {DENSE: dense.model}
    if PRUNED in variants:
        models[PRUNED] = load_checkpoint(work.path("compact.pt")).model
    return Artifacts(
        log=log,
        summary=summary,
        variants=variants,
        calibrators=read_calibrators(work, variants),
        models=models,
        hyperparameters=dense.hyperparameters,
        trained=trained,
        pruned=pruned,
        choices=_choices(work, trained, summary, pruned, quantized),
        quantized=quantized,
        calibrated=work.read_record("calibrate", Calibrated),
    )


def _choices(
    work: Work, trained: Trained, summary: LogSummary, pruned: Pruned | None, quantized: Graphs
) -> tuple[str, ...]:
    found = []
    if trained.warm_start is not None:
        found.append(
            f"training went on from {trained.warm_start}, a model of {summary.earlier_rows:,} rows"
            + ("" if summary.changes is None else f"; vocabularies: {summary.changes}")
        )
    if trained.untaught is not None:
        found.append(str(trained.untaught))
    if pruned is None and work.has("prune.json"):  # a stage that may be left out
        found.append(unpruned_line(work.read_record("prune", Unpruned)))
    if pruned is not None and pruned.twin is not None:
        found.append(twin_line(pruned.twin))
    if quantized.ship != "auto":
        found.append(f"the float graph that ships was chosen with --ship {quantized.ship}")
    if quantized.qat is not None:
        found.append(qat_line(quantized.qat))
    return tuple(found)
