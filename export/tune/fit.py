"""Trains one model with given settings, as the stage train does, and scores rows with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from export.data.encoded import EncodedLog, Part
from export.errors import ExportError
from export.stages.train import fit_trees_of, new_network
from export.stages.work import silent
from export.train.build import build_model
from export.train.choices import EmbeddingChoice, TrainChoice
from export.train.config import Metric, TrainConfig
from export.train.loop import predict_logits, train
from export.train.prior import corrected_logits
from export.train.result import Evaluation, TrainResult
from export.tune.space import Space, space_of


@dataclass(frozen=True, eq=False)
class Subject:
    """The model that is tuned, on its log: what all its trials have in common."""

    log: EncodedLog
    space: Space
    embedding: EmbeddingChoice

    @property
    def metric(self) -> Metric:
        """By which weights and trials are judged."""
        return self.space.config({}).stopping_metric

    def fit(
        self,
        settings: Mapping[str, Any],
        *,
        seed: int | None = None,
        after_evaluation: Callable[[Evaluation], None] | None = None,
    ) -> Fitted:
        """A model trained with these settings beside the fixed ones, on the training part.

        Raises ExportError for settings that it cannot be built or trained with.
        """
        hyperparameters, choice = self.space.split(settings)
        choice = choice if seed is None else choice.updated(seed=seed)
        config = choice.config(self.space.rows, self.space.clicks, model=self.space.model)
        network = new_network(self.log, self.space.model, hyperparameters, config, self.embedding)
        fit_trees_of(network, self.log, config, silent)
        result = train(network, self.log, config, after_evaluation=after_evaluation, report=silent)
        return Fitted(network, config, result)


def subject_of(
    log: EncodedLog,
    model: str,
    hyperparameters: Mapping[str, Any],
    embedding: EmbeddingChoice,
    training: TrainChoice,
) -> Subject:
    """The model of this name on a log; what is given is fixed. Raises ExportError if it cannot be built."""
    part = log.parts["train"]
    network = build_model(model, log.schema, hyperparameters, embedding=embedding)
    space = space_of(model, network, hyperparameters, training, rows=len(part), clicks=part.clicks)
    if not space.axes:
        raise ExportError(
            f"a search must have something to vary (got none: all of {model} is given); leave options out"
        )
    return Subject(log, space, embedding)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained model, with the weights that did best on the validation part."""

    network: nn.Module
    config: TrainConfig
    result: TrainResult

    def logits(self, part: Part) -> NDArray[np.float64]:
        """Log-odds of a click of each row, [n], whatever the loss and the sampling were."""
        return corrected_logits(predict_logits(self.network, part.ids), self.config)


def score(evaluation: Evaluation, config: TrainConfig) -> float:
    """The stopping metric of an evaluation."""
    return evaluation.auc if config.stopping_metric == "auc" else evaluation.logloss
