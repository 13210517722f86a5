"""What a training did: its evaluations, how it ended, and how many epochs to try. It trains nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from export.train.config import TrainConfig

# What to try where the epochs ran out too early: times as many.
MORE_EPOCHS = 1.5


@dataclass(frozen=True)
class Evaluation:
    """One evaluation on the validation part, with figures of training since the previous one.

    `train_loss` is the minimised loss, including a model's penalty. The two metrics use click probabilities
    corrected for the loss and for the sampling of rows (`export.train.prior`).
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    rows_per_second: float
    logloss: float
    auc: float


@dataclass(frozen=True)
class TrainResult:
    """The result of a training. The model holds the weights of `best`, or the last ones if `best` is None."""

    best: Evaluation | None
    history: tuple[Evaluation, ...]
    steps: int
    stopped_early: bool
    seconds_an_epoch: float
    """Seconds for the steps of an epoch, without evaluations."""
    steps_an_epoch: int

    def ending(self, config: TrainConfig) -> str:
        """Why the training ended, with the number of epochs to try where it was still improving."""
        epochs, best = self._epochs(self.steps), self._epochs(self.best.step if self.best else self.steps)
        kept = f"the weights after {best:.2f} epochs are kept"
        if self.stopped_early:
            return f"stopped after {epochs:.2f} epochs, {config.patience} evaluations without a gain; {kept}"
        if best > config.epochs - 1:
            more = math.ceil(config.epochs * MORE_EPOCHS)
            return f"the epochs ran out, and {kept}; still improving: --epochs {more}"
        return f"the epochs ran out; {kept}"

    def _epochs(self, steps: int) -> float:
        return steps / self.steps_an_epoch

    @property
    def best_epoch(self) -> int:
        """The epoch, from 1, of the model's weights."""
        return self.best.epoch if self.best else self.history[-1].epoch
