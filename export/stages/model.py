"""The stages from a raw log to a small model: fit-schema, train, prune. They know no graph.

A stage reads from the work folder what earlier ones left, clears what later ones made, ends with its record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from export.compress.choice import PruneChoice
from export.compress.compact import compact as compact_model
from export.compress.config import PruneConfig
from export.compress.perceptrons import find_perceptrons
from export.compress.prune import PruneResult
from export.compress.prune import prune as prune_model
from export.compress.recipes import Recipe
from export.compress.schedule import sparse_rate
from export.data.encoded import EncodedLog, open_log, prepare_log
from export.data.errors import OnMalformed
from export.data.log_schema import load_log_schema
from export.errors import ExportError
from export.report.findings import EvaluationPoint
from export.stages.records import LogSummary, Pruned, Trained
from export.stages.variants import write_renumberings
from export.stages.work import Say, Work
from export.train.build import build_model, described_embeddings, hyperparameters_of
from export.train.checkpoint import load_checkpoint, save_checkpoint
from export.train.choices import EmbeddingChoice
from export.train.config import TrainConfig
from export.train.distributed import train_together
from export.train.loop import TrainResult
from export.train.sampling import steps_an_epoch
from models.gbdt_lr import GBDTLR


def fit_schema(
    work: Work,
    data: Path,
    schema: str,
    *,
    split: tuple[float, float, float, float],
    on_malformed: OnMalformed = "error",
    min_count: int | None = None,
    say: Say = print,
) -> LogSummary:
    """The raw log -> WORK/log: split by time, encodings fitted on the training part, rows as ids.

    A log that cannot be read costs nothing of what the folder holds: it is cleared once there is a new one.
    """
    log_schema = load_log_schema(schema)
    work.claim()
    fresh = work.folder / "log.new"
    prepare_log(
        data,
        log_schema,
        fresh,
        split=split,
        on_malformed=on_malformed,
        min_count=min_count,
        report=say,
    )
    work.start("fit-schema")
    fresh.rename(work.folder / "log")
    log = open_log(work.path("log"))
    summary = LogSummary(
        source=log.source,
        schema=log_schema.name,
        split=log.split,
        rows={name: len(part) for name, part in log.parts.items()},
        clicks={name: part.clicks for name, part in log.parts.items()},
        skipped_rows=log.skipped_rows,
        window=log.window,
        columns=log.schema.columns,
    )
    work.record("fit-schema", summary)
    return summary


def train(
    work: Work,
    model: str,
    hyperparameters: Mapping[str, Any],
    config: TrainConfig,
    *,
    embedding: EmbeddingChoice | None = None,
    checkpoint: Path | None = None,
    say: Say = print,
) -> Trained:
    """WORK/log -> WORK/dense.pt: a model trained from scratch, or the one of `checkpoint` where given."""
    check_device(config.device)
    log = open_log(work.path("log"))
    points: tuple[EvaluationPoint, ...] = ()
    epochs = best_epoch = 0
    seconds = None
    if checkpoint is None:
        network = build_model(model, log.schema, hyperparameters, embedding=embedding, seed=config.seed)
        work.start("train")
        hyperparameters = {**hyperparameters_of(model), **hyperparameters}
        kept = embedding.described() if embedding else {}
        say(f"training {model} with {_parameters(network):,} parameters")
        if isinstance(network, GBDTLR):
            from export.train.trees import fit_trees  # scikit-learn takes a second to load

            fit_trees(network, log, seed=config.seed, report=say)
        result = train_together(network, log, work.path("log"), config, report=say)
        points, epochs, best_epoch = _points(result, log, config), result.history[-1].epoch, result.best_epoch
        seconds = result.seconds_an_epoch
    else:
        check_told_once(checkpoint, hyperparameters, embedding)
        # Read before the folder is cleared: the checkpoint may be its own dense.pt.
        network, model, hyperparameters = load_checkpoint(checkpoint, log.schema)
        kept = described_embeddings(network)
        work.start("train")
        say(f"took {model} with {_parameters(network):,} parameters from {checkpoint.name}")
    save_checkpoint(work.folder / "dense.pt", network, model, hyperparameters)
    record = Trained(
        model=model,
        hyperparameters={**hyperparameters, **kept},
        parameters=_parameters(network),
        config=config,
        checkpoint=None if checkpoint is None else checkpoint.name,
        epochs=epochs,
        best_epoch=best_epoch,
        points=points,
        seconds_an_epoch=seconds,
    )
    work.record("train", record)
    return record


def prune(
    work: Work, choice: PruneChoice, *, recipe: Recipe | None = None, say: Say = print
) -> Pruned | None:
    """WORK/dense.pt -> pruned.pt (exact zeros) and compact.pt (without them).

    What `choice` leaves open is as in training; a `recipe` goes before the preset it names. A model without
    neurons that can go keeps them, with a warning. A recipe that prunes nothing only clears what an earlier
    pruning left.
    """
    recipe = recipe or choice.recipe()
    log = open_log(work.path("log"))
    network, model, hyperparameters = load_checkpoint(work.path("dense.pt"), log.schema)
    trained = work.read_record("train", Trained)
    if recipe.neurons > 0.0 and not find_perceptrons(network):
        say(
            f"warning: 'neurons' must be 0 for {model}, which has no perceptron of linear layers and ReLU "
            f"(got {recipe.neurons:g}); none is pruned: leave --neurons out, or prune weights"
        )
        recipe = recipe.with_neurons(0.0)
    work.start("prune")
    if not recipe.prunes:
        return None
    config = replace(trained.config, warmup_steps=0, learning_rate=choice.prune_learning_rate)
    rates = ", ".join(f"{part} {rate:.0%}" for part, rate in recipe.rates.items())
    say(f"pruning by the recipe {recipe.name}: {rates}")
    result = prune_model(network, log, recipe, config, say, schedule=choice)
    save_checkpoint(work.folder / "pruned.pt", network, model, hyperparameters)
    compacted = compact_model(network, hyperparameters)
    save_checkpoint(work.folder / "compact.pt", compacted.model, model, compacted.hyperparameters)
    write_renumberings(work, log.schema, compacted.renumberings)
    record = Pruned(
        recipe=recipe.name,
        rates=result.rates,
        reached=result.reached,
        live_neurons=compacted.live_neurons,
        live_pairs=compacted.live_pairs,
        embedding_rows=compacted.embedding_rows,
        parameters=compacted.parameters,
        hyperparameters=dict(compacted.hyperparameters),
        max_abs_diff=compacted.max_abs_diff,
        notes=compacted.notes,
        points=_pruning_points(result, log, config, choice),
    )
    neurons = "-".join(str(count) for count in record.live_neurons) or "no"
    say(
        f"compacted: {neurons} live neurons, {record.live_pairs} live pairs, "
        f"{record.embedding_rows[1]:,} of {record.embedding_rows[0]:,} embedding rows"
    )
    for note in record.notes:
        say(f"note: {note}")
    work.record("prune", record)
    return record


def check_told_once(
    checkpoint: Path, hyperparameters: Mapping[str, Any], embedding: EmbeddingChoice | None
) -> None:
    """Raises ExportError where something is said of a model that its checkpoint tells."""
    said = {**hyperparameters, **(embedding.described() if embedding else {})}
    if said:
        name, value = next(iter(said.items()))
        raise ExportError(
            f"'{name}' must be left out with the checkpoint {checkpoint.name}, which tells it "
            f"(got {value!r}); leave out one of the two"
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


def _parameters(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _points(result: TrainResult, log: EncodedLog, config: TrainConfig) -> tuple[EvaluationPoint, ...]:
    steps = steps_an_epoch(log.parts["train"], config)
    return tuple(
        EvaluationPoint(
            epoch=look.step / steps,
            train_loss=look.train_loss,
            validation_logloss=look.logloss,
            validation_auc=look.auc,
            rows_per_second=look.rows_per_second,
        )
        for look in result.history
    )


def _pruning_points(
    result: PruneResult, log: EncodedLog, config: TrainConfig, schedule: PruneConfig
) -> tuple[EvaluationPoint, ...]:
    """The looks of pruning with the shares that the schedule asks for; nobody counts zeros at each look."""
    steps = max(1, round(schedule.prune_epochs * steps_an_epoch(log.parts["train"], config)))
    return tuple(
        msgspec.structs.replace(
            point,
            sparsity={
                part: sparse_rate(rate, look.step, steps, schedule.residual)
                for part, rate in result.rates.items()
            },
        )
        for point, look in zip(_points(result.training, log, config), result.training.history, strict=True)
    )
