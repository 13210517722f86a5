"""The stage prune: a trained model -> one with exact zeros, and a compacted one without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
from torch import nn

from export.compress.choice import PruneChoice
from export.compress.compact import Compacted, can_lose, can_shrink
from export.compress.compact import compact as compact_model
from export.compress.config import PruneConfig
from export.compress.prune import PruneResult, stretch_of
from export.compress.prune import prune as prune_model
from export.compress.recipes import Recipe
from export.compress.schedule import sparse_rate
from export.data.encoded import EncodedLog, open_log
from export.report.findings import EvaluationPoint
from export.stages.dense_twin import make_dense_twin
from export.stages.records import Pruned, Trained, Twin, Unpruned
from export.stages.taught import taught_log
from export.stages.train import evaluation_points
from export.stages.variants import write_renumberings
from export.stages.work import Say, Work
from export.train.checkpoint import load_checkpoint, save_checkpoint
from export.train.config import TrainConfig
from export.train.sampling import steps_an_epoch


def prune(
    work: Work,
    choice: PruneChoice,
    *,
    recipe: Recipe | None = None,
    twin: Twin | None = None,
    say: Say = print,
) -> Pruned | None:
    """WORK/dense.pt -> pruned.pt (exact zeros), compact.pt (without them) and perhaps twin.pt.

    What `choice` leaves open is as in training, and so are the teachers; its preset fits log and model, and a
    `recipe` goes before it. The dense twin (`export.stages.dense_twin`) is trained too unless `choice` skips
    it; a `twin` that was trained before is recorded in its place. A model without neurons, interactions or
    dimensions that can go keeps them, with a warning. A recipe that prunes nothing only clears what an
    earlier pruning left.
    """
    trained = work.read_record("train", Trained)
    log = taught_log(work, open_log(work.path("log")), trained.taught)
    rows = len(log.parts["train"])
    fitted = recipe is None and choice.preset is None
    network, model, hyperparameters = load_checkpoint(work.path("dense.pt"), log.schema)
    shrinks = not fitted or can_shrink(network, hyperparameters)
    recipe = recipe or choice.recipe(rows, shrinks=shrinks)
    recipe = _possible(recipe, network, model, hyperparameters, say)
    work.start("prune")
    if not recipe.prunes:
        _leave(work, Unpruned(rows, fitted, model, shrinks, twin), say)
        return None
    config = pruning_config(trained, choice)
    if twin is None and choice.dense_twin == "train":
        twin = make_dense_twin(work, log, config, choice, say)
    rates = ", ".join(f"{part} {rate:.0%}" for part, rate in recipe.rates.items())
    say(f"pruning by the recipe {recipe.name}: {rates}")
    result = prune_model(network, log, recipe, config, say, schedule=choice)
    save_checkpoint(work.folder / "pruned.pt", network, model, hyperparameters)
    compacted = compact_model(network, hyperparameters)
    save_checkpoint(work.folder / "compact.pt", compacted.model, model, compacted.hyperparameters)
    write_renumberings(work, log.schema, compacted.renumberings)
    points = _pruning_points(result, log, config, choice)
    record = _record(recipe, result, compacted, points, twin=twin, fitted=fitted)
    _tell(record, say)
    work.record("prune", record)
    return record


_LACKS = {
    "neurons": "has no perceptron of linear layers and ReLU",
    "interactions": "has no layer of pairs, crosses or attention that can be pruned",
    "dimensions": "cannot lose that share of its embeddings' dimensions",
}


def _possible(
    recipe: Recipe, network: nn.Module, model: str, hyperparameters: Mapping[str, Any], say: Say
) -> Recipe:
    """The recipe without the whole parts that this model cannot lose, with a warning for each."""
    for part, reason in _LACKS.items():
        share = getattr(recipe, part)
        if share > 0.0 and not can_lose(network, hyperparameters, part, share):
            say(
                f"warning: '{part}' must be 0 for {model}, which {reason} (got {share:g}); none is pruned: "
                f"leave --{part} out, or prune weights"
            )
            recipe = recipe.with_units(**{part: 0.0})
    return recipe


def pruning_config(trained: Trained, choice: PruneChoice) -> TrainConfig:
    """How a pruned model and its dense twin are trained on."""
    return replace(trained.config, warmup_steps=0, learning_rate=choice.prune_learning_rate)


def _leave(work: Work, record: Unpruned, say: Say) -> None:
    """Records and says that nothing is pruned."""
    if record.preset_fitted:
        say(unpruned_line(record))
    work.record("prune", record)


def unpruned_line(record: Unpruned) -> str:
    """Why nothing is pruned, and how to prune all the same."""
    if not record.preset_fitted:
        return "nothing is pruned, as chosen"
    if not record.shrinks:
        return (
            f"nothing is pruned by default of {record.model}, which gets no smaller by it; "
            "--preset high-performance prunes"
        )
    return (
        f"nothing is pruned by default on a log of {record.training_rows:,} training rows, too few to fit "
        "the pruned model again; --preset high-performance prunes"
    )


def _record(
    recipe: Recipe,
    result: PruneResult,
    compacted: Compacted,
    points: tuple[EvaluationPoint, ...],
    *,
    twin: Twin | None,
    fitted: bool,
) -> Pruned:
    return Pruned(
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
        points=points,
        twin=twin,
        preset_fitted=fitted,
    )


def _tell(record: Pruned, say: Say) -> None:
    neurons = "-".join(str(count) for count in record.live_neurons) or "no"
    say(
        f"compacted: {neurons} live neurons, {record.live_pairs} live pairs, "
        f"{record.embedding_rows[1]:,} of {record.embedding_rows[0]:,} embedding rows, "
        f"{record.parameters[1]:,} of {record.parameters[0]:,} parameters"
    )
    for note in record.notes:
        say(f"note: {note}")


def _pruning_points(
    result: PruneResult, log: EncodedLog, config: TrainConfig, schedule: PruneConfig
) -> tuple[EvaluationPoint, ...]:
    """The evaluations with the shares that the schedule asks for: zeros are not counted in each of them."""
    stretch = stretch_of(schedule, steps_an_epoch(log.parts["train"], config))
    points = evaluation_points(result.training, log, config)
    return tuple(
        msgspec.structs.replace(
            point,
            sparsity={
                part: sparse_rate(rate, evaluation.step - stretch.start, stretch.steps, schedule.residual)
                for part, rate in result.rates.items()
            },
        )
        for point, evaluation in zip(points, result.training.history, strict=True)
    )
