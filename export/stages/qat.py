"""Trains an INT8 graph on, as the integers that it computes with, and keeps whichever is the better.

Quantization-aware training: the graph's scales, zero points and roundings are those that serve, gradients
pass them by (`export.graph.torch_graph`). What training and pruning made is where it starts, so it is a short
fine-tuning, by the loss and the teachers of the model. It knows neither how a graph is made nor what serves.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from export.data.encoded import EncodedLog
from export.graph.torch_graph import TorchGraph
from export.graph.unrounded import Unrounded
from export.judge.metrics import auc, logloss
from export.stages.ladder import fitted_pctr
from export.stages.plan import QatChoice
from export.stages.records import QatRecord, Trained
from export.stages.taught import taught_log
from export.stages.variants import Variant
from export.stages.work import Say, Work
from export.train.config import TrainConfig
from export.train.loop import train


def train_int8(
    work: Work, static: Variant, unrounded: Unrounded, choice: QatChoice, log: EncodedLog, say: Say = print
) -> tuple[Variant, QatRecord]:
    """A static INT8 graph trained on, with what validation rows say of both.

    `unrounded` is what the graph's integers were rounded from. The trained one is better with the lower
    LogLoss after a fitted line, as graphs are compared, and no lower AUC. Raises ExportError for an operator
    that cannot be trained, and as `train` does.
    """
    trained = work.read_record("train", Trained)
    log = taught_log(work, log, trained.taught)
    model = _OfLog(TorchGraph(static.graph, unrounded), static)
    say(f"training the INT8 graph on as integers, epochs: {choice.epochs}")
    started = time.perf_counter()
    if model.graph.is_trainable:
        train(model, log, qat_config(trained.config, choice), report=say)
    found = replace(static, graph=model.graph.graph())
    before, after = (_quality(one, log) for one in (static, found))
    record = QatRecord(
        epochs=choice.epochs,
        learning_rate=choice.learning_rate,
        seconds=time.perf_counter() - started,
        static_auc=before[0],
        static_logloss=before[1],
        auc=after[0],
        logloss=after[1],
        better=after[1] < before[1] and after[0] >= before[0],
    )
    say(qat_line(record))
    return found, record


def qat_line(record: QatRecord) -> str:
    """What the training did to the INT8 graph, and which of the two it is."""
    kept = "the trained one is the INT8 graph" if record.better else "the INT8 graph stays as it was"
    return (
        f"the INT8 graph trained on as integers, epochs: {record.epochs}: AUC on the validation part "
        f"{record.static_auc:.5f} -> {record.auc:.5f}, LogLoss after a fitted line "
        f"{record.static_logloss:.5f} -> {record.logloss:.5f}; {kept}"
    )


def qat_config(config: TrainConfig, choice: QatChoice) -> TrainConfig:
    """As the model was trained, without what belongs to its start or to the size of its weights.

    The model has neither layers with weights of its own size, which `l2` is for, nor a start to warm up for.
    """
    return replace(
        config,
        epochs=choice.epochs,
        learning_rate=choice.learning_rate,
        warmup_steps=0,
        optimizer="adam",
        embedding_optimizer="adam",
        l2=0.0,
        device="cpu",
    )


def _quality(variant: Variant, log: EncodedLog) -> tuple[float, float]:
    """AUC, and LogLoss after a fitted line, on the validation part."""
    part = log.parts["validation"]
    labels, logits = np.asarray(part.labels), variant.score(part)
    return auc(labels, logits), logloss(labels, fitted_pctr(logits, labels))


class _OfLog(nn.Module):
    """A graph as a model of the log's ids, which a pruned one renumbers."""

    fields = ()

    def __init__(self, graph: TorchGraph, variant: Variant) -> None:
        super().__init__()
        self.graph = graph
        self._renumbered = [
            (variant.schema.column_slices[name], torch.from_numpy(np.asarray(new)))
            for name, new in variant.renumberings.items()
        ]

    def forward(self, ids: Tensor) -> Tensor:
        """The log's ids [batch, columns] -> logits [batch]."""
        if self._renumbered:
            ids = ids.clone()
        for columns, new in self._renumbered:
            ids[:, columns] = new[ids[:, columns].long()]
        logits: Tensor = self.graph(ids)
        return logits
