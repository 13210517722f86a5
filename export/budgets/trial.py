"""One trial: a trained model -> pruned by a recipe, quantized, judged and timed, in its own work folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.budgets.cost import time_beside
from export.budgets.plan import BudgetPlan
from export.budgets.records import Form
from export.compress.recipes import Recipe
from export.data.encoded import EncodedLog, Part, open_log
from export.graph.runtime import BATCHES, microseconds_a_row, own_rows_scorer
from export.judge.metrics import auc
from export.judge.parity import compare_variants
from export.stages.dense_twin import TRAINED, dense_checkpoint
from export.stages.evaluate import choose_serving, shipped_variants
from export.stages.plan import Ship
from export.stages.prune import prune
from export.stages.quantize import quantize
from export.stages.records import LogSummary, Pruned, Trained
from export.stages.taught import FOLDER as TEACHERS
from export.stages.to_onnx import to_onnx
from export.stages.variants import DENSE, Variant, read_variants
from export.stages.work import Work, silent
from service.bundle.manifest import Latency, Parity

# What the stages of a trial read of the run that trained the model; they write none of it.
TAKEN = ("log", "fit-schema.json", "train.json", "baseline.json", "baseline.onnx", TEACHERS)


@dataclass(frozen=True)
class Subject:
    """The trained model of a work folder, which all trials begin with."""

    work: Work
    log: EncodedLog
    summary: LogSummary
    trained: Trained

    @classmethod
    def of(cls, work: Work) -> Subject:
        """Raises ExportError where the folder has no trained model."""
        work.path(TRAINED)
        summary, trained = work.read_record("fit-schema", LogSummary), work.read_record("train", Trained)
        return cls(work, open_log(work.path("log")), summary, trained)

    @property
    def checkpoint(self) -> Path:
        """The dense model: the better one, where it was trained on beside a pruning."""
        return dense_checkpoint(self.work)


def attempt(subject: Subject, plan: BudgetPlan, recipe: Recipe, folder: Path) -> tuple[Form, float]:
    """The form that a recipe gives, and the dense graph's microseconds a candidate in the same timing.

    The folder is made anew: it is a work folder, from which `package` can go on. Raises ExportError.
    """
    work = _new_work(subject, folder)
    pruned = prune(work, plan.pruning, recipe=recipe, say=silent)
    to_onnx(work, say=silent)
    # What a trial loses is judged by the limits of the search.
    ship: Ship = "auto" if pruned is None else "pruned"
    quantize(work, replace(plan.graphs, ship=ship), say=silent)
    return _judged(subject, plan, read_variants(work, subject.log.schema), pruned)


def _new_work(subject: Subject, folder: Path) -> Work:
    shutil.rmtree(folder, ignore_errors=True)
    work = Work(folder)
    work.claim()
    for name in TAKEN:
        if subject.work.has(name):
            _link(folder / name, subject.work.folder / name)
    _link(folder / TRAINED, subject.checkpoint)
    return work


def _link(path: Path, target: Path) -> None:
    """A relative link, so that a work folder may be moved with its trials."""
    path.symlink_to(os.path.relpath(target.resolve(), path.parent.resolve()))


def _judged(
    subject: Subject, plan: BudgetPlan, variants: Mapping[str, Variant], pruned: Pruned | None
) -> tuple[Form, float]:
    dense, parts = variants[DENSE], subject.log.parts
    validation, unseen = parts["validation"], parts["calibration"]
    serving = variants[_serving(variants, validation)]
    times = time_beside(serving, dense, validation, plan.at_batch)
    logits = serving.score(validation)
    trained = subject.trained
    units = trained.hyperparameters.get("hidden_units") or ()
    return (
        Form(
            variant=serving.name,
            auc=auc(np.asarray(validation.labels), logits),
            validation=_change(dense, serving.name, validation, logits),
            unseen=_change(dense, serving.name, unseen, serving.score(unseen)),
            bytes=len(serving.graph),
            share=times.variant / times.dense,
            microseconds=times.variant,
            live_neurons=tuple(units) if pruned is None else pruned.live_neurons,
            parameters=trained.parameters if pruned is None else pruned.parameters[1],
        ),
        times.dense,
    )


def _serving(variants: Mapping[str, Variant], part: Part) -> str:
    """The variant that `package` would let serve."""
    ids = np.array(part.ids[: max(BATCHES)])
    names = shipped_variants(variants)
    scorers = {name: own_rows_scorer(variants[name].graph, variants[name].ids(ids)) for name in names}
    timed = microseconds_a_row(scorers, ids)
    latency = tuple(Latency(variant=name, microseconds_a_row=times) for name, times in timed.items())
    return choose_serving(variants, latency)[0]


def _change(dense: Variant, serving: str, part: Part, logits: NDArray[np.float32]) -> Parity:
    """From the dense graph to these logits [n] of the variant that serves."""
    return compare_variants((dense.name, serving), np.asarray(part.labels), (dense.score(part), logits))
