"""What a person chooses of a training and of embeddings, before the log's size is known.

It imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from export.errors import ExportError
from export.train import config as knobs
from export.train.config import TrainConfig, rows_an_epoch

# The paper's, for logs of millions of rows. A log is small when its training part holds fewer than 200 such
# batches: it gets smaller ones, and Adam's step goes with the root of the batch (Malladi et al., 2022).
PAPERS_BATCH, PAPERS_LEARNING_RATE = 2048, 1e-3
SMALLEST_BATCH, STEPS_AN_EPOCH = 64, 200
LONGEST_WARMUP = 100
# The penalty weighs on an id by its share of the rows, so a longer log wants a smaller one. Test AUC of
# synthetic logs: 0.42 million training rows, .734, .752, .756 with 1e-6, 2.4e-4, 1e-3; 2.1 million, .767,
# .773, .772 with 1e-6, 1e-4, 3e-4.
EMBEDDING_L2_ROWS, LARGEST_EMBEDDING_L2 = 200, 1e-3

# What a number is for: in which choice it belongs to which values.
_OPTIMIZERS = (("optimizer", "embedding_optimizer"), ("ftrl", "group-lasso-ftrl"))
_DECAYS = (("schedule",), ("warmup-decay", "exponential-decay"))
USED_BY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "warmup_steps": (("schedule",), ("warmup-decay",)),
    "decay_rate": _DECAYS,
    "decay_steps": _DECAYS,
    "learning_rate": (("optimizer", "embedding_optimizer"), ("adam",)),
    "l2": (("optimizer",), ("adam",)),
    "embedding_l2": (("embedding_optimizer",), ("adam",)),
    "ftrl_alpha": _OPTIMIZERS,
    "ftrl_beta": _OPTIMIZERS,
    "ftrl_l1": _OPTIMIZERS,
    "ftrl_l2": _OPTIMIZERS,
    "group_lasso": (("embedding_optimizer",), ("group-lasso-ftrl",)),
    "click_weight": (("loss",), ("weighted-bce",)),
    "focal_gamma": (("loss",), ("focal",)),
    "focal_alpha": (("loss",), ("focal",)),
    "calibration_weight": (("loss",), ("calibration-aware",)),
}


@dataclass(frozen=True)
class TrainChoice:
    """How to train, before the log's size is known: None leaves a number to `config`."""

    epochs: int = TrainConfig.epochs
    batch_size: int | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    schedule: knobs.Schedule = TrainConfig.schedule
    decay_rate: float | None = None
    decay_steps: int | None = None
    l2: float | None = None
    embedding_l2: float | None = None
    optimizer: knobs.Optimizer = TrainConfig.optimizer
    embedding_optimizer: knobs.EmbeddingOptimizer = TrainConfig.embedding_optimizer
    ftrl_alpha: float | None = None
    ftrl_beta: float | None = None
    ftrl_l1: float | None = None
    ftrl_l2: float | None = None
    group_lasso: float | None = None
    loss: knobs.Loss = TrainConfig.loss
    click_weight: float | None = None
    focal_gamma: float | None = None
    focal_alpha: float | None = None
    calibration_weight: float | None = None
    negative_rate: float = TrainConfig.negative_rate
    evaluations_per_epoch: int = TrainConfig.evaluations_per_epoch
    patience: int | None = TrainConfig.patience
    seed: int = TrainConfig.seed
    threads: int | None = TrainConfig.threads
    device: str = TrainConfig.device

    def config(self, rows: int, clicks: int = 0) -> TrainConfig:
        """The configuration for a training part of this many rows: the paper's where that is large.

        `clicks` counts where not all of the others are drawn. Raises ExportError for a number that nothing
        chosen uses, or out of its range.
        """
        self._refuse_unused()
        rows = max(1, rows_an_epoch(rows, clicks, self.negative_rate))
        batch_size = self.batch_size or fitting_batch(rows)
        steps_an_epoch = -(-rows // batch_size)
        fitting = {
            "batch_size": batch_size,
            "learning_rate": PAPERS_LEARNING_RATE * (batch_size / PAPERS_BATCH) ** 0.5,
            "warmup_steps": min(LONGEST_WARMUP, steps_an_epoch // 2),
            "embedding_l2": fitting_embedding_l2(rows),
        }
        chosen = {each.name: getattr(self, each.name) for each in fields(self)}
        left_open = {
            name for name, value in chosen.items() if value is None and name not in ("patience", "threads")
        }
        default = {name: fitting.get(name, getattr(TrainConfig, name)) for name in left_open}
        return TrainConfig(**chosen | default)

    def _refuse_unused(self) -> None:
        for name, (choices, users) in USED_BY.items():
            made = [getattr(self, choice) for choice in choices]
            if getattr(self, name) is not None and not set(made) & set(users):
                raise ExportError(
                    f"'{name}' must be left out with {' and '.join(choices)} {' and '.join(made)} "
                    f"(got {getattr(self, name)!r}); it is for {' or '.join(users)}"
                )


@dataclass(frozen=True)
class EmbeddingChoice:
    """How embeddings are kept, whatever the model: `models.fields.Field` says what each word means.

    Fields of fewer than `least_ids` ids keep a row an id: they have next to nothing to save.
    """

    storage: Literal["full", "qr", "hashed"] = "full"
    collisions: int = 4
    pooling: Literal["mean", "sum"] = "mean"
    least_ids: int = 1000

    @classmethod
    def of_options(
        cls,
        storage: Literal["full", "qr", "hashed"],
        pooling: Literal["mean", "sum"],
        *,
        collisions: int | None,
        least_ids: int | None,
    ) -> EmbeddingChoice:
        """What was chosen, None standing for the default. Raises ExportError for a number without a use."""
        for name, value in (("collisions", collisions), ("least_ids", least_ids)):
            if value is not None and storage == "full":
                raise ExportError(
                    f"'{name}' must be left out with embedding full (got {value!r}); it is for qr or hashed"
                )
        return cls(
            storage=storage,
            collisions=cls.collisions if collisions is None else collisions,
            pooling=pooling,
            least_ids=cls.least_ids if least_ids is None else least_ids,
        )

    def described(self) -> dict[str, Any]:
        """What differs from the default, as records and manifest say it."""
        said: dict[str, Any] = {} if self.pooling == "mean" else {"pooling": self.pooling}
        if self.storage != "full":
            said |= {"embedding": self.storage, "collisions": self.collisions, "least_ids": self.least_ids}
        return said


def fitting_embedding_l2(rows: int) -> float:
    """The weight of the L2 penalty on embeddings for a training part of this many rows."""
    return min(LARGEST_EMBEDDING_L2, EMBEDDING_L2_ROWS / rows)


def fitting_batch(rows: int) -> int:
    """Rows a step: the paper's 2048, or for a small log the power of two that gives 200 steps an epoch."""
    largest = max(SMALLEST_BATCH, min(PAPERS_BATCH, rows // STEPS_AN_EPOCH))
    return 1 << (largest.bit_length() - 1)
