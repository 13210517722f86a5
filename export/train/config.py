"""Every knob of the training loop, with its default, unit and limits. It knows nothing of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from export.errors import ExportError


@dataclass(frozen=True)
class TrainConfig:
    """How to train; defaults are DeepLight's (section 5.1.4) where the paper gives one.

    learning_rate   of Adam at the end of the warm-up
    warmup_steps    steps over which it grows linearly; 0 for none
    decay_rate      what it is multiplied by every decay_steps steps after the warm-up; 1 for none
    l2              weight of the L2 penalty (l2 / 2) |w|^2 on all weights but the embeddings
    embedding_l2    the same on the embeddings (RowAdam says how). Not the paper's 3e-7, with which rare ids
                    overfit in the second epoch; export.plan fits it to the length of the log
    evaluations_per_epoch   looks at the validation part in an epoch: rare ids can overfit within one
    patience        looks in a row without a better `metric` that end the training; None for never
    best_from_step  weights of earlier steps cannot be the best (pruning: they are not sparse yet)
    threads         intra-op threads of torch; None leaves them as they are
    """

    epochs: int = 10
    batch_size: int = 2048
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay_rate: float = 0.9
    decay_steps: int = 1000
    l2: float = 3e-7
    embedding_l2: float = 1e-4
    evaluations_per_epoch: int = 4
    patience: int | None = 6
    metric: Literal["logloss", "auc"] = "logloss"
    best_from_step: int = 0
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "decay_steps", "evaluations_per_epoch"):
            self._check(name, "at least 1", getattr(self, name) >= 1)
        for name in ("warmup_steps", "l2", "embedding_l2", "best_from_step", "seed"):
            self._check(name, "0 or more", 0 <= getattr(self, name) < math.inf)
        self._check("learning_rate", "above 0", 0 < self.learning_rate < math.inf)
        self._check("decay_rate", "above 0 and at most 1", 0 < self.decay_rate <= 1)
        self._check("patience", "at least 1, or None", self.patience is None or self.patience >= 1)
        self._check("threads", "at least 1, or None", self.threads is None or self.threads >= 1)
        self._check("metric", "'logloss' or 'auc'", self.metric in ("logloss", "auc"))

    def _check(self, name: str, expected: str, holds: bool) -> None:
        if not holds:
            raise ExportError(f"'{name}' must be {expected} (got {getattr(self, name)!r}); see TrainConfig")
