"""The stage train: the encoded log -> a model, trained from scratch or read from a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from export.data.encoded import EncodedLog, open_log
from export.errors import ExportError
from export.judge.metrics import auc, logloss, sigmoid
from export.report.findings import EvaluationPoint
from export.stages.dense_twin import validation_score
from export.stages.records import Searched, Trained
from export.stages.taught import Taught, Untaught, taught_log
from export.stages.warm_start import WarmStart
from export.stages.work import Say, Work
from export.train.build import build_model, described_embeddings, hyperparameters_of
from export.train.carry import carried
from export.train.checkpoint import load_checkpoint, save_checkpoint
from export.train.choices import EmbeddingChoice, TrainChoice
from export.train.config import TrainConfig
from export.train.distributed import train_together
from export.train.initial import start_at_click_rate
from export.train.loop import predict_logits
from export.train.prior import corrected_logits
from export.train.result import TrainResult
from export.train.sampling import steps_an_epoch
from export.train.unknown_values import unknown_fields, warning_of
from models.gbdt_lr import GBDTLR

# What else is chosen of a training, pruning a model and training it as INT8 go by too.
OF_THE_FIRST_TRAINING = ("epochs", "learning_rate", "warmup_steps", "distill_twin")


def train(
    work: Work,
    model: str,
    hyperparameters: Mapping[str, Any],
    config: TrainConfig,
    *,
    embedding: EmbeddingChoice | None = None,
    checkpoint: Path | None = None,
    warm: WarmStart | None = None,
    searched: Searched | None = None,
    taught: Taught | None = None,
    say: Say = print,
) -> Trained:
    """WORK/log -> WORK/dense.pt: a model trained from scratch, or the one of `checkpoint` where given.

    With `warm` training goes on from that model. `taught` is what teachers say of the rows: the model is
    trained with and without them, unless the config skips that, and the better one by its metric on the
    validation part is kept. A model from a checkpoint is taught where it is pruned. `searched` is the search
    that found these settings, for the record. Raises ExportError for settings that a checkpoint fixes, and
    for a device that torch cannot use.
    """
    check_device(config.device)
    log = taught_log(work, open_log(work.path("log")), taught)
    if warm is not None:
        record = _go_on(work, log, warm, config, say)
    elif checkpoint is None:
        record = _train_from_scratch(work, log.without_past(), model, hyperparameters, config, embedding, say)
    else:
        check_no_overrides(checkpoint, hyperparameters, embedding)
        record = _take_checkpoint(work, log, checkpoint, config, say)
    is_taught = record.untaught is None or not record.untaught.better
    record = msgspec.structs.replace(record, searched=searched, taught=taught if is_taught else None)
    work.record("train", record)
    return record


def _train_from_scratch(
    work: Work,
    log: EncodedLog,
    model: str,
    hyperparameters: Mapping[str, Any],
    config: TrainConfig,
    embedding: EmbeddingChoice | None,
    say: Say,
) -> Trained:
    network = new_network(log, model, hyperparameters, config, embedding)
    work.start("train")
    say(f"training {model} with {_parameters(network):,} parameters")
    fit_trees_of(network, log, config, say)
    hyperparameters = {**hyperparameters_of(model), **hyperparameters}
    described = embedding.described() if embedding else {}
    if embedding and embedding.embedding != "full" and "embedding" not in described_embeddings(network):
        say(
            f"warning: 'embedding' {embedding.embedding} changes nothing here: no field of "
            f"{embedding.least_ids} ids or more has fewer rows with {embedding.collisions} collisions; "
            "change --least-ids or --collisions, or leave it out"
        )
        described = EmbeddingChoice(pooling=embedding.pooling).described()
    return _trained(work, log, network, model, hyperparameters, config, described, say)


def _go_on(work: Work, log: EncodedLog, warm: WarmStart, config: TrainConfig, say: Say) -> Trained:
    before = warm.trained
    network = carried(
        before.network,
        before.model,
        before.hyperparameters,
        before.past.schema,
        log.schema,
        seed=config.seed,
    )
    work.start("train")
    say(
        f"training {before.model} with {_parameters(network):,} parameters on from {warm.source}, "
        f"after {before.past.rows:,} rows"
    )
    part = log.parts["validation"]
    pctr = sigmoid(corrected_logits(predict_logits(network, part.ids), config))
    say(f"as it is: validation logloss {logloss(part.labels, pctr):.5f} AUC {auc(part.labels, pctr):.5f}")
    described = described_embeddings(network)
    record = _trained(work, log, network, before.model, before.hyperparameters, config, described, say)
    return msgspec.structs.replace(record, warm_start=warm.source)


def _trained(
    work: Work,
    log: EncodedLog,
    network: nn.Module,
    model: str,
    hyperparameters: Mapping[str, Any],
    config: TrainConfig,
    described: Mapping[str, Any],
    say: Say,
) -> Trained:
    """Trains the network and saves it; `described` is how its embeddings are kept."""
    other = copy.deepcopy(network) if _has_twin(log, config) else None
    result = train_together(network, log, work.path("log"), config, report=say)
    say(result.ending(config))
    untaught = None
    if other is not None:
        say("training it by the labels alone, to see what the teachers are worth")
        alone = log.without_taught()
        rival = train_together(other, alone, work.path("log"), config, report=say)
        untaught = _judged(network, other, log, config)
        say(str(untaught))
        if untaught.better:
            network, result, log = other, rival, alone
    warning = warning_of(unknown_fields(network, log.parts["validation"], config))
    if warning is not None:
        say(f"warning: {warning}")
    save_checkpoint(work.folder / "dense.pt", network, model, hyperparameters)
    return Trained(
        model=model,
        hyperparameters={**hyperparameters, **described},
        parameters=_parameters(network),
        config=config,
        checkpoint=None,
        epochs=result.history[-1].epoch,
        best_epoch=result.best_epoch,
        points=evaluation_points(result, log, config),
        seconds_an_epoch=result.seconds_an_epoch,
        warnings=() if warning is None else (warning,),
        untaught=untaught,
    )


def _has_twin(log: EncodedLog, config: TrainConfig) -> bool:
    """Whether the model is trained without its teachers too."""
    return log.parts["train"].taught is not None and config.distill_twin == "train"


def _judged(taught: nn.Module, alone: nn.Module, log: EncodedLog, config: TrainConfig) -> Untaught:
    """The better of two models as a dense twin is judged: a teacher's level and slope are mended later."""
    metric = config.stopping_metric
    with_teachers, without = (validation_score(one, log, config) for one in (taught, alone))
    better = without > with_teachers if metric == "auc" else without < with_teachers
    return Untaught(metric, with_teachers, without, better)


def new_network(
    log: EncodedLog,
    model: str,
    hyperparameters: Mapping[str, Any],
    config: TrainConfig,
    embedding: EmbeddingChoice | None = None,
) -> nn.Module:
    """A model that starts at the click rate of the training part."""
    network = build_model(model, log.schema, hyperparameters, embedding=embedding, seed=config.seed)
    training = log.parts["train"]
    start_at_click_rate(network, len(training), training.clicks, config)
    return network


def fit_trees_of(network: nn.Module, log: EncodedLog, config: TrainConfig, say: Say) -> None:
    """Fits the trees of a model that has some; they come before its training."""
    if isinstance(network, GBDTLR):
        from export.train.trees import fit_trees  # scikit-learn takes a second to load

        fit_trees(network, log, seed=config.seed, report=say)


def _take_checkpoint(work: Work, log: EncodedLog, checkpoint: Path, config: TrainConfig, say: Say) -> Trained:
    # Read before the folder is cleared: the checkpoint may be its own dense.pt.
    network, model, hyperparameters = load_checkpoint(checkpoint, log.schema)
    work.start("train")
    say(f"took {model} with {_parameters(network):,} parameters from {checkpoint.name}")
    save_checkpoint(work.folder / "dense.pt", network, model, hyperparameters)
    return Trained(
        model=model,
        hyperparameters={**hyperparameters, **described_embeddings(network)},
        parameters=_parameters(network),
        config=config,
        checkpoint=checkpoint.name,
        epochs=0,
        best_epoch=0,
        points=(),
    )


def evaluation_points(
    result: TrainResult, log: EncodedLog, config: TrainConfig
) -> tuple[EvaluationPoint, ...]:
    """The evaluations of a training, for the report; epochs are fractions."""
    steps = steps_an_epoch(log.parts["train"], config)
    return tuple(
        EvaluationPoint(
            epoch=evaluation.step / steps,
            train_loss=evaluation.train_loss,
            validation_logloss=evaluation.logloss,
            validation_auc=evaluation.auc,
            rows_per_second=evaluation.rows_per_second,
        )
        for evaluation in result.history
    )


def check_no_overrides(
    checkpoint: Path,
    hyperparameters: Mapping[str, Any],
    embedding: EmbeddingChoice | None = None,
    training: TrainChoice | None = None,
) -> None:
    """Raises ExportError for what a checkpoint fixes, and for a training that there is not."""
    overrides = {**hyperparameters, **(embedding.described() if embedding else {})}
    if overrides:
        name, value = next(iter(overrides.items()))
        raise ExportError(
            f"'{name}' must be left out with the checkpoint {checkpoint.name}, which sets it "
            f"(got {value!r}); leave out one of the two"
        )
    given = {} if training is None else training.given
    for name in OF_THE_FIRST_TRAINING:
        if name in given:
            raise ExportError(
                f"'{name}' must be left out with the checkpoint {checkpoint.name}, which is trained "
                f"(got {given[name]!r}); leave out one of the two"
            )


def check_device(device: str) -> None:
    """Raises ExportError unless torch can use this device here."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"'device' must be one that torch can use here (got {device!r}: {reason}); use cpu"
        ) from None


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
