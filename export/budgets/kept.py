"""Where trials are kept in a work folder, and how little of each; it runs none.

A trial's folder is a work folder, from which a bundle can be packaged. Whatever the limits are, the best
trial is on the front, so of the others the record alone stays. Beside the trials lie the trained model with
its dense twin, the students that were taught, and what their teacher said.
"""

from __future__ import annotations

import filecmp
import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from export.budgets.plan import BudgetPlan
from export.budgets.records import Trial, front_of
from export.budgets.space import ITSELF
from export.budgets.subject import Subject, link
from export.errors import ExportError
from export.report.machine import machine
from export.stages.variants import DENSE, graph_name
from export.stages.work import MARKER, Work, hash_of
from service.bundle.folders import discard
from service.bundle.json_files import encode_json

FOLDER, RECORD, TRACEBACK = "compress", "trial.json", "failure.txt"

# What a trial does with the same inputs changed when this number did: no search goes on from older trials.
VERSION = 5


def trials_folder(subject: Subject, plan: BudgetPlan) -> Path:
    """Where trials of the same model by the same schedule on this machine are kept, whatever their limits."""
    with subject.checkpoint.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    trained, log = subject.trained, subject.summary
    model = _key(VERSION, weights, trained.config, trained.taught, log.key, log.data, log.rows, log.clicks)
    schedule = _key(
        plan.pruning,
        plan.graphs.quantization_rows,
        plan.graphs.layer_loss,
        plan.graphs.qat,
        plan.at_batch,
        plan.seed,
        plan.students,
        plan.teaching.given,
        machine(),
    )
    return subject.work.folder / FOLDER / f"{model}-{schedule}"


def forget_other_models(folder: Path) -> None:
    """Removes trials of models that were in the work folder before: what they link to is gone."""
    model = folder.name.partition("-")[0]
    for other in folder.parent.iterdir():
        if other.name.partition("-")[0] != model:
            discard(other)


def _key(*inputs: object) -> str:
    return hash_of(inputs)[:12]


def trial_folder(folder: Path, number: int) -> Path:
    return folder / f"{number:03}"


def dense_graph(folder: Path) -> Path:
    """The dense graph, which all trials of the model itself share."""
    return prepared_folder(folder) / graph_name(DENSE)


def prepared_folder(folder: Path) -> Path:
    """The work folder of the trained model itself, from which trials go on."""
    return folder / ITSELF


def kept_trials(folder: Path) -> list[Trial]:
    """The trials that have ended, in order. Raises ExportError for a record that cannot be read."""
    found: list[Trial] = []
    while (path := trial_folder(folder, len(found) + 1) / RECORD).exists():
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=Trial))
        except msgspec.MsgspecError as error:
            raise ExportError(f"'{path}' must be the record of a trial (got: {error}); remove it") from None
    return found


def keep(folder: Path, done: Sequence[Trial]) -> None:
    """Records the last trial, and removes what no search needs any more."""
    last = done[-1].number
    work = Work(trial_folder(folder, last))
    graph, shared = work.folder / graph_name(DENSE), dense_graph(folder)
    if graph.exists() and filecmp.cmp(graph, shared, shallow=False):
        graph.unlink()
        link(graph, shared)
    discard(work.folder / "pruned.pt")  # the weights before compaction
    work.write(RECORD, encode_json(done[-1]))
    front = front_of(done)
    for one in done:
        if one.number not in front:
            _leave_record(trial_folder(folder, one.number))


def _leave_record(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name not in (RECORD, TRACEBACK, MARKER):
            discard(path)
