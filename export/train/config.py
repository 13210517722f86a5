"""Every knob of the training loop, with its default, unit, limits and users. It knows nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from export.knobs import (
    AT_LEAST_ONE,
    INNER_SHARE,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    SHARE,
    Limits,
    UsedBy,
    check,
    knob,
    lacking,
)
from export.train.fitting import (
    DEEP,
    FITTINGS,
    LINEAR_L2_ROWS,
    PAPERS_BATCH,
    STEPS_AN_EPOCH,
    UNSEEN_L2,
    linear_l2,
)

Loss = Literal["bce", "weighted-bce", "focal", "calibration-aware"]
Schedule = Literal["warmup-decay", "exponential-decay", "constant"]
Optimizer = Literal["adam", "ftrl"]
EmbeddingOptimizer = Literal["adam", "ftrl", "group-lasso-ftrl"]
Metric = Literal["logloss", "auc"]


def _by_model(name: str) -> str:
    """The fitted default of this name, with those of models that have their own, for the help."""
    usual = getattr(DEEP, name)
    own = {model: getattr(one, name) for model, one in FITTINGS.items()}
    others = [f"{model} {value:g}" for model, value in own.items() if value != usual]
    return f"{usual:g}" + (f" ({', '.join(others)})" if others else "")


LONGEST_WARMUP = 100

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
    """How to train. A knob without a meaning is set by code alone."""

    loss: Loss = knob("bce", "what training minimises; calibration undoes what it does to the odds")
    click_weight: float = knob(
        2.0, "what a click counts, a non-click counting 1", POSITIVE, used_by=_WEIGHTED_BCE
    )
    focal_gamma: float = knob(2.0, "its exponent", NOT_NEGATIVE, used_by=_FOCAL)
    focal_alpha: float = knob(
        0.25, "weight of clicks, 1 minus it of non-clicks", INNER_SHARE, "X", used_by=_FOCAL
    )
    calibration_weight: float = knob(
        1.0,
        "weight of (mean prediction - mean label)^2 of a batch",
        NOT_NEGATIVE,
        used_by=_CALIBRATION_AWARE,
    )
    negative_rate: float = knob(
        1.0,
        "share of the training part's non-clicks that each epoch draws, others each time; calibration undoes "
        "that too",
        POSITIVE_SHARE,
    )
    # The next three have an effect only where there is a teacher; the labels count the rest.
    distill_alpha: float = knob(
        0.5, "what the teachers count in the loss, the labels counting 1 minus it", SHARE
    )
    distill_temperature: float = knob(
        1.0,
        "by what the student's and the teachers' logits are divided where the loss compares them",
        Limits(above=0, at_most=100),  # far above, float32 cannot tell the softened logits apart
    )
    distill_twin: Literal["train", "skip"] = knob(
        "train",
        "train the same model by the labels alone too, and keep the better one by the validation part: a "
        "teacher can harm; or skip that, which saves half of the time",
    )
    epochs: int = knob(
        DEEP.epochs,
        "passes over the training part, at most",
        AT_LEAST_ONE,
        otherwise=_by_model("epochs"),
    )
    # Several, because rare ids can overfit within an epoch.
    evaluations_per_epoch: int = knob(4, "evaluations on the validation part in an epoch", AT_LEAST_ONE)
    averaging: float = knob(
        0.25,
        "epochs over which weights are averaged for evaluations and the result; 0 takes them as they are",
        NOT_NEGATIVE,
    )
    patience: int | None = knob(  # None: never
        10, "evaluations in a row without a gain that end the training", AT_LEAST_ONE
    )
    batch_size: int = knob(
        PAPERS_BATCH,
        "rows a step, of all processes together",
        AT_LEAST_ONE,
        "ROWS",
        otherwise=f"{PAPERS_BATCH}; on a log of less than {PAPERS_BATCH * STEPS_AN_EPOCH:,} training rows, "
        f"what gives {STEPS_AN_EPOCH} steps an epoch",
    )
    learning_rate: float = knob(
        DEEP.learning_rate,
        "step size after the warm-up",
        POSITIVE,
        otherwise=f"at {PAPERS_BATCH} rows a step {_by_model('learning_rate')}; else by the root of the rows",
        used_by=_ADAM,
    )
    schedule: Schedule = knob(
        "warmup-decay",
        "how Adam's step size goes: up then down, down from the start, or always the same",
        used_by=_ADAM,
    )
    warmup_steps: int = knob(
        LONGEST_WARMUP,
        "steps over which the step size grows linearly to that",
        NOT_NEGATIVE,
        "STEPS",
        otherwise=f"{LONGEST_WARMUP}, or half an epoch if that is less",
        used_by=_WARMUP,
    )
    decay_rate: float = knob(
        0.9,
        "what the step size is multiplied by every --decay-steps after the warm-up",
        POSITIVE_SHARE,
        "X",
        used_by=_DECAY,
    )
    decay_steps: int = knob(
        1000, "steps from one --decay-rate to the next", AT_LEAST_ONE, "STEPS", used_by=_DECAY
    )
    l2: float = knob(
        3e-7, "weight of the L2 penalty (l2 / 2) |w|^2 on layers", NOT_NEGATIVE, used_by=_ADAM_OF_LAYERS
    )
    # Not the paper's 3e-7, with which rare ids overfit in the second epoch.
    embedding_l2: float = knob(
        DEEP.embedding_l2(STEPS_AN_EPOCH * PAPERS_BATCH),
        "weight of the L2 penalty on embeddings",
        NOT_NEGATIVE,
        otherwise=f"{_by_model('l2_rows')} / training rows, at most {_by_model('largest_l2')}",
        used_by=_ADAM_OF_EMBEDDINGS,
    )
    linear_l2: float = knob(
        linear_l2(STEPS_AN_EPOCH * PAPERS_BATCH),
        "weight of the L2 penalty on weights of ids, LR's and those of linear terms",
        NOT_NEGATIVE,
        otherwise=f"--embedding-l2 where it is given, else {LINEAR_L2_ROWS} / training rows",
        used_by=_ADAM_OF_EMBEDDINGS,
    )
    unseen_l2: float = knob(
        UNSEEN_L2,
        "how much stronger the penalty on embeddings of a field is, at most, where validation rows have "
        "values that training does not know; 0 for the same on all fields",
        NOT_NEGATIVE,
        used_by=_ADAM_OF_EMBEDDINGS,
    )
    optimizer: Optimizer = knob("adam", "of the layers")
    embedding_optimizer: EmbeddingOptimizer = knob("adam", "of the embeddings")
    # The next five are in units of single rows, see Ftrl.
    ftrl_alpha: float = knob(0.1, "step size, which follows no schedule", POSITIVE, used_by=_FTRL)
    ftrl_beta: float = knob(1.0, "what damps the first steps of a weight", POSITIVE, used_by=_FTRL)
    ftrl_l1: float = knob(0.0, "makes single weights zero", NOT_NEGATIVE, used_by=_FTRL)
    ftrl_l2: float = knob(1.0, "makes weights small", NOT_NEGATIVE, used_by=_FTRL)
    group_lasso: float = knob(1.0, "makes whole embeddings zero", NOT_NEGATIVE, used_by=_GROUP_LASSO)
    seed: int = knob(0, "of initial weights, dropout and row order", NOT_NEGATIVE)
    threads: int | None = knob(None, "CPU threads of torch", AT_LEAST_ONE, otherwise="one a core")
    device: str = knob("cpu", "where torch trains: cpu, cuda or cuda:1", unit="NAME")
    stopping_metric: Metric = knob(
        "logloss", "of the validation part: it says which weights are the best, and when patience ends"
    )
    # Weights of earlier steps cannot be the best; in pruning they are not sparse yet.
    best_from_step: int = knob(0, None, NOT_NEGATIVE)

    def __post_init__(self) -> None:
        check(self)


ODDS = (
    "loss",
    "click_weight",
    "focal_gamma",
    "focal_alpha",
    "calibration_weight",
    "negative_rate",
)
"""The knobs that decide what odds a model's logits are."""


DISTILLATION = ("distill_alpha", "distill_temperature", "distill_twin")
"""The knobs that have an effect only where there is a teacher."""


def odds_of(config: TrainConfig) -> dict[str, Any]:
    """Those of ODDS that the configuration uses, by name."""
    return {name: getattr(config, name) for name in ODDS if lacking(config, name) is None}


def rows_an_epoch(rows: int, clicks: int, negative_rate: float) -> int:
    """How many rows an epoch goes through, of a training part with this many rows and clicks."""
    return clicks + round(negative_rate * (rows - clicks))
