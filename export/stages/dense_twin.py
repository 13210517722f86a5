"""The dense model that a pruned one has to match: as trained, or trained on for as long as pruning takes.

Pruning goes on training, at a step size of its own, and whatever that alone is worth is no merit of pruning.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from torch import nn

from export.compress.choice import PruneChoice
from export.compress.prune import train_dense_twin
from export.data.encoded import EncodedLog
from export.judge.metrics import auc, logloss
from export.stages.ladder import fitted_pctr
from export.stages.records import Twin
from export.stages.work import Say, Work
from export.train.checkpoint import load_checkpoint, save_checkpoint
from export.train.config import TrainConfig
from export.train.loop import predict_logits

TRAINED, TWIN = "dense.pt", "twin.pt"


def dense_checkpoint(work: Work) -> Path:
    """The checkpoint of the dense model: the twin's where that is better, else the one as trained."""
    return work.path(TWIN if work.has(TWIN) else TRAINED)


def make_dense_twin(
    work: Work, log: EncodedLog, config: TrainConfig, choice: PruneChoice, say: Say = print
) -> Twin:
    """Trains the model of dense.pt on as `prune` does; writes WORK/twin.pt where that made it better.

    Better is by the metric of `config`, by which training keeps the best weights, on the validation part;
    LogLoss after a fitted line, as the pruned graph is compared.
    """
    network, model, hyperparameters = load_checkpoint(work.path(TRAINED), log.schema)
    trained = validation_score(network, log, config)
    say("training the dense model on for as long as pruning takes, at its step size")
    started = time.perf_counter()
    result = train_dense_twin(network, log, config, say, schedule=choice)
    twin = validation_score(network, log, config)
    record = Twin(
        metric=config.stopping_metric,
        trained=trained,
        twin=twin,
        better=twin > trained if config.stopping_metric == "auc" else twin < trained,
        epochs=result.steps / result.steps_an_epoch,
        seconds=time.perf_counter() - started,
    )
    say(twin_line(record))
    if record.better:
        save_checkpoint(work.folder / TWIN, network, model, hyperparameters)
    return record


def twin_line(twin: Twin) -> str:
    """What the further training did to the dense model, and which of the two is the dense graph."""
    name = {"auc": "AUC", "logloss": "LogLoss after a fitted line"}[twin.metric]
    told = (
        f"the dense model trained on for {twin.epochs:.1f} epochs at the step size of pruning: {name} on the "
        f"validation part {twin.trained:.5f} -> {twin.twin:.5f}"
    )
    return f"{told}; {'it is the dense graph' if twin.better else 'the one as trained stays the dense graph'}"


def validation_score(network: nn.Module, log: EncodedLog, config: TrainConfig) -> float:
    """The metric of the configuration on the validation part; LogLoss as the ladder compares it."""
    part = log.parts["validation"]
    logits = predict_logits(network, part.ids)
    if config.stopping_metric == "auc":
        return auc(part.labels, logits)
    return logloss(part.labels, fitted_pctr(logits, np.asarray(part.labels)))
