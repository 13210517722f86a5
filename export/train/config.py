"""Every knob of the training loop, with its default, unit and limits. It knows nothing of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from export.errors import ExportError

Loss = Literal["bce", "weighted-bce", "focal", "calibration-aware"]
Schedule = Literal["warmup-decay", "exponential-decay", "constant"]
Optimizer = Literal["adam", "ftrl"]
EmbeddingOptimizer = Literal["adam", "ftrl", "group-lasso-ftrl"]
Metric = Literal["logloss", "auc"]

CHOICES = {
    "loss": get_args(Loss),
    "schedule": get_args(Schedule),
    "optimizer": get_args(Optimizer),
    "embedding_optimizer": get_args(EmbeddingOptimizer),
    "metric": get_args(Metric),
}


@dataclass(frozen=True)
class TrainConfig:
    """How to train; defaults are DeepLight's (section 5.1.4) where the paper gives one.

    batch_size      rows of a step, of all processes together
    learning_rate   of Adam at the end of the warm-up; FTRL has `ftrl_alpha`, and no schedule
    schedule        which of the next three it follows: all, the decay from the first step on, or none
    warmup_steps    steps over which it grows linearly; 0 for none
    decay_rate      what it is multiplied by every decay_steps steps after the warm-up; 1 for none
    l2              weight of the L2 penalty (l2 / 2) |w|^2 on what Adam trains, but the embeddings
    embedding_l2    the same on embeddings that Adam trains (RowAdam says how). Not the paper's 3e-7, with
                    which rare ids overfit in the second epoch; `choices` fits it to the length of the log
    optimizer, embedding_optimizer   of the layers, and of the embedding tables
    ftrl_alpha, ftrl_beta, ftrl_l1, ftrl_l2, group_lasso   see Ftrl, in units of single rows
    loss            see export.train.losses; the next four are its parameters
    click_weight    what a click counts in weighted-bce, a non-click counting 1
    calibration_weight   lambda of calibration-aware
    negative_rate   share of the training part's non-clicks that an epoch draws, others each time
    evaluations_per_epoch   looks at the validation part in an epoch: rare ids can overfit within one
    patience        looks in a row without a better `metric` that end the training; None for never
    best_from_step  weights of earlier steps cannot be the best (pruning: they are not sparse yet)
    threads         intra-op threads of torch; None leaves them as they are
    """

    epochs: int = 10
    batch_size: int = 2048
    learning_rate: float = 1e-3
    schedule: Schedule = "warmup-decay"
    warmup_steps: int = 100
    decay_rate: float = 0.9
    decay_steps: int = 1000
    l2: float = 3e-7
    embedding_l2: float = 1e-4
    optimizer: Optimizer = "adam"
    embedding_optimizer: EmbeddingOptimizer = "adam"
    ftrl_alpha: float = 0.1
    ftrl_beta: float = 1.0
    ftrl_l1: float = 0.0
    ftrl_l2: float = 1.0
    group_lasso: float = 1.0
    loss: Loss = "bce"
    click_weight: float = 2.0
    focal_gamma: float = 2.0
    focal_alpha: float = 0.25
    calibration_weight: float = 1.0
    negative_rate: float = 1.0
    evaluations_per_epoch: int = 4
    patience: int | None = 6
    metric: Metric = "logloss"
    best_from_step: int = 0
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "decay_steps", "evaluations_per_epoch"):
            self._check(name, "at least 1", getattr(self, name) >= 1)
        for name in ("warmup_steps", "l2", "embedding_l2", "best_from_step", "seed", "ftrl_l1"):
            self._check_range(name)
        for name in ("ftrl_l2", "group_lasso", "focal_gamma", "calibration_weight"):
            self._check_range(name)
        for name in ("learning_rate", "ftrl_alpha", "ftrl_beta", "click_weight"):
            self._check(name, "above 0", 0 < getattr(self, name) < math.inf)
        for name in ("decay_rate", "negative_rate"):
            self._check(name, "above 0 and at most 1", 0 < getattr(self, name) <= 1)
        self._check("focal_alpha", "above 0 and below 1", 0 < self.focal_alpha < 1)
        self._check("patience", "at least 1, or None", self.patience is None or self.patience >= 1)
        self._check("threads", "at least 1, or None", self.threads is None or self.threads >= 1)
        for name, choices in CHOICES.items():
            self._check(name, f"one of {', '.join(choices)}", getattr(self, name) in choices)

    def _check_range(self, name: str) -> None:
        self._check(name, "0 or more", 0 <= getattr(self, name) < math.inf)

    def _check(self, name: str, expected: str, holds: bool) -> None:
        if not holds:
            raise ExportError(f"'{name}' must be {expected} (got {getattr(self, name)!r}); see TrainConfig")


def rows_an_epoch(rows: int, clicks: int, negative_rate: float) -> int:
    """How many rows of a training part with so many, and so many clicks, an epoch goes through."""
    return clicks + round(negative_rate * (rows - clicks))
