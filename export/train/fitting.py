"""How the defaults of training follow a log's rows and the model. It knows neither, and imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

# DeepLight's (section 5.1.4), for logs of millions of rows. A log is small when its training part holds fewer
# than STEPS_AN_EPOCH such batches: it gets smaller ones.
PAPERS_BATCH, PAPERS_LEARNING_RATE = 2048, 1e-3
SMALLEST_BATCH, STEPS_AN_EPOCH = 64, 200

# The penalty on weights is this / training rows: a prior of standard deviation 0.58 on each id's weight.
LINEAR_L2_ROWS = 3

# The penalty on embeddings is 1 + this times as strong for a field of well known ids that never come back.
UNSEEN_L2 = 4.0


@dataclass(frozen=True)
class Fitting:
    """The defaults of one kind of model; docs/decisions/training-defaults.md has what was measured.

    learning_rate  Adam's step size at PAPERS_BATCH rows a step; with fewer rows it goes with their root
                   (Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", 2022)
    epochs         passes over the training part, at most; early stopping usually ends the training before
    l2_rows        the penalty on embeddings is this / training rows, or `largest_l2` if that is less
    largest_l2     Layers above embeddings scale them up again, so a strong penalty costs a perceptron little
                   and holds rare ids down. FM's pairs are products of the embeddings as they are
    """

    learning_rate: float
    epochs: int
    l2_rows: int = 1000
    largest_l2: float = 1e-2

    def rate(self, batch_size: int) -> float:
        """The step size for batches of this many rows."""
        return self.learning_rate * math.sqrt(batch_size / PAPERS_BATCH)

    def embedding_l2(self, rows: int) -> float:
        """The weight of the L2 penalty on embeddings for a training part of this many rows."""
        return min(self.largest_l2, self.l2_rows / rows)


DEEP = Fitting(learning_rate=2e-3, epochs=10)

# Without layers an id's weight is part of the logit itself: it starts near zero and has far to go.
FITTINGS = {
    "lr": Fitting(learning_rate=12e-3, epochs=20),
    "fm": Fitting(learning_rate=4e-3, epochs=15, l2_rows=70),
    "fwfm": Fitting(learning_rate=4e-3, epochs=15, largest_l2=1e-3),
    "gbdt_lr": Fitting(learning_rate=4e-3, epochs=10),
}


def linear_l2(rows: int) -> float:
    """The weight of the L2 penalty on weights of ids for a training part of this many rows."""
    return LINEAR_L2_ROWS / rows


def fitting_of(model: str | None) -> Fitting:
    """The defaults of a model of this name; of a deep one for any other."""
    return DEEP if model is None else FITTINGS.get(model, DEEP)


def fitting_batch(rows: int) -> int:
    """Rows a step: the paper's 2048, or for a small log the power of two that gives 200 steps an epoch."""
    largest = max(SMALLEST_BATCH, min(PAPERS_BATCH, rows // STEPS_AN_EPOCH))
    return 1 << (largest.bit_length() - 1)
