"""Finds a teacher, a bundle or a trained model, and asks it about rows by their ids.

A teacher has vocabularies of its own. It knows neither the student nor what is made of the answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.bundles.plan import ReadPlan
from export.bundles.reading import in_format_of, log_schema_for
from export.bundles.scorer import Scorer
from export.data.encoded import open_log
from export.data.log_schema import LOG_FILE, LogSchema
from export.errors import ExportError
from export.stages.dense_twin import dense_checkpoint
from export.stages.records import Trained
from export.stages.trained_file import before_compaction, schema_digest
from export.stages.variants import renumber
from export.stages.work import MARKER, Work
from export.train.checkpoint import load_checkpoint
from export.train.config import TrainConfig
from export.train.loop import predict_logits
from export.train.prior import corrected_logits
from service.bundle.log_odds import log_odds_of
from service.bundle.manifest import MANIFEST_FILE
from service.bundle.schema import Schema
from service.bundle.store import load_bundle

Ids = NDArray[np.int32]
LogOdds = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Teacher:
    """A model that answers.

    key        a hash of all that its answers hang on but the rows
    schema     by which ids are made for it; None: the student's own
    ask        ids [n, columns] -> log-odds of a click [n], in evaluation mode and without gradients
    described  how a raw log at a path is read for it; None where it does not say
    """

    name: str
    model: str
    key: str
    schema: Schema | None
    ask: Callable[[Ids], LogOdds]
    described: Callable[[Path], LogSchema] | None

    def knows_ids_of(self, schema: Schema) -> bool:
        """Whether ids of this schema are its own."""
        return self.schema is None or schema_digest(self.schema) == schema_digest(schema)


def find_teacher(path: Path, student: Schema | None = None, *, device: str = "cpu") -> Teacher:
    """A bundle, a work folder (its dense model), or a checkpoint in a work folder or alone.

    A checkpoint alone does not hold its vocabularies, so it has to be one of the `student`'s schema. Raises
    ExportError for anything else, BundleError for a damaged bundle.
    """
    folder = path if path.is_dir() else path.parent
    if (path / MANIFEST_FILE).is_file():
        return _of_bundle(path)
    # A name that is not there must not stand for the model of the folder that it would lie in.
    if not path.exists() or (path.is_dir() and not (path / MARKER).exists()):
        raise ExportError(
            f"'teacher' must be a bundle, the work folder of a run, or a checkpoint (got {path}"
            f"{'' if path.exists() else ', which is not there'}); name the folder of a bundle"
        )
    if (folder / MARKER).exists():
        return _of_work(Work(folder), path, device)
    return _of_checkpoint(path, student, device)


def _of_bundle(path: Path) -> Teacher:
    """Its serving variant, as a service answers; log-odds are those of its log, as that kept non-clicks."""
    bundle = load_bundle(path)
    scorer = Scorer(bundle, log_rate=None)
    renumberings = {
        field.name: field.renumbering for field in bundle.schema.fields if field.renumbering is not None
    }
    dense = before_compaction(bundle.schema)

    def ask(ids: Ids) -> LogOdds:
        own = renumber(ids, dense, renumberings)
        return log_odds_of(scorer.pctr(scorer.logits(own), own))

    def described(data: Path) -> LogSchema:
        if LOG_FILE not in bundle.manifest.files:
            raise ExportError(
                f"'teacher' must say how its log is read (got {path}, which an earlier export wrote); export "
                "it again"
            )
        return _without_outcomes(log_schema_for(bundle, ReadPlan(data=data)))

    manifest = bundle.manifest
    key = f"{manifest.id} {scorer.variant}"
    return Teacher(manifest.id, manifest.model.name, key, dense, ask, described)


def _of_work(work: Work, path: Path, device: str) -> Teacher:
    """The dense model of a run's work folder, or another checkpoint in it that takes the log's ids."""
    log = open_log(work.path("log"))
    file = path if path.is_file() else dense_checkpoint(work)
    config = work.read_record("train", Trained).config if work.has("train.json") else TrainConfig()
    found = _of_network(file, str(path), log.schema, config, device)
    description = log.description
    if description is None:  # an earlier release prepared it
        return found
    return replace(found, described=lambda data: _without_outcomes(in_format_of(data, description)))


def _without_outcomes(schema: LogSchema) -> LogSchema:
    """What a teacher reads of a log: what it makes of a label harms no row."""
    return msgspec.structs.replace(schema.for_scores(), label=None)


def _of_checkpoint(path: Path, student: Schema | None, device: str) -> Teacher:
    """Its logits count as those of cross-entropy on all rows; a line is fitted to them later."""
    return replace(_of_network(path, str(path), student, TrainConfig(), device), schema=None)


def _of_network(path: Path, name: str, schema: Schema | None, config: TrainConfig, device: str) -> Teacher:
    network, model, _ = load_checkpoint(path, schema)

    def ask(ids: Ids) -> LogOdds:
        return corrected_logits(predict_logits(network, ids, device=device), config)

    content: dict[str, Any] = {"config": config, "schema": schema and schema_digest(schema)}
    found = hashlib.sha256(path.read_bytes())
    found.update(msgspec.json.encode(content, order="deterministic"))
    return Teacher(name, model, found.hexdigest(), schema, ask, None)
