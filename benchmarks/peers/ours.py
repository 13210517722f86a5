"""Bidlight's models: with the defaults of training, and with the best of a grid or of a settings file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.contender import DEFAULT, TUNED, Contender, Fitted, Settings, sources
from benchmarks.peers.grid import GRIDS, GridPoint, Shape
from export.compare.overrides import check_overrides, read_overrides, settle
from export.data.encoded import EncodedLog
from export.judge.metrics import sigmoid
from export.stages.train import fit_trees_of, new_network
from export.stages.work import silent
from export.train.build import hyperparameters_of
from export.train.choices import TrainChoice
from export.train.config import TrainConfig
from export.train.loop import predict_logits, train
from export.train.prior import corrected_logits
from export.train.result import TrainResult

# What a fit depends on; kept fits are of this code.
OWN_CODE = ("models", "export/train", "export/stages/train.py", "benchmarks/peers/ours.py")
# gbdt_lr has no counterpart with epochs: its trees compete.
TREE_DEPTHS = (2, 3, 6)


def contenders(models: Sequence[str], shape: Shape, *, settings_file: Path | None = None) -> list[Contender]:
    """Each model as it trains by default, and tuned: by the file if it speaks of the model, else by the grid.

    The defaults compete in the grid, too. Raises ExportError for a settings file that
    `python -m export compare --settings` would refuse.
    """
    version = f"{torch.__version__} {sources(*OWN_CODE)}"
    overrides = read_overrides(settings_file, [])
    check_overrides(overrides, models)
    found = []
    for model in models:
        default = default_settings(model, shape)
        tuned = (default, *grid_settings(model, shape))
        if overrides.shared or model in overrides.own:
            hyperparameters, choice = settle(model, default["hyperparameters"], overrides, TrainChoice())
            tuned = ({"model": model, "hyperparameters": hyperparameters, "training": dict(choice.given)},)
        found.append(Contender(model, DEFAULT, (default,), fit, version))
        found.append(Contender(model, TUNED, tuned, fit, version))
    return found


def default_settings(model: str, shape: Shape) -> dict[str, Any]:
    """The widths of the table, and nothing said of training."""
    widths = {"dim": shape.dim, "hidden_units": list(shape.hidden_units)}
    known = hyperparameters_of(model)
    used = {name: value for name, value in widths.items() if name in known}
    return {"model": model, "hyperparameters": used, "training": {}}


def grid_settings(model: str, shape: Shape) -> list[Settings]:
    """The points of the grid, as this model takes them."""
    default = default_settings(model, shape)
    if model == "gbdt_lr":
        return [{**default, "hyperparameters": {"depth": depth}} for depth in TREE_DEPTHS]
    return [_at(point, default, shape) for point in GRIDS[model]]


def _at(point: GridPoint, default: Settings, shape: Shape) -> Settings:
    dropout = {} if point.dropout is None else {"dropout": point.dropout}
    return {
        **default,
        "hyperparameters": {**default["hyperparameters"], **dropout},
        # `embedding_l2` alone holds for the weights of single ids, too, as FuxiCTR's penalty does.
        "training": {
            "learning_rate": point.rate,
            "embedding_l2": point.l2,
            "batch_size": shape.batch_size,
        },
    }


def fit(log: EncodedLog, settings: Settings, seed: int) -> Fitted:
    """As the stage train does it, without a bundle: the probabilities are those before calibration."""
    training = log.parts["train"]
    choice = TrainChoice(**{**settings["training"], "seed": seed, "threads": 1})
    config = choice.config(len(training), training.clicks, model=settings["model"])
    network = new_network(log, settings["model"], settings["hyperparameters"], config)
    fit_trees_of(network, log, config, silent)
    marks: list[float] = []
    result = train(
        network, log, config, after_step=lambda _: marks.append(time.process_time()), report=silent
    )
    best = result.best.step if result.best else result.steps
    return Fitted(
        validation=_pctr(network, log, "validation", config),
        test=_pctr(network, log, "test", config),
        epoch_seconds=epoch_seconds(marks, result),
        epochs=best / result.steps_an_epoch,
    )


def epoch_seconds(marks: list[float], result: TrainResult) -> float | None:
    """Processor seconds of an epoch's steps, from the clock at the end of each.

    It is the mean step, since some also average the weights, of those that no evaluation precedes; None
    without such a step.
    """
    seconds = np.diff(marks)
    evaluated = np.array([each.step for each in result.history])
    kept = np.delete(seconds, evaluated[evaluated < len(marks)] - 1)
    return float(kept.mean()) * result.steps_an_epoch if len(kept) else None


def _pctr(network: torch.nn.Module, log: EncodedLog, part: str, config: TrainConfig) -> Any:
    logits = predict_logits(network, np.asarray(log.parts[part].ids))
    return sigmoid(corrected_logits(logits, config))
