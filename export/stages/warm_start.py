"""What a run goes on from: the model of an earlier one, found, read, and held against what a plan asks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export.data.encoded import open_log
from export.data.growth import FORGET_AFTER, Growth, WhichBins
from export.data.log_schema import load_log_schema
from export.data.past import check_same_fields
from export.errors import ExportError
from export.knobs import check_effects
from export.stages.dense_twin import TRAINED, TWIN, dense_checkpoint
from export.stages.plan import Plan
from export.stages.records import Trained
from export.stages.trained_file import Stored, TrainedModel, read_trained_file
from export.stages.work import MARKER, Work
from export.train.build import model_fields
from export.train.carry import domain_of, fixed_fields, past_after
from export.train.checkpoint import load_checkpoint, plain
from export.train.choices import EmbeddingChoice, TrainChoice
from export.train.config import ODDS, TrainConfig, odds_of
from models.fields import fields_of
from models.gbdt_lr import GBDTLR
from service.bundle.manifest import MANIFEST_FILE, manifest_from_file


@dataclass(frozen=True, eq=False)
class WarmStart:
    """The model that a training goes on from, and where it was found."""

    source: str
    trained: TrainedModel

    def growth(self, forget_after: int | None = None, bins: WhichBins | None = None) -> Growth:
        """How the schema of a log goes on from the model's; None is the default."""
        fixed = fixed_fields(self.trained.network, self.trained.hyperparameters)
        return Growth(self.trained.past, forget_after or FORGET_AFTER, bins or "keep", fixed)

    def settled(self, plan: Plan) -> Plan:
        """The plan with the hyperparameters and the loss of before.

        Raises ExportError where it names others, or another model, or has other fields.
        """
        before = self.trained
        check_same_fields(load_log_schema(plan.schema).fields, before.past.schema)
        self._check("model", before.model, plan.model)
        for name, value in plan.hyperparameters.items():
            self._check(name, before.hyperparameters.get(name), plain(value))
        if plan.embedding != EmbeddingChoice():
            chosen = [Stored.of(one) for one in model_fields(before.past.schema, plan.embedding)]
            self._check("embedding", [Stored.of(one) for one in fields_of(before.network)], chosen)
        return replace(
            plan, hyperparameters=before.hyperparameters, training=self.settled_training(plan.training)
        )

    def settled_training(self, choice: TrainChoice) -> TrainChoice:
        """The choice with the loss of before. Raises ExportError where it names another."""
        before = self.trained.training
        for name in ODDS:
            if name in choice.given:
                self._check(name, before.get(name, getattr(TrainConfig, name)), choice.given[name])
        return choice.updated(**before)

    def _check(self, name: str, expected: Any, found: Any) -> None:
        if expected != found:
            raise ExportError(
                f"'{name}' must be {expected!r}, as in {self.source} (got {found!r}); leave it out, or train "
                "anew without --warm-start"
            )


def read_warm_start(path: Path) -> WarmStart:
    """The model of a bundle, of a run's work folder, or of a dense checkpoint in one. Raises ExportError."""
    folder = path if path.is_dir() else path.parent
    if (path / MANIFEST_FILE).is_file():
        found = WarmStart(*read_trained_file(path))
    elif path.exists() and (folder / MARKER).exists():
        with Work(folder).held(option="warm-start") as work:
            found = WarmStart(str(path), _of_work(work, path))
    else:
        raise ExportError(
            f"'warm-start' must be a bundle, the work folder of a run, or a {TRAINED} in one (got {path}"
            f"{'' if path.exists() else ', which is not there'}); name the folder of yesterday's bundle"
        )
    trained = found.trained
    if isinstance(trained.network, GBDTLR):
        raise ExportError(
            f"'warm-start' must go on from a model without trees (got {trained.model}), which grow anew with "
            "each training; leave --warm-start out"
        )
    # Else another field might have the fewest values from now on.
    domain = domain_of(trained.network)
    pinned = {} if domain is None else {"domain": domain}
    hyperparameters = {**trained.hyperparameters, **pinned}
    return replace(found, trained=replace(trained, hyperparameters=hyperparameters))


def model_at(path: Path) -> str | None:
    """The name of the model that a warm start goes on from, without its weights; None if nothing is there."""
    if (path / MANIFEST_FILE).is_file():
        return manifest_from_file((path / MANIFEST_FILE).read_bytes()).model.name
    work = Work(path if path.is_dir() else path.parent)
    return work.read_record("train", Trained).model if work.has("train.json") else None


def _of_work(work: Work, path: Path) -> TrainedModel:
    if path.is_file() and path.name not in (TRAINED, TWIN):
        raise ExportError(
            f"'warm-start' must be the dense model of a work folder (got {path.name}); name its {TRAINED}, "
            "or the folder"
        )
    log, trained = open_log(work.path("log")), work.read_record("train", Trained)
    checkpoint = path if path.is_file() else dense_checkpoint(work)
    network, model, hyperparameters = load_checkpoint(checkpoint, log.schema)
    past = past_after(log, trained.config)
    return TrainedModel(network, model, hyperparameters, past, odds_of(trained.config))


def check_warm_start(plan: Plan) -> None:
    """Raises ExportError for options that say nothing without a warm start, or contradict it."""
    if plan.warm_start is None:
        check_effects(plan, [name for name in ("forget_after", "bins") if getattr(plan, name) is not None])
        return
    if plan.checkpoint is not None:
        raise ExportError(
            f"'warm-start' must be left out with --checkpoint, which trains nothing (got {plan.warm_start}); "
            "leave out one of the two"
        )
    if plan.work.resolve() in (plan.warm_start.resolve(), plan.warm_start.resolve().parent):
        raise ExportError(
            f"'warm-start' must be another folder than the one that the run works in (got {plan.warm_start}),"
            " whose files go as soon as it begins; name yesterday's bundle, or another --work"
        )
