"""Every knob of the training loop, with its default, unit, limits and users. It knows nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from export.knobs import (
    AT_LEAST_ONE,
    INNER_SHARE,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    Knob,
    UsedBy,
    check,
)

Loss = Literal["bce", "weighted-bce", "focal", "calibration-aware"]
Schedule = Literal["warmup-decay", "exponential-decay", "constant"]
Optimizer = Literal["adam", "ftrl"]
EmbeddingOptimizer = Literal["adam", "ftrl", "group-lasso-ftrl"]
Metric = Literal["logloss", "auc"]

# Defaults are DeepLight's (section 5.1.4), for logs of millions of rows. A log is small when its training
# part holds fewer than STEPS_AN_EPOCH such batches: it gets smaller ones, and Adam's step size goes with the
# root of the batch size (Malladi et al., 2022).
PAPERS_BATCH, PAPERS_LEARNING_RATE = 2048, 1e-3
SMALLEST_BATCH, STEPS_AN_EPOCH = 64, 200
LONGEST_WARMUP = 100
# The penalty weighs on an id by its share of the rows, so a longer log wants a smaller one. Test AUC of
# synthetic logs: 0.42 million training rows, .734, .752, .756 with 1e-6, 2.4e-4, 1e-3; 2.1 million, .767,
# .773, .772 with 1e-6, 1e-4, 3e-4.
EMBEDDING_L2_ROWS, LARGEST_EMBEDDING_L2 = 200, 1e-3

_ADAM = UsedBy(("optimizer", "embedding_optimizer"), ("adam",))
_FTRL = UsedBy(("optimizer", "embedding_optimizer"), ("ftrl", "group-lasso-ftrl"))
_DECAY = UsedBy(("schedule",), ("warmup-decay", "exponential-decay"))
_WEIGHTED_BCE = UsedBy(("loss",), ("weighted-bce",))
_FOCAL = UsedBy(("loss",), ("focal",))
_CALIBRATION_AWARE = UsedBy(("loss",), ("calibration-aware",))
_WARMUP = UsedBy(("schedule",), ("warmup-decay",))
_ADAM_OF_LAYERS = UsedBy(("optimizer",), ("adam",))
_ADAM_OF_EMBEDDINGS = UsedBy(("embedding_optimizer",), ("adam",))
_GROUP_LASSO = UsedBy(("embedding_optimizer",), ("group-lasso-ftrl",))


@dataclass(frozen=True)
class TrainConfig:
    """How to train. A field without a Knob is set by code alone."""

    loss: Annotated[
        Loss,
        Knob("what training minimises; calibration undoes what it does to the odds"),  # export.train.losses
    ] = "bce"
    click_weight: Annotated[
        float,
        POSITIVE,
        Knob("what a click counts, a non-click counting 1", used_by=_WEIGHTED_BCE),
    ] = 2.0
    focal_gamma: Annotated[float, NOT_NEGATIVE, Knob("its exponent", used_by=_FOCAL)] = 2.0
    focal_alpha: Annotated[
        float, INNER_SHARE, Knob("weight of clicks, 1 minus it of non-clicks", "X", used_by=_FOCAL)
    ] = 0.25
    calibration_weight: Annotated[
        float,
        NOT_NEGATIVE,
        Knob("weight of (mean prediction - mean label)^2 of a batch", used_by=_CALIBRATION_AWARE),
    ] = 1.0
    negative_rate: Annotated[
        float,
        POSITIVE_SHARE,
        Knob(
            "share of the training part's non-clicks that each epoch draws, others each time; calibration "
            "undoes that too"
        ),
    ] = 1.0
    epochs: Annotated[int, AT_LEAST_ONE, Knob("passes over the training part, at most")] = 10
    evaluations_per_epoch: Annotated[
        int,
        AT_LEAST_ONE,
        Knob("evaluations on the validation part in an epoch"),  # rare ids overfit within one
    ] = 4
    patience: Annotated[
        int | None,
        AT_LEAST_ONE,
        Knob("evaluations in a row without a gain that end the training"),  # None: never
    ] = 6
    batch_size: Annotated[
        int,  # of all processes together
        AT_LEAST_ONE,
        Knob(
            "rows a step",
            "ROWS",
            otherwise=f"{PAPERS_BATCH}; on a log of less than {PAPERS_BATCH * STEPS_AN_EPOCH:,} training "
            f"rows, what gives {STEPS_AN_EPOCH} steps an epoch",
        ),
    ] = PAPERS_BATCH
    learning_rate: Annotated[
        float,
        POSITIVE,
        Knob(
            "step size after the warm-up",
            otherwise=f"{PAPERS_LEARNING_RATE} at {PAPERS_BATCH} rows a step, else by the root of the rows",
            used_by=_ADAM,
        ),
    ] = PAPERS_LEARNING_RATE
    schedule: Annotated[
        Schedule,
        Knob("how Adam's step size goes: up then down, down from the start, or always the same"),
    ] = "warmup-decay"
    warmup_steps: Annotated[
        int,
        NOT_NEGATIVE,
        Knob(
            "steps over which the step size grows linearly to that",
            "STEPS",
            otherwise=f"{LONGEST_WARMUP}, or half an epoch if that is less",
            used_by=_WARMUP,
        ),
    ] = LONGEST_WARMUP
    decay_rate: Annotated[
        float,
        POSITIVE_SHARE,
        Knob(
            "what the step size is multiplied by every --decay-steps after the warm-up", "X", used_by=_DECAY
        ),
    ] = 0.9
    decay_steps: Annotated[
        int, AT_LEAST_ONE, Knob("steps from one --decay-rate to the next", "STEPS", used_by=_DECAY)
    ] = 1000
    l2: Annotated[
        float,
        NOT_NEGATIVE,
        Knob("weight of the L2 penalty (l2 / 2) |w|^2 on layers", used_by=_ADAM_OF_LAYERS),
    ] = 3e-7
    # Not the paper's 3e-7, with which rare ids overfit in the second epoch.
    embedding_l2: Annotated[
        float,
        NOT_NEGATIVE,
        Knob(
            "weight of the L2 penalty on embeddings",
            otherwise=f"{EMBEDDING_L2_ROWS} / training rows, at most {LARGEST_EMBEDDING_L2}",
            used_by=_ADAM_OF_EMBEDDINGS,
        ),
    ] = 1e-4
    optimizer: Annotated[Optimizer, Knob("of the layers")] = "adam"
    embedding_optimizer: Annotated[EmbeddingOptimizer, Knob("of the embeddings")] = "adam"
    # The next five are in units of single rows; see Ftrl.
    ftrl_alpha: Annotated[float, POSITIVE, Knob("step size, which follows no schedule", used_by=_FTRL)] = 0.1
    ftrl_beta: Annotated[float, POSITIVE, Knob("what damps the first steps of a weight", used_by=_FTRL)] = 1.0
    ftrl_l1: Annotated[float, NOT_NEGATIVE, Knob("makes single weights zero", used_by=_FTRL)] = 0.0
    ftrl_l2: Annotated[float, NOT_NEGATIVE, Knob("makes weights small", used_by=_FTRL)] = 1.0
    group_lasso: Annotated[
        float,
        NOT_NEGATIVE,
        Knob("makes whole embeddings zero", used_by=_GROUP_LASSO),
    ] = 1.0
    seed: Annotated[int, NOT_NEGATIVE, Knob("of initial weights, dropout and row order")] = 0
    threads: Annotated[int | None, AT_LEAST_ONE, Knob("CPU threads of torch", otherwise="one a core")] = None
    device: Annotated[str, Knob("where torch trains: cpu, cuda or cuda:1", "NAME")] = "cpu"
    metric: Metric = "logloss"  # of the validation part, by which `patience` and the best weights are judged
    # Weights of earlier steps cannot be the best; in pruning they are not sparse yet.
    best_from_step: Annotated[int, NOT_NEGATIVE] = 0

    def __post_init__(self) -> None:
        check(self)


def rows_an_epoch(rows: int, clicks: int, negative_rate: float) -> int:
    """How many rows an epoch goes through, of a training part with this many rows and clicks."""
    return clicks + round(negative_rate * (rows - clicks))


def fitting_embedding_l2(rows: int) -> float:
    """The weight of the L2 penalty on embeddings for a training part of this many rows."""
    return min(LARGEST_EMBEDDING_L2, EMBEDDING_L2_ROWS / rows)


def fitting_batch(rows: int) -> int:
    """Rows a step: the paper's 2048, or for a small log the power of two that gives 200 steps an epoch."""
    largest = max(SMALLEST_BATCH, min(PAPERS_BATCH, rows // STEPS_AN_EPOCH))
    return 1 << (largest.bit_length() - 1)
