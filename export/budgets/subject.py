"""The trained model that a search begins with, and the work folders that trials go on from."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from export.budgets.plan import BudgetPlan
from export.data.encoded import EncodedLog, open_log
from export.stages.dense_twin import TRAINED, TWIN, dense_checkpoint, make_dense_twin
from export.stages.prune import pruning_config
from export.stages.records import LogSummary, Trained, Twin
from export.stages.taught import FOLDER as TEACHERS
from export.stages.taught import taught_log
from export.stages.to_onnx import to_onnx
from export.stages.variants import DENSE, Variant, graph_name
from export.stages.work import Say, Work, silent
from service.bundle.json_files import encode_json

# What the stages of a trial read of the run that trained the model; they write none of it.
TAKEN = ("log", "fit-schema.json", "train.json", "baseline.json", "baseline.onnx", TEACHERS)
TWIN_RECORD = "twin"


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


def new_work(base: Work, folder: Path, checkpoint: Path | None = None) -> Work:
    """A work folder made anew, with a model trained as in `base`, or that of `checkpoint` in its place."""
    shutil.rmtree(folder, ignore_errors=True)
    work = Work(folder)
    work.claim()
    take(work, base, *TAKEN)
    link(folder / TRAINED, checkpoint or base.path(TRAINED))
    return work


def take(work: Work, base: Work, *names: str) -> None:
    """Links what `base` has of these."""
    for name in names:
        if base.has(name):
            link(work.folder / name, base.folder / name)


def link(path: Path, target: Path) -> None:
    """A relative link, so that a work folder may be moved with its trials."""
    path.symlink_to(os.path.relpath(target.resolve(), path.parent.resolve()))


def prepared(subject: Subject, plan: BudgetPlan, folder: Path, *, say: Say) -> Work:
    """The work folder of the trained model itself: its dense twin, and the graph that all are compared with.

    Whatever a trial prunes it trains on for as long, so one dense twin serves all. Both are kept.
    """
    work = Work(folder)
    if work.has("to-onnx.json"):
        return work
    work = new_work(subject.work, folder, subject.checkpoint)
    if plan.pruning.dense_twin == "train":
        log = taught_log(work, subject.log, subject.trained.taught)
        config = pruning_config(subject.trained, plan.pruning)
        twin = make_dense_twin(work, log, config, plan.pruning, say)
        work.write(f"{TWIN_RECORD}.json", encode_json(twin))
    to_onnx(work, say=silent)
    return work


def twin_of(work: Work) -> Twin | None:
    """The record of the dense twin in a folder that trials go on from, where there is one."""
    return work.read_record(TWIN_RECORD, Twin) if work.has(f"{TWIN_RECORD}.json") else None


def take_twin(work: Work, base: Work) -> None:
    """Links the dense twin, where it is the better dense model."""
    take(work, base, TWIN)


def dense_of(work: Work, subject: Subject) -> Variant:
    """The dense float32 graph of a prepared folder."""
    return Variant(DENSE, work.path(graph_name(DENSE)).read_bytes(), subject.log.schema)
